//! Bearer tokens kept in Redis: issued, listed and revoked while any number of servers run.
//!
//! | key | what |
//! |---|---|
//! | `tc:token:<SHA-256 of the token>` | whose it is; expires with the token |
//! | `tc:{user:alice}:tokens` | the account's tokens by id, for the list; without secrets |
//!
//! The first is written before the second and is what counts: a token that is listed and has no record is none, and a crash between the two
//! leaves a record of a token that nobody was given.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Identify, IdentifyError, Identifying, Identity, RequestHead,
    credentials::{self, Sha256Digest},
};
use crate::{
    Account, Name,
    redis_server::{CONNECTING, Connection, Fault, PREFIX, RedisServer},
};

/// The most tokens of one account.
const MOST_TOKENS: usize = 1_000;

/// What every token begins with, so that scanners find leaked ones: `tc_[0-9a-f]{56}`.
const MARK: &str = "tc_";

/// Random bytes of a token.
const RANDOM: usize = 24;

/// Hexadecimal digits at a token's end that follow from those before. What has them wrong was never issued, and is not looked up.
const CHECK: usize = 8;

/// While the server does not answer, a token that may count all the same is asked about this often.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long an unknown token is remembered as such.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// Bearer tokens (RFC 6750) kept in Redis, for hosts without authentication of their own. Redis and this process know their SHA-256 only.
///
/// Answers are cached: a token that was revoked on another node stops working here within [`cache_for`](RedisTokensBuilder::cache_for), 30
/// seconds by default (and [`stale_if_error`](RedisTokensBuilder::stale_if_error), while the server does not answer). Requests that run go on.
/// Clones share the connection and the cache.
///
/// A failover of Redis that forgets acknowledged writes forgets tokens that were just issued, and brings back those just revoked: revoke them again.
///
/// ```no_run
/// use tower_credits::{Account, CreditMeter, Identity, Plan, RedisLedger, RedisTokens};
///
/// # async fn example(plan: Plan) -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = RedisTokens::connect("redis://127.0.0.1/").await?;
/// let meter = CreditMeter::new(plan, RedisLedger::connect("redis://127.0.0.1/").await?, tokens.clone());
///
/// let alice = Identity::new("alice".parse()?, Account::user("alice")?, "free".parse()?);
/// let issued = tokens.issue(&alice, "laptop", None).await?;
/// println!("shown once: {}", issued.secret());
///
/// for token in tokens.list(&alice.account).await? {
///     println!("{} {} ({})", token.id, token.label, token.tier);
/// }
/// tokens.set_tier(&alice.account, &"pro".parse()?).await?;
/// tokens.revoke(&alice.account, &issued.id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisTokens {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    prefix: String,
    deadline: Duration,
    cache_for: Duration,
    stale_if_error: Duration,
    cookie: Option<Name>,
    known: Cache<Sha256Digest, Found>,
    unknown: Cache<Sha256Digest, ()>,
    /// Counts what was revoked or changed here, so that an answer from before is not kept after it.
    changes: AtomicU64,
}

/// What was found, when that was asked for, when the token ends, and until when it counts without asking again.
#[derive(Clone)]
struct Found {
    identity: Arc<Identity>,
    at: Instant,
    ends: Option<Instant>,
    fresh_until: Instant,
}

impl Found {
    fn has_ended(&self) -> bool {
        self.ends.is_some_and(|ends| Instant::now() >= ends)
    }
}

/// What is changed on the server counts here as soon as the server may know: also where no answer came, or nobody waited for it.
struct Changing<'a> {
    inner: &'a Inner,
    digests: Vec<Sha256Digest>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.inner.changes.fetch_add(1, Ordering::SeqCst);
        for digest in &self.digests {
            self.inner.known.invalidate(digest);
        }
    }
}

impl RedisTokens {
    /// Connects to a server, with the defaults of the [builder](Self::builder).
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where the server cannot be reached within five seconds, evicts keys, or holds keys of another schema version.
    pub async fn connect(server: impl Into<RedisServer>) -> Result<Self, RedisTokensError> {
        Self::builder(server).connect().await
    }

    /// Settings before connecting.
    pub fn builder(server: impl Into<RedisServer>) -> RedisTokensBuilder {
        RedisTokensBuilder {
            server: server.into(),
            prefix: PREFIX.into(),
            deadline: Duration::from_millis(250),
            cache_for: Duration::from_secs(30),
            stale_if_error: Duration::ZERO,
            most_cached: 100_000,
            cookie: None,
        }
    }

    /// Issues a token that works for this identity, for good or for `lifetime` (whole milliseconds). The label is for the list: at most 128
    /// bytes without control characters.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Label`], [`RedisTokensError::Full`] where the account has 1 000 tokens, or [`RedisTokensError::Server`]: where no answer
    /// came, a token that nobody was given may stand on the list; revoke it.
    pub async fn issue(&self, identity: &Identity, label: &str, lifetime: Option<Duration>) -> Result<IssuedToken, RedisTokensError> {
        if label.len() > 128 || label.chars().any(char::is_control) {
            return Err(RedisTokensError::Label);
        }
        let mut asked = redis::pipe();
        asked.cmd("HLEN").arg(self.inner.list_key(&identity.account));
        let (listed,): (usize,) = self.inner.run(asked).await?;
        if listed >= MOST_TOKENS && self.entries(&identity.account).await?.len() >= MOST_TOKENS {
            return Err(RedisTokensError::Full(identity.account.clone()));
        }
        let mut random = [0; RANDOM];
        getrandom::fill(&mut random).map_err(|error| RedisTokensError::Random(error.to_string()))?;
        let body = format!("{MARK}{}", hex(&random));
        let secret = format!("{body}{}", check_of(&body));
        let digest = credentials::digest(secret.as_bytes());
        let id = hex(&digest[..8]);
        let now = SystemTime::now();
        let lifetime = lifetime.map(|lifetime| u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_LIFE));
        let record = Record::of(&id, identity);
        let entry = Entry {
            digest: hex(&digest),
            label: label.to_owned(),
            issued_at: millis(now),
            expires_at: lifetime.map(|life| millis(now) + life),
        };
        let mut pipe = redis::pipe();
        let set = pipe.atomic().cmd("SET").arg(self.inner.record_key(&digest)).arg(json(&record)).arg("NX");
        if let Some(lifetime) = lifetime {
            set.arg("PX").arg(lifetime);
        }
        pipe.ignore().cmd("HSET").arg(self.inner.list_key(&identity.account)).arg(&id).arg(json(&entry)).ignore();
        let () = self.inner.run(pipe).await?;
        Ok(IssuedToken { id, secret })
    }

    /// Lists the tokens of an account that still work, the oldest first. Secrets are not known here.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where there was no answer.
    pub async fn list(&self, account: &Account) -> Result<Vec<TokenSummary>, RedisTokensError> {
        let entries = self.entries(account).await?;
        let mut tokens: Vec<_> =
            entries.into_iter().map(|(id, entry, record)| TokenSummary::of(id, entry, &record)).collect::<Result<_, _>>()?;
        tokens.sort_by(|one, other| (one.issued_at, &one.id).cmp(&(other.issued_at, &other.id)));
        Ok(tokens)
    }

    /// Revokes a token by the id that the list shows. Here it stops working at once, on other nodes within
    /// [`cache_for`](RedisTokensBuilder::cache_for). Answers whether the account had such a token.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where there was no answer.
    pub async fn revoke(&self, account: &Account, id: &str) -> Result<bool, RedisTokensError> {
        let mut asked = redis::pipe();
        asked.cmd("HGET").arg(self.inner.list_key(account)).arg(id);
        let (entry,): (Option<String>,) = self.inner.run(asked).await?;
        let Some(entry) = entry else { return Ok(false) };
        let entry: Entry = read(&entry)?;
        self.remove(account, id, &parse_digest(&entry.digest)?).await
    }

    /// Revokes the token with this secret, which leaked, whoever's it is; answers whether it worked until now. As [`revoke`](Self::revoke).
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where there was no answer.
    pub async fn revoke_secret(&self, secret: &str) -> Result<bool, RedisTokensError> {
        let digest = credentials::digest(secret.as_bytes());
        let _changing = Changing { inner: &self.inner, digests: vec![digest] };
        match self.inner.record(&digest).await? {
            None => Ok(false),
            Some((record, _)) => {
                let identity = record.identity()?;
                self.remove(&identity.account, &record.id, &digest).await
            }
        }
    }

    /// Changes the tier of all of an account's tokens; answers how many. Nodes learn of it within [`cache_for`](RedisTokensBuilder::cache_for), this
    /// one at once. A token that is issued at the same time has the tier that it is issued with.
    ///
    /// # Errors
    ///
    /// [`RedisTokensError::Server`] where there was no answer; some may then have been changed: ask again.
    pub async fn set_tier(&self, account: &Account, tier: &Name) -> Result<usize, RedisTokensError> {
        let entries = self.entries(account).await?;
        if entries.is_empty() {
            return Ok(0);
        }
        let mut pipe = redis::pipe();
        pipe.atomic();
        let mut changing = Changing { inner: &self.inner, digests: Vec::with_capacity(entries.len()) };
        for (_, entry, mut record) in entries {
            let digest = parse_digest(&entry.digest)?;
            record.tier = tier.to_string();
            // What was revoked meanwhile is not brought back.
            pipe.cmd("SET").arg(self.inner.record_key(&digest)).arg(json(&record)).arg("XX").arg("KEEPTTL");
            changing.digests.push(digest);
        }
        let changed: Vec<Option<String>> = self.inner.run(pipe).await?;
        Ok(changed.into_iter().flatten().count())
    }

    /// The account's tokens that have a record. What has none any more is taken off the list.
    async fn entries(&self, account: &Account) -> Result<Vec<(String, Entry, Record)>, RedisTokensError> {
        let list = self.inner.list_key(account);
        let mut asked = redis::pipe();
        asked.cmd("HGETALL").arg(&list);
        let (listed,): (HashMap<String, String>,) = self.inner.run(asked).await?;
        let readable =
            |(id, entry): (String, String)| match read::<Entry>(&entry).and_then(|entry| Ok((parse_digest(&entry.digest)?, entry))) {
                Ok((digest, entry)) => Some((id, digest, entry)),
                Err(fault) => {
                    tracing::warn!(target: "tower_credits", %account, token = id, %fault, "a token is left out");
                    None
                }
            };
        let listed: Vec<(String, Sha256Digest, Entry)> = listed.into_iter().filter_map(readable).collect();
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let mut asked = redis::pipe();
        for (_, digest, _) in &listed {
            asked.cmd("GET").arg(self.inner.record_key(digest));
        }
        let records: Vec<Option<String>> = self.inner.run(asked).await?;
        let mut gone = redis::cmd("HDEL");
        gone.arg(&list);
        let mut any_gone = false;
        let mut entries = Vec::with_capacity(listed.len());
        for ((id, _, entry), record) in listed.into_iter().zip(records) {
            match record.as_deref().map(read::<Record>) {
                Some(Ok(record)) => entries.push((id, entry, record)),
                Some(Err(fault)) => tracing::warn!(target: "tower_credits", %account, token = id, %fault, "a token is left out"),
                None => {
                    gone.arg(id);
                    any_gone = true;
                }
            }
        }
        if any_gone {
            let mut pipe = redis::pipe();
            pipe.add_command(gone).ignore();
            let () = self.inner.run(pipe).await?;
        }
        Ok(entries)
    }

    async fn remove(&self, account: &Account, id: &str, digest: &Sha256Digest) -> Result<bool, RedisTokensError> {
        let _changing = Changing { inner: &self.inner, digests: vec![*digest] };
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("DEL").arg(self.inner.record_key(digest)).cmd("HDEL").arg(self.inner.list_key(account)).arg(id).ignore();
        let (removed,): (u64,) = self.inner.run(pipe).await?;
        Ok(removed > 0)
    }
}

/// The longest lifetime, in milliseconds: a thousand years.
const LONGEST_LIFE: u64 = 1_000 * 366 * 24 * 60 * 60 * 1_000;

impl Inner {
    fn record_key(&self, digest: &Sha256Digest) -> String {
        format!("{}:token:{}", self.prefix, hex(digest))
    }

    fn list_key(&self, account: &Account) -> String {
        format!("{}:{{{account}}}:tokens", self.prefix)
    }

    async fn run<T: redis::FromRedisValue>(&self, pipe: redis::Pipeline) -> Result<T, Fault> {
        self.connection.run(self.deadline, |mut link| async move { pipe.query_async(&mut link).await }).await
    }

    /// A token's record, and how much longer it lasts.
    async fn record(&self, digest: &Sha256Digest) -> Result<Option<(Record, Option<Duration>)>, Fault> {
        let ask = || {
            let mut asked = redis::pipe();
            let key = self.record_key(digest);
            asked.cmd("GET").arg(&key).cmd("PTTL").arg(&key);
            self.run(asked)
        };
        let answered: Result<(Option<String>, i64), Fault> = match ask().await {
            // A connection that was idle for long may be found dead; a new one is there in a moment.
            Err(fault) if fault.is_disconnect() => ask().await,
            answered => answered,
        };
        let (record, lasts) = answered?;
        let Some(record) = record else { return Ok(None) };
        Ok(Some((read(&record)?, u64::try_from(lasts).ok().map(Duration::from_millis))))
    }

    /// Asks the server; `before` is what it said longer ago than counts, unless it does not answer.
    async fn look_up(&self, digest: Sha256Digest, before: Option<Found>) -> Result<Arc<Identity>, IdentifyError> {
        let changes = self.changes.load(Ordering::SeqCst);
        let at = Instant::now();
        let found = match self.record(&digest).await {
            Ok(Some((record, lasts))) => record.identity().map(|identity| (Arc::new(identity), lasts)),
            Ok(None) => {
                self.known.invalidate(&digest);
                self.unknown.insert(digest, ());
                return Err(IdentifyError::Invalid);
            }
            Err(fault) => Err(fault),
        };
        let keep = |found: Found| {
            self.known.insert(digest, found);
            // Revoked or changed meanwhile: what was found may be from before.
            if self.changes.load(Ordering::SeqCst) != changes {
                self.known.invalidate(&digest);
            }
        };
        match found {
            Ok((identity, lasts)) => {
                let ends = lasts.and_then(|lasts| at.checked_add(lasts));
                keep(Found { identity: Arc::clone(&identity), at, ends, fresh_until: later(at, self.cache_for) });
                Ok(identity)
            }
            Err(fault) => {
                let longest = self.cache_for.saturating_add(self.stale_if_error);
                let stale = before.filter(|before| before.at.elapsed() <= longest && !before.has_ended());
                let Some(stale) = stale else { return Err(IdentifyError::Unavailable(Arc::new(RedisTokensError::from(fault)))) };
                let identity = Arc::clone(&stale.identity);
                // An outage must not cost each request a deadline.
                keep(Found { fresh_until: later(Instant::now(), ASK_AGAIN).min(later(stale.at, longest)), ..stale });
                Ok(identity)
            }
        }
    }
}

fn later(at: Instant, by: Duration) -> Instant {
    at.checked_add(by).unwrap_or(at)
}

impl Identify for RedisTokens {
    fn identify(&self, head: RequestHead<'_>) -> Identifying {
        let inner = &self.inner;
        let digest = match credentials::token_of(head, inner.cookie.as_ref()) {
            Ok(token) if was_issued(token) => credentials::digest(token),
            Ok(_) => return Identifying::Ready(Err(IdentifyError::Invalid)),
            Err(error) => return Identifying::Ready(Err(error)),
        };
        let before = inner.known.get(&digest);
        match before {
            Some(found) if found.has_ended() => Identifying::Ready(Err(IdentifyError::Invalid)),
            Some(found) if Instant::now() < found.fresh_until => Identifying::Ready(Ok(found.identity)),
            None if inner.unknown.contains_key(&digest) => Identifying::Ready(Err(IdentifyError::Invalid)),
            before => {
                let inner = Arc::clone(inner);
                Identifying::Later(Box::pin(async move { inner.look_up(digest, before).await }))
            }
        }
    }
}

impl fmt::Debug for RedisTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        f.debug_struct("RedisTokens")
            .field("connection", &inner.connection)
            .field("cached", &inner.known.entry_count())
            .finish_non_exhaustive()
    }
}

/// Settings of [`RedisTokens`].
#[derive(Clone, Debug)]
pub struct RedisTokensBuilder {
    server: RedisServer,
    prefix: String,
    deadline: Duration,
    cache_for: Duration,
    stale_if_error: Duration,
    most_cached: u64,
    cookie: Option<Name>,
}

impl RedisTokensBuilder {
    /// What every key begins with; default `tc`.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long one call of the server may take; default 250 ms.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long the server's answer about a token counts without asking again, which is also how long a token that was revoked elsewhere
    /// may go on working here; default 30 s. Unknown tokens are remembered for 5 s.
    #[must_use]
    pub const fn cache_for(mut self, time: Duration) -> Self {
        self.cache_for = time;
        self
    }

    /// For how much longer an answer counts while the server does not answer (as RFC 5861's `stale-if-error`); default not at all. Without it, a
    /// tier's outage allowance ends when tokens leave the cache.
    #[must_use]
    pub const fn stale_if_error(mut self, time: Duration) -> Self {
        self.stale_if_error = time;
        self
    }

    /// The most tokens whose answers are kept, each about half a KiB; default 100 000. As many unknown ones are remembered, at most 10 000.
    #[must_use]
    pub const fn most_cached(mut self, tokens: u64) -> Self {
        self.most_cached = tokens;
        self
    }

    /// Takes a token also from this cookie; see [`BearerTokens::or_cookie`](super::BearerTokens::or_cookie).
    #[must_use]
    pub fn or_cookie(mut self, name: Name) -> Self {
        self.cookie = Some(name);
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`RedisTokens::connect`]; also where the prefix holds a brace, and where the URL or what was said beside it cannot be used.
    pub async fn connect(self) -> Result<RedisTokens, RedisTokensError> {
        let connection = Connection::new(self.server, &self.prefix)?;
        let longest = Duration::from_secs(366 * 24 * 60 * 60);
        let (cache_for, stale_if_error) = (self.cache_for.min(longest), self.stale_if_error.min(longest));
        let kept_for = cache_for + stale_if_error;
        let inner = Inner {
            connection,
            prefix: self.prefix,
            deadline: self.deadline,
            cache_for,
            stale_if_error,
            cookie: self.cookie,
            known: Cache::builder().max_capacity(self.most_cached).time_to_live(kept_for).build(),
            changes: AtomicU64::new(0),
            unknown: Cache::builder().max_capacity(self.most_cached.min(10_000)).time_to_live(UNKNOWN_FOR).build(),
        };
        let ping = |mut link| async move { redis::cmd("PING").query_async(&mut link).await };
        let _: String = inner.connection.run(CONNECTING, ping).await?;
        Ok(RedisTokens { inner: Arc::new(inner) })
    }
}

/// A token as it was issued. Its secret is known here and to nobody else: show it once.
#[derive(Clone)]
#[non_exhaustive]
pub struct IssuedToken {
    /// What the list shows and [`RedisTokens::revoke`] takes: 16 hexadecimal digits.
    pub id: String,
    secret: String,
}

impl IssuedToken {
    /// What the caller sends as `Authorization: Bearer <secret>`: `tc_` and 56 hexadecimal digits, 192 bits of them random.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A token of an account, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenSummary {
    /// 16 hexadecimal digits.
    pub id: String,
    /// What it was called when it was issued.
    pub label: String,
    /// Who asks with it.
    pub subject: Name,
    /// The tier that applies to it.
    pub tier: Name,
    /// When it was issued, by the clock of the node that did.
    pub issued_at: SystemTime,
    /// When it stops working by itself; `None`: never.
    pub expires_at: Option<SystemTime>,
}

impl TokenSummary {
    fn of(id: String, entry: Entry, record: &Record) -> Result<Self, Fault> {
        let Identity { subject, tier, .. } = record.identity()?;
        let time = |millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)).ok_or_else(|| unreadable("a time"));
        let expires_at = entry.expires_at.map(time).transpose()?;
        Ok(Self { id, label: entry.label, subject, tier, issued_at: time(entry.issued_at)?, expires_at })
    }
}

/// Why a token was not issued, listed or revoked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisTokensError {
    /// The server gave no answer, or none that makes sense.
    #[error("the tokens' Redis server gave no answer: {0}")]
    Server(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The server, or what was said of it, is not fit to keep tokens.
    #[error("the tokens' Redis server cannot be used: {0}")]
    Unfit(String),
    /// The account has as many tokens as it may.
    #[error("{0} has 1 000 tokens: revoke one first")]
    Full(Account),
    /// The label would not fit on a list.
    #[error("a token's label has at most 128 bytes and no control characters: write a shorter one")]
    Label,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

impl From<Fault> for RedisTokensError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unfit(reason) => Self::Unfit(reason),
            fault => Self::Server(Arc::new(fault)),
        }
    }
}

/// Whose a token is, as Redis keeps it.
#[derive(Serialize, Deserialize)]
struct Record {
    id: String,
    subject: String,
    account: String,
    tier: String,
}

/// What the list says of a token.
#[derive(Serialize, Deserialize)]
struct Entry {
    digest: String,
    label: String,
    issued_at: u64,
    expires_at: Option<u64>,
}

impl Record {
    fn of(id: &str, identity: &Identity) -> Self {
        let Identity { subject, account, tier } = identity;
        Self { id: id.to_owned(), subject: subject.to_string(), account: account.to_string(), tier: tier.to_string() }
    }

    fn identity(&self) -> Result<Identity, Fault> {
        let wrong = |_| unreadable("a token's record");
        Ok(Identity {
            subject: self.subject.parse().map_err(wrong)?,
            account: self.account.parse().map_err(wrong)?,
            tier: self.tier.parse().map_err(wrong)?,
        })
    }
}

/// Whether a token has the shape of those that are issued here.
fn was_issued(token: &[u8]) -> bool {
    let text = std::str::from_utf8(token).ok().filter(|text| text.len() == MARK.len() + 2 * RANDOM + CHECK && text.is_ascii());
    text.and_then(|text| text.split_at_checked(text.len() - CHECK))
        .is_some_and(|(body, check)| body.starts_with(MARK) && check == check_of(body))
}

fn check_of(body: &str) -> String {
    hex(&credentials::digest(body.as_bytes())[..CHECK / 2])
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_digest(text: &str) -> Result<Sha256Digest, Fault> {
    super::credentials::parse_digest(text).ok_or_else(|| unreadable("a token's digest"))
}

fn json(value: &impl Serialize) -> String {
    // Strings and numbers always serialize.
    serde_json::to_string(value).unwrap_or_default()
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|_| unreadable("a token's entry"))
}

fn unreadable(what: &str) -> Fault {
    Fault::failed(format!("{what} cannot be read: keys with this prefix were written by something else"))
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
