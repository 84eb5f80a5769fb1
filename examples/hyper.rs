//! The denoising server on hyper, without a framework. HTTP/1.1 and HTTP/2 on one port: `POST
//! /models/rnnoise` and `GET /health`.
//!
//! Settings are environment variables: `ADDR`, `PLAN`, `TOKENS`, and for balances `REDIS_URL`, or
//! without it `LEDGER`: a file (`credits.redb`), or `memory`.

mod denoise;
mod process;

use std::{convert::Infallible, error::Error, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyStream, Either, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{Layer, service_fn};
use tower_credits::{BearerTokens, BoxError, ComputeClock, CreditMeter, PlanFile};

use self::process::setting;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    process::log();
    let plan = PlanFile::watch(setting("PLAN", "examples/plan.toml"))?;
    let tokens = BearerTokens::watch(setting("TOKENS", "examples/tokens.toml"))?;
    let meter = CreditMeter::new(plan, process::ledger().await?, tokens);

    let service = TowerToHyperService::new(meter.layer(service_fn(answer)));
    let listener = TcpListener::bind(setting("ADDR", "127.0.0.1:3000")).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let (server, graceful) = (Builder::new(TokioExecutor::new()), GracefulShutdown::new());
    let mut stopped = pin!(process::stopped());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => break,
        };
        let (connection, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The client is gone again, or no file descriptor is left: try the next one.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        drop(connection.set_nodelay(true));
        let connection =
            server.serve_connection(TokioIo::new(connection), service.clone()).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    drop(listener);
    // Running requests may go on for a while, and are charged.
    drop(tokio::time::timeout(process::GRACE, graceful.shutdown()).await);

    let settlement = meter.shutdown().await;
    tracing::info!(
        settled = %settlement.settled,
        unsettled = settlement.unsettled.len(),
        "shut down"
    );
    Ok(())
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = BoxError> + Send>, Infallible> {
    let text = |text: &'static str| Either::Left(Full::from(text));
    let (parts, body) = request.into_parts();
    let clock = parts.extensions.get::<ComputeClock>().cloned();
    Ok(match (parts.method, parts.uri.path(), clock) {
        (Method::POST, "/models/rnnoise", Some(clock)) => {
            let pcm =
                BodyStream::new(body).try_filter_map(async |frame| Ok(frame.into_data().ok()));
            let denoised = StreamBody::new(denoise::denoised(pcm, clock).map_ok(Frame::data));
            let mut response = Response::new(Either::Right(denoised));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, http::HeaderValue::from_static(denoise::CONTENT_TYPE));
            response
        }
        (Method::GET, "/health", _) => Response::new(text("ok\n")),
        _ => {
            let mut response = Response::new(text("not found\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}
