//! Every denial as a tonic client decodes it: code, message, and `google.rpc` details.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower_credits::{
    CreditMeter, Credits, MemoryLedger, RedisLedger,
    identify::{IdentifyError, IdentifyWith},
    ledger::{Amendment, Ledger},
};

use super::{
    client::*,
    echo::{builder, grpc_plan, metered, serve},
};
use crate::support::{redis_server::RedisServer, *};

/// What a client should be able to read from a denial.
struct Told {
    code: Code,
    reason: &'static str,
    says: &'static str,
    retry: Option<Duration>,
    quota: Option<&'static str>,
    metadata: &'static [(&'static str, &'static str)],
}

impl Told {
    const fn new(code: Code, reason: &'static str, says: &'static str) -> Self {
        Self { code, reason, says, retry: None, quota: None, metadata: &[] }
    }

    const fn retry(self, seconds: u64) -> Self {
        Self { retry: Some(Duration::from_secs(seconds)), ..self }
    }

    const fn quota(self, quota: &'static str) -> Self {
        Self { quota: Some(quota), ..self }
    }

    const fn metadata(self, metadata: &'static [(&'static str, &'static str)]) -> Self {
        Self { metadata, ..self }
    }

    fn check(&self, status: &Status) {
        let details = status.get_error_details();
        let info = details
            .error_info()
            .unwrap_or_else(|| panic!("{}: no ErrorInfo in {status:?}", self.reason));
        assert_eq!(
            (status.code(), info.reason.as_str(), info.domain.as_str()),
            (self.code, self.reason, "tower-credits")
        );
        assert!(status.message().contains(self.says), "{}: {}", self.reason, status.message());
        let metadata: std::collections::HashMap<_, _> =
            self.metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        assert_eq!(info.metadata, metadata, "{}", self.reason);
        let retry = details.retry_info().and_then(|info| info.retry_delay);
        // A rate's seconds go on counting while it is asked.
        let counted = |told: Duration, expected: Duration| {
            told <= expected && told + Duration::from_secs(3) > expected && !told.is_zero()
        };
        assert!(
            retry.is_some() == self.retry.is_some()
                && retry.zip(self.retry).is_none_or(|(told, expected)| counted(told, expected)),
            "{retry:?}"
        );
        let quota = details.quota_failure().map(|failure| failure.violations[0].subject.as_str());
        assert_eq!(quota, self.quota, "{}", self.reason);
        // Clients that retry by themselves look here (gRFC A6): when, or a negative number for not
        // at all.
        let pushback = retry.map_or("-1".to_owned(), |retry| retry.as_millis().to_string());
        assert_eq!(
            field(status.metadata(), "grpc-retry-pushback-ms"),
            Some(pushback.as_str()),
            "{}",
            self.reason
        );
    }
}

/// A unary call's denial.
async fn denied(meter: &CreditMeter, token: &str) -> Status {
    connect(serve(meter).await).await.whole(asking(token, audio("a"))).await.unwrap_err()
}

#[tokio::test]
async fn of_credentials() {
    let meter = metered(&november());
    Told::new(Code::Unauthenticated, "UNAUTHENTICATED", "no credentials. Send your token")
        .check(&denied(&meter, "").await);
    Told::new(Code::Unauthenticated, "UNAUTHENTICATED", "not valid")
        .check(&denied(&meter, "nobody").await);

    let identify = IdentifyWith::new(|head| {
        let answer = match head.headers.get("authorization").map(http::HeaderValue::as_bytes) {
            Some(b"Bearer outsider") => Err(IdentifyError::NotAMember),
            Some(b"Bearer stranger") => Ok(identity("stranger", "no-such-tier")),
            _ => Err(IdentifyError::Unavailable(Arc::new(std::io::Error::other(
                "the directory is down",
            )))),
        };
        std::future::ready(answer)
    });
    let meter = CreditMeter::new(grpc_plan(), MemoryLedger::new(), identify);
    Told::new(Code::PermissionDenied, "NOT_A_MEMBER", "cannot bill this organisation")
        .check(&denied(&meter, "outsider").await);
    Told::new(Code::Unavailable, "CREDENTIALS_UNCHECKED", "cannot be checked")
        .retry(1)
        .check(&denied(&meter, "anybody").await);
    Told::new(Code::Internal, "UNKNOWN_TIER", "not set up")
        .check(&denied(&meter, "stranger").await);
}

#[tokio::test]
async fn of_pages_and_models() {
    let clock = november();
    let tokens = super::echo::tokens().or_cookie("token".parse().unwrap());
    let meter = CreditMeter::builder(grpc_plan(), MemoryLedger::with_clock(clock.clone()), tokens)
        .clock(clock)
        .build()
        .unwrap();
    let mut request = asking("", audio("a"));
    request.metadata_mut().insert("cookie", "token=free".parse().unwrap());
    request.metadata_mut().insert("origin", "https://elsewhere.test".parse().unwrap());
    let status = connect(serve(&meter).await).await.whole(request).await.unwrap_err();
    Told::new(Code::PermissionDenied, "CROSS_ORIGIN", "own pages").check(&status);

    let channel = tonic::transport::Channel::from_shared(format!("http://{}", serve(&meter).await))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<super::proto::Audio, super::proto::Audio>::default();
    let path = http::uri::PathAndQuery::from_static("/chat.v1.Chat/Complete");
    let status = client.unary(asking("free", audio("a")), path, codec).await.unwrap_err();
    Told::new(Code::NotFound, "NOT_IN_PLAN", "does not offer this path").check(&status);
}

#[tokio::test]
async fn of_credits() {
    let clock = november();
    let ledger = MemoryLedger::with_clock(clock.clone());
    let meter = builder(ledger.clone(), &clock).build().unwrap();
    let used_up = Told::new(Code::ResourceExhausted, "CREDITS_USED_UP", "used up")
        .quota("credits")
        .metadata(&[("left_nano_usd", "0"), ("resets_at", "2026-12-01T00:00:00Z")]);
    used_up.check(&denied(&meter, "none").await);

    // One call holds all that there is.
    let mut client = connect(serve(&meter).await).await;
    let running = client.stream(asking("quick", endless("a"))).await.unwrap();
    Told::new(Code::ResourceExhausted, "CREDITS_ON_HOLD", "on hold")
        .retry(1)
        .metadata(&[("left_nano_usd", "34800")])
        .check(&denied(&meter, "quick").await);
    drop(running);

    ledger
        .amend(&identity("owner", "owner").account, Amendment::SpendingLimit(Some(Credits::ZERO)))
        .await
        .unwrap();
    Told::new(Code::ResourceExhausted, "SPENDING_LIMIT", "owner can raise the limit")
        .quota("credits")
        .metadata(&[("resets_at", "2026-12-01T00:00:00Z")])
        .check(&denied(&meter, "owner").await);
}

#[tokio::test]
async fn of_rates_and_caps() {
    let meter = metered(&november());
    let mut client = connect(serve(&meter).await).await;
    for _ in 0..2 {
        client.whole(asking("slow", audio("a"))).await.unwrap();
    }
    Told::new(
        Code::ResourceExhausted,
        "REQUEST_RATE",
        "exceeded your limit of 6 requests per minute",
    )
    .retry(10)
    .quota("requests")
    .check(&denied(&meter, "slow").await);

    let running = client.stream(asking("one", endless("a"))).await.unwrap();
    Told::new(Code::ResourceExhausted, "TOO_MANY_RUNNING", "your limit of 1 concurrent request.")
        .retry(1)
        .check(&denied(&meter, "one").await);
    drop(running);

    // Twenty milliseconds are all that one call may use.
    let parts = stream::iter((0..10).map(|_| audio("a")));
    let status = client.collect(asking("capped", parts)).await.unwrap_err();
    Told::new(Code::ResourceExhausted, "REQUEST_CAP", "the most that one request may use")
        .check(&status);
    assert_eq!(settled(&meter, "capped", "capped", 1).await.used, nanos(2_400));
}

#[tokio::test]
async fn of_a_server_that_cannot() {
    let clock = november();
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(&*server.url()).await.unwrap();
    let meter = CreditMeter::new(grpc_plan(), ledger, super::echo::tokens());
    drop(server);
    Told::new(Code::Unavailable, "LEDGER_UNREACHABLE", "cannot be checked")
        .retry(1)
        .check(&denied(&meter, "free").await);

    let meter = builder(MemoryLedger::with_clock(clock.clone()), &clock)
        .max_accounts(1.try_into().unwrap())
        .build()
        .unwrap();
    let mut client = connect(serve(&meter).await).await;
    let running = client.stream(asking("free", endless("a"))).await.unwrap();
    Told::new(Code::Unavailable, "BUSY", "too busy").retry(1).check(&denied(&meter, "pro").await);
    drop(running);

    let meter = metered(&clock);
    meter.shutdown().await;
    Told::new(Code::Unavailable, "SHUTTING_DOWN", "shutting down")
        .retry(1)
        .check(&denied(&meter, "free").await);
}

/// The answer does not wait until the caller has sent everything.
#[tokio::test]
async fn of_a_caller_who_would_never_stop_sending() {
    let meter = metered(&november());
    let mut client = connect(serve(&meter).await).await;
    let status = client.stream(asking("none", endless("a"))).await.unwrap_err();
    assert!(
        status.code() == Code::ResourceExhausted && status.message().ends_with("Upgrade to PRO."),
        "{status}"
    );
    let status = client.collect(asking("none", endless("a"))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}
