//! A cache of tokens, which finds them without a cryptographic hash.
//!
//! A token is keyed by 128 bits of SipHash under a secret key of 128 random bits. Nobody outside
//! can compute or guess them (Aumasson and Bernstein, "SipHash: a fast short-input PRF"). Neither
//! the token nor anything that leads back to it is kept.
//!
//! A cache has at least two slots for each token of its table, and only those tokens enter it: it
//! is never more than half full, and none loses its slot. A slot is written once, so that to read
//! one is no more than a load.

use std::{
    fmt,
    hash::Hasher,
    sync::{Arc, OnceLock},
};

use siphasher::sip128::{Hash128, Hasher128, SipHasher13};

use crate::identify::Identity;

/// A cache of the tokens of a table.
#[derive(Clone, Default)]
pub(super) struct TokenCache(Option<Arc<Slots>>);

struct Slots {
    hasher: SipHasher13,
    /// Their number is a power of two. A token is in the first one that was free, from that which
    /// its key chooses.
    slots: Box<[OnceLock<Entry>]>,
}

/// A token's key, and its identity.
type Entry = (Hash128, Arc<Identity>);

impl TokenCache {
    /// Returns an empty cache for so many tokens. It keeps nothing if the system has no random
    /// numbers.
    pub(super) fn for_tokens(tokens: usize) -> Self {
        let mut secret = [0; 16];
        if getrandom::fill(&mut secret).is_err() {
            return Self(None);
        }
        let slots = (0..2 * tokens.next_power_of_two()).map(|_| OnceLock::new()).collect();
        Self(Some(Arc::new(Slots { hasher: SipHasher13::new_with_key(&secret), slots })))
    }

    /// Returns a token's identity. If it is not in the cache, `find` is asked, and its answer is
    /// kept.
    pub(super) fn find_or_insert(
        &self,
        token: &[u8],
        find: impl FnOnce() -> Option<Arc<Identity>>,
    ) -> Option<Arc<Identity>> {
        let Some(slots) = &self.0 else { return find() };
        let key = slots.key(token);
        for slot in slots.from(key) {
            match slot.get() {
                Some((known, identity)) if *known == key => return Some(Arc::clone(identity)),
                Some(_) => {}
                None => {
                    let found = find()?;
                    // If another token has just taken it, this one is kept when it comes again.
                    drop(slot.set((key, Arc::clone(&found))));
                    return Some(found);
                }
            }
        }
        find()
    }
}

impl Slots {
    fn key(&self, token: &[u8]) -> Hash128 {
        let mut hasher = self.hasher;
        hasher.write(token);
        hasher.finish128()
    }

    /// Returns all slots, in the order in which those of a key are searched.
    fn from(&self, key: Hash128) -> impl Iterator<Item = &OnceLock<Entry>> {
        let (before, after) = self.slots.split_at(key.h1 as usize & (self.slots.len() - 1));
        after.iter().chain(before)
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

    /// Asks for so many tokens, each of which is there. Returns how many were searched.
    fn searched(cache: &TokenCache, tokens: usize) -> usize {
        let mut searched = 0;
        for number in 0..tokens {
            let (name, token) = (identity(&number.to_string()), number.to_string());
            let found = cache.find_or_insert(token.as_bytes(), || {
                searched += 1;
                Some(Arc::clone(&name))
            });
            assert_eq!(found, Some(name));
        }
        searched
    }

    #[test]
    fn each_token_of_a_table_is_searched_once() {
        for tokens in [1, 2, 3, 1_000, 10_000] {
            let cache = TokenCache::for_tokens(tokens);
            assert_eq!(searched(&cache, tokens), tokens);
            assert_eq!(searched(&cache, tokens), 0, "{tokens}");
        }
    }

    #[test]
    fn no_other_token_passes_for_one_that_is_known() {
        let cache = TokenCache::for_tokens(1);
        assert_eq!(searched(&cache, 1), 1);
        assert_eq!(cache.find_or_insert(b"guess", || None), None);
        assert_eq!(cache.find_or_insert(b"guess", || None), None, "it is not kept");
        let other = TokenCache::for_tokens(1);
        assert_eq!(other.find_or_insert(b"0", || None), None, "another cache does not have it");
    }

    /// A cache of fewer tokens than there are: those that have no slot are searched each time.
    #[test]
    fn a_cache_that_is_full_or_has_no_slots_finds_all_the_same() {
        let cache = TokenCache::for_tokens(2);
        assert_eq!(searched(&cache, 100), 100);
        assert_eq!(searched(&cache, 100), 96);
        assert_eq!(searched(&TokenCache::default(), 100), 100);
    }

    #[test]
    fn threads_that_come_at_once_find_what_is_theirs() {
        let cache = TokenCache::for_tokens(1_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20).map(|_| searched(&cache, 1_000)).sum::<usize>());
            }
        });
        assert_eq!(searched(&cache, 1_000), 0);
    }
}
