//! Tokens as TOML: read into a table, or refused with the line.

use std::{collections::BTreeMap, str::FromStr};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::{error::TokensError, table::TokenTable};
use crate::{
    NameError,
    identify::{
        Identity,
        credentials::{self, Sha256Digest},
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTokens {
    tokens: Option<Vec<RawToken>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    sha256: Spanned<String>,
    account: Spanned<String>,
    tier: Spanned<String>,
    subject: Option<Spanned<String>>,
    part: Option<Spanned<String>>,
    #[serde(default)]
    /// For each a tier, or `{ tier, part }`.
    organisations: BTreeMap<Spanned<String>, Spanned<Value>>,
}

/// A wrong part of the text: where it begins, in bytes, and the reason.
struct Wrong {
    offset: Option<usize>,
    reason: String,
}

/// Reads tokens from TOML.
pub(super) fn read(text: &str) -> Result<TokenTable, TokensError> {
    table(text).map_err(|Wrong { offset, reason }| {
        let before = offset.and_then(|offset| text.get(..offset));
        let line = before.map(|before| before.matches('\n').count() + 1);
        TokensError { file: None, line, reason, source: None }
    })
}

fn table(text: &str) -> Result<TokenTable, Wrong> {
    // The parser's own message may quote the file, and a token that was pasted in place of its
    // digest must not reach a log.
    let raw: RawTokens =
        toml::from_str(text).map_err(|error| not_tokens(error.span().map(|span| span.start)))?;
    // A file that is being written, or was cut short, must not take everybody's access away.
    let tokens = raw.tokens.ok_or_else(|| Wrong {
        offset: None,
        reason: "no tokens: write [[tokens]] for each, or `tokens = []` if all callers are to be \
                 denied"
            .to_owned(),
    })?;
    let mut table = TokenTable::default();
    for token in &tokens {
        table.add(digest(&token.sha256)?, identity(token)?);
    }
    table.prepare();
    Ok(table)
}

fn digest(field: &Spanned<String>) -> Result<Sha256Digest, Wrong> {
    credentials::parse_digest(field.as_ref()).ok_or_else(|| Wrong {
        offset: Some(field.span().start),
        reason: "sha256: write 64 hexadecimal digits, as `printf %s TOKEN | sha256sum` prints"
            .to_owned(),
    })
}

fn identity(token: &RawToken) -> Result<Identity, Wrong> {
    let account = parse(&token.account, "account")?;
    let tier = parse(&token.tier, "tier")?;
    let subject = parse(token.subject.as_ref().unwrap_or(&token.account), "subject")?;
    let mut identity = Identity::new(subject, account, tier);
    identity.part = token.part.as_ref().map(|part| parse(part, "part")).transpose()?;
    for (id, membership) in &token.organisations {
        let wrong = || not_tokens(Some(membership.span().start));
        let text = |value: Option<&Value>| {
            let text = value.and_then(Value::as_str).ok_or_else(wrong)?;
            Ok::<_, Wrong>(Spanned::new(membership.span(), text.to_owned()))
        };
        let (tier, part) = match membership.as_ref() {
            Value::Table(table) if table.len() == 2 => {
                (text(table.get("tier"))?, Some(text(table.get("part"))?))
            }
            tier => (text(Some(tier))?, None),
        };
        let part = part.map(|part| parse(&part, "an organisation's part")).transpose()?;
        identity = identity
            .member_in(id.as_ref(), part, parse(&tier, "an organisation's tier")?)
            .map_err(|error| refused(id, "an organisation's id", error))?;
    }
    Ok(identity)
}

fn parse<T: FromStr<Err = NameError>>(field: &Spanned<String>, what: &str) -> Result<T, Wrong> {
    field.as_ref().parse().map_err(|error| refused(field, what, error))
}

fn refused(field: &Spanned<String>, what: &str, error: NameError) -> Wrong {
    Wrong { offset: Some(field.span().start), reason: format!("{what}: {error}") }
}

/// The text is no list of tokens. It is not quoted.
fn not_tokens(offset: Option<usize>) -> Wrong {
    Wrong {
        offset,
        reason:
            "not a list of tokens: each [[tokens]] has sha256, account, tier and, if you like, \
                 subject and part, all of them strings, and organisations, a table of strings or \
                 of { tier, part }"
                .to_owned(),
    }
}
