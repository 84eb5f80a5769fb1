//! A ledger that is switched off and on, takes its time, and is watched.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tower_credits::{
    Account, Credits, MemoryLedger, Period,
    ledger::{
        Amendment, Answer, LeaseId, Ledger, LedgerError, LedgerFuture, Outcome, Renewal, Statement,
        Terms,
    },
};

/// Clones are one ledger.
#[derive(Clone, Debug, Default)]
pub struct Switched {
    ledger: MemoryLedger,
    off: Arc<AtomicBool>,
    impostor: Arc<AtomicBool>,
    takes_ms: Arc<AtomicU64>,
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    goodbyes: Arc<AtomicUsize>,
    leases: Arc<Mutex<(Vec<LeaseId>, Vec<LeaseId>)>>,
    copied: Arc<Mutex<Option<PathBuf>>>,
    examined: Arc<AtomicUsize>,
}

impl Switched {
    /// The way of one process to a ledger that others reach, too.
    pub fn to(ledger: MemoryLedger) -> Self {
        Self { ledger, ..Self::default() }
    }

    pub fn off(&self, off: bool) {
        self.off.store(off, Ordering::SeqCst);
    }

    /// Just before the next renewal, another process uses the lease's name.
    pub fn use_name_twice(&self) {
        self.impostor.store(true, Ordering::SeqCst);
    }

    /// How long an answer takes from now on.
    pub fn takes(&self, time: Duration) {
        self.takes_ms.store(time.as_millis() as u64, Ordering::SeqCst);
        self.most.store(0, Ordering::SeqCst);
    }

    /// The most renewals that were under way at once since that was set.
    pub fn most_under_way(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// How often a meter's worker examined an account.
    pub fn examined(&self) -> usize {
        self.examined.load(Ordering::SeqCst)
    }

    /// How many goodbyes were sent, answered or not.
    pub fn goodbyes(&self) -> usize {
        self.goodbyes.load(Ordering::SeqCst)
    }

    /// Copies a file from now on whenever a lease says goodbye: `path.0`, `path.1` and so on.
    pub fn copies_at_goodbyes(&self, path: &Path) {
        *self.copied.lock().unwrap() = Some(path.to_owned());
    }

    /// How many leases spoke, and how many of them said goodbye.
    pub fn leases(&self) -> (usize, usize) {
        let leases = self.leases.lock().unwrap();
        (leases.0.len(), leases.1.len())
    }
}

impl Ledger for Switched {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(under_way, Ordering::SeqCst);
        let goodbyes = self.goodbyes.fetch_add(usize::from(renewal.forget), Ordering::SeqCst);
        if let Some(path) = self.copied.lock().unwrap().as_ref().filter(|_| renewal.forget) {
            std::fs::copy(path, path.with_extension(goodbyes.to_string())).unwrap();
        }
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(self.takes_ms.load(Ordering::SeqCst))).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            if self.off.load(Ordering::SeqCst) {
                return Err(LedgerError::Unreachable {
                    reason: "switched off".into(),
                    source: None,
                });
            }
            if self.impostor.swap(false, Ordering::SeqCst) {
                let nothing = Credits::ZERO;
                let other = Renewal {
                    seq: renewal.seq + 5,
                    batch: 0,
                    settled: renewal.reported,
                    lines: [].into(),
                    keep: nothing,
                    refill: nothing,
                    need: nothing,
                    extra: nothing,
                    ..renewal.clone()
                };
                self.ledger.renew(account, period, &other, within).await?;
            }
            let answer = self.ledger.renew(account, period, renewal, within).await?;
            let (spoke, left) = &mut *self.leases.lock().unwrap();
            if !spoke.contains(&renewal.lease) {
                spoke.push(renewal.lease);
            }
            if answer.outcome == Outcome::Forgotten && !left.contains(&renewal.lease) {
                left.push(renewal.lease);
            }
            Ok(answer)
        })
    }

    fn shard(&self, _: &Account) -> u64 {
        self.examined.fetch_add(1, Ordering::SeqCst);
        0
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        self.ledger.statement(account, period, terms)
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool> {
        self.ledger.amend(account, amendment)
    }
}
