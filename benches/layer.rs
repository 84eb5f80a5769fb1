//! What the layer adds to a call, in memory: `cargo bench`. Compare the rows of one run with each other, not runs with runs.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

use std::convert::Infallible;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Builder;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_credits::{Account, Ahead, CreditMeter, Identity, IdentityFromExtensions, MemoryLedger, Plan};

const PLAN: &str = r#"
[hardware.cpu]
price_per_second = "0.00012"
[models.echo]
hardware = "cpu"
[routes]
"/models/{model}" = { model = "{model}" }
"/health" = "free"
[tiers.pro]
included = "2.00"
when_used_up = "pay-as-you-go"
"#;

fn layer(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let echo = service_fn(|_: Request<Full<Bytes>>| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"echo")))) });
    let identity = Identity::new("alice".parse().unwrap(), Account::user("alice").unwrap(), "pro".parse().unwrap());
    let request = |path: &'static str| {
        let identity = identity.clone();
        move || Request::post(path).extension(identity.clone()).body(Full::new(Bytes::new())).unwrap()
    };
    let builder = || CreditMeter::builder(Plan::from_toml(PLAN).unwrap(), MemoryLedger::new(), IdentityFromExtensions);
    let strict = builder().build().unwrap();
    let ahead = builder().ahead(Ahead::default()).build().unwrap();

    let mut group = c.benchmark_group("call");
    group.bench_function("bare", |b| run(b, &runtime, &echo, request("/models/echo")));
    group.bench_function("free path", |b| run(b, &runtime, &strict.layer(echo), request("/health")));
    group.bench_function("ahead", |b| run(b, &runtime, &ahead.layer(echo), request("/models/echo")));
    group.bench_function("strict", |b| run(b, &runtime, &strict.layer(echo), request("/models/echo")));
    group.finish();
}

fn run<S, B>(b: &mut criterion::Bencher<'_>, runtime: &tokio::runtime::Runtime, service: &S, request: impl Fn() -> Request<Full<Bytes>>)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    b.to_async(runtime).iter_batched(
        || (service.clone(), request()),
        |(service, request)| async move { service.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes() },
        BatchSize::SmallInput,
    );
}

criterion_group!(benches, layer);
criterion_main!(benches);
