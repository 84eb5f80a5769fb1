//! The table of tokens in force, which can be replaced while requests read it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::{ArcSwap, Guard};

use super::table::TokenTable;
use crate::identify::credentials::Sha256Digest;

/// The table in force, and what was revoked.
#[derive(Default)]
pub(super) struct LiveTable {
    table: ArcSwap<TokenTable>,
    /// A token that was revoked while this process runs stays revoked, even if a file that is read
    /// again has it.
    revoked: Mutex<HashSet<Sha256Digest>>,
    /// Reason why the tokens' file, as it is now, is not in force.
    refused: Mutex<Option<String>>,
}

impl LiveTable {
    pub(super) fn new(table: TokenTable) -> Self {
        Self {
            table: ArcSwap::from_pointee(table),
            revoked: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    pub(super) fn load(&self) -> Guard<Arc<TokenTable>> {
        self.table.load()
    }

    pub(super) fn into_table(self) -> TokenTable {
        Arc::unwrap_or_clone(self.table.into_inner())
    }

    /// Revokes a token; `true` if it was in the table. A token that is not in the table is revoked,
    /// too: a file may be about to bring it.
    pub(super) fn revoke(&self, digest: Sha256Digest) -> bool {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        revoked.insert(digest);
        let was_known = self.load().find_digest(&digest).is_some();
        if was_known {
            self.store(&revoked, TokenTable::clone(&self.load()));
        }
        was_known
    }

    /// Puts another table in force, without the tokens that were revoked. Returns how many tokens
    /// there were before and are now.
    pub(super) fn replace(&self, table: TokenTable) -> (usize, usize) {
        let revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.load().len();
        self.store(&revoked, table);
        self.set_refused(None);
        (before, self.load().len())
    }

    /// Returns why the tokens' file, as it is now, is not in force; `None` if it is.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_refused(&self, reason: Option<String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    fn store(&self, revoked: &HashSet<Sha256Digest>, mut table: TokenTable) {
        for digest in revoked {
            table.remove(digest);
        }
        table.prepare();
        self.table.store(Arc::new(table));
    }
}
