//! Every denial, in every format.

use std::{collections::HashSet, num::NonZeroU32, sync::Arc, time::Duration};

use ::http::{HeaderName, StatusCode};
use percent_encoding::percent_decode;
use serde_json::{Value, json};

use super::{DenialStyle, Rejection};
use crate::{
    Credits, DenialFormat, Name,
    ledger::Span,
    plan::{BodyProblem, Currency, RequestQuota},
};

/// One of each kind.
fn all() -> Vec<Rejection> {
    let period = "2026-11".parse().unwrap();
    let hint = Some("Upgrade to PRO: 100 % more.".into());
    let number = |n| NonZeroU32::new(n).unwrap();
    let api_key = HeaderName::from_static("x-api-key");
    let all = vec![
        Rejection::Unauthenticated { invalid: false, api_key_header: None },
        Rejection::Unauthenticated { invalid: false, api_key_header: Some(api_key.clone()) },
        Rejection::Unauthenticated { invalid: true, api_key_header: Some(api_key) },
        Rejection::NotAMember,
        Rejection::CrossOrigin,
        Rejection::NotInPlan,
        Rejection::UnknownModel { model: "gpt-5\n".into(), offered: models(2) },
        Rejection::ModelNotNamed { offered: models(30) },
        Rejection::InvalidBody {
            problem: BodyProblem::Missing("model".to_owned()),
            offered: models(1),
        },
        Rejection::InvalidBody { problem: BodyProblem::TooLarge(8 << 20), offered: models(1) },
        Rejection::InvalidBody { problem: BodyProblem::Stalled, offered: models(1) },
        Rejection::InvalidBody { problem: BodyProblem::Encoded, offered: models(1) },
        Rejection::CreditsUsedUp {
            period,
            day_ends_at: None,
            left: Credits::SMALLEST,
            hint: hint.clone(),
        },
        Rejection::LargestAmount { period },
        Rejection::AccountErased,
        Rejection::CreditsOnHold { left: Credits::SMALLEST, hint: hint.clone() },
        Rejection::SpendingLimit { period, day_ends_at: None },
        Rejection::Budget {
            part: Some("research/alice".parse().unwrap()),
            span: Span::Day,
            limit: "5.00".parse().unwrap(),
            left: Credits::SMALLEST,
            resets_at: period.ends(),
            currency: Currency::USD,
        },
        Rejection::ModelDenied { model: "flux".parse().unwrap(), hint: hint.clone() },
        Rejection::RequestRate {
            retry_after: Duration::from_millis(9_001),
            quota: RequestQuota::new(number(6), Duration::from_secs(60)).burst(number(2)),
            hint,
        },
        Rejection::TooManyRunning { limit: number(8) },
        Rejection::RequestCap,
        Rejection::ClientCap,
        Rejection::InvalidCap { field: "x-max-cost" },
        Rejection::LedgerUnreachable,
        Rejection::CredentialsUnchecked,
        Rejection::Busy,
        Rejection::ShuttingDown,
        Rejection::Unclassified,
        Rejection::UnknownTier,
        Rejection::NoSuchPeriod,
        Rejection::UnmeteredUpgrade,
    ];
    let kinds_listed: HashSet<_> = all.iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds_listed.len(), kinds(&all[0]), "the list has each");
    all
}

/// The models of a plan.
fn models(count: usize) -> Arc<[Name]> {
    (0..count).map(|number| format!("model-{number}").parse().unwrap()).collect()
}

/// The number of kinds. A new one does not compile before it is counted here.
const fn kinds(rejection: &Rejection) -> usize {
    match rejection {
        Rejection::Unauthenticated { .. }
        | Rejection::NotAMember
        | Rejection::CrossOrigin
        | Rejection::NotInPlan
        | Rejection::UnknownModel { .. }
        | Rejection::ModelNotNamed { .. }
        | Rejection::InvalidBody { .. }
        | Rejection::CreditsUsedUp { .. }
        | Rejection::LargestAmount { .. }
        | Rejection::AccountErased
        | Rejection::CreditsOnHold { .. }
        | Rejection::SpendingLimit { .. }
        | Rejection::Budget { .. }
        | Rejection::ModelDenied { .. }
        | Rejection::RequestRate { .. }
        | Rejection::TooManyRunning { .. }
        | Rejection::RequestCap
        | Rejection::ClientCap
        | Rejection::InvalidCap { .. }
        | Rejection::LedgerUnreachable
        | Rejection::CredentialsUnchecked
        | Rejection::Busy
        | Rejection::ShuttingDown
        | Rejection::Unclassified
        | Rejection::UnknownTier
        | Rejection::NoSuchPeriod
        | Rejection::UnmeteredUpgrade => 27,
    }
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[test]
fn a_problem_says_what_display_and_status_say() {
    let formats = [
        (DenialFormat::Problem, "application/problem+json"),
        (DenialFormat::HuggingFace, "application/json"),
    ];
    for (rejection, (format, content_type)) in
        all().iter().flat_map(|rejection| formats.map(|format| (rejection.clone(), format)))
    {
        let (status, text) = (rejection.status(), rejection.to_string());
        let response = rejection.clone().into_http_response(format);
        assert_eq!(response.status(), status, "{rejection:?}");
        assert_eq!(response.headers()["content-type"], content_type);
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
        let body = parsed(response.body());
        assert_eq!((&body["detail"], &body["type"]), (&json!(text), &json!("error")));
        let error = &body["error"];
        assert_eq!(error["message"], text);
        assert_eq!(error["code"], rejection.reason().to_ascii_lowercase());

        let response = rejection.clone().into_grpc_response();
        assert_eq!((response.status(), response.body().len()), (StatusCode::OK, 0));
        assert_eq!(response.extensions().get(), Some(&rejection));
        let message = percent_decode(response.headers()["grpc-message"].as_bytes());
        assert_eq!(message.decode_utf8().unwrap(), text);
    }
}

/// Clients that retry by themselves do so if it helps, and soon; others stop at once.
#[test]
fn automatic_retries_are_asked_for_where_they_help() {
    let number = |n| NonZeroU32::new(n).unwrap();
    let rate = |wait| Rejection::RequestRate {
        retry_after: Duration::from_secs(wait),
        quota: RequestQuota::new(number(1), Duration::from_secs(3600)).burst(number(1)),
        hint: None,
    };
    for (rejection, retry_after, pushback) in [
        (rate(60), Some("60"), "60000"),
        (rate(61), Some("61"), "-1"),
        (rate(3600), Some("3600"), "-1"),
        (Rejection::LedgerUnreachable, Some("1"), "1000"),
        (Rejection::RequestCap, None, "-1"),
        (Rejection::UnknownTier, None, "-1"),
    ] {
        let response = rejection.clone().into_http_response(DenialFormat::OpenAi);
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("retry-after"), retry_after, "{rejection:?}");
        let should_retry = (pushback == "-1").then_some("false");
        assert_eq!(header("x-should-retry"), should_retry, "{rejection:?}");
        let grpc = rejection.clone().into_grpc_response();
        assert_eq!(grpc.headers()["grpc-retry-pushback-ms"], pushback, "{rejection:?}");
    }
}

#[test]
fn a_text_lists_the_models_that_there_are() {
    let named = Rejection::UnknownModel { model: "gpt-5\n".into(), offered: models(2) };
    let text = "This server does not offer the model \"gpt-5\\n\". You can use: model-0, model-1.";
    assert_eq!(named.to_string(), text);
    let response = named.into_http_response(DenialFormat::OpenAi);
    assert_eq!(response.headers()["x-error-message"], text);
    let error = &parsed(response.body())["error"];
    assert_eq!((&error["param"], &error["code"]), (&json!("model"), &json!("model_not_found")));
    let many = Rejection::ModelNotNamed { offered: models(21) }.to_string();
    assert!(many.ends_with("model-19, and 1 more."), "{many}");
    let none = Rejection::ModelNotNamed { offered: models(0) }.to_string();
    assert!(none.ends_with("in one way only."), "{none}");
}

/// Proxies and clients refuse long header fields.
#[test]
fn a_long_text_is_cut_in_the_header_and_whole_in_the_body() {
    let hint = "né".repeat(5_000);
    let denied =
        Rejection::CreditsOnHold { left: Credits::SMALLEST, hint: Some(hint.as_str().into()) };
    let response = denied.into_http_response(DenialFormat::Problem);
    let field = response.headers()["x-error-message"].to_str().unwrap();
    assert!(field.len() == 1_024 && field.contains("n?n?n?"), "{field}");
    assert!(parsed(response.body())["detail"].as_str().unwrap().ends_with(&hint));
}

#[test]
fn a_meters_own_status_replaces_503_and_nothing_else() {
    let style = DenialStyle {
        unavailable: StatusCode::TOO_MANY_REQUESTS,
        format: DenialFormat::Problem,
        grpc: false,
        grpc_web: false,
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
