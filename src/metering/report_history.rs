//! The knowledge of which services report their compute time themselves.
//!
//! The usage of a request is settled while it runs, and settled usage is not taken back. So as
//! long as a service may still report less than we measure, nothing of its request is settled in
//! advance. Before a response has its head, any service might report; earlier requests for the same
//! model tell if this one will.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use dashmap::DashMap;

use crate::{Name, plan::Workload};

/// The most models that have a history; of more, nothing is learned.
const MAX_MODELS: usize = 4_096;

/// The history of one model on one hardware: if its requests report their compute time.
#[derive(Debug, Default)]
pub(crate) struct ReportHistory(AtomicU8);

const UNKNOWN: u8 = 0;
const SILENT: u8 = 1;
const REPORTS: u8 = 2;

impl ReportHistory {
    /// `true` if requests were answered, and none ever reported anything.
    pub(super) fn never_reports(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SILENT
    }

    /// Notes a request that reported its compute time.
    pub(super) fn add_report(&self) {
        if self.0.load(Ordering::Relaxed) != REPORTS {
            self.0.store(REPORTS, Ordering::Relaxed);
        }
    }

    /// Notes a request that was answered and reported nothing.
    pub(super) fn add_silence(&self) {
        if self.0.load(Ordering::Relaxed) == UNKNOWN {
            let _ = self.0.compare_exchange(UNKNOWN, SILENT, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// The histories of all models.
#[derive(Debug, Default)]
pub(crate) struct ReportHistories(DashMap<(Name, Name), Arc<ReportHistory>>);

impl ReportHistories {
    pub(super) fn of(&self, workload: &Workload) -> Arc<ReportHistory> {
        let key = (workload.model.clone(), workload.hardware.clone());
        if let Some(known) = self.0.get(&key) {
            return Arc::clone(&known);
        }
        if self.0.len() >= MAX_MODELS {
            return Arc::default();
        }
        Arc::clone(&self.0.entry(key).or_default())
    }
}
