//! Code that the examples share: settings from the environment, the ledger, a log, and a shutdown
//! within a time limit.

use std::{env, error::Error, io::IsTerminal, sync::Arc, time::Duration};

use tokio::{signal, time::sleep};
use tower_credits::{
    BearerTokens, CreditMeterBuilder, EmbeddedLedger, MemoryLedger, Name, RedisLedger, RedisTokens,
    identify::Identify,
    ledger::{Ledger, LedgerError},
    records::JsonLines,
};
use tracing::level_filters::LevelFilter;

/// Returns the environment variable of this name, or a default.
pub(crate) fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Returns the ledger by `REDIS_URL`, or else by `LEDGER`: a file of this machine, or `memory` for
/// balances that end with the process.
pub(crate) async fn ledger() -> Result<Arc<dyn Ledger>, LedgerError> {
    Ok(match env::var("REDIS_URL") {
        Ok(url) => Arc::new(RedisLedger::connect(url).await?),
        Err(_) => match &*setting("LEDGER", "credits.redb") {
            "memory" => Arc::new(MemoryLedger::new()),
            file => Arc::new(EmbeddedLedger::open(file)?),
        },
    })
}

/// Returns the tokens by `TOKENS`: a file that is followed, or `redis` for those that `credits
/// tokens` issues, in the Redis of `REDIS_URL`. A browser's token is in the cookie of this name.
#[allow(dead_code, reason = "some of the examples do")]
pub(crate) async fn tokens(cookie: Name) -> Result<Arc<dyn Identify>, Box<dyn Error>> {
    Ok(match &*setting("TOKENS", "examples/tokens.toml") {
        "redis" => {
            let url = env::var("REDIS_URL").map_err(|_| "TOKENS=redis needs REDIS_URL")?;
            Arc::new(RedisTokens::builder(url).or_cookie(cookie).connect().await?)
        }
        file => Arc::new(BearerTokens::watch(file)?.or_cookie(cookie)),
    })
}

/// Keeps a journal, if `JOURNAL` names its file.
#[cfg(feature = "journal")]
#[allow(dead_code, reason = "one of the examples does")]
pub(crate) fn journaled(
    builder: CreditMeterBuilder,
) -> Result<CreditMeterBuilder, tower_credits::meter::JournalError> {
    Ok(match env::var("JOURNAL") {
        Ok(file) => builder.journal(tower_credits::Journal::open(file)?),
        Err(_) => builder,
    })
}

/// There is none without the feature `journal`.
#[cfg(not(feature = "journal"))]
#[allow(dead_code, reason = "one of the examples does")]
pub(crate) fn journaled(
    builder: CreditMeterBuilder,
) -> Result<CreditMeterBuilder, std::convert::Infallible> {
    Ok(builder)
}

/// Keeps the cost of each request for a day, and writes usage records if `RECORDS` names a file for
/// them.
#[allow(dead_code, reason = "some of the examples do")]
pub(crate) fn accounted(builder: CreditMeterBuilder) -> std::io::Result<CreditMeterBuilder> {
    let builder = builder.keep_costs(Duration::from_secs(24 * 60 * 60));
    Ok(match env::var("RECORDS") {
        Ok(file) => builder.records(JsonLines::file(file)?),
        Err(_) => builder,
    })
}

/// Installs a recorder of metrics. It has to be there before the meter is built. Without buckets,
/// the exporter would make summaries of histograms, which cannot be added up over nodes.
#[cfg(feature = "metrics")]
#[allow(dead_code, reason = "some of the examples do")]
pub(crate) fn recorder()
-> Result<metrics_exporter_prometheus::PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
    // From a call of a ledger nearby to a stream of a minute. docs/monitoring.md has the same.
    let seconds = [
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
    ];
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)?
        .install_recorder()?;
    // Values of histograms are kept one by one until somebody reads the page, or this is done.
    tokio::spawn({
        let recorder = recorder.clone();
        async move {
            loop {
                sleep(Duration::from_secs(5)).await;
                recorder.run_upkeep();
            }
        }
    });
    Ok(recorder)
}

/// Adds `GET /metrics`, for Prometheus. It is not metered, and for everybody who reaches this port.
#[cfg(feature = "metrics")]
#[allow(dead_code, reason = "some of the examples do")]
pub(crate) fn with_metrics(
    app: axum::Router,
    meter: &tower_credits::CreditMeter,
    recorder: metrics_exporter_prometheus::PrometheusHandle,
) -> axum::Router {
    let meter = meter.clone();
    let render = move || {
        meter.update_gauges();
        std::future::ready(recorder.render())
    };
    app.route("/metrics", axum::routing::get(render))
}

pub(crate) fn log() {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::INFO)
        .with_ansi(std::io::stdout().is_terminal())
        .with_target(false)
        .init();
}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) async fn stopped() {
    let interrupted = async { signal::ctrl_c().await.ok() };
    #[cfg(unix)]
    let terminated = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<Option<()>>();
    tokio::select! {
        _ = interrupted => {}
        _ = terminated => {}
    }
}

/// Time that running requests have to end after the signal to stop. A stalled upload would never
/// end.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Serves until the signal to stop, and then until all is answered or [`GRACE`] is over.
#[allow(dead_code, reason = "one of the examples has its own loop")]
pub(crate) async fn within_grace<E>(serving: impl Future<Output = Result<(), E>>) -> Result<(), E> {
    let over = async {
        stopped().await;
        sleep(GRACE).await;
    };
    tokio::select! {
        served = serving => served,
        () = over => Ok(()),
    }
}
