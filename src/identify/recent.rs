//! Tokens that came lately, found again without a cryptographic hash.
//!
//! A token is named by 128 bits of SipHash under a key of 128 random bits, which nobody outside can
//! compute or guess (Aumasson and Bernstein, "SipHash: a fast short-input PRF"): neither the token
//! nor anything that leads back to it is kept. The bits choose one of a fixed number of places; who
//! comes later takes a place over, so that memory is bounded whatever comes.

use std::{
    fmt,
    hash::Hasher,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::Identity;

/// Places; a few more tokens than these, and some share one.
const PLACES: usize = 1 << 12;

/// Tokens that came lately, and whose they are. The places are made when the first token comes.
#[derive(Clone, Default)]
pub(super) struct Recent(OnceLock<Option<Arc<Places>>>);

struct Places {
    key: SipHasher13,
    places: Box<[ArcSwapOption<Lately>]>,
}

/// A token's name, and whose it is.
type Lately = (u128, Arc<Identity>);

impl Places {
    /// None where the system has no random numbers.
    fn new() -> Option<Arc<Self>> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).ok()?;
        let places = (0..PLACES).map(|_| ArcSwapOption::empty()).collect();
        Some(Arc::new(Self { key: SipHasher13::new_with_key(&key), places }))
    }
}

impl Recent {
    /// Whose token it is, by `find` where it did not come lately.
    pub(super) fn find(
        &self,
        token: &[u8],
        find: impl FnOnce() -> Option<Arc<Identity>>,
    ) -> Option<Arc<Identity>> {
        let Some(places) = self.0.get_or_init(Places::new) else { return find() };
        let mut hasher = places.key;
        hasher.write(token);
        let name = u128::from(hasher.finish128());
        let Some(place) = places.places.get(name as usize % PLACES) else { return find() };
        if let Some(known) = &*place.load()
            && known.0 == name
        {
            return Some(Arc::clone(&known.1));
        }
        let found = find()?;
        place.store(Some(Arc::new((name, Arc::clone(&found)))));
        Some(found)
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recent")
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
    fn a_token_that_came_lately_is_not_looked_for_again_and_no_other_passes_for_it() {
        let recent = Recent::default();
        let alice = identity("alice");
        assert_eq!(recent.find(b"alice's", || Some(Arc::clone(&alice))), Some(Arc::clone(&alice)));
        assert_eq!(recent.find(b"alice's", || panic!("it is known")), Some(alice));
        assert_eq!(recent.find(b"guess", || None), None);
        for number in 0..3 * PLACES {
            let (name, token) = (identity(&number.to_string()), number.to_string());
            assert_eq!(recent.find(token.as_bytes(), || Some(Arc::clone(&name))), Some(name));
        }
        // Whoever lost its place is looked for, and never taken for who has it.
        for number in 0..3 * PLACES {
            let name = identity(&number.to_string());
            assert_eq!(
                recent.find(number.to_string().as_bytes(), || Some(Arc::clone(&name))),
                Some(name)
            );
        }
        assert!(
            Recent::default().find(b"1", || None).is_none(),
            "another list knows nothing of it"
        );
    }
}
