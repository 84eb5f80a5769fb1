//! The Lua script and [`Book`] are one function: compared answer for answer and state for state on
//! random histories.
//!
//! The script runs on a real server, on a clock that the test sets. `HISTORIES` sets how many
//! histories are played.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    time::Duration,
};

use fastrand::Rng;
use redis::{Script, Value};

use super::{
    super::{
        AccountState, Amendment, Book, LeaseId, LedgerError, LineKey, Record, Refund, Renewal,
        Terms, Usage, UsageLine,
    },
    call,
    codec::{Hash, Hashes},
    schema::Keys,
    script,
};
use crate::{
    Account, Credits, Name, Period,
    clock::UnixTime,
    redis_server::{Fault, tests::redis_server::RedisServer},
};

/// In place of the server's clock.
const TEST_CLOCK: &str =
    "local function clock() return tonumber(redis.call('GET', 'test:clock')) end\n";

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
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
        part: Part,
        restore: bool,
    },
}

/// The content of one key.
#[derive(Clone, Copy, Debug)]
enum Part {
    Record,
    Spent,
    Book(usize),
    Leases(usize),
    Holds(usize),
}

impl Part {
    fn key<'a>(&self, keys: &'a [Keys; 4]) -> &'a str {
        match *self {
            Self::Record => &keys[0].record,
            Self::Spent => &keys[0].spent,
            Self::Book(month) => &keys[month].book,
            Self::Leases(month) => &keys[month].leases,
            Self::Holds(month) => &keys[month].holds,
        }
    }

    /// The same loss in a state in memory.
    fn replace(&self, state: &mut AccountState, with: &AccountState) {
        let empty = |month: usize| Book::new(months()[month]).with_max_lines(MAX_LINES);
        match *self {
            Self::Record => {
                state.record = Record {
                    spent: std::mem::take(&mut state.record.spent),
                    ..with.record.clone()
                };
            }
            Self::Spent => state.record.spent.clone_from(&with.record.spent),
            Self::Book(month) | Self::Leases(month) | Self::Holds(month) => {
                let from =
                    with.books.get(&months()[month]).cloned().unwrap_or_else(|| empty(month));
                let book = state.books.entry(months()[month]).or_insert_with(|| empty(month));
                match self {
                    Self::Book(_) => {
                        *book = Book {
                            leases: book.leases.clone(),
                            holds: book.holds.clone(),
                            claims: book.claims.clone(),
                            ..from
                        };
                    }
                    Self::Leases(_) => book.leases = from.leases,
                    _ => book.holds = from.holds,
                }
            }
        }
    }
}

/// Few lines are stored one by one, so that there are more.
const MAX_LINES: usize = 5;

/// The answer to a step, and the state after it.
type Seen = (String, Record, Vec<Book>);

fn empty_state() -> AccountState {
    AccountState::default().with_max_lines(NonZeroUsize::new(MAX_LINES).unwrap())
}

fn nanos(n: i64) -> Credits {
    Credits::from_nano_usd(n).unwrap()
}

/// This month and those after, while this one still takes what is settled: keys expire by the
/// server's own clock.
fn months() -> [Period; 4] {
    let this = Period::containing(UnixTime::now());
    [this, this.next(), this.next().next(), this.next().next().next()]
}

/// Random renewals of a few leases: repeated, reordered, late, forgotten, with changing terms,
/// around a month's end.
fn history(rng: &mut Rng) -> Vec<Step> {
    let months = months();
    let small = rng.bool();
    let amount = |rng: &mut Rng| match (small, rng.u8(0..20)) {
        (_, 0..4) => Credits::ZERO,
        (false, 19) => nanos(Credits::MAX.as_nano_usd() - rng.i64(0..3)),
        _ => nanos(rng.i64(0..400)),
    };
    let ttl = Duration::from_secs([1, 60, 600][rng.usize(0..3)]);
    // From a while before the month's end to a while after; sometimes far off.
    let mut now = match rng.u8(0..12) {
        0 => months[0].begins() - Duration::from_secs(rng.u64(0..120)),
        1 => {
            months[0].ends() + Duration::from_secs(62 * 86_400)
                - Duration::from_secs(rng.u64(0..100))
        }
        _ => months[0].ends() - Duration::from_millis(rng.u64(0..1_500_000)),
    };
    let mut terms =
        Terms { included: amount(rng), per_seat: rng.bool(), pay_as_you_go: Credits::ZERO };
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
            7 => {
                let pay_as_you_go = if rng.bool() { Credits::MAX } else { amount(rng) };
                terms = Terms { included: amount(rng), per_seat: rng.bool(), pay_as_you_go };
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
                Part::Record,
                Part::Spent,
                Part::Book(month),
                Part::Leases(month),
                Part::Holds(month),
            ][rng.usize(0..5)];
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

fn line(rng: &mut Rng, cost: Credits) -> UsageLine {
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
fn by_book(steps: &[Step]) -> Vec<Seen> {
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

fn shown(answer: Result<impl std::fmt::Debug, LedgerError>) -> String {
    answer.map_or_else(|error| kind(&error), |answer| format!("{answer:?}"))
}

/// Plays a history on the server, in one round trip.
async fn by_script(
    server: &mut redis::aio::MultiplexedConnection,
    scripts: &[Script; 2],
    account: &Account,
    steps: &[Step],
) -> Vec<Seen> {
    let keys = months().map(|period| Keys::new("tc", account, period));
    let of = |period| &keys[months().iter().position(|month| month == period).unwrap()];
    let all = || {
        let months = keys
            .iter()
            .flat_map(|Keys { book, leases, holds, claims, .. }| [book, leases, holds, claims]);
        [&keys[0].record, &keys[0].spent].into_iter().chain(months)
    };
    let [renew, amend] = scripts.each_ref().map(Script::get_hash);
    let mut pipe = redis::pipe();
    let mut commands = Vec::new();
    for step in steps {
        let before = pipe.len();
        if let Step::Amend { now, .. } | Step::Claim { now, .. } | Step::Renew { now, .. } = step {
            pipe.cmd("SET").arg("test:clock").arg(now.as_millis().to_string());
        }
        match step {
            Step::Amend { amendment, now } => {
                pipe.add_command(call::amendment(
                    ("EVALSHA", amend),
                    "tc",
                    account,
                    amendment,
                    *now,
                ));
            }
            Step::Claim { period, threshold, by, .. } => {
                pipe.add_command(call::claim(("EVALSHA", amend), of(period), threshold, *by));
            }
            Step::Renew { period, renewal, not_after, now } => {
                pipe.add_command(call::renewal(
                    ("EVALSHA", renew),
                    of(period),
                    renewal,
                    MAX_LINES,
                    *now,
                    *not_after,
                ));
            }
            Step::Save => {
                for key in all() {
                    let saved = format!("saved:{key}");
                    pipe.cmd("DEL").arg(&saved).cmd("COPY").arg(key).arg(saved);
                }
            }
            Step::Lose { part, restore } => {
                let key = part.key(&keys);
                pipe.cmd("DEL").arg(key);
                if *restore {
                    pipe.cmd("COPY").arg(format!("saved:{key}")).arg(key);
                }
            }
        }
        commands.push(pipe.len() - before);
        for key in all() {
            pipe.cmd("HGETALL").arg(key);
        }
    }
    let answers: Vec<Value> = server.send_packed_commands(&pipe, 0, pipe.len()).await.unwrap();
    let mut answers = answers.into_iter();
    let mut seen = Vec::new();
    for (step, commands) in steps.iter().zip(commands) {
        let last = answers.by_ref().take(commands).last();
        let mut next = || answers.next().unwrap();
        let refused = |error| LedgerError::from(Fault::from(error));
        let flag = |answer| shown(Ok(redis::from_redis_value::<bool>(answer).unwrap()));
        let answer = match (step, last.unwrap_or(Value::Nil).extract_error().map_err(refused)) {
            (Step::Save | Step::Lose { .. }, _) => String::new(),
            (_, Err(error)) => shown(Err::<(), _>(error)),
            (Step::Amend { amendment, .. }, Ok(answer)) => {
                shown(Ok(call::read_amended(amendment, redis::from_redis_value(answer).unwrap())))
            }
            (Step::Claim { .. }, Ok(answer)) => flag(answer),
            (Step::Renew { .. }, Ok(answer)) => {
                let answer: String = redis::from_redis_value(answer).unwrap();
                shown(call::read_answer(&answer))
            }
        };
        let mut hash = || -> Hash { redis::from_redis_value(next()).unwrap() };
        let (record, spent) = (hash(), hash());
        let mut hashes = Hashes {
            keys: &keys[0],
            record,
            spent,
            book: hash(),
            leases: hash(),
            holds: hash(),
            claims: hash(),
        };
        let record = hashes.record().unwrap();
        let mut books = vec![hashes.book().unwrap().with_max_lines(MAX_LINES)];
        for keys in &keys[1..] {
            hashes = Hashes {
                keys,
                book: hash(),
                leases: hash(),
                holds: hash(),
                claims: hash(),
                ..hashes
            };
            books.push(hashes.book().unwrap().with_max_lines(MAX_LINES));
        }
        seen.push((answer, record, books));
    }
    seen
}

async fn scripts(link: &mut redis::aio::MultiplexedConnection) -> [Script; 2] {
    let scripts = [script::renew_text(TEST_CLOCK), script::amend_text(TEST_CLOCK)]
        .map(|text| Script::new(&text));
    for script in &scripts {
        script.load_async(link).await.unwrap();
    }
    scripts
}

fn kind(error: &LedgerError) -> String {
    match error {
        LedgerError::Refused(_) => "refused".to_owned(),
        LedgerError::TooLarge(_) => "too large".to_owned(),
        other => panic!("neither side fails: {other}"),
    }
}

#[tokio::test]
async fn the_script_and_the_book_agree_state_for_state() {
    let histories = std::env::var("HISTORIES")
        .map_or(10_000, |histories| histories.parse().expect("HISTORIES is a number"));
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = redis::Client::open(server.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let scripts = scripts(&mut link).await;
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let (mut debited_late, mut given_back, mut repaired, mut set_aside) = (0, 0, 0, 0);
    for seed in 0..histories {
        let steps = history(&mut Rng::with_seed(seed));
        let account = Account::user(&format!("u{seed}")).unwrap();
        let (expected, found) =
            (by_book(&steps), by_script(&mut link, &scripts, &account, &steps).await);
        for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
            assert_eq!(
                expected,
                found,
                "history {seed}, step {step}, {:?}, after {:?}",
                steps[step],
                step.checked_sub(1).map(|before| by_book(&steps).swap_remove(before))
            );
        }
        assert_eq!(expected.len(), found.len());
        let lossy = steps.iter().any(|step| matches!(step, Step::Lose { .. }));
        for (step, (answer, record, books)) in steps.iter().zip(expected) {
            let outcome = answer
                .split([' ', ','])
                .find(|word| !["Answer", "{", "outcome:"].contains(word))
                .unwrap_or_default();
            let step = match step {
                Step::Amend { amendment, .. } => {
                    format!("{amendment:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
                }
                Step::Claim { .. } => "Claim".to_owned(),
                Step::Save => "Save".to_owned(),
                Step::Lose { part, restore } => format!("Lose {part:?} {restore}"),
                Step::Renew { .. } => "Renew".to_owned(),
            };
            *outcomes.entry(format!("{step} {outcome}")).or_default() += 1;
            debited_late +=
                usize::from(books.iter().any(|book| book.lines.contains_key(&LineKey::Late)));
            repaired += usize::from(lossy && books.iter().any(|book| !book.recovered.is_zero()));
            set_aside += usize::from(!record.spent.is_empty());
            given_back += usize::from(
                books.iter().any(|book| !book.refunded.is_zero() && !book.purchased_used.is_zero()),
            );
            // What was used stands in the lines, whatever happened.
            let adds_up = |book: &Book| {
                book.lines_cost() == book.used
                    && book.refunded <= book.used
                    && (lossy || book.purchased_used <= book.used)
            };
            assert!(books.iter().all(adds_up), "history {seed}: {books:?}");
        }
        if seed % 500 == 499 {
            redis::cmd("FLUSHDB").exec_async(&mut link).await.unwrap();
        }
    }
    eprintln!(
        "{histories} histories agree; answers: {outcomes:?}; debited late {debited_late}, refunded \
         with purchases {given_back}, repaired {repaired}, grants set aside {set_aside}"
    );
    let kinds =
        ["Renewed", "Superseded", "Forgotten", "Late", "NotBegun", "Closed", "Erased", "refused"]
            .map(|kind| format!("Renew {kind}"));
    let corrections = [
        "Refund true",
        "Refund false",
        "Refund refused",
        "Close true",
        "Close false",
        "Close refused",
        "Claim false",
        "Erase true",
        "Grant refused",
    ];
    let all =
        kinds.iter().map(String::as_str).chain(corrections).all(|kind| outcomes.contains_key(kind));
    assert!(
        (all && given_back > 0 && debited_late > 0 && repaired > 0 && set_aside > 0)
            || histories < 1_000,
        "every kind of answer came up: {outcomes:?}"
    );
}

#[tokio::test]
async fn usage_beyond_the_most_lines_goes_to_one_line() {
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = redis::Client::open(server.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let scripts = scripts(&mut link).await;
    let period = months()[0];
    let now = period.begins() + Duration::from_secs(1);
    let steps: Vec<_> = (0..3_u64)
        .map(|batch| {
            let lines = (0..3).map(|number| UsageLine {
                key: LineKey::Of {
                    day: 1,
                    model: format!("model-{}", 3 * batch + number).parse().unwrap(),
                    hardware: "gpu".parse().unwrap(),
                    feature: "api".parse().unwrap(),
                    subject: "alice".parse().unwrap(),
                },
                usage: Usage { requests: 1, compute_micros: 1, cost: nanos(1) },
            });
            let renewal = Renewal {
                lease: LeaseId::from_bits(1),
                seq: batch + 1,
                batch: batch + 1,
                settled: nanos(3 * (i64::try_from(batch).unwrap() + 1)),
                reported: nanos(3 * i64::try_from(batch).unwrap()),
                lines: lines.collect(),
                keep: Credits::ZERO,
                refill: Credits::ZERO,
                need: Credits::ZERO,
                extra: Credits::ZERO,
                terms: Terms::nothing(),
                terms_at: now,
                ttl: Duration::from_secs(600),
                forget: false,
            };
            Step::Renew { period, renewal, not_after: now, now }
        })
        .collect();
    let (expected, found) = (
        by_book(&steps),
        by_script(&mut link, &scripts, &Account::user("many").unwrap(), &steps).await,
    );
    assert!(expected == found, "both sides agree");
    let book = &expected[2].2[0];
    assert_eq!((book.lines.len(), book.lines[&LineKey::Other].requests), (MAX_LINES + 1, 4));
    assert_eq!(book.lines_cost(), book.used());
}
