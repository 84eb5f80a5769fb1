//! A gateway that puts credits in front of any OpenAI-compatible server: vLLM, SGLang, llama.cpp,
//! TGI, TEI, Ollama.
//!
//! * `/v1/…`, and every other path that the plan has, is the server's own API. The caller's token
//!   pays, and never reaches the server.
//! * `GET /v1/models` lists the models of the plan, for who has a token.
//! * `/playground` and `/data-studio` are pages that use the models; `/billing` is the bill.
//! * `GET /metrics`, with the feature `metrics`, is for Prometheus.
//!
//! Settings are environment variables:
//!
//! * `ADDR`, `PLAN` and `TOKENS` (a file, or `redis` for those that `credits tokens` issues);
//! * for balances `REDIS_URL`, or without it `LEDGER`: a file (`credits.redb`), or `memory`;
//! * `UPSTREAM`, the server, default `http://127.0.0.1:8080`, and `UPSTREAM_KEY`, its API key;
//! * `UPSTREAMS`, other servers for some models: `whisper=http://127.0.0.1:8081,…`.

mod costs;
mod pages;
#[path = "../process/mod.rs"]
mod process;
mod proxy;
mod studio;

use std::{env, error::Error, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt,
};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_credits::{
    ComputeClock, CreditMeter, Name, PlanFile, billing,
    plan::{PlanHandle, Workload},
};

use self::{
    costs::Costs,
    process::setting,
    proxy::{Proxy, Upstreams, problem},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    process::log();
    let plan = PlanFile::watch(setting("PLAN", "examples/gateway/plan.toml"))?;
    let tokens = process::tokens("tower-credits-token".parse()?).await?;
    #[cfg(feature = "metrics")]
    let recorder = process::recorder()?;
    let builder = CreditMeter::builder(plan, process::ledger().await?, tokens)
        .usage_headers(true)
        // A server that refuses or fails has computed nothing. A caller who does not wait for the
        // head pays.
        .bill_if_head(|head| head.is_none_or(|head| head.status.is_success()))
        .max_request_body(32 << 20); // recordings and images
    let meter = process::accounted(builder)?.build()?;
    let upstreams = Upstreams::from_settings(
        &setting("UPSTREAM", "http://127.0.0.1:8080"),
        env::var("UPSTREAMS").ok().as_deref(),
        env::var("UPSTREAM_KEY").ok().as_deref(),
    )?;
    let proxy = Arc::new(Proxy::new(upstreams)?);
    let app = router(&meter, proxy)?;
    #[cfg(feature = "metrics")]
    let app = process::with_metrics(app, &meter, recorder);

    let listener = TcpListener::bind(setting("ADDR", "127.0.0.1:3000")).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    // Small chunks of a stream must not wait until the client has acknowledged earlier ones.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    process::within_grace(
        axum::serve(listener, app).with_graceful_shutdown(process::stopped()).into_future(),
    )
    .await?;

    let settlement = meter.shutdown().await;
    tracing::info!(
        settled = %settlement.settled,
        unsettled = settlement.unsettled.len(),
        "shut down"
    );
    Ok(())
}

fn router(meter: &CreditMeter, proxy: Arc<Proxy>) -> Result<Router, Box<dyn Error>> {
    let costs = Arc::new(Costs::default());
    let metered = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/health", get(async || "ok\n"))
        // The plan says which other paths there are.
        .fallback(forward)
        .with_state((Arc::clone(&proxy), meter.plan().clone()))
        .merge(pages::metered(meter, proxy, Arc::clone(&costs))?)
        .layer(meter.buffer_bodies())
        .layer(middleware::from_fn_with_state(costs, costs::note));
    // The last router's answer to unknown paths counts: the meter's.
    Ok(pages::public().merge(billing::router(meter)).merge(metered))
}

type Gateway = (Arc<Proxy>, PlanHandle);

/// Sends a request to the server of its model.
async fn forward(
    State((proxy, _)): State<Gateway>,
    clock: Option<Extension<ComputeClock>>,
    request: Request,
) -> Response {
    let workload = workload(clock);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    proxy.send(workload.as_deref(), &path, request).await
}

/// Returns what a request is billed as; `None` on a path that the plan does not meter. The clock is
/// dropped: while it lives, the meter waits for a report.
fn workload(clock: Option<Extension<ComputeClock>>) -> Option<Arc<Workload>> {
    clock.and_then(|Extension(clock)| clock.workload())
}

/// Says that there is a model, as OpenAI's API does.
async fn model(State((_, plan)): State<Gateway>, Path(id): Path<String>) -> Response {
    match plan.current().models().iter().find(|model| model.as_str() == id) {
        Some(name) => Json(described(name)).into_response(),
        None => problem(StatusCode::NOT_FOUND, "This server does not offer this model."),
    }
}

fn described(model: &Name) -> Value {
    json!({ "id": model.as_str(), "object": "model", "created": 0, "owned_by": "upstream" })
}

/// Lists the plan's models as OpenAI's API does.
async fn models(State((_, plan)): State<Gateway>) -> Response {
    let plan = plan.current();
    let data: Vec<_> = plan.models().iter().map(described).collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}
