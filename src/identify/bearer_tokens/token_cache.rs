//! A cache of tokens, which finds them without a cryptographic hash.
//!
//! A token is keyed by 128 bits of SipHash under a secret key of 128 random bits. Nobody outside
//! can compute or guess them (Aumasson and Bernstein, "SipHash: a fast short-input PRF"). Neither
//! the token nor anything that leads back to it is kept. The key chooses one of a fixed number of
//! slots, and a token replaces the one that has its slot, so memory is bounded.

use std::{
    fmt,
    hash::Hasher,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::identify::Identity;

/// The number of slots. More tokens than that share some.
const SLOTS: usize = 1 << 12;

/// A cache of tokens. Its slots are made when the first token comes.
#[derive(Clone, Default)]
pub(super) struct TokenCache(OnceLock<Option<Arc<Slots>>>);

struct Slots {
    hasher: SipHasher13,
    slots: Box<[ArcSwapOption<Entry>]>,
}

/// A token's key, and its identity.
type Entry = (u128, Arc<Identity>);

impl TokenCache {
    /// Returns a token's identity. If it is not in the cache, `find` is asked, and its answer is
    /// kept.
    pub(super) fn find_or_insert(
        &self,
        token: &[u8],
        find: impl FnOnce() -> Option<Arc<Identity>>,
    ) -> Option<Arc<Identity>> {
        let Some(slots) = self.0.get_or_init(Slots::new) else { return find() };
        let key = slots.key(token);
        let Some(slot) = slots.slots.get(key as usize % SLOTS) else { return find() };
        if let Some(entry) = &*slot.load()
            && entry.0 == key
        {
            return Some(Arc::clone(&entry.1));
        }
        let found = find()?;
        slot.store(Some(Arc::new((key, Arc::clone(&found)))));
        Some(found)
    }
}

impl Slots {
    /// Returns empty slots. `None` if the system has no random numbers.
    fn new() -> Option<Arc<Self>> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).ok()?;
        let slots = (0..SLOTS).map(|_| ArcSwapOption::empty()).collect();
        Some(Arc::new(Self { hasher: SipHasher13::new_with_key(&secret), slots }))
    }

    fn key(&self, token: &[u8]) -> u128 {
        let mut hasher = self.hasher;
        hasher.write(token);
        u128::from(hasher.finish128())
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenCache")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Account;

    fn identity(name: &str) -> Arc<Identity> {
        Arc::new(Identity::new(
            name.parse().unwrap(),
            Account::user(name).unwrap(),
            "free".parse().unwrap(),
        ))
    }

    #[test]
    fn a_cached_token_is_not_searched_again_and_no_other_passes_for_it() {
        let cache = TokenCache::default();
        let alice = identity("alice");
        assert_eq!(
            cache.find_or_insert(b"alice's", || Some(Arc::clone(&alice))),
            Some(Arc::clone(&alice))
        );
        assert_eq!(cache.find_or_insert(b"alice's", || panic!("it is known")), Some(alice));
        assert_eq!(cache.find_or_insert(b"guess", || None), None);
        for number in 0..3 * SLOTS {
            let (name, token) = (identity(&number.to_string()), number.to_string());
            assert_eq!(
                cache.find_or_insert(token.as_bytes(), || Some(Arc::clone(&name))),
                Some(name)
            );
        }
        // A token that lost its slot is searched, and never taken for the one that has the slot.
        for number in 0..3 * SLOTS {
            let name = identity(&number.to_string());
            assert_eq!(
                cache.find_or_insert(number.to_string().as_bytes(), || Some(Arc::clone(&name))),
                Some(name)
            );
        }
        assert!(
            TokenCache::default().find_or_insert(b"1", || None).is_none(),
            "another cache does not have it"
        );
    }
}
