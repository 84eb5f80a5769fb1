//! What an account used in a period, as people and programs read it.

use std::{num::NonZeroU32, time::Duration};

use super::{Book, LineKey, Record, Refund, Terms, Usage};
use crate::{Account, Credits, Name, Period, identify::Subject};

/// What an account used in a period. Its lines add up to `used`, always.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statement {
    /// Whose.
    pub account: Account,
    /// Which month.
    pub period: Period,
    /// Included credits, seats counted.
    pub included: Credits,
    /// Debited so far. It may be more than the account's limit: what requests of tiers that let
    /// them finish used beyond it, for one.
    pub used: Credits,
    /// On hold by all leases: by running requests, by what nodes hold ahead, and until it expires
    /// by nodes that died.
    pub held: Credits,
    /// What of `used` was refunded: the month costs that much less.
    pub refunded: Credits,
    /// The refunds, by id.
    pub refunds: Vec<StatementRefund>,
    /// `true` if the month is closed: what was used, its lines and refunds change no more.
    pub closed: bool,
    /// The most that may be used by all of these: included, purchased and pay-as-you-go credits;
    /// [`Credits::MAX`] where there is no limit.
    pub limit: Credits,
    /// What of `used` is paid from purchased credits.
    pub purchased_used: Credits,
    /// Purchased credits that are left now, in whatever month they will be used.
    pub purchased_left: Credits,
    /// The most that the account's owner will pay on top in a month, where they said so.
    pub spending_limit: Option<Credits>,
    /// Seats, for each of which a tier may include credits.
    pub seats: NonZeroU32,
    /// What of `used` is charged on top, less refunds.
    pub pay_as_you_go: Credits,
    /// The lines, in order of day, model, hardware, feature and subject.
    pub lines: Vec<StatementLine>,
}

/// One line of a [`Statement`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatementLine {
    /// Day of the month on which requests were admitted, by their node's clock, 1 to 31, UTC;
    /// `None` for usage whose details are not known.
    pub day: Option<u8>,
    /// The model; `other` for what did not fit apart, `late` for what came of another month, of one
    /// that was closed before, for one, `recovered` for what a failover of the ledger forgot the
    /// details of.
    pub model: Name,
    /// The hardware, or the same word.
    pub hardware: Name,
    /// The feature, or the same word.
    pub feature: Name,
    /// Who asked; `None` where that is not known.
    pub subject: Option<Subject>,
    /// How much.
    pub usage: Usage,
}

/// A refund on a [`Statement`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatementRefund {
    /// Its id.
    pub id: Name,
    /// How much.
    pub amount: Credits,
    /// Why.
    pub reason: Name,
}

impl Statement {
    /// Billed requests.
    pub fn requests(&self) -> u64 {
        self.lines.iter().map(|line| line.usage.requests).fold(0, u64::saturating_add)
    }

    /// Compute time of all lines.
    pub fn compute(&self) -> Duration {
        Duration::from_micros(
            self.lines.iter().map(|line| line.usage.compute_micros).fold(0, u64::saturating_add),
        )
    }

    /// What the month costs, whoever pays: what was used, less refunds.
    pub fn net(&self) -> Credits {
        self.used.saturating_sub(self.refunded)
    }

    /// What of the month's cost the included credits pay for.
    pub fn included_used(&self) -> Credits {
        self.net().saturating_sub(self.purchased_used).min(self.included)
    }

    /// What of the month's cost nothing pays for: it went beyond what the account may use.
    pub fn beyond(&self) -> Credits {
        self.net()
            .saturating_sub(self.included_used())
            .saturating_sub(self.purchased_used)
            .saturating_sub(self.pay_as_you_go)
    }

    /// What is left to use, on hold or not.
    pub fn left(&self) -> Credits {
        self.limit.saturating_sub(self.net())
    }

    /// The statement of a book as of `now`.
    pub(crate) fn of(
        account: &Account,
        book: &Book,
        record: &Record,
        terms: Option<Terms>,
        now: Duration,
    ) -> Self {
        let (mut book, mut record) = (book.clone(), record.clone());
        book.refresh(&mut record, terms, now);
        let standing = book.standing(&record, terms, now);
        let lines = lines(&book);
        let refund = |(id, Refund { amount, reason })| StatementRefund { id, amount, reason };
        Self {
            account: account.clone(),
            period: book.period,
            included: standing.included,
            used: book.used,
            held: book.held(),
            refunded: book.refunded,
            limit: standing.limit,
            purchased_used: book.drawn,
            purchased_left: record.purchased_left(now),
            spending_limit: record.spending_limit,
            seats: book.agreed.map_or(record.seats, |agreed| agreed.seats),
            pay_as_you_go: book.on_top(),
            closed: record.is_closed(book.period, now),
            refunds: book.refunds.into_iter().map(refund).collect(),
            lines,
        }
    }
}

fn lines(book: &Book) -> Vec<StatementLine> {
    let without_details = |name: &'static str, usage| {
        let name = Name::known(name);
        StatementLine {
            day: None,
            model: name.clone(),
            hardware: name.clone(),
            feature: name,
            subject: None,
            usage,
        }
    };
    let mut lines: Vec<_> = book
        .lines
        .iter()
        .map(|(key, usage)| match key.clone() {
            LineKey::Of { day, model, hardware, feature, subject } => StatementLine {
                day: Some(day),
                model,
                hardware,
                feature,
                subject: Some(subject),
                usage: *usage,
            },
            LineKey::Late => without_details("late", *usage),
            LineKey::Other => without_details("other", *usage),
        })
        .collect();
    if !book.recovered.is_zero() {
        lines
            .push(without_details("recovered", Usage { cost: book.recovered, ..Usage::default() }));
    }
    lines
}
