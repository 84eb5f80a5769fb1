//! The origin of browsers' requests.
//!
//! A browser sends cookies along with requests that any page makes, so a cookie alone does not mean
//! that its owner wanted the request. Browsers state where a request comes from in `Sec-Fetch-Site`
//! (Fetch Metadata), older ones in `Origin` (RFC 6454), and pages cannot change either.

use http::{
    HeaderName, Uri,
    header::{HOST, ORIGIN},
};

use super::RequestHead;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// `true` if the browser states that a request comes from a page of the same origin, or from the
/// user. Only then may a cookie pay for it. The scheme is not compared, since a server behind a
/// proxy does not know its own.
pub(super) fn is_same_origin(head: RequestHead<'_>) -> bool {
    let text = |name: &HeaderName| {
        let mut values = head.headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    if head.headers.contains_key(SEC_FETCH_SITE) {
        // `none` means that the user typed the address, or followed a bookmark.
        return matches!(text(&SEC_FETCH_SITE), Some("same-origin" | "none"));
    }
    if head.headers.contains_key(ORIGIN) {
        let origin = text(&ORIGIN).and_then(|origin| origin.parse::<Uri>().ok());
        let from = origin.as_ref().and_then(Uri::authority);
        let to = head.uri.authority().map(http::uri::Authority::as_str).or_else(|| text(&HOST));
        return from
            .is_some_and(|from| to.is_some_and(|to| from.as_str().eq_ignore_ascii_case(to)));
    }
    // Over plain http, and if they are old, browsers state nothing. A page of another site can make
    // them send such a request.
    false
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn only_the_same_origin_pays_with_a_cookie() {
        let check = |method: &str, headers: &[(&str, &str)]| {
            let request = Request::builder()
                .method(method)
                .uri("/models/echo")
                .header("host", "credits.example:8080");
            let request = headers
                .iter()
                .fold(request, |request, (name, value)| request.header(*name, *value));
            is_same_origin(RequestHead::from(&request.body(()).unwrap()))
        };
        for (method, headers, own) in [
            ("POST", &[("sec-fetch-site", "same-origin")] as &[_], true),
            ("POST", &[("sec-fetch-site", "none")], true),
            ("POST", &[("sec-fetch-site", "same-site")], false),
            (
                "POST",
                &[("sec-fetch-site", "cross-site"), ("origin", "http://credits.example:8080")],
                false,
            ),
            ("POST", &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], false),
            ("GET", &[("sec-fetch-site", "cross-site")], false),
            ("POST", &[("origin", "http://credits.example:8080")], true),
            ("POST", &[("origin", "http://CREDITS.example:8080")], true),
            ("POST", &[("origin", "http://credits.example")], false),
            ("POST", &[("origin", "http://credits.example:8080.evil.example")], false),
            ("POST", &[("origin", "null")], false),
            (
                "POST",
                &[
                    ("origin", "http://credits.example:8080"),
                    ("origin", "http://credits.example:8080"),
                ],
                false,
            ),
            ("POST", &[], false),
            ("GET", &[], false),
            ("GET", &[("sec-fetch-site", "same-origin")], true),
        ] {
            assert_eq!(check(method, headers), own, "{method} {headers:?}");
        }
    }
}
