//! What a token looks like: `tc_`, 48 random hexadecimal digits, and eight that follow from them.
//! What has those wrong was never issued, and is not looked up.

use std::fmt::Write;

use super::error::RedisTokensError;
use crate::identify::credentials;

/// What every token begins with, so that scanners find leaked ones: `tc_[0-9a-f]{56}`.
const MARK: &str = "tc_";

/// Random bytes of a token.
const RANDOM: usize = 24;

/// Hexadecimal digits at a token's end that follow from those before.
const CHECK: usize = 8;

/// A new token's secret.
pub(super) fn new() -> Result<String, RedisTokensError> {
    let mut random = [0; RANDOM];
    getrandom::fill(&mut random).map_err(|error| RedisTokensError::Random(error.to_string()))?;
    let body = format!("{MARK}{}", hex(&random));
    let check = check_of(&body);
    Ok(body + &check)
}

/// `true` if a token has the shape of those that are issued here.
pub(super) fn was_issued(token: &[u8]) -> bool {
    let text = std::str::from_utf8(token)
        .ok()
        .filter(|text| text.len() == MARK.len() + 2 * RANDOM + CHECK && text.is_ascii());
    text.and_then(|text| text.split_at_checked(text.len() - CHECK))
        .is_some_and(|(body, check)| body.starts_with(MARK) && check == check_of(body))
}

fn check_of(body: &str) -> String {
    hex(&credentials::digest(body.as_bytes())[..CHECK / 2])
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
