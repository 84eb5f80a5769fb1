//! What the server said of tokens, for as long as that counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::sync;
use tokio::time::Instant;

use crate::identify::{IdentifyError, Identity, credentials::Sha256Digest};

/// While the server does not answer, a token that may count all the same is asked about this often.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long an unknown token is remembered as such.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// The most unknown tokens that are remembered.
const MOST_UNKNOWN: u64 = 10_000;

/// No answer counts for longer.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

pub(super) struct Cache {
    known: sync::Cache<Sha256Digest, Known>,
    unknown: sync::Cache<Sha256Digest, ()>,
    fresh_for: Duration,
    stale_for: Duration,
    /// Counts what was changed here, so that an answer from before is not kept after it.
    changes: AtomicU64,
}

/// What was said of a token, when that was asked, until when the token lasts, and until when this
/// counts without asking again.
#[derive(Clone)]
pub(super) struct Known {
    identity: Arc<Identity>,
    asked_at: Instant,
    ends: Option<Instant>,
    fresh_until: Instant,
}

/// What is known of a token without asking.
pub(super) enum Looked {
    /// This counts.
    Up(Result<Arc<Identity>, IdentifyError>),
    /// The server must be asked; this counts if it does not answer.
    Ask(Asking),
}

/// A question that is under way.
pub(super) struct Asking {
    digest: Sha256Digest,
    before: Option<Known>,
    asked_at: Instant,
    changes: u64,
}

/// A change on the server. It counts here as soon as the server may know of it: also where no
/// answer came, or nobody waited for it.
pub(super) struct Changing<'a> {
    cache: &'a Cache,
    digests: Vec<Sha256Digest>,
}

impl Cache {
    pub(super) fn new(most: u64, fresh_for: Duration, stale_for: Duration) -> Self {
        let (fresh_for, stale_for) = (fresh_for.min(LONGEST), stale_for.min(LONGEST));
        Self {
            known: sync::Cache::builder()
                .max_capacity(most)
                .time_to_live(fresh_for + stale_for)
                .build(),
            unknown: sync::Cache::builder()
                .max_capacity(most.min(MOST_UNKNOWN))
                .time_to_live(UNKNOWN_FOR)
                .build(),
            fresh_for,
            stale_for,
            changes: AtomicU64::new(0),
        }
    }

    pub(super) fn look(&self, digest: Sha256Digest) -> Looked {
        let now = Instant::now();
        match self.known.get(&digest) {
            Some(known) if known.has_ended(now) => Looked::Up(Err(IdentifyError::Invalid)),
            Some(known) if now < known.fresh_until => Looked::Up(Ok(known.identity)),
            None if self.unknown.contains_key(&digest) => Looked::Up(Err(IdentifyError::Invalid)),
            before => Looked::Ask(Asking {
                digest,
                before,
                asked_at: now,
                changes: self.changes.load(Ordering::SeqCst),
            }),
        }
    }

    /// The server said whose the token is, and how much longer it lasts.
    pub(super) fn found(&self, asking: &Asking, identity: &Arc<Identity>, lasts: Option<Duration>) {
        let asked_at = asking.asked_at;
        let ends = lasts.and_then(|lasts| asked_at.checked_add(lasts));
        self.keep(
            asking,
            Known {
                identity: Arc::clone(identity),
                asked_at,
                ends,
                fresh_until: asked_at + self.fresh_for,
            },
        );
    }

    /// The server knows no such token.
    pub(super) fn not_found(&self, asking: &Asking) {
        self.known.invalidate(&asking.digest);
        self.unknown.insert(asking.digest, ());
    }

    /// The server did not answer: what it said before, where that may count. An outage must not
    /// cost each request a deadline.
    pub(super) fn unanswered(&self, asking: Asking) -> Option<Arc<Identity>> {
        let now = Instant::now();
        let before = asking.before.as_ref()?;
        let counts_until = before.asked_at + self.fresh_for + self.stale_for;
        if now > counts_until || before.has_ended(now) {
            return None;
        }
        self.keep(
            &asking,
            Known { fresh_until: counts_until.min(now + ASK_AGAIN), ..before.clone() },
        );
        asking.before.map(|before| before.identity)
    }

    pub(super) const fn changing(&self, digests: Vec<Sha256Digest>) -> Changing<'_> {
        Changing { cache: self, digests }
    }

    pub(super) fn len(&self) -> u64 {
        self.known.entry_count()
    }

    fn keep(&self, asking: &Asking, known: Known) {
        self.known.insert(asking.digest, known);
        // Changed meanwhile: what was said may be from before.
        if self.changes.load(Ordering::SeqCst) != asking.changes {
            self.known.invalidate(&asking.digest);
        }
    }
}

impl Known {
    fn has_ended(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| now >= ends)
    }
}

impl Asking {
    pub(super) const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.cache.changes.fetch_add(1, Ordering::SeqCst);
        for digest in &self.digests {
            self.cache.known.invalidate(digest);
        }
    }
}
