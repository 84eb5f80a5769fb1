//! Tokens in Redis.
//!
//! | key | value |
//! |---|---|
//! | `tc:token:<SHA-256 of the token>` | the token's id and identity; expires with the token |
//! | `tc:{user:alice}:tokens` | the account's tokens by id, without secrets, for the list |
//!
//! The first is what counts: a listed token without it does not work.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue};
use serde::{Deserialize, Serialize};

use super::secret::hex;
use crate::{
    Account, Part,
    identify::{
        Identity, Subject,
        credentials::{self, Sha256Digest},
    },
    plan::TierName,
    redis_server::{Fault, Servers},
};

/// The longest lifetime of a token, in milliseconds: a thousand years.
const MAX_LIFETIME_MILLIS: u64 = 1_000 * 366 * 24 * 60 * 60 * 1_000;

/// The answer to `PTTL` for a key that does not expire.
const NEVER_EXPIRES: i64 = -1;

/// Tokens on servers, under keys with this prefix.
#[derive(Debug)]
pub(super) struct Store {
    servers: Servers,
    prefix: String,
    timeout: Duration,
}

/// A listed token that works.
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) digest: Sha256Digest,
    entry: Entry,
    identity: Identity,
}

impl Store {
    pub(super) const fn new(servers: Servers, prefix: String, timeout: Duration) -> Self {
        Self { servers, prefix, timeout }
    }

    /// Opens the connections.
    pub(super) async fn open(&self, within: Duration) -> Result<(), Fault> {
        self.servers.open(within).await
    }

    /// Checks that the servers answer.
    pub(super) async fn check(&self) -> Result<(), Fault> {
        self.servers.check(self.timeout).await
    }

    /// Stores a token under an id.
    pub(super) async fn insert(
        &self,
        digest: &Sha256Digest,
        id: &str,
        identity: &Identity,
        label: &str,
        lifetime: Option<Duration>,
    ) -> Result<(), Fault> {
        let lifetime = lifetime.map(|lifetime| {
            u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).clamp(1, MAX_LIFETIME_MILLIS)
        });
        let issued_at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let expires_at = lifetime.map(|lifetime| issued_at.saturating_add(lifetime));
        let entry = Entry { digest: hex(digest), label: label.to_owned(), issued_at, expires_at };
        // The token first: nobody has its secret yet. A listed token that does not work is taken
        // off the list.
        let mut set = redis::cmd("SET");
        set.arg(self.record_key(digest)).arg(json(&Record::of(id, identity))).arg("NX");
        if let Some(lifetime) = lifetime {
            set.arg("PX").arg(lifetime);
        }
        let _: Option<String> = self.run(&self.record_key(digest), &set).await?;
        let list = self.list_key(&identity.account);
        let mut listed = redis::cmd("HSET");
        listed.arg(&list).arg(id).arg(json(&entry));
        self.run(&list, &listed).await
    }

    /// Returns the identity of a token, its id, and how much longer it lasts if it expires.
    pub(super) async fn look_up(
        &self,
        digest: &Sha256Digest,
    ) -> Result<Option<(Identity, String, Option<Duration>)>, Fault> {
        let key = &self.record_key(digest);
        let (mut get, mut lasts) = (redis::cmd("GET"), redis::cmd("PTTL"));
        get.arg(key);
        lasts.arg(key);
        // Sent together.
        let ask = async || tokio::try_join!(self.run(key, &get), self.run(key, &lasts));
        let answered: Result<(Option<String>, i64), Fault> = match ask().await {
            // A connection that was idle for long may turn out to be dead; the next call uses a new
            // one.
            Err(fault) if fault.is_disconnect() => ask().await,
            answered => answered,
        };
        let (Some(record), lasts) = answered? else { return Ok(None) };
        let lifetime = match lasts {
            NEVER_EXPIRES => None,
            lasts => match u64::try_from(lasts) {
                Ok(lasts) => Some(Duration::from_millis(lasts)),
                // It expired between the two.
                Err(_) => return Ok(None),
            },
        };
        let record: Record = read(&record)?;
        Ok(Some((record.identity()?, record.id, lifetime)))
    }

    /// Returns the digest of the token that an account has under an id.
    pub(super) async fn digest_of(
        &self,
        account: &Account,
        id: &str,
    ) -> Result<Option<Sha256Digest>, Fault> {
        let list = self.list_key(account);
        let mut get = redis::cmd("HGET");
        get.arg(&list).arg(id);
        let entry: Option<String> = self.run(&list, &get).await?;
        entry.map(|entry| read::<Entry>(&entry)?.digest()).transpose()
    }

    /// Removes a token; `true` if it worked until now.
    pub(super) async fn remove(
        &self,
        account: &Account,
        id: &str,
        digest: &Sha256Digest,
    ) -> Result<bool, Fault> {
        let (key, list) = (self.record_key(digest), self.list_key(account));
        let removed: u64 = self.run(&key, redis::cmd("DEL").arg(&key)).await?;
        let _: u64 = self.run(&list, redis::cmd("HDEL").arg(&list).arg(id)).await?;
        Ok(removed > 0)
    }

    /// Changes the tier of tokens. Returns how many of them still worked.
    pub(super) async fn set_tier(
        &self,
        tokens: Vec<Listed>,
        tier: &TierName,
    ) -> Result<usize, Fault> {
        let changed =
            tokens.into_iter().map(async |Listed { id, digest, mut identity, .. }| {
                identity.tier = tier.clone();
                let key = self.record_key(&digest);
                let mut set = redis::cmd("SET");
                // A token that was revoked meanwhile stays revoked.
                set.arg(&key).arg(json(&Record::of(&id, &identity))).arg("XX").arg("KEEPTTL");
                self.run::<Option<String>>(&key, &set).await
            });
        Ok(try_join_all(changed).await?.into_iter().flatten().count())
    }

    /// Returns the length of an account's list, including tokens that no longer work.
    pub(super) async fn list_length(&self, account: &Account) -> Result<usize, Fault> {
        let list = self.list_key(account);
        self.run(&list, redis::cmd("HLEN").arg(&list)).await
    }

    /// Returns the account's tokens that work. Those that no longer work are removed from the list;
    /// those that cannot be read are left out.
    pub(super) async fn list(&self, account: &Account) -> Result<Vec<Listed>, Fault> {
        let list = self.list_key(account);
        let listed: HashMap<String, String> =
            self.run(&list, redis::cmd("HGETALL").arg(&list)).await?;
        let left_out = |id: &str, fault: &Fault| {
            tracing::warn!(
                target: "tower_credits", %account, token = id, %fault, "a token is left out"
            );
        };
        let mut entries = Vec::with_capacity(listed.len());
        for (id, text) in listed {
            match read::<Entry>(&text).and_then(|entry| Ok((entry.digest()?, entry))) {
                Ok((digest, entry)) => entries.push((id, digest, entry)),
                Err(fault) => left_out(&id, &fault),
            }
        }
        let records = entries.iter().map(async |(_, digest, _)| {
            let key = self.record_key(digest);
            self.run::<Option<String>>(&key, redis::cmd("GET").arg(&key)).await
        });
        let records = try_join_all(records).await?;
        let (mut tokens, mut gone) = (Vec::with_capacity(entries.len()), Vec::new());
        for ((id, digest, entry), record) in entries.into_iter().zip(records) {
            match record.as_deref().map(|record| read::<Record>(record)?.identity()) {
                Some(Ok(identity)) => tokens.push(Listed { id, digest, entry, identity }),
                Some(Err(fault)) => left_out(&id, &fault),
                None => gone.push(id),
            }
        }
        if !gone.is_empty() {
            let _: u64 = self.run(&list, redis::cmd("HDEL").arg(&list).arg(gone)).await?;
        }
        Ok(tokens)
    }

    /// Runs a command on the server that has `key`.
    async fn run<T: FromRedisValue>(&self, key: &str, command: &Cmd) -> Result<T, Fault> {
        let ask = |mut link| async move { command.query_async(&mut link).await };
        self.servers.run(key, self.timeout, ask).await
    }

    fn record_key(&self, digest: &Sha256Digest) -> String {
        format!("{}:token:{}", self.prefix, hex(digest))
    }

    fn list_key(&self, account: &Account) -> String {
        format!("{}:{{{account}}}:tokens", self.prefix)
    }
}

/// Says in a few words where the tokens are.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, keys `{}:*`", self.servers, self.prefix)
    }
}

/// A token of an account, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenSummary {
    /// The token's id: 16 hexadecimal digits. [`RedisTokens::revoke`](super::RedisTokens::revoke)
    /// takes it.
    pub id: String,
    /// The label that the token was issued with.
    pub label: String,
    /// The caller that the token identifies.
    pub subject: Subject,
    /// The tier that applies to the token's requests.
    pub tier: TierName,
    /// The part of the account that the token is of.
    pub part: Option<Part>,
    /// Moment at which the token was issued, by the clock of the node that issued it.
    pub issued_at: SystemTime,
    /// Moment of the token's expiry; `None` if it does not.
    pub expires_at: Option<SystemTime>,
}

impl From<Listed> for TokenSummary {
    fn from(Listed { id, entry, identity, .. }: Listed) -> Self {
        let time =
            |millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH);
        let Identity { subject, tier, part, .. } = identity;
        Self {
            id,
            label: entry.label,
            subject,
            tier,
            part,
            issued_at: time(entry.issued_at),
            expires_at: entry.expires_at.map(time),
        }
    }
}

/// A token's id and identity, as stored.
#[derive(Serialize, Deserialize)]
struct Record {
    id: String,
    subject: String,
    account: String,
    tier: String,
    /// The part of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<String>,
    /// Organisations that may be billed, with their tiers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    organisations: BTreeMap<String, Membership>,
}

/// An organisation that may be billed: its tier, or that and the part of it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Membership {
    Tier(String),
    InPart { tier: String, part: String },
}

/// A token on the list, as stored.
#[derive(Serialize, Deserialize)]
struct Entry {
    digest: String,
    label: String,
    issued_at: u64,
    expires_at: Option<u64>,
}

impl Entry {
    fn digest(&self) -> Result<Sha256Digest, Fault> {
        credentials::parse_digest(&self.digest).ok_or_else(|| unreadable("a token's digest"))
    }
}

impl Record {
    fn of(id: &str, identity: &Identity) -> Self {
        let Identity { subject, account, tier, part, .. } = identity;
        let member = |member: &Identity| {
            let tier = member.tier.to_string();
            let membership = match &member.part {
                None => Membership::Tier(tier),
                Some(part) => Membership::InPart { tier, part: part.to_string() },
            };
            Some((member.account.organisation()?.to_owned(), membership))
        };
        let organisations =
            identity.memberships().iter().filter_map(|identity| member(identity)).collect();
        Self {
            id: id.to_owned(),
            subject: subject.to_string(),
            account: account.to_string(),
            tier: tier.to_string(),
            part: part.as_ref().map(ToString::to_string),
            organisations,
        }
    }

    fn identity(&self) -> Result<Identity, Fault> {
        let wrong = |_| unreadable("a token's record");
        let (subject, tier) =
            (self.subject.parse().map_err(wrong)?, self.tier.parse().map_err(wrong)?);
        let parsed = |part: &String| part.parse().map_err(wrong);
        let mut identity = Identity::new(subject, self.account.parse().map_err(wrong)?, tier);
        identity.part = self.part.as_ref().map(parsed).transpose()?;
        self.organisations.iter().try_fold(identity, |identity, (organisation, membership)| {
            let (tier, part) = match membership {
                Membership::Tier(tier) => (tier, None),
                Membership::InPart { tier, part } => (tier, Some(parsed(part)?)),
            };
            let tier = tier.parse().map_err(wrong)?;
            identity.member_in(organisation, part, tier).map_err(wrong)
        })
    }
}

fn json(value: &impl Serialize) -> String {
    // Strings and numbers always serialize.
    serde_json::to_string(value).unwrap_or_default()
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|_| unreadable("a token's entry"))
}

fn unreadable(what: &str) -> Fault {
    Fault::failed(format!(
        "{what} cannot be read: keys with this prefix were written by something else"
    ))
}
