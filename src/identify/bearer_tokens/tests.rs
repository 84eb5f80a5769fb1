use http::header::{AUTHORIZATION, COOKIE};

use super::BearerTokens;
use crate::{
    Account,
    identify::{Identify, Identifying, Identity, RequestHead, credentials},
};

fn tokens() -> BearerTokens {
    let alice = Identity::new(
        "alice".parse().unwrap(),
        Account::user("alice").unwrap(),
        "free".parse().unwrap(),
    );
    BearerTokens::new().with("s3cret", alice)
}

fn ask(values: &[&[u8]]) -> Result<String, String> {
    let mut request = http::Request::new(());
    for value in values {
        request.headers_mut().append(AUTHORIZATION, http::HeaderValue::from_bytes(value).unwrap());
    }
    match tokens().identify(RequestHead::from(&request)) {
        Identifying::Ready(answer) => {
            answer.map(|identity| identity.account.to_string()).map_err(|error| error.to_string())
        }
        Identifying::Later(_) => unreachable!(),
    }
}

#[test]
fn only_the_one_right_token_is_known() {
    assert_eq!(ask(&[b"Bearer s3cret"]), Ok("user:alice".into()));
    assert_eq!(ask(&[b"bearer  s3cret "]), Ok("user:alice".into()));
    assert_eq!(ask(&[]), Err("no credentials".into()));
    let long = [b"Bearer ".as_slice(), &[b'x'; 100 << 10]].concat();
    let wrong: [&[&[u8]]; 8] = [
        &[b"Bearer s3creT"],
        &[b"Bearer "],
        &[b"Bearer"],
        &[b""],
        &[b"Basic s3cret"],
        &[b"Bearer \xff\xfe"],
        &[&long],
        &[b"Bearer s3cret", b"Bearer s3cret"],
    ];
    for values in wrong {
        assert_eq!(ask(values), Err("unknown credentials".into()));
    }
}

#[test]
fn a_cached_token_is_gone_when_it_is_revoked_or_given_to_another_caller() {
    let ask = |tokens: &BearerTokens| {
        let request =
            http::Request::builder().header(AUTHORIZATION, "Bearer s3cret").body(()).unwrap();
        match tokens.identify(RequestHead::from(&request)) {
            Identifying::Ready(answer) => answer.ok().map(|identity| identity.subject.to_string()),
            Identifying::Later(_) => unreachable!(),
        }
    };
    let tokens = tokens();
    for _ in 0..2 {
        assert_eq!(ask(&tokens).as_deref(), Some("alice"));
    }
    let bob = Identity::new(
        "bob".parse().unwrap(),
        Account::user("bob").unwrap(),
        "free".parse().unwrap(),
    );
    assert_eq!(ask(&tokens.clone().with("s3cret", bob)).as_deref(), Some("bob"));
    assert_eq!(ask(&tokens).as_deref(), Some("alice"), "the list before is another");
    assert!(tokens.revoke("s3cret"));
    assert_eq!(ask(&tokens), None);
}

#[test]
fn a_cookie_counts_where_it_is_named_and_for_the_same_origin() {
    let tokens = tokens().or_cookie("credits".parse().unwrap());
    let ask = |cookies: &[&str], site: &str, authorization: Option<&str>| {
        let request = http::Request::post("/").header("sec-fetch-site", site);
        let request =
            cookies.iter().fold(request, |request, cookie| request.header(COOKIE, *cookie));
        let request = authorization
            .into_iter()
            .fold(request, |request, value| request.header(AUTHORIZATION, value));
        match tokens.identify(RequestHead::from(&request.body(()).unwrap())) {
            Identifying::Ready(answer) => answer
                .map(|identity| identity.subject.to_string())
                .map_err(|error| error.to_string()),
            Identifying::Later(_) => unreachable!(),
        }
    };
    let alice = Ok("alice".to_owned());
    assert_eq!(ask(&["a=b; credits=s3cret; c=d"], "same-origin", None), alice);
    assert_eq!(ask(&["a=b", "credits=\"s3cret\""], "same-origin", None), alice);
    assert_eq!(
        ask(&["credits=s3cret"], "cross-site", Some("Bearer s3cret")),
        alice,
        "a token that a page itself sends needs no origin"
    );
    for (cookies, site, authorization, error) in [
        (&["credits=s3cret"] as &[_], "cross-site", None, "a cookie from another origin"),
        (&["credits=s3cret"], "same-origin", Some("Bearer wrong"), "unknown credentials"),
        (&["credits=wrong"], "same-origin", None, "unknown credentials"),
        (&["xcredits=s3cret"], "same-origin", None, "no credentials"),
        (&["credits=s3cret; credits=other"], "same-origin", None, "unknown credentials"),
        (&[], "same-origin", None, "no credentials"),
    ] {
        assert_eq!(ask(cookies, site, authorization), Err(error.to_owned()), "{cookies:?}");
    }
}

#[test]
fn a_file_of_digests_is_read_and_no_secret_is_shown() {
    let digest = "1ec1c26b50d5d3c58d9583181af8076655fe00756bf7285940ba3670f99fcba0";
    let entry = |sha256: &str| {
        format!("[[tokens]]\nsha256 = \"{sha256}\"\naccount = \"user:alice\"\ntier = \"free\"\n")
    };
    let read = BearerTokens::from_toml(&entry(digest)).unwrap();
    assert!(read.live().load().find_digest(&credentials::digest(b"s3cret")).is_some(), "{read:?}");
    assert_eq!(format!("{read:?}"), "BearerTokens { tokens: 1 }");
    let refused = |text: &str| BearerTokens::from_toml(text).unwrap_err().to_string();
    assert!(refused(&entry("s3cret")).starts_with("line 2: sha256: write 64 hexadecimal digits"));
    assert!(!refused(&entry("s3cret")).contains("s3cret"));
    assert!(refused(&entry(digest).replace("user:", "")).starts_with("line 3: account: "));
    for pasted in ["[[tokens]]\ntoken = \"s3cret\"", "tokens = [\"s3cret\"]", "tokens = s3cret"] {
        let refused = refused(pasted);
        assert!(
            refused.contains("each [[tokens]] has sha256") && !refused.contains("s3cret"),
            "{refused}"
        );
    }
    for empty in ["", "# all of them are gone\n"] {
        assert!(
            refused(empty).contains("write [[tokens]] for each, or `tokens = []`"),
            "{}",
            refused(empty)
        );
    }
    assert_eq!(
        format!("{:?}", BearerTokens::from_toml("tokens = []").unwrap()),
        "BearerTokens { tokens: 0 }"
    );
}

#[test]
fn a_token_may_be_an_api_key() {
    let ask = |tokens: &BearerTokens, fields: &[(&str, &str)]| {
        let mut request = http::Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        match tokens.identify(RequestHead::from(&request)) {
            Identifying::Ready(answer) => answer.map(drop).map_err(|error| error.to_string()),
            Identifying::Later(_) => unreachable!(),
        }
    };
    let alice = || {
        Identity::new(
            "alice".parse().unwrap(),
            crate::Account::user("alice").unwrap(),
            "free".parse().unwrap(),
        )
    };
    let tokens = BearerTokens::new().with("s3cret", alice());
    let (key, bearer) = (("x-api-key", "s3cret"), ("authorization", "Bearer s3cret"));
    let unknown = Err("unknown credentials".to_owned());
    assert_eq!(ask(&tokens, &[key]), Ok(()));
    assert_eq!(ask(&tokens, &[bearer, ("x-api-key", "other")]), Ok(()), "the bearer token counts");
    assert_eq!(ask(&tokens, &[("authorization", "Basic proxy"), key]), Ok(()));
    for fields in [
        &[("x-api-key", "wrong")][..],
        &[("x-api-key", "")],
        &[key, key],
        &[("authorization", "Bearer wrong"), ("x-api-key", "wrong")],
    ] {
        assert_eq!(ask(&tokens, fields), unknown, "{fields:?}");
    }
    let other = tokens.api_key_in("api-key".parse().unwrap());
    assert_eq!(ask(&other, &[key]), Err("no credentials".to_owned()));
    assert_eq!(ask(&other, &[("api-key", "s3cret")]), Ok(()));
    assert_eq!(other.api_key_header().unwrap(), "api-key");
}

#[test]
fn a_token_and_a_membership_may_be_of_a_part() {
    let digest = "36f028580bb02cc8272a9a020f4200e346e276ae664e45ee80745574e2f5ab80";
    let text = |rest: &str| {
        format!(
            "[[tokens]]\nsha256 = \"{digest}\"\naccount = \"user:bob\"\ntier = \"free\"\n{rest}\n"
        )
    };
    for good in [
        "part = \"a/b\"",
        "organisations = { acme = \"pro\", other = { tier = \"pro\", part = \"research/bob\" } }",
    ] {
        assert!(BearerTokens::from_toml(&text(good)).is_ok(), "{good}");
    }
    for (bad, says) in [
        ("part = \"a//b\"", "part: empty"),
        ("organisations = { acme = { tier = \"pro\" } }", "of { tier, part }"),
        ("organisations = { acme = { tier = \"pro\", part = 7 } }", "of { tier, part }"),
        ("organisations = { acme = { tier = \"pro\", part = \"a/b/c/d\" } }", "more than three"),
    ] {
        let error = BearerTokens::from_toml(&text(bad)).unwrap_err().to_string();
        assert!(error.contains(says), "{bad}: {error}");
    }
}
