//! The types of bodies that are read.

use http::{HeaderMap, header::CONTENT_TYPE};

use super::{BodyProblem, parameters};

/// The type of a body.
pub(super) enum ContentType {
    Json,
    Multipart { boundary: String },
}

impl ContentType {
    /// Reads the type of a request's body. A body without a type is taken for JSON.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, BodyProblem> {
        let mut fields = headers.get_all(CONTENT_TYPE).iter();
        let Some(field) = fields.next() else { return Ok(Self::Json) };
        if fields.next().is_some() {
            return Err(BodyProblem::ContentType);
        }
        field.to_str().ok().and_then(Self::parse).ok_or(BodyProblem::ContentType)
    }

    fn parse(text: &str) -> Option<Self> {
        let (essence, rest) = text.split_at_checked(text.find(';').unwrap_or(text.len()))?;
        let parameters = parameters::parse(rest)?;
        let essence = essence.trim().to_ascii_lowercase();
        // JSON is UTF-8 (RFC 8259, section 8.1), and some servers believe another charset.
        let is_utf8 = parameters::get(&parameters, "charset")
            .is_none_or(|charset| charset.eq_ignore_ascii_case("utf-8"));
        if essence == "multipart/form-data" {
            // Servers give other parameters a meaning: `boundary*0`, for example.
            if !is_utf8 || !parameters::are_only(&parameters, &["boundary", "charset"]) {
                return None;
            }
            let boundary = parameters::get(&parameters, "boundary")?;
            return is_boundary(boundary)
                .then(|| Self::Multipart { boundary: boundary.to_owned() });
        }
        let is_json = essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"));
        (is_json && is_utf8).then_some(Self::Json)
    }
}

/// `true` for a boundary by RFC 2046, section 5.1.1, without spaces.
fn is_boundary(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    (1..=70).contains(&text.len()) && text.bytes().all(is_allowed)
}
