//! Checks of a server before it is used: it has the data, deletes none of it, and stores
//! it as this crate reads it.

use std::collections::HashMap;

use redis::{RedisError, aio::ConnectionLike};

use super::fault::{Fault, says};

/// Version of the schema of keys and values that this crate writes where there are none.
const SCHEMA_VERSION: &str = "5";

/// The version before, whose keys it shares with nodes that know no other.
const VERSION_BEFORE: &str = "4";

/// Mode in which a server runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Standalone,
    Cluster,
}

/// Refuses a server that does not run as it is expected to: a node of a cluster has only some of
/// the accounts, and a sentinel none. Returns the mode if the server says it: a proxy may not.
pub(super) async fn check_mode(
    link: &mut (impl ConnectionLike + Send),
    expected: Mode,
) -> Result<Option<Mode>, Fault> {
    let info: Result<String, _> = redis::cmd("INFO").arg("server").query_async(link).await;
    let mode = match &info {
        Ok(info) => info.lines().find_map(|line| {
            line.strip_prefix("redis_mode:")
                .or_else(|| line.strip_prefix("server_mode:"))
                .map(str::trim)
        }),
        Err(error) if error.is_io_error() || error.is_connection_dropped() => {
            return Err(Fault::failed(error.to_string()));
        }
        // Denied, or not supported by a proxy in front of the server.
        Err(_) => None,
    };
    let problem = match (mode, expected) {
        (Some("cluster"), Mode::Standalone) => {
            "a node of a Redis Cluster, which has only some of the accounts: write \
             `redis+cluster://`"
        }
        (Some("sentinel"), _) => {
            "a Redis Sentinel, which stores no data: write `redis+sentinel://.../master`"
        }
        (Some("standalone"), Mode::Cluster) => "no node of a Redis Cluster: write `redis://`",
        (Some("standalone"), Mode::Standalone) | (Some("cluster"), Mode::Cluster) => {
            return Ok(Some(expected));
        }
        _ => return Ok(None),
    };
    Err(Fault::Unfit(format!("the server is {problem}")))
}

/// Returns the policy by which the server deletes keys when its memory is full, if it can be read.
pub(super) async fn eviction_policy(
    link: &mut (impl ConnectionLike + Send),
) -> Result<Option<String>, Fault> {
    let config: Result<HashMap<String, String>, _> =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query_async(link).await;
    Ok(match config {
        Ok(mut found) => found.remove("maxmemory-policy"),
        // Only if CONFIG is denied or renamed, INFO is tried.
        Err(error) if !says(&error, "NOPERM") && !says(&error, "unknown") => {
            return Err(error.into());
        }
        Err(_) => {
            let info: Result<String, _> = redis::cmd("INFO").arg("memory").query_async(link).await;
            let line = |info: String| {
                info.lines().find_map(|line| {
                    line.strip_prefix("maxmemory_policy:").map(|policy| policy.trim().to_owned())
                })
            };
            info.ok().and_then(line)
        }
    })
}

/// Refuses a policy under which the server would delete balances.
pub(super) fn must_not_evict(policy: &str) -> Result<(), Fault> {
    if policy == "noeviction" {
        return Ok(());
    }
    Err(Fault::Unfit(format!(
        "the server's maxmemory-policy is `{policy}`, which deletes balances when memory is full: \
         set `maxmemory-policy noeviction`"
    )))
}

/// Refuses keys that were written with another schema version.
pub(super) async fn check_schema(
    link: &mut (impl ConnectionLike + Send),
    key: &str,
) -> Result<(), Fault> {
    is_schema(&stored_schema(link, key).await?)
}

/// Returns the version of the schema of a server's keys, and stores this crate's if there is none.
pub(super) async fn stored_schema(
    link: &mut (impl ConnectionLike + Send),
    key: &str,
) -> Result<String, RedisError> {
    // Read first, since a server whose memory is full refuses to write.
    let stored: Option<String> = redis::cmd("GET").arg(key).query_async(link).await?;
    if let Some(stored) = stored {
        return Ok(stored);
    }
    let mut set = redis::cmd("SET");
    let () = set.arg(key).arg(SCHEMA_VERSION).arg("NX").query_async(link).await?;
    redis::cmd("GET").arg(key).query_async(link).await
}

/// `Ok` if this crate reads that version.
pub(super) fn is_schema(found: &str) -> Result<(), Fault> {
    if [VERSION_BEFORE, SCHEMA_VERSION].contains(&found) {
        return Ok(());
    }
    Err(Fault::Unfit(format!(
        "the server's keys have schema version {found}, and this version of tower-credits reads \
         versions {VERSION_BEFORE} and {SCHEMA_VERSION}: use another key prefix, or the version of \
         tower-credits that wrote them"
    )))
}
