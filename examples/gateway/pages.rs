//! The pages that use the models: a playground and Data Studio. Their requests are paid from the
//! same credits as the API's, each under its own feature.

use std::{error::Error, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Query, Request, State},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    request::Parts,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_credits::{ComputeClock, CreditMeter, Identity, plan::Workload};

use crate::{
    costs::Costs,
    proxy::{Proxy, problem},
    studio::{Studio, StudioError, Table, grammar, prompt},
    workload,
};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The most bytes of an answer of the model's server that has SQL.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// The most tokens of a question's SQL.
const MAX_SQL_TOKENS: u32 = 120;

#[derive(Clone)]
struct Pages {
    meter: CreditMeter,
    proxy: Arc<Proxy>,
    costs: Arc<Costs>,
    studio: Arc<Studio>,
}

/// The pages themselves, which nobody pays for.
pub(crate) fn public() -> Router {
    let page =
        |html: &'static str| get(async move || ([(CONTENT_SECURITY_POLICY, POLICY)], Html(html)));
    let script = |text: &'static str| file("text/javascript; charset=utf-8", text);
    Router::new()
        .route("/", get(async || Redirect::to("/playground")))
        .route("/playground", page(include_str!("pages/playground.html")))
        .route("/data-studio", page(include_str!("pages/data-studio.html")))
        .route("/pages/credits.js", script(include_str!("pages/credits.js")))
        .route("/pages/playground.js", script(include_str!("pages/playground.js")))
        .route("/pages/data-studio.js", script(include_str!("pages/data-studio.js")))
        .route("/pages/pages.css", file("text/css; charset=utf-8", include_str!("pages/pages.css")))
}

fn file(content_type: &'static str, text: &'static str) -> axum::routing::MethodRouter {
    get(async move || ([(CONTENT_TYPE, content_type)], text))
}

/// What the pages ask for. The meter goes around it.
pub(crate) fn metered(
    meter: &CreditMeter,
    proxy: Arc<Proxy>,
    costs: Arc<Costs>,
) -> Result<Router, Box<dyn Error>> {
    let pages = Pages { meter: meter.clone(), proxy, costs, studio: Arc::new(Studio::new()?) };
    Ok(Router::new()
        .route("/playground/chat/completions", post(chat))
        .route("/playground/prices", get(prices))
        .route("/playground/cost", post(cost))
        .route("/data-studio/sql", post(sql))
        .route("/data-studio/table", get(table).put(upload))
        .route("/data-studio/query", post(query))
        .layer(DefaultBodyLimit::max(2 << 20))
        .with_state(pages))
}

async fn chat(
    State(pages): State<Pages>,
    clock: Option<Extension<ComputeClock>>,
    request: Request,
) -> Response {
    let workload = workload(clock);
    pages.proxy.send(workload.as_deref(), "/v1/chat/completions", request).await
}

async fn prices(State(pages): State<Pages>) -> Response {
    let plan = pages.meter.plan().current();
    let feature = "playground".parse().ok();
    let price = |model: &tower_credits::Name| {
        let Workload { hardware, price, .. } =
            &*plan.workload(model.as_str(), feature.as_ref()?)?;
        Some(json!({
            "model": model.as_str(),
            "hardware": hardware.as_str(),
            "price_per_second_nano_usd": price.a_second().as_nano_usd(),
        }))
    };
    let models: Vec<_> = plan.models().iter().filter_map(price).collect();
    Json(json!({ "models": models })).into_response()
}

#[derive(Deserialize)]
struct CostQuestion {
    request_id: String,
}

/// Says what a request cost, to whoever knows its random id.
async fn cost(State(pages): State<Pages>, Json(asked): Json<CostQuestion>) -> Response {
    pages.costs.of(&asked.request_id).map_or_else(
        || problem(StatusCode::NOT_FOUND, "The cost of this request is not known (yet)."),
        |cost| Json(cost).into_response(),
    )
}

#[derive(Deserialize)]
struct Question {
    question: String,
    model: String,
}

/// Lets the model write SQL.
async fn sql(
    State(pages): State<Pages>,
    clock: Option<Extension<ComputeClock>>,
    Extension(identity): Extension<Arc<Identity>>,
    Json(Question { question, model }): Json<Question>,
) -> Response {
    let workload = workload(clock);
    let table = pages.studio.table(&identity.account.to_string());
    match ask_for_sql(&pages, workload.as_deref(), &table, &question, &model).await {
        Ok(sql) => Json(json!({ "sql": sql })).into_response(),
        Err(refusal) => refusal,
    }
}

async fn ask_for_sql(
    pages: &Pages,
    workload: Option<&Workload>,
    table: &Table,
    question: &str,
    model: &str,
) -> Result<String, Response> {
    let body = json!({
        "model": model,
        "prompt": prompt(table, question),
        "grammar": grammar(table),
        "temperature": 0,
        "max_tokens": MAX_SQL_TOKENS,
    });
    let mut request = Request::new(Body::from(body.to_string()));
    *request.method_mut() = Method::POST;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let response = pages.proxy.send(workload, "/v1/completions", request).await;
    if !response.status().is_success() {
        return Err(response);
    }
    let unreadable = || {
        problem(StatusCode::BAD_GATEWAY, "The model's server gave an answer that cannot be read.")
    };
    let answer = axum::body::to_bytes(response.into_body(), MAX_ANSWER_BYTES)
        .await
        .map_err(|_| unreadable())?;
    let answer: Value = serde_json::from_slice(&answer).map_err(|_| unreadable())?;
    let text = answer.pointer("/choices/0/text").and_then(Value::as_str);
    text.map(|text| text.trim().to_owned()).ok_or_else(unreadable)
}

/// The account whose table a request is about.
async fn owner(pages: &Pages, parts: &Parts) -> Result<String, Response> {
    let identity = pages.meter.identify(parts.into()).await;
    identity
        .map(|identity| identity.account.to_string())
        .map_err(|error| tower_credits::Rejection::from(error).into_response())
}

async fn table(State(pages): State<Pages>, parts: Parts) -> Result<Response, Response> {
    let owner = owner(&pages, &parts).await?;
    Ok(Json(pages.studio.table(&owner)).into_response())
}

#[derive(Deserialize)]
struct Upload {
    name: String,
}

async fn upload(
    State(pages): State<Pages>,
    Query(Upload { name }): Query<Upload>,
    parts: Parts,
    csv: Bytes,
) -> Result<Response, Response> {
    let owner = owner(&pages, &parts).await?;
    blocking(move || pages.studio.put(&owner, &name, &csv)).await
}

#[derive(Deserialize)]
struct SqlQuery {
    sql: String,
}

async fn query(
    State(pages): State<Pages>,
    parts: Parts,
    Json(SqlQuery { sql }): Json<SqlQuery>,
) -> Result<Response, Response> {
    let owner = owner(&pages, &parts).await?;
    blocking(move || pages.studio.query(&owner, &sql)).await
}

/// Runs what blocks, on a thread for that.
async fn blocking<T: serde::Serialize + Send + 'static>(
    run: impl FnOnce() -> Result<T, StudioError> + Send + 'static,
) -> Result<Response, Response> {
    match tokio::task::spawn_blocking(run).await {
        Ok(Ok(answer)) => Ok(Json(answer).into_response()),
        Ok(Err(error)) => {
            let status = StatusCode::from_u16(error.status());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(problem(status, &error.to_string()))
        }
        Err(_) => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, "The database failed.")),
    }
}
