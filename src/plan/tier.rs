//! What an account of a tier may use, and what happens when it has.

use std::{num::NonZeroU32, time::Duration};

use crate::{Credits, Name, ledger::Terms};

/// What an account of a tier may use, and what happens when it has.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tier {
    /// Its name in the plan.
    pub name: Name,
    /// Credits included each month.
    pub included: Credits,
    /// `true` if `included` counts once for each of the account's seats.
    pub per_seat: bool,
    /// What happens when the included and purchased credits are used up.
    pub when_used_up: WhenUsedUp,
    /// What happens to a running request when nothing more is to be had. Default: [`Midway::Stop`]
    /// where usage is blocked, [`Midway::Finish`] where it is charged on top.
    pub midway: Midway,
    /// The compute time that a request puts on hold at its admission, and is refilled to while it
    /// runs. Default 1 s; it is never shorter than four of the meter's
    /// [deadlines](crate::CreditMeterBuilder::ledger_timeout), nor longer than `most_per_request`.
    pub hold: Duration,
    /// How many requests an account may make, on each node; more are denied with 429. Default: any
    /// number.
    pub requests: Option<RequestQuota>,
    /// The most that one request may use; where it reaches that it is cut off (403). Default: no
    /// bound, also where it runs on as debt.
    pub most_per_request: Option<RequestCap>,
    /// How many requests of an account may run, or wait for the ledger, at once, on each node; more
    /// are denied with 429. Default: any number.
    pub most_running: Option<NonZeroU32>,
    /// What happens while the ledger does not answer. Default: [`DuringOutage::Deny`].
    pub during_outage: DuringOutage,
    /// What a denied caller is told to do: an upgrade link, say.
    pub hint: Option<String>,
}

/// What happens when the included and purchased credits are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenUsedUp {
    /// Requests are denied.
    Block,
    /// Requests go on and are charged on top, up to this much each month ([`Credits::MAX`]: without
    /// limit).
    PayAsYouGo(Credits),
}

/// What happens to a running request when nothing more is to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Midway {
    /// It ends there, and costs no more than was on hold for it.
    Stop,
    /// It runs on, and what it uses beyond its hold is debited all the same, also where that passes
    /// the account's limit. Only [`Tier::most_per_request`] bounds it.
    Finish,
}

/// The most that one request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestCap {
    /// This much compute time.
    Compute(Duration),
    /// This much money.
    Cost(Credits),
}

/// A request rate, as a token bucket: `burst` at once, refilled at `count` a `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestQuota {
    /// Requests in each `per`.
    pub count: NonZeroU32,
    /// The window: a bucket of `burst` must be full again within 31 days, at a microsecond or more
    /// for each request.
    pub per: Duration,
    /// Requests that may come at once. Default: `count`.
    pub burst: NonZeroU32,
}

/// What happens while the ledger does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DuringOutage {
    /// Requests that need the ledger are denied.
    Deny,
    /// Requests go on, as long as what they put on hold stays within this much per account, node
    /// and month; debited when the ledger is back.
    Allow(Credits),
}

impl Tier {
    /// What the tier allows an account.
    pub fn terms(&self) -> Terms {
        let pay_as_you_go = match self.when_used_up {
            WhenUsedUp::Block => Credits::ZERO,
            WhenUsedUp::PayAsYouGo(limit) => limit,
        };
        Terms { included: self.included, per_seat: self.per_seat, pay_as_you_go }
    }
}
