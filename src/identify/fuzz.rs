//! Any header fields as credentials.

use http::{HeaderName, HeaderValue, Request, header};

use crate::pieces::text_of;

use super::{
    RequestHead,
    credentials::{TokenPlaces, token_of},
};

const FIELDS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-api-key"),
    header::ORIGIN,
    header::HOST,
    HeaderName::from_static("sec-fetch-site"),
];

const WORDS: &[&str] = &[
    "Bearer ",
    "bearer ",
    "Basic ",
    "s3cret",
    "token=s3cret",
    "token=",
    "; ",
    "other=1",
    "same-origin",
    "cross-site",
    "same-site",
    "none",
    "https://a",
    "a",
    "a:443",
    "\"",
    ",",
];

#[test]
fn a_token_stands_in_a_field_and_a_cookie_pays_for_its_own_origin_only() {
    let cookie = Some("token".parse().unwrap());
    let places = TokenPlaces { cookie, ..TokenPlaces::default() };
    bolero::check!(name = "credentials").with_type::<Vec<(u8, Vec<u8>)>>().for_each(|fields| {
        let mut request = Request::post("/models/echo").body(()).unwrap();
        for (field, value) in fields {
            let value = text_of(value, WORDS);
            if let Ok(value) = HeaderValue::from_str(&value) {
                request
                    .headers_mut()
                    .append(FIELDS[usize::from(*field) % FIELDS.len()].clone(), value);
            }
        }
        let Ok(token) = token_of(RequestHead::from(&request), &places) else { return };
        let has = |value: &HeaderValue| value.as_bytes().windows(token.len()).any(|at| at == token);
        assert!(!token.is_empty() && request.headers().values().any(has));
        let is_in = |field: &HeaderName| request.headers().contains_key(field);
        if !is_in(&header::AUTHORIZATION) && !is_in(&FIELDS[2]) {
            let field = |name: &str| {
                let mut fields = request.headers().get_all(name).iter();
                fields.next().filter(|_| fields.next().is_none())?.to_str().ok()
            };
            let is_own = if request.headers().contains_key("sec-fetch-site") {
                field("sec-fetch-site").is_some_and(|site| site == "same-origin" || site == "none")
            } else {
                let origin = field("origin").map(|text| text.rsplit("://").next().unwrap_or(text));
                field("host").zip(origin).is_some_and(|(host, origin)| {
                    !host.is_empty() && origin.eq_ignore_ascii_case(host)
                })
            };
            assert!(is_own, "another site's page: {request:?}");
        }
    });
}
