//! Identities by the digests of their tokens.
//!
//! A random token of high entropy needs no slow hash. It is found by the first bytes of its digest
//! and confirmed by comparing all of the digest in constant time.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use subtle::ConstantTimeEq;

use super::token_cache::TokenCache;
use crate::identify::{
    Identity,
    credentials::{self, Sha256Digest},
};

/// The first bytes of a digest.
type DigestPrefix = [u8; 8];

/// Identities by the first bytes of their tokens' digests.
#[derive(Clone, Default)]
pub(super) struct TokenTable {
    identities: HashMap<DigestPrefix, Vec<(Sha256Digest, Arc<Identity>)>>,
    /// Each table has a cache of its own, so that nothing in it is older than the table.
    cache: OnceLock<TokenCache>,
}

impl TokenTable {
    /// Adds a token. One with the same digest is replaced.
    pub(super) fn add(&mut self, digest: Sha256Digest, identity: Identity) {
        self.remove(&digest);
        self.cache = OnceLock::new();
        self.identities.entry(prefix(&digest)).or_default().push((digest, Arc::new(identity)));
    }

    pub(super) fn remove(&mut self, digest: &Sha256Digest) {
        if let Some(same_prefix) = self.identities.get_mut(&prefix(digest)) {
            let before = same_prefix.len();
            same_prefix.retain(|(known, _)| known != digest);
            if same_prefix.len() < before {
                self.cache = OnceLock::new();
            }
        }
    }

    /// Makes the cache of a table that is complete, so that no request waits for that: of a million
    /// tokens it takes some hundredths of a second. Otherwise the first request makes it.
    pub(super) fn prepare(&self) {
        self.cache();
    }

    fn cache(&self) -> &TokenCache {
        self.cache.get_or_init(|| TokenCache::for_tokens(self.len()))
    }

    /// Finds a token's identity.
    pub(super) fn find(&self, token: &[u8]) -> Option<Arc<Identity>> {
        self.cache().find_or_insert(token, || self.find_digest(&credentials::digest(token)))
    }

    pub(super) fn find_digest(&self, digest: &Sha256Digest) -> Option<Arc<Identity>> {
        let same_prefix = self.identities.get(&prefix(digest))?;
        same_prefix
            .iter()
            .find(|(known, _)| known.ct_eq(digest).into())
            .map(|(_, identity)| Arc::clone(identity))
    }

    pub(super) fn len(&self) -> usize {
        self.identities.values().map(Vec::len).sum()
    }
}

fn prefix(digest: &Sha256Digest) -> DigestPrefix {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&digest[..8]);
    prefix
}
