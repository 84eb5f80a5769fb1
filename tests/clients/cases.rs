//! The accounts and the meters of the cases, which a request's bearer token names.

use std::{
    convert::Infallible,
    future::{pending, ready},
    mem,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{self, Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_credits::{
    Account, CreditMeter, Credits, Identity, MemoryLedger, Period, Plan,
    identify::{IdentifyError, IdentifyWith, RequestHead},
    ledger::{Amendment, Answer, Ledger, LedgerFuture, Renewal, Statement, Terms},
};

use super::seen::bearer_token;

/// Each case has a tier of its name.
const PLAN: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"

[models.echo]
hardware = "gpu-small"

[routes]
"/v1/chat/completions" = { model = "{body:model}" }
"/v1/messages" = { model = "{body:model}" }
"/upload" = { model = "echo" }
"/denoise.v1.Denoise/{*method}" = { model = "echo" }

[tiers.good]
included = "2.00"
when_used_up = "pay-as-you-go"

[tiers.used-up]
included = "0"
when_used_up = "block"
hint = "Upgrade to PRO."

[tiers.limited]
included = "0"
when_used_up = "pay-as-you-go"

[tiers.rate-short]
included = "2.00"
when_used_up = "block"
requests = { count = 1, per = "1s" }

[tiers.rate-long]
included = "2.00"
when_used_up = "block"
requests = { count = 1, per = "1h" }

[tiers.on-hold]                # a day, all of which one request holds
included = "10.368"
when_used_up = "block"
hold = "24h"

[tiers.away]
included = "2.00"
when_used_up = "block"

[tiers.cut]                    # 300 ms
included = "0.000036"
when_used_up = "block"
midway = "stop"

[tiers.torn]
included = "0.000036"
when_used_up = "block"
midway = "stop"
"#;

const CASES: [&str; 9] =
    ["good", "used-up", "limited", "rate-short", "rate-long", "on-hold", "away", "cut", "torn"];

/// The largest body of which the model is read.
const MAX_REQUEST_BODY: usize = 1 << 20;

/// Two meters of one plan, of which one's ledger does not answer.
#[derive(Clone)]
pub(crate) struct Meters {
    usual: CreditMeter,
    away: CreditMeter,
}

impl Meters {
    /// Builds the meters, and prepares the accounts: `limited` gets its owner's limit, and a
    /// request of `on-hold` begins that runs on.
    pub(crate) async fn start() -> Self {
        let ledger = MemoryLedger::new();
        let limited = Account::user("limited").unwrap();
        ledger.amend(&limited, Amendment::SpendingLimit(Some(Credits::ZERO))).await.unwrap();
        let meters = Self { usual: meter(ledger), away: meter(Silent) };

        let runs_on = meters
            .usual
            .layer(service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>()));
        let on_hold = caller_of("on-hold");
        tokio::spawn(runs_on.oneshot(other_request(&on_hold)));
        loop {
            if !meters.usual.statement(&on_hold, None).await.unwrap().held.is_zero() {
                return meters;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns a layer that meters each request with the meter of its case.
    pub(crate) fn layer<L>(&self, layer_of: impl Fn(&CreditMeter) -> L) -> ByCase<L> {
        let (usual, away) = (layer_of(&self.usual), layer_of(&self.away));
        ByCase { usual, away, meter: self.usual.clone() }
    }
}

fn meter(ledger: impl Ledger) -> CreditMeter {
    let identify = IdentifyWith::new(|head| ready(identify(head)));
    CreditMeter::builder(Plan::from_toml(PLAN).unwrap(), ledger, identify)
        .max_request_body(MAX_REQUEST_BODY)
        .build()
        .unwrap()
}

fn identify(head: RequestHead<'_>) -> Result<Identity, IdentifyError> {
    if !head.headers.contains_key(AUTHORIZATION) {
        return Err(IdentifyError::Missing);
    }
    head.extensions.get::<Identity>().cloned().ok_or(IdentifyError::Invalid)
}

fn case_of(headers: &HeaderMap) -> Option<&'static str> {
    let name = bearer_token(headers)?.split('.').next()?;
    CASES.into_iter().find(|case| *case == name)
}

/// Returns the caller of a request. Cases that change their account have one for each request.
fn caller_of(case: &str) -> Identity {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let account = match case {
        "rate-short" | "rate-long" | "cut" | "torn" => {
            format!("{case}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
        }
        _ => case.to_owned(),
    };
    let account = Account::user(&account).unwrap();
    Identity::new(case.parse().unwrap(), account, case.parse().unwrap())
}

/// Returns a request of this account that is not a client's.
fn other_request(caller: &Identity) -> Request<Body> {
    let request = Request::post("/upload").header(AUTHORIZATION, "Bearer other");
    request.extension(caller.clone()).body(Body::empty()).unwrap()
}

/// Layer that meters each request with the layer of its case.
#[derive(Clone)]
pub(crate) struct ByCase<L> {
    usual: L,
    away: L,
    meter: CreditMeter,
}

impl<S: Clone, L: Layer<S>> Layer<S> for ByCase<L> {
    type Service = ByCase<L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        let (usual, away) = (self.usual.layer(inner.clone()), self.away.layer(inner));
        ByCase { usual, away, meter: self.meter.clone() }
    }
}

impl<S, B> Service<Request<B>> for ByCase<S>
where
    S: Service<Request<B>, Future: Send> + Clone + Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        task::ready!(self.usual.poll_ready(cx))?;
        self.away.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let case = case_of(request.headers());
        let caller = case.map(caller_of);
        if let Some(caller) = &caller {
            request.extensions_mut().insert(caller.clone());
        }
        let chosen = if case == Some("away") { &mut self.away } else { &mut self.usual };
        let clone = chosen.clone();
        let mut service = mem::replace(chosen, clone);
        let meter = self.meter.clone();
        Box::pin(async move {
            // The quota is one request, which somebody else has made just before.
            if let Some(caller) = caller.filter(|caller| caller.tier.as_str().starts_with("rate-"))
            {
                let other =
                    service_fn(|_| ready(Ok::<_, Infallible>(Response::new(Body::empty()))));
                drop(meter.layer(other).oneshot(other_request(&caller)).await);
            }
            service.call(request).await
        })
    }
}

/// A ledger that does not answer.
#[derive(Debug)]
struct Silent;

impl Ledger for Silent {
    fn renew<'a>(
        &'a self,
        _: &'a Account,
        _: Period,
        _: &'a Renewal,
        _: Duration,
    ) -> LedgerFuture<'a, Answer> {
        Box::pin(pending())
    }

    fn statement<'a>(
        &'a self,
        _: &'a Account,
        _: Period,
        _: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        Box::pin(pending())
    }

    fn amend<'a>(&'a self, _: &'a Account, _: Amendment) -> LedgerFuture<'a, bool> {
        Box::pin(pending())
    }
}
