//! Every denial, in every format.

use std::{collections::BTreeSet, num::NonZeroU32, time::Duration};

use ::http::StatusCode;
use percent_encoding::percent_decode;
use serde_json::{Value, json};

use super::{DenialFormat, DenialStyle, Rejection};
use crate::{Credits, plan::RequestQuota};

/// One of each kind.
fn all() -> Vec<Rejection> {
    let period = "2026-11".parse().unwrap();
    let hint = Some("Upgrade to PRO: 100 % more.".into());
    let number = |n| NonZeroU32::new(n).unwrap();
    let all = vec![
        Rejection::Unauthenticated { invalid: false },
        Rejection::Unauthenticated { invalid: true },
        Rejection::NotAMember,
        Rejection::CrossOrigin,
        Rejection::NotInPlan,
        Rejection::CreditsUsedUp { period, left: Credits::SMALLEST, hint: hint.clone() },
        Rejection::LargestAmount { period },
        Rejection::AccountErased,
        Rejection::CreditsOnHold { left: Credits::SMALLEST, hint: hint.clone() },
        Rejection::SpendingLimit { period },
        Rejection::RequestRate {
            retry_after: Duration::from_millis(9_001),
            quota: RequestQuota {
                count: number(6),
                per: Duration::from_secs(60),
                burst: number(2),
            },
            hint,
        },
        Rejection::TooManyRunning { limit: number(8) },
        Rejection::RequestCap,
        Rejection::LedgerUnreachable,
        Rejection::CredentialsUnchecked,
        Rejection::Busy,
        Rejection::ShuttingDown,
        Rejection::Unclassified,
        Rejection::UnknownTier,
        Rejection::NoSuchPeriod,
        Rejection::UnmeteredUpgrade,
    ];
    let reasons: BTreeSet<_> = all.iter().map(Rejection::reason).collect();
    assert_eq!(reasons.len(), kinds(&all[0]), "the list has each");
    all
}

/// How many kinds there are. A new one does not compile before it is counted here.
const fn kinds(rejection: &Rejection) -> usize {
    match rejection {
        Rejection::Unauthenticated { .. }
        | Rejection::NotAMember
        | Rejection::CrossOrigin
        | Rejection::NotInPlan
        | Rejection::CreditsUsedUp { .. }
        | Rejection::LargestAmount { .. }
        | Rejection::AccountErased
        | Rejection::CreditsOnHold { .. }
        | Rejection::SpendingLimit { .. }
        | Rejection::RequestRate { .. }
        | Rejection::TooManyRunning { .. }
        | Rejection::RequestCap
        | Rejection::LedgerUnreachable
        | Rejection::CredentialsUnchecked
        | Rejection::Busy
        | Rejection::ShuttingDown
        | Rejection::Unclassified
        | Rejection::UnknownTier
        | Rejection::NoSuchPeriod
        | Rejection::UnmeteredUpgrade => 20,
    }
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[test]
fn a_problem_says_what_display_and_status_say() {
    for rejection in all() {
        let (status, text) = (rejection.status(), rejection.to_string());
        let response = rejection.clone().into_http_response(DenialFormat::Problem);
        assert_eq!(response.status(), status, "{rejection:?}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.extensions().get(), Some(&rejection));
        let problem = parsed(response.body());
        assert_eq!(problem["status"], status.as_u16(), "{problem}");
        assert_eq!(problem["reason"], rejection.reason());
        assert_eq!((&problem["detail"], &problem["error"]), (&json!(text), &json!(text)));
        assert!(text.ends_with('.') && !text.contains("  "), "{text}");
    }
}

#[test]
fn an_openai_error_and_a_grpc_status_have_the_same_text() {
    for rejection in all() {
        let text = rejection.to_string();
        let response = rejection.clone().into_http_response(DenialFormat::OpenAi);
        assert_eq!(response.status(), rejection.status(), "{rejection:?}");
        let error = &parsed(response.body())["error"];
        assert_eq!(error["message"], text);
        assert_eq!(error["code"], rejection.reason().to_ascii_lowercase());

        let response = rejection.clone().into_grpc_response();
        assert_eq!((response.status(), response.body().len()), (StatusCode::OK, 0));
        assert_eq!(response.extensions().get(), Some(&rejection));
        let message = percent_decode(response.headers()["grpc-message"].as_bytes());
        assert_eq!(message.decode_utf8().unwrap(), text);
    }
}

#[test]
fn a_meters_own_status_replaces_503_and_nothing_else() {
    let style = DenialStyle {
        unavailable: StatusCode::TOO_MANY_REQUESTS,
        format: DenialFormat::Problem,
        grpc: false,
    };
    for rejection in all() {
        let default = rejection.clone().into_http_response(style.format);
        let set = rejection.clone().into_styled_response(style);
        assert_eq!(set.headers(), default.headers(), "{rejection:?}");
        if default.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(set.status(), style.unavailable);
            assert_eq!(parsed(set.body())["status"], style.unavailable.as_u16());
        } else {
            assert_eq!((set.status(), set.body()), (default.status(), default.body()));
        }
        let own = rejection.clone().into_grpc_response();
        let grpc = rejection.into_styled_response(DenialStyle { grpc: true, ..style });
        assert_eq!(grpc.status(), own.status());
        // The details hold a map, whose order is random.
        for (name, value) in
            own.headers().iter().filter(|(name, _)| !name.as_str().ends_with("-bin"))
        {
            assert_eq!(grpc.headers().get(name), Some(value), "{name}");
        }
    }
}

#[cfg(feature = "axum")]
#[test]
fn an_axum_handler_sends_the_same_problem() {
    for rejection in all() {
        let (parts, _) = rejection.clone().into_http_response(DenialFormat::Problem).into_parts();
        let response = axum::response::IntoResponse::into_response(rejection);
        assert_eq!((response.status(), response.headers()), (parts.status, &parts.headers));
    }
}
