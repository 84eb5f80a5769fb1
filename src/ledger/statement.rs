//! A period of an account, as people and programs read it.

use std::{collections::BTreeSet, num::NonZeroU32, time::Duration};

use super::{Book, LineKey, Record, Refund, Terms, Usage, UsageLine};
use crate::{
    Account, Credits, Limits, Name, Part, Period,
    clock::UnixTime,
    names::{Reason, RefundId, Subject},
};

/// A period of an account. The costs of its lines add up to `used`, always.
///
/// A ledger that stores [`AccountState`](super::AccountState)s gets it from
/// [`AccountState::statement`](super::AccountState::statement). Others begin with
/// [`Statement::empty`] and set the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statement {
    /// The account.
    pub account: Account,
    /// The month.
    pub period: Period,
    /// Included credits, seats counted: of the month, of its days as far as they were used, and of
    /// the current day.
    pub included: Credits,
    /// The part of `included` that lapses at the end of the day (UTC).
    pub included_left_today: Credits,
    /// Credits that are included each day, seats counted.
    pub included_per_day: Credits,
    /// Debited so far, refunds not subtracted. It can be more than the account's limit, for example
    /// by requests of tiers that let them finish.
    pub used: Credits,
    /// On hold by all leases: for running requests, for requests to come, and until they expire by
    /// nodes that died.
    pub held: Credits,
    /// The part of `used` that was refunded: the month costs that much less.
    pub refunded: Credits,
    /// The refunds, by id.
    pub refunds: Vec<StatementRefund>,
    /// `true` if the month is closed: its usage, lines and refunds change no more.
    pub closed: bool,
    /// The most that can be used: included, purchased and pay-as-you-go credits together;
    /// [`Credits::MAX`] if there is no limit.
    pub limit: Credits,
    /// The part of `used` that is paid from purchased credits.
    pub purchased_used: Credits,
    /// Purchased credits that are left now, for whatever month.
    pub purchased_left: Credits,
    /// The most that the account's owner will pay as pay-as-you-go in a month, if they set a limit.
    pub spending_limit: Option<Credits>,
    /// Seats, for each of which a tier may include credits.
    pub seats: NonZeroU32,
    /// The part of `used` that is charged as pay-as-you-go, less refunds.
    pub pay_as_you_go: Credits,
    /// The account's own limit for a day, as it was set; a tier may have a lower one.
    pub most_per_day: Option<Credits>,
    /// Used today, if the day has a limit.
    pub used_today: Credits,
    /// Parts of the account that used something in the month, or have limits that were set, in the
    /// order of their paths. Usage counts in each part along its path. What the ledger lost and
    /// recovered since is in no part, and refunds are not subtracted.
    pub parts: Vec<StatementPart>,
    /// The lines, in order of day, model, hardware, feature and subject.
    pub lines: Vec<StatementLine>,
}

/// One line of a [`Statement`]. A [`UsageLine`] becomes one with `into`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatementLine {
    /// Day of the month on which requests were admitted, by their node's clock, 1 to 31, UTC;
    /// `None` for usage without details.
    pub day: Option<u8>,
    /// The model. Usage without details has one of these words instead: `other` beyond the lines
    /// that are stored one by one; `late` for usage of another month, for example of one that was
    /// closed before; `recovered` if a failover of the ledger forgot the details.
    pub model: Name,
    /// The hardware, or the same word.
    pub hardware: Name,
    /// The feature, or the same word.
    pub feature: Name,
    /// The subject that asked; `None` for usage without details.
    pub subject: Option<Subject>,
    /// The usage.
    pub usage: Usage,
}

/// A part of the account on a [`Statement`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatementPart {
    /// The part.
    pub part: Part,
    /// Used in the month.
    pub used: Credits,
    /// On hold by all leases that draw on it.
    pub held: Credits,
    /// Used today, by the ledger's clock, UTC.
    pub used_today: Credits,
    /// Its limits as they were set; where they are `None`, those of the tier count.
    pub limits: Limits,
}

/// A refund on a [`Statement`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatementRefund {
    /// Its id.
    pub id: RefundId,
    /// The amount.
    pub amount: Credits,
    /// The reason, for people.
    pub reason: Reason,
}

impl Statement {
    /// Returns the statement of an account that used nothing and may use nothing.
    pub const fn empty(account: Account, period: Period) -> Self {
        Self {
            account,
            period,
            included: Credits::ZERO,
            included_left_today: Credits::ZERO,
            included_per_day: Credits::ZERO,
            used: Credits::ZERO,
            held: Credits::ZERO,
            refunded: Credits::ZERO,
            refunds: Vec::new(),
            closed: false,
            limit: Credits::ZERO,
            purchased_used: Credits::ZERO,
            purchased_left: Credits::ZERO,
            spending_limit: None,
            seats: NonZeroU32::MIN,
            pay_as_you_go: Credits::ZERO,
            most_per_day: None,
            used_today: Credits::ZERO,
            parts: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Returns the statement of a book at `now`, the ledger's clock. A month that has ended keeps
    /// its own terms; for others `terms` count, or if they are `None`, those stated last.
    pub fn from_book(
        account: &Account,
        book: &Book,
        record: &Record,
        terms: Option<Terms>,
        now: UnixTime,
    ) -> Self {
        let (mut book, mut record) = (book.clone(), record.clone());
        book.refresh(&mut record, terms, now);
        let standing = book.standing(&record, terms, now);
        let (mut left_today, included_per_day) = book.included_today(&record, terms, now);
        // Nothing can use what the last day of a month that has ended left.
        let lapsed = if standing.ended { std::mem::take(&mut left_today) } else { Credits::ZERO };
        let lapse = |credits: Credits| {
            if credits == Credits::MAX { credits } else { credits.saturating_sub(lapsed) }
        };
        Self {
            included: lapse(standing.included),
            included_left_today: left_today,
            included_per_day,
            used: book.used,
            held: book.held(),
            refunded: book.refunded,
            limit: lapse(standing.limit),
            purchased_used: book.purchased_used,
            purchased_left: record.purchased_left(now),
            spending_limit: record.spending_limit,
            seats: book.terms.map_or(record.seats, |terms| terms.seats),
            pay_as_you_go: book.pay_as_you_go(&record),
            closed: record.is_closed(book.period, now),
            lines: lines(&book),
            most_per_day: record.per_day,
            used_today: record.today.on(now),
            parts: parts(&book, &record, now),
            refunds: book.refunds.into_iter().map(StatementRefund::from).collect(),
            ..Self::empty(account.clone(), book.period)
        }
    }

    /// Billed requests of all lines.
    pub fn requests(&self) -> u64 {
        self.lines.iter().map(|line| line.usage.requests).fold(0, u64::saturating_add)
    }

    /// Compute time of all lines.
    pub fn compute(&self) -> Duration {
        Duration::from_micros(
            self.lines.iter().map(|line| line.usage.compute_micros).fold(0, u64::saturating_add),
        )
    }

    /// The month's cost, whoever pays: what was used, less refunds.
    pub fn net(&self) -> Credits {
        self.used.saturating_sub(self.refunded)
    }

    /// The part of the month's cost that included credits pay for.
    pub fn included_used(&self) -> Credits {
        let included = self.included.saturating_sub(self.included_left_today);
        self.net().saturating_sub(self.purchased_used).min(included)
    }

    /// The part of the month's cost that nobody pays for: it went beyond what the account may use.
    pub fn beyond(&self) -> Credits {
        self.net()
            .saturating_sub(self.included_used())
            .saturating_sub(self.purchased_used)
            .saturating_sub(self.pay_as_you_go)
    }

    /// Credits that are left to use, on hold or not.
    pub fn left(&self) -> Credits {
        self.limit.saturating_sub(self.net())
    }
}

impl StatementLine {
    /// Returns the line of usage whose details a failover of the ledger forgot.
    pub fn recovered(cost: Credits) -> Self {
        Self::without_details("recovered", Usage { cost, ..Usage::default() })
    }

    fn without_details(word: &'static str, usage: Usage) -> Self {
        let name = Name::known(word);
        Self {
            day: None,
            model: name.clone(),
            hardware: name.clone(),
            feature: name,
            subject: None,
            usage,
        }
    }
}

impl From<UsageLine> for StatementLine {
    fn from(UsageLine { key, usage }: UsageLine) -> Self {
        match key {
            LineKey::Of { day, model, hardware, feature, subject } => {
                Self { day: Some(day), model, hardware, feature, subject: Some(subject), usage }
            }
            LineKey::Late => Self::without_details("late", usage),
            LineKey::Other => Self::without_details("other", usage),
        }
    }
}

impl From<(RefundId, Refund)> for StatementRefund {
    fn from((id, Refund { amount, reason }): (RefundId, Refund)) -> Self {
        Self { id, amount, reason }
    }
}

fn parts(book: &Book, record: &Record, now: UnixTime) -> Vec<StatementPart> {
    let all: BTreeSet<_> = book.parts.totals.keys().chain(record.part_limits.keys()).collect();
    all.into_iter()
        .filter(|part| part.models().is_none())
        .map(|part| {
            let total = book.parts.totals.get(part).copied().unwrap_or_default();
            StatementPart {
                part: part.clone(),
                used: total.used,
                held: total.held,
                used_today: record.part_days.get(part).map_or(Credits::ZERO, |day| day.on(now)),
                limits: record.part_limits.get(part).copied().unwrap_or_default(),
            }
        })
        .collect()
}

fn lines(book: &Book) -> Vec<StatementLine> {
    let recovered = (!book.recovered.is_zero()).then(|| StatementLine::recovered(book.recovered));
    book.lines
        .iter()
        .map(|(key, usage)| UsageLine { key: key.clone(), usage: *usage }.into())
        .chain(recovered)
        .collect()
}
