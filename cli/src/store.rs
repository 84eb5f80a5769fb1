//! The ledger and the tokens that a command works on.

use std::path::Path;

use tower_credits::{
    Accounts, EmbeddedLedger, RedisLedger, RedisServer, RedisTokens, ledger::Ledger,
};

use crate::{arguments::Global, failure::Failure};

/// A ledger.
pub(crate) enum Store {
    Redis(RedisLedger),
    File(EmbeddedLedger),
}

impl Store {
    /// Opens the ledger that the command line names.
    pub(crate) async fn open(global: &Global) -> Result<Self, Failure> {
        let named = global.ledger.as_deref().filter(|named| !named.is_empty());
        let named = named.ok_or(Failure::NoLedger)?;
        if is_url(named) {
            let ledger = RedisLedger::builder(server(named, global))
                .prefix(&global.prefix)
                .timeout(global.timeout)
                .connect()
                .await?;
            return Ok(Self::Redis(ledger));
        }
        // A ledger that is opened is made if it is not there.
        if !Path::new(named).is_file() {
            return Err(Failure::NoFile(named.to_owned()));
        }
        Ok(Self::File(EmbeddedLedger::open(named)?))
    }

    /// Opens the accounts of the ledger that the command line names.
    pub(crate) async fn accounts(global: &Global) -> Result<Accounts, Failure> {
        Ok(match Self::open(global).await? {
            Self::Redis(ledger) => Accounts::new(ledger),
            Self::File(ledger) => Accounts::new(ledger),
        })
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Redis(ledger) => ledger.describe(),
            Self::File(ledger) => ledger.describe(),
        }
    }
}

/// Opens the tokens in Redis that the command line names.
pub(crate) async fn tokens(global: &Global) -> Result<RedisTokens, Failure> {
    let named = global.ledger.as_deref().filter(|named| !named.is_empty());
    let named = named.ok_or(Failure::NoLedger)?;
    if !is_url(named) {
        return Err(Failure::TokensNeedRedis);
    }
    let tokens = RedisTokens::builder(server(named, global));
    Ok(tokens.prefix(&global.prefix).timeout(global.timeout).connect().await?)
}

fn is_url(named: &str) -> bool {
    named.contains("://")
}

fn server(url: &str, global: &Global) -> RedisServer {
    let mut server = RedisServer::from(url);
    if let Some(username) = &global.username {
        server = server.username(username);
    }
    if let Some(file) = &global.password_file {
        server = server.password_file(file);
    }
    server
}
