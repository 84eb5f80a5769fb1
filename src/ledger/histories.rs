//! Random histories of an account, on which ledgers are compared with [`AccountState`].

use std::{collections::HashMap, num::NonZeroUsize, time::Duration};

use fastrand::Rng;

use super::{
    AccountState, Amendment, Book, ConcurrencyRequest, LeaseId, LedgerError, LineKey, PartTerms,
    PermitRequest, Record, Refund, Renewal, Terms, Usage, UsageLine,
};
use crate::{Credits, Limits, Name, Part, Period, clock::UnixTime};

/// One step of a history.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Renew {
        period: Period,
        renewal: Renewal,
        not_after: UnixTime,
        now: UnixTime,
    },
    Amend {
        amendment: Amendment,
        now: UnixTime,
    },
    Claim {
        period: Period,
        threshold: Name,
        by: LeaseId,
        now: UnixTime,
    },
    /// A copy of everything is made.
    Save,
    /// A key is lost, or is again what it was when the copy was made.
    Lose {
        part: StoredKey,
        restore: bool,
    },
}

/// The content of one key.
#[derive(Clone, Copy, Debug)]
pub(super) enum StoredKey {
    Record,
    Spent,
    Book(usize),
    Leases(usize),
    Holds(usize),
    /// Usage of parts on their last day, and their limits.
    Parts,
    /// Usage of parts in a month, and their holds.
    MonthParts(usize),
}

impl StoredKey {
    /// The same loss in a state in memory.
    pub(super) fn replace(&self, state: &mut AccountState, with: &AccountState) {
        let empty = |month: usize| Book::new(months()[month]).with_max_lines(MAX_LINES);
        match *self {
            Self::Record => {
                state.record = Record {
                    spent: std::mem::take(&mut state.record.spent),
                    part_limits: std::mem::take(&mut state.record.part_limits),
                    part_days: std::mem::take(&mut state.record.part_days),
                    parts_day: state.record.parts_day,
                    ..with.record.clone()
                };
            }
            Self::Spent => state.record.spent.clone_from(&with.record.spent),
            Self::Parts => {
                state.record.part_limits.clone_from(&with.record.part_limits);
                state.record.part_days.clone_from(&with.record.part_days);
                state.record.parts_day = with.record.parts_day;
            }
            Self::Book(month)
            | Self::Leases(month)
            | Self::Holds(month)
            | Self::MonthParts(month) => {
                let from =
                    with.books.get(&months()[month]).cloned().unwrap_or_else(|| empty(month));
                let book = state.books.entry(months()[month]).or_insert_with(|| empty(month));
                match self {
                    Self::Book(_) => {
                        *book = Book {
                            leases: book.leases.clone(),
                            holds: book.holds.clone(),
                            claims: book.claims.clone(),
                            parts: book.parts.clone(),
                            ..from
                        };
                    }
                    Self::Leases(_) => book.leases = from.leases,
                    Self::MonthParts(_) => book.parts = from.parts,
                    _ => book.holds = from.holds,
                }
            }
        }
    }
}

/// Few lines are stored one by one, so that there are more.
pub(super) const MAX_LINES: usize = 5;

/// The answer to a step, and the state after it.
pub(super) type Seen = (String, Record, Vec<Book>);

pub(super) fn empty_state() -> AccountState {
    AccountState::default().with_max_lines(NonZeroUsize::new(MAX_LINES).unwrap())
}

pub(super) fn nanos(n: i64) -> Credits {
    Credits::from_nano_usd(n).unwrap()
}

/// This month and those after, while this one still takes what is settled: keys expire by the
/// server's own clock.
pub(super) fn months() -> [Period; 4] {
    let this = Period::containing(UnixTime::now());
    [this, this.next(), this.next().next(), this.next().next().next()]
}

/// Random renewals of a few leases: repeated, reordered, late, forgotten, with changing terms,
/// around a month's end.
pub(super) fn history(rng: &mut Rng) -> Vec<Step> {
    let months = months();
    let small = rng.bool();
    let amount = |rng: &mut Rng| match (small, rng.u8(0..20)) {
        (_, 0..4) => Credits::ZERO,
        (false, 19) => nanos(Credits::MAX.as_nano_usd() - rng.i64(0..3)),
        _ => nanos(rng.i64(0..400)),
    };
    let ttl = Duration::from_secs([1, 60, 600][rng.usize(0..3)]);
    // From a while before the month's end to a while after, or around a midnight in it; sometimes
    // far off.
    let mut now = match rng.u8(0..12) {
        0 => months[0].begins() - Duration::from_secs(rng.u64(0..120)),
        1 => {
            months[0].ends() + Duration::from_secs(62 * 86_400)
                - Duration::from_secs(rng.u64(0..100))
        }
        2 | 3 => {
            months[0].begins() + Duration::from_secs(20 * 86_400)
                - Duration::from_millis(rng.u64(0..1_500_000))
        }
        _ => months[0].ends() - Duration::from_millis(rng.u64(0..1_500_000)),
    };
    // On half of them a tier may include credits each day.
    let has_days = rng.bool();
    let per_day = |rng: &mut Rng| if has_days && rng.bool() { amount(rng) } else { Credits::ZERO };
    let mut terms = Terms {
        included: amount(rng),
        included_per_day: per_day(rng),
        per_seat: rng.bool(),
        pay_as_you_go: Credits::ZERO,
    };
    let leases = rng.u128(1..6);
    // On half of them the server loses keys.
    let lossy = rng.bool();
    let mut sent: Vec<(Period, Renewal)> = Vec::new();
    let mut totals: HashMap<(Period, u128), (u64, u64, Credits)> = HashMap::new();
    let mut steps = Vec::new();
    for _ in 0..rng.usize(5..40) {
        let pause = match rng.u8(0..8) {
            0 => rng.u64(0..700_000),
            1..4 => rng.u64(0..2_000),
            _ => 0,
        };
        now = now + Duration::from_millis(pause);
        // The clock was ahead.
        if rng.u8(0..60) == 0 {
            now = now - Duration::from_millis(rng.u64(0..1_000_000));
        }
        let month = months[usize::from(rng.u8(0..4) == 0)];
        let amendment = match rng.u8(0..20) {
            0 | 1 => Some(Amendment::Grant {
                id: format!("order {}", rng.u8(0..4)).parse().unwrap(),
                amount: amount(rng),
                expires: rng.bool().then(|| now + Duration::from_millis(rng.u64(0..900_000))),
            }),
            2 => Some(Amendment::Seats(rng.u32(1..5).try_into().unwrap())),
            3 => Some(Amendment::SpendingLimit(if rng.bool() { Some(amount(rng)) } else { None })),
            4 | 5 if rng.u8(0..40) == 0 => Some(Amendment::Erase),
            4 | 5 => Some(Amendment::Refund {
                period: month,
                id: format!("case {}", rng.u8(0..6)).parse().unwrap(),
                refund: Refund { amount: amount(rng), reason: "it was  slow".parse().unwrap() },
            }),
            6 => Some(Amendment::Close(month)),
            9 | 10 => {
                let part = rng.bool().then(|| parts(2)[rng.usize(0..3)].clone());
                let limit = |rng: &mut Rng| rng.bool().then(|| amount(rng));
                let per_month = if part.is_some() { limit(rng) } else { None };
                let limits = Limits { per_month, per_day: limit(rng) };
                Some(Amendment::Limits { part, limits })
            }
            7 => {
                let pay_as_you_go = if rng.bool() { Credits::MAX } else { amount(rng) };
                terms = Terms {
                    included: amount(rng),
                    included_per_day: per_day(rng),
                    per_seat: rng.bool(),
                    pay_as_you_go,
                };
                None
            }
            8 => {
                let (threshold, by) = (
                    format!("included {}", rng.u8(0..2)).parse().unwrap(),
                    LeaseId::from_bits(rng.u128(0..3)),
                );
                steps.push(Step::Claim { period: month, threshold, by, now });
                None
            }
            _ => None,
        };
        steps.extend(amendment.map(|amendment| Step::Amend { amendment, now }));
        if lossy && rng.u8(0..8) == 0 {
            let month = rng.usize(0..2);
            let part = [
                StoredKey::Record,
                StoredKey::Spent,
                StoredKey::Book(month),
                StoredKey::Leases(month),
                StoredKey::Holds(month),
                StoredKey::Parts,
                StoredKey::MonthParts(month),
            ][rng.usize(0..7)];
            steps.push(if rng.bool() {
                Step::Save
            } else {
                Step::Lose { part, restore: rng.bool() }
            });
        }
        let repeated =
            (!sent.is_empty() && rng.u8(0..5) == 0).then(|| sent[rng.usize(0..sent.len())].clone());
        let (period, renewal) = repeated.unwrap_or_else(|| {
            let (period, lease) = (months[usize::from(rng.u8(0..4) == 0)], rng.u128(0..leases));
            let (seq, batch, settled) = totals.entry((period, lease)).or_default();
            let reported = if rng.u8(0..4) == 0 { amount(rng) } else { *settled };
            *seq += u64::from(rng.u8(0..10) > 0);
            let goodbye = rng.u8(0..6) == 0;
            let mut lines = Vec::new();
            if !goodbye && rng.bool() {
                *batch += 1;
                let before = *settled;
                for _ in 0..rng.usize(0..4) {
                    let cost = amount(rng);
                    // Sometimes the lines cost more than what is settled: that is refused.
                    *settled = settled.saturating_add(if rng.u8(0..40) == 0 {
                        Credits::ZERO
                    } else {
                        cost
                    });
                    lines.push(line(rng, cost));
                }
                // What a failover forgot: more is settled than is in lines.
                if rng.u8(0..6) == 0 {
                    *settled = before
                        .saturating_add(settled.saturating_sub(before))
                        .saturating_add(amount(rng));
                }
            }
            let want = |rng: &mut Rng| if goodbye { Credits::ZERO } else { amount(rng) };
            let renewal = Renewal {
                lease: LeaseId::from_bits(lease),
                seq: *seq,
                batch: *batch,
                settled: *settled,
                reported,
                lines: lines.into(),
                keep: want(rng),
                refill: want(rng),
                need: want(rng),
                extra: want(rng),
                terms,
                // Sometimes by a clock that is ahead.
                terms_at: UnixTime::from_secs(
                    (now.as_secs() + 86_400)
                        .saturating_sub([0, 86_400, 86_401, 86_402, 86_420][rng.usize(0..5)]),
                ),
                ttl,
                forget: goodbye,
                most_per_day: (rng.u8(0..4) == 0).then(|| amount(rng)),
                concurrency: (rng.u8(0..4) == 0).then(|| ConcurrencyRequest {
                    most: rng.u32(1..9).try_into().unwrap(),
                    running: rng.u32(0..5),
                    wanted: rng.u32(0..9),
                }),
                permits: (rng.u8(0..4) == 0).then(|| PermitRequest {
                    rate: ["60/60000000/5", "600/60000000/1", "7/30000000"][rng.usize(0..3)]
                        .parse()
                        .unwrap(),
                    wanted: rng.u32(0..9),
                }),
                parts: parts(lease)
                    .into_iter()
                    .map(|part| {
                        let limit = |rng: &mut Rng| rng.bool().then(|| amount(rng));
                        PartTerms {
                            part,
                            limits: Limits { per_month: limit(rng), per_day: limit(rng) },
                        }
                    })
                    .collect(),
            };
            sent.push((period, renewal.clone()));
            (period, renewal)
        });
        let not_after = if rng.u8(0..12) == 0 {
            now - Duration::from_millis(rng.u64(0..2))
        } else {
            now + Duration::from_millis(300)
        };
        steps.push(Step::Renew { period, renewal, not_after, now });
    }
    steps
}

/// A history with many plain renewals: in one month, with terms that stay and lines that come
/// again, and without parts, permits, shares and limits of days. Each of these is broken once in
/// `seldom` times.
#[cfg(feature = "redis")]
pub(super) fn plain_history(rng: &mut Rng) -> Vec<Step> {
    let month = months()[0];
    let lines = [line(rng, nanos(1)).key, line(rng, nanos(1)).key];
    let (seldom, keeps_losses) = (rng.u8(4..80), rng.bool());
    let included = nanos([0, rng.i64(0..2_000), 1 << 40][rng.usize(0..3)]);
    let most = Credits::MAX.as_nano_usd();
    let pay_as_you_go = nanos([0, rng.i64(0..2_000), 1 << 40, most][rng.usize(0..4)]);
    let included_per_day = Credits::ZERO;
    // Seven of eight have no amount or time of 2^40 or more.
    let is_small = |step: &Step| match step {
        Step::Renew { renewal: Renewal { settled, lines, .. }, .. } => {
            let is_short = |line: &UsageLine| line.usage.compute_micros < 1 << 40;
            *settled < nanos(1 << 40) && lines.iter().all(is_short)
        }
        _ => true,
    };
    let mut steps = history(rng);
    while !steps.iter().all(is_small) && rng.u8(0..8) > 0 {
        steps = history(rng);
    }
    steps.retain(|step| match step {
        Step::Renew { .. }
        | Step::Amend { amendment: Amendment::Seats(_) | Amendment::SpendingLimit(_), .. } => true,
        Step::Save | Step::Lose { .. } if keeps_losses => true,
        _ => rng.u8(0..seldom) == 0,
    });
    if keeps_losses {
        for at in (0..steps.len()).rev() {
            let keys =
                [StoredKey::Record, StoredKey::Book(0), StoredKey::Leases(0), StoredKey::Holds(0)];
            let lost = Step::Lose { part: keys[rng.usize(0..4)], restore: rng.u8(0..4) > 0 };
            match rng.u8(0..12) {
                0 => steps.insert(at, Step::Save),
                1 => steps.insert(at, lost),
                _ => {}
            }
        }
    }
    let earlier = Duration::from_secs(10 * 86_400);
    let mut terms = None;
    for step in &mut steps {
        let Step::Renew { period, renewal, not_after, now } = step else { continue };
        let mut usually = || rng.u8(0..seldom) > 0;
        if usually() {
            *now = (*now - earlier).max(month.begins());
            renewal.terms_at = renewal.terms_at - earlier;
        }
        if usually() {
            *period = month;
        }
        if usually() {
            *not_after = *now + Duration::from_millis(300);
        }
        if usually() {
            let stays = Terms { included, included_per_day, pay_as_you_go, ..renewal.terms };
            renewal.terms = *terms.get_or_insert(stays);
        }
        if usually() {
            renewal.ttl = Duration::from_secs(3_600);
        }
        renewal.forget ^= !usually();
        if usually() {
            renewal.most_per_day = None;
        }
        if usually() {
            renewal.permits = None;
        }
        if usually() {
            renewal.concurrency = None;
        }
        if usually() {
            renewal.parts = [].into();
        }
        if usually() {
            let again = |line: &UsageLine| {
                let key = lines[usize::from(line.usage.cost.as_nano_usd() % 2 == 0)].clone();
                UsageLine { key, ..*line }
            };
            renewal.lines = renewal.lines.iter().map(again).collect();
        }
    }
    steps
}

/// The parts that a lease draws on.
fn parts(lease: u128) -> Vec<Part> {
    let paths = ["research", "", "research/alice smith/ci", "ops/ü", "ops"];
    let path = paths[usize::try_from(lease % 5).unwrap()].parse::<Part>();
    path.map_or_else(|_| Vec::new(), |part| part.path().collect())
}

pub(super) fn line(rng: &mut Rng, cost: Credits) -> UsageLine {
    let name = |names: &[&str], rng: &mut Rng| names[rng.usize(0..names.len())].parse().unwrap();
    let key = match rng.u8(0..12) {
        0 => LineKey::Other,
        _ => LineKey::Of {
            day: rng.u8(1..4),
            model: name(&["rnnoise", "a b", "ü/{x}"], rng),
            hardware: name(&["gpu"], rng),
            feature: name(&["api", "widget"], rng),
            subject: name(&["alice", "other"], rng).as_str().parse().unwrap(),
        },
    };
    let count = if rng.u8(0..30) == 0 { (1 << 53) - 1 } else { rng.u64(0..1000) };
    UsageLine { key, usage: Usage { requests: rng.u64(0..3), compute_micros: count, cost } }
}

/// Plays a history with the functions in Rust.
pub(super) fn by_book(steps: &[Step]) -> Vec<Seen> {
    let (mut state, mut saved) = (empty_state(), empty_state());
    let mut seen = Vec::new();
    for step in steps {
        let answer = match step.clone() {
            Step::Amend { amendment, now } => shown(state.amend(amendment, now)),
            Step::Claim { period, threshold, by, now } => {
                shown(state.claim(period, threshold, by, now))
            }
            Step::Renew { period, renewal, not_after, now } => {
                shown(state.renew(period, &renewal, not_after, now))
            }
            Step::Save => {
                saved = state.clone();
                String::new()
            }
            Step::Lose { part, restore } => {
                let nothing = empty_state();
                part.replace(&mut state, if restore { &saved } else { &nothing });
                String::new()
            }
        };
        let books = months().map(|month| {
            state
                .books
                .get(&month)
                .cloned()
                .unwrap_or_else(|| Book::new(month))
                .with_max_lines(MAX_LINES)
        });
        seen.push((answer, state.record.clone(), books.into()));
    }
    seen
}

pub(super) fn shown(answer: Result<impl std::fmt::Debug, LedgerError>) -> String {
    answer.map_or_else(|error| kind(&error), |answer| format!("{answer:?}"))
}

pub(super) fn kind(error: &LedgerError) -> String {
    match error {
        LedgerError::Refused(_) => "refused".to_owned(),
        LedgerError::TooLarge(_) => "too large".to_owned(),
        other => panic!("neither side fails: {other}"),
    }
}
