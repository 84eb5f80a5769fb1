//! Secrets of tokens: `tc_`, 48 random hexadecimal digits, and a checksum of eight digits.
//!
//! A text with a wrong checksum was never issued, so the server need not be asked about it.

use std::fmt::Write;

use super::error::RedisTokensError;
use crate::identify::credentials;

/// Prefix of every secret, so that scanners find leaked ones: `tc_[0-9a-f]{56}`.
const SECRET_PREFIX: &str = "tc_";

/// Random bytes of a secret.
const RANDOM_BYTES: usize = 24;

/// Hexadecimal digits of the checksum at a secret's end.
const CHECKSUM_DIGITS: usize = 8;

/// Makes a secret.
pub(super) fn new() -> Result<String, RedisTokensError> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(|error| RedisTokensError::Random(error.to_string()))?;
    let body = format!("{SECRET_PREFIX}{}", hex(&random));
    let checksum = checksum(&body);
    Ok(body + &checksum)
}

/// `true` if a text has the prefix, the length and the checksum of a secret.
pub(super) fn is_well_formed(token: &[u8]) -> bool {
    let text = std::str::from_utf8(token).ok().filter(|text| {
        text.len() == SECRET_PREFIX.len() + 2 * RANDOM_BYTES + CHECKSUM_DIGITS && text.is_ascii()
    });
    text.and_then(|text| text.split_at_checked(text.len() - CHECKSUM_DIGITS))
        .is_some_and(|(body, digits)| body.starts_with(SECRET_PREFIX) && digits == checksum(body))
}

fn checksum(body: &str) -> String {
    hex(&credentials::digest(body.as_bytes())[..CHECKSUM_DIGITS / 2])
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
