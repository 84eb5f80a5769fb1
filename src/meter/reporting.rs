//! Which services report their compute time themselves.
//!
//! What a request has used is settled while it runs, and what is settled is not taken back. So as
//! long as a service may still say that it computed for less than what is measured, nothing of its
//! request is settled in advance. Before a response has its head, any service might: what requests
//! for the same model did before tells whether this one will.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use dashmap::DashMap;

use crate::{Name, plan::Workload};

/// As many models are known; of more, nothing is learned.
const MOST_MODELS: usize = 4_096;

/// `true` if requests for one model on one hardware report their compute time.
#[derive(Debug, Default)]
pub(crate) struct Reporting(AtomicU8);

const UNKNOWN: u8 = 0;
const SILENT: u8 = 1;
const REPORTS: u8 = 2;

impl Reporting {
    /// `true` if some were answered, and none ever reported anything.
    pub(super) fn never_reports(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SILENT
    }

    /// One reported its compute time.
    pub(super) fn reports(&self) {
        if self.0.load(Ordering::Relaxed) != REPORTS {
            self.0.store(REPORTS, Ordering::Relaxed);
        }
    }

    /// One was answered and reported nothing.
    pub(super) fn reports_nothing(&self) {
        if self.0.load(Ordering::Relaxed) == UNKNOWN {
            let _ = self.0.compare_exchange(UNKNOWN, SILENT, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// What is known of all models.
#[derive(Debug, Default)]
pub(super) struct ReportingByModel(DashMap<(Name, Name), Arc<Reporting>>);

impl ReportingByModel {
    pub(super) fn of(&self, workload: &Workload) -> Arc<Reporting> {
        let key = (workload.model.clone(), workload.hardware.clone());
        if let Some(known) = self.0.get(&key) {
            return Arc::clone(&known);
        }
        if self.0.len() >= MOST_MODELS {
            return Arc::default();
        }
        Arc::clone(&self.0.entry(key).or_default())
    }
}
