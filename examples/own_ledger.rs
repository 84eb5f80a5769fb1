//! A ledger of your own: balances in one JSON file, for a single server that outlives its restarts.
//!
//! `cargo run --example own_ledger` checks it with the contract that every ledger must hold.
//!
//! All rules are in [`AccountState`], as pure functions of the state, a message and a time. What a
//! ledger adds is a place for the states, one clock, and atomic steps: it reads a state, changes
//! it, stores it, and only then answers.

use std::{
    collections::BTreeMap,
    fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tower_credits::{
    Account, BoxError, Name, Period,
    clock::{Clock, ManualClock, SystemClock},
    ledger::{
        AccountState, AccountsPage, Amendment, Answer, Cursor, LeaseId, Ledger, LedgerError,
        LedgerFuture, Renewal, Statement, Terms, contract,
    },
};

type States = BTreeMap<Account, AccountState>;

#[derive(Debug)]
struct FileLedger<C> {
    file: PathBuf,
    clock: C,
    states: Mutex<States>,
}

impl<C: Clock> FileLedger<C> {
    /// Reads the file, if it is there.
    fn open(file: &Path, clock: C) -> Result<Self, BoxError> {
        let states = match fs::read(file) {
            Ok(json) => serde_json::from_slice(&json)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => States::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { file: file.to_owned(), clock, states: Mutex::new(states) })
    }

    /// The atomic step: changes the state of an account and stores it. If it could not be stored,
    /// the change is forgotten, and the caller may try again.
    fn change<T>(
        &self,
        account: &Account,
        change: impl FnOnce(&mut AccountState) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let before = states.get(account).cloned();
        let changed = change(states.entry(account.clone()).or_default())?;
        if let Err(error) = store(&self.file, &states) {
            match before {
                Some(before) => states.insert(account.clone(), before),
                None => states.remove(account),
            };
            let reason = format!("{} cannot be written: {error}", self.file.display());
            return Err(LedgerError::Unreachable { reason, source: None });
        }
        Ok(changed)
    }
}

/// Replaces the file in one step, so that a crash leaves the old one or the new one.
fn store(file: &Path, states: &States) -> Result<(), BoxError> {
    let new = file.with_extension("new");
    fs::write(&new, serde_json::to_vec(states)?)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, file)?;
    // The name is durable once its folder is.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok(fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?)
}

impl<C: Clock> Ledger for FileLedger<C> {
    fn renew<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        renewal: &'a Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, Answer> {
        // The deadline counts from the call, even if the future is polled later.
        let not_after = self.clock.unix_time() + within;
        Box::pin(async move {
            let now = self.clock.unix_time();
            self.change(account, |state| state.renew(period, renewal, not_after, now))
        })
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        terms: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        Box::pin(async move {
            let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            let state = states.get(account).cloned().unwrap_or_default();
            Ok(state.statement(account, period, terms, self.clock.unix_time()))
        })
    }

    fn amend<'a>(&'a self, account: &'a Account, amendment: Amendment) -> LedgerFuture<'a, bool> {
        Box::pin(async move {
            let now = self.clock.unix_time();
            self.change(account, |state| state.amend(amendment, now))
        })
    }

    fn claim<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        threshold: Name,
        by: LeaseId,
    ) -> LedgerFuture<'a, bool> {
        Box::pin(async move {
            let now = self.clock.unix_time();
            self.change(account, |state| state.claim(period, threshold, by, now))
        })
    }

    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        page_size: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        Box::pin(async move {
            let (states, now) = (
                self.states.lock().unwrap_or_else(PoisonError::into_inner),
                self.clock.unix_time(),
            );
            let accounts: Vec<_> = states
                .iter()
                .filter(|(account, _)| from.is_none_or(|from| account.as_str() > from.as_str()))
                .filter_map(|(account, state)| state.summary(account, period, now))
                .take(page_size.get())
                .collect();
            let last = accounts.last().filter(|_| accounts.len() == page_size.get());
            let next = last.map(|last| Cursor::new(last.account.as_str()));
            Ok(AccountsPage { accounts, next })
        })
    }
}

/// Checks the ledger on a clock that is moved, opens the file again, and checks it on the system's.
pub(crate) async fn check(file: &Path) -> Result<(), BoxError> {
    let clock = ManualClock::at("2026-11".parse()?);
    contract::check(&FileLedger::open(file, clock.clone())?, Some(&clock)).await?;
    contract::check(&FileLedger::open(file, SystemClock)?, None).await?;
    Ok(())
}

#[allow(dead_code, reason = "a test includes this file")]
#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let file = std::env::temp_dir().join(format!("own_ledger-{}.json", std::process::id()));
    check(&file).await?;
    println!("{} holds the contract of ledgers", file.display());
    Ok(fs::remove_file(file)?)
}
