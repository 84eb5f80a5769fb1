//! The token that a request carries.

use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, COOKIE},
};
use sha2::{Digest, Sha256};

use super::{IdentifyError, RequestHead, origin};
use crate::Name;

/// The longest token that is hashed, in bytes.
const MAX_TOKEN_BYTES: usize = 4096;

pub(super) type Sha256Digest = [u8; 32];

/// The places of a request where a token may be, beside its `Authorization` field.
#[derive(Clone, Debug)]
pub(super) struct TokenPlaces {
    pub(super) api_key_header: HeaderName,
    pub(super) cookie: Option<Name>,
}

impl Default for TokenPlaces {
    fn default() -> Self {
        Self { api_key_header: HeaderName::from_static("x-api-key"), cookie: None }
    }
}

/// Returns the token of a request: the bearer token of its `Authorization` field or, if it has
/// none, the value of the field for API keys or, if there is neither field, that of the cookie.
pub(super) fn token_of<'a>(
    head: RequestHead<'a>,
    places: &TokenPlaces,
) -> Result<&'a [u8], IdentifyError> {
    let token = match bearer(head.headers) {
        Ok(token) => token,
        Err(error) => token_beside_bearer(head, places, error)?,
    };
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err(IdentifyError::Invalid);
    }
    Ok(token)
}

/// Returns the token of a request whose `Authorization` field has none, for the reason `no_bearer`.
fn token_beside_bearer<'a>(
    head: RequestHead<'a>,
    places: &TokenPlaces,
    no_bearer: IdentifyError,
) -> Result<&'a [u8], IdentifyError> {
    let in_cookie = || places.cookie.as_ref().and_then(|name| cookie(head.headers, name.as_str()));
    match (no_bearer, api_key(head.headers, &places.api_key_header)) {
        (_, Ok(token)) => Ok(token),
        (IdentifyError::Missing, Err(IdentifyError::Missing)) => match in_cookie() {
            None => Err(IdentifyError::Missing),
            Some(_) if !origin::is_same_origin(head) => Err(IdentifyError::CrossOrigin),
            Some(token) => Ok(token),
        },
        _ => Err(IdentifyError::Invalid),
    }
}

/// `true` if another site's page cannot have forged a request (CSRF). Such a page can make a
/// browser send forms, cookies and passwords that the browser has, but neither a bearer token nor
/// fields that state this origin.
#[cfg(feature = "axum")]
pub(crate) fn is_csrf_safe(head: RequestHead<'_>) -> bool {
    bearer(head.headers).is_ok() || origin::is_same_origin(head)
}

pub(super) fn digest(token: &[u8]) -> Sha256Digest {
    Sha256::digest(token).into()
}

/// Returns the bearer token of a request that has a single `Authorization` field. The scheme's name
/// is compared without case (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Result<&[u8], IdentifyError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(IdentifyError::Missing)?.as_bytes();
    if values.next().is_some() {
        return Err(IdentifyError::Invalid);
    }
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(token.trim_ascii()),
        _ => Err(IdentifyError::Invalid),
    }
}

/// Returns the token of a request that has a single field of this name.
fn api_key<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a [u8], IdentifyError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or(IdentifyError::Missing)?;
    if values.next().is_some() { Err(IdentifyError::Invalid) } else { Ok(value.as_bytes()) }
}

/// Returns the value of a cookie (RFC 6265, section 5.4: pairs, each after a semicolon and a
/// space). It is empty if the cookie is there twice.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let mut values = pairs
        .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let value = values.next()?;
    // Nobody knows which of two the service would take.
    let only = if values.next().is_none() { value } else { b"" };
    Some(only.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(only))
}

/// Reads a digest from its 64 hexadecimal digits.
pub(super) fn parse_digest(hex: &str) -> Option<Sha256Digest> {
    let mut digest = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(digest)
}
