//! A scene of the model: who is there, and which faults may come, each so many times.

use std::sync::Arc;

use super::{TTL, at, nanos};
use crate::{
    HoldAhead, Limits, Part, Period,
    lease::rules::LeaseRules,
    ledger::{PartTerms, Terms},
};

/// Faults that may still come.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Faults {
    /// Messages that are lost.
    pub(super) lost: u8,
    /// Messages of which a copy arrives, too, at any time.
    pub(super) copied: u8,
    /// Suspensions of a node, each for as long as a hold lasts.
    pub(super) slept: u8,
    /// Crashes of a node's process.
    pub(super) killed: u8,
    /// Stalls of a node's journal, which falls behind.
    pub(super) stalled: u8,
    /// Orderly ends of a node's process.
    pub(super) shut_down: u8,
    /// Failovers of the ledger that forget its last writes.
    pub(super) failed_over: u8,
    /// The operator closes the month that has ended.
    pub(super) closed: u8,
}

/// Nodes, requests and faults of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) nodes: usize,
    /// Requests of each node, and the ticks that each may take.
    pub(super) requests: u8,
    pub(super) lengths: &'static [i64],
    /// Ticks in which requests and faults come.
    pub(super) ticks: u64,
    /// Credits of the account.
    pub(super) limit: i64,
    /// Credits of each of two parts, if the nodes' requests are of one each. Both are in a third
    /// part, which has `limit`; the account has one credit more, so that it stops nobody.
    pub(super) part_limit: Option<i64>,
    /// `true` if requests stop at their slices, `false` if they finish.
    pub(super) stop: bool,
    /// `true` if leases hold a surplus.
    pub(super) ahead: bool,
    /// `true` if nodes have a journal.
    pub(super) journal: bool,
    /// The tick at which a month ends.
    pub(super) month_ends: Option<u64>,
    pub(super) faults: Faults,
}

impl Scene {
    pub(super) const BASE: Self = Self {
        name: "",
        nodes: 2,
        requests: 1,
        lengths: &[1, 3],
        ticks: 6,
        limit: 3,
        part_limit: None,
        stop: true,
        ahead: false,
        journal: false,
        month_ends: None,
        faults: Faults {
            lost: 0,
            copied: 0,
            slept: 0,
            killed: 0,
            stalled: 0,
            shut_down: 0,
            failed_over: 0,
            closed: 0,
        },
    };

    pub(super) fn rules(&self) -> LeaseRules {
        LeaseRules {
            deadline: at(super::DEADLINE),
            report_soon: at(1),
            report_within: at(1),
            early: at(0),
            admit_for: at(super::ADMIT_FOR),
            ttl: at(TTL),
            ahead: self.ahead.then(|| HoldAhead::default().at_least(1.try_into().unwrap())),
            farewell: true,
        }
    }

    pub(super) fn terms(&self) -> Terms {
        Terms {
            included: nanos(self.limit + i64::from(self.part_limit.is_some())),
            included_per_day: nanos(0),
            per_seat: false,
            pay_as_you_go: nanos(0),
        }
    }

    pub(super) fn parts_of(&self, node: usize) -> Arc<[PartTerms]> {
        let Some(limit) = self.part_limit else { return Arc::default() };
        let path: Part = ["a/b", "a/c"][node % 2].parse().unwrap();
        let limits = |part: &Part| {
            let limit = if part.parent().is_some() { limit } else { self.limit };
            Limits { per_month: Some(nanos(limit)), per_day: None }
        };
        path.path().map(|part| PartTerms { limits: limits(&part), part }).collect()
    }

    /// `true` if it makes no difference which of the nodes does what.
    pub(super) fn is_symmetric(&self) -> bool {
        self.part_limit.is_none()
    }

    /// The month at a tick.
    pub(super) fn period(&self, tick: u64) -> Period {
        let first = first_month();
        if self.month_ends.is_some_and(|ends| tick >= ends) { first.next() } else { first }
    }
}

pub(super) fn first_month() -> Period {
    "2026-11".parse().unwrap()
}
