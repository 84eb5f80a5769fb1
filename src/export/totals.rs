//! [`SentTotals`]: sums of what was sent of an account's month, and growth of its lines since
//! (pure).
//!
//! The sums of what was sent only grow, and a receiver cannot take anything back. A line can become
//! smaller all the same: a failover of Redis forgets usage, which the ledger then recovers in
//! another line, without details. The receiver has those details already. So growth of other lines
//! is sent only as far as it goes beyond what the receiver has too much of, lines without details
//! first. The sum over an account's month is then always that of the ledger, or what was sent
//! before if that is more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::event::UsageEvent;
use crate::{
    Account, Credits, Period,
    clock::UnixTime,
    identify::Subject,
    ledger::{Statement, StatementLine, Usage},
};

/// The largest value of an event: Stripe takes 15 digits. Larger growth is several events.
const MAX_VALUE: u64 = 999_999_999_999_999;

/// Sums of the events of an account's month, by line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SentTotals(BTreeMap<String, Total>);

/// Requests, microseconds of compute time, and nano-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Total([u64; 3]);

impl Total {
    const fn of(usage: Usage) -> Self {
        Self([usage.requests, usage.compute_micros, usage.cost.as_nano_usd().unsigned_abs()])
    }
}

impl SentTotals {
    /// Returns events for what a statement has more than was sent, and counts them as sent.
    pub(super) fn advance(
        &mut self,
        namespace: &str,
        statement: &Statement,
        now: UnixTime,
    ) -> Vec<UsageEvent> {
        let lines: BTreeMap<String, &StatementLine> =
            statement.lines.iter().map(|line| (key(line), line)).collect();
        let mut growth: BTreeMap<&String, Total> = BTreeMap::new();
        for (key, line) in &lines {
            let (now, sent) = (Total::of(line.usage), self.0.get(key).copied().unwrap_or_default());
            growth.insert(key, Total(each(|i| now.0[i].saturating_sub(sent.0[i]))));
        }
        let mut excess: [u64; 3] = each(|i| {
            let over = self.0.iter().map(|(key, sent)| {
                let now = lines.get(key).map_or(0, |line| Total::of(line.usage).0[i]);
                sent.0[i].saturating_sub(now)
            });
            over.fold(0, u64::saturating_add)
        });
        let mut order: Vec<&String> = growth.keys().copied().collect();
        order.sort_by_key(|key| lines.get(*key).is_some_and(|line| line.subject.is_some()));
        for key in order {
            if let Some(grown) = growth.get_mut(key) {
                for (grown, excess) in grown.0.iter_mut().zip(&mut excess) {
                    let covered = (*grown).min(*excess);
                    (*grown, *excess) = (*grown - covered, *excess - covered);
                }
            }
        }
        let mut events = Vec::new();
        for (key, mut grown) in growth {
            let Some(line) = lines.get(key) else { continue };
            while grown != Total::default() {
                let part = Total(grown.0.map(|value| value.min(MAX_VALUE)));
                grown = Total(each(|i| grown.0[i] - part.0[i]));
                let sent = self.0.entry(key.clone()).or_default();
                *sent = Total(each(|i| sent.0[i].saturating_add(part.0[i])));
                let id = id(namespace, &statement.account, statement.period, key, *sent);
                events.push(event(id, statement, line, part, now));
            }
        }
        events
    }
}

fn each(of: impl Fn(usize) -> u64) -> [u64; 3] {
    std::array::from_fn(of)
}

/// Returns the text by which a line is told from the others of its month.
fn key(line: &StatementLine) -> String {
    let StatementLine { day, model, hardware, feature, subject, .. } = line;
    let subject = subject.as_ref().map(Subject::as_str);
    // A list, so that no name can be taken for two. It always serializes.
    serde_json::to_string(&(day, model.as_str(), hardware.as_str(), feature.as_str(), subject))
        .unwrap_or_default()
}

fn id(namespace: &str, account: &Account, period: Period, line: &str, total: Total) -> String {
    let period = period.to_string();
    let text = serde_json::to_vec(&(namespace, account.as_str(), period, line, total));
    let digest = Sha256::digest(text.unwrap_or_default());
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn event(
    id: String,
    statement: &Statement,
    line: &StatementLine,
    Total([requests, compute_micros, nanos]): Total,
    now: UnixTime,
) -> UsageEvent {
    let StatementLine { day, model, hardware, feature, subject, .. } = line.clone();
    let Statement { account, period, .. } = statement;
    UsageEvent {
        id,
        account: account.clone(),
        period: *period,
        day,
        model,
        hardware,
        feature,
        subject,
        time: last_second(*period, day).min(now),
        requests,
        compute_micros,
        cost: credits(nanos),
    }
}

/// A difference of amounts is an amount.
fn credits(nanos: u64) -> Credits {
    i64::try_from(nanos)
        .ok()
        .and_then(|nanos| Credits::from_nano_usd(nanos).ok())
        .unwrap_or(Credits::MAX)
}

/// Returns the last second of a day of a month, or of the month.
fn last_second(period: Period, day: Option<u8>) -> UnixTime {
    const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
    const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);
    let end =
        day.map_or(period.ends(), |day| (period.begins() + DAY * day.into()).min(period.ends()));
    end - SECOND
}
