//! The server's answers about tokens, for as long as they count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;
use tokio::time::Instant;

use crate::identify::{IdentifyError, Identity, credentials::Sha256Digest};

/// Interval at which the server is asked about a token whose stale answer counts while it does not
/// answer.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Time for which an unknown token is remembered as unknown.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// The most unknown tokens in the cache.
const MAX_UNKNOWN_TOKENS: u64 = 10_000;

/// The longest time that an answer can be set to count, fresh or stale.
const MAX_ANSWER_AGE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

pub(super) struct AnswerCache {
    known: Cache<Sha256Digest, Answer>,
    unknown: Cache<Sha256Digest, ()>,
    fresh_for: Duration,
    stale_for: Duration,
    /// The number of changes that this node made, so that an answer from before a change is not
    /// cached after it.
    changes: AtomicU64,
}

/// The server's answer about a token that it knows.
#[derive(Clone)]
struct Answer {
    identity: Arc<Identity>,
    asked_at: Instant,
    /// Moment of the token's expiry.
    expires_at: Option<Instant>,
    /// Until then the answer counts without asking again.
    fresh_until: Instant,
}

/// State of a token as far as it is known without the server.
pub(super) enum Lookup {
    /// A fresh answer.
    Fresh(Result<Arc<Identity>, IdentifyError>),
    /// The server must be asked.
    Miss(Query),
}

/// A question to the server that is under way.
pub(super) struct Query {
    digest: Sha256Digest,
    /// The stale answer, which may count if the server does not answer.
    stale: Option<Answer>,
    asked_at: Instant,
    changes: u64,
}

/// A change of tokens that is under way. When it is dropped, their answers leave the cache, also if
/// the server did not answer or the change was cancelled: the server may have made it.
pub(super) struct Change<'a> {
    cache: &'a AnswerCache,
    digests: Vec<Sha256Digest>,
}

impl AnswerCache {
    pub(super) fn new(max_tokens: u64, fresh_for: Duration, stale_for: Duration) -> Self {
        let fresh_for = fresh_for.min(MAX_ANSWER_AGE);
        let stale_for = stale_for.min(MAX_ANSWER_AGE);
        Self {
            known: Cache::builder()
                .max_capacity(max_tokens)
                .time_to_live(fresh_for + stale_for)
                .build(),
            unknown: Cache::builder()
                .max_capacity(max_tokens.min(MAX_UNKNOWN_TOKENS))
                .time_to_live(UNKNOWN_FOR)
                .build(),
            fresh_for,
            stale_for,
            changes: AtomicU64::new(0),
        }
    }

    pub(super) fn get(&self, digest: Sha256Digest) -> Lookup {
        let now = Instant::now();
        match self.known.get(&digest) {
            Some(known) if known.has_expired(now) => Lookup::Fresh(Err(IdentifyError::Invalid)),
            Some(known) if now < known.fresh_until => Lookup::Fresh(Ok(known.identity)),
            None if self.unknown.contains_key(&digest) => {
                Lookup::Fresh(Err(IdentifyError::Invalid))
            }
            stale => Lookup::Miss(Query {
                digest,
                stale,
                asked_at: now,
                changes: self.changes.load(Ordering::SeqCst),
            }),
        }
    }

    /// Caches whose the token is. `lifetime` is how much longer it lasts, if it expires.
    pub(super) fn insert_known(
        &self,
        query: &Query,
        identity: &Arc<Identity>,
        lifetime: Option<Duration>,
    ) {
        let asked_at = query.asked_at;
        let answer = Answer {
            identity: Arc::clone(identity),
            asked_at,
            expires_at: lifetime.and_then(|lifetime| asked_at.checked_add(lifetime)),
            fresh_until: asked_at + self.fresh_for,
        };
        self.insert(query, answer);
    }

    /// Caches that the server does not know the token.
    pub(super) fn insert_unknown(&self, query: &Query) {
        self.known.invalidate(&query.digest);
        self.unknown.insert(query.digest, ());
    }

    /// Returns the stale answer if it counts while the server does not answer. It is fresh again
    /// for a moment, so that an outage does not cost each request a timeout.
    pub(super) fn stale_if_error(&self, query: &Query) -> Option<Arc<Identity>> {
        let now = Instant::now();
        let stale = query.stale.as_ref()?;
        let counts_until = stale.asked_at + self.fresh_for + self.stale_for;
        if now > counts_until || stale.has_expired(now) {
            return None;
        }
        let fresh_until = counts_until.min(now + RETRY_INTERVAL);
        self.insert(query, Answer { fresh_until, ..stale.clone() });
        Some(Arc::clone(&stale.identity))
    }

    pub(super) const fn change(&self, digests: Vec<Sha256Digest>) -> Change<'_> {
        Change { cache: self, digests }
    }

    pub(super) fn len(&self) -> u64 {
        self.known.entry_count()
    }

    fn insert(&self, query: &Query, answer: Answer) {
        self.known.insert(query.digest, answer);
        // If tokens were changed meanwhile, the answer may be from before the change.
        if self.changes.load(Ordering::SeqCst) != query.changes {
            self.known.invalidate(&query.digest);
        }
    }
}

impl Answer {
    fn has_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|expires_at| now >= expires_at)
    }
}

impl Query {
    pub(super) const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.cache.changes.fetch_add(1, Ordering::SeqCst);
        for digest in &self.digests {
            self.cache.known.invalidate(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::credentials;

    /// Anybody can make tokens of the right form.
    #[test]
    fn of_endless_unknown_tokens_ten_thousand_are_cached() {
        let cache = AnswerCache::new(u64::MAX, Duration::from_secs(30), Duration::ZERO);
        for number in 0..30_000_u32 {
            let digest = credentials::digest(&number.to_be_bytes());
            let Lookup::Miss(query) = cache.get(digest) else { panic!("{number} is known") };
            cache.insert_unknown(&query);
        }
        cache.unknown.run_pending_tasks();
        let kept = cache.unknown.iter().count();
        assert!((5_000..=10_000).contains(&kept), "{kept} are cached");
        assert_eq!(cache.known.iter().count(), 0);
    }
}
