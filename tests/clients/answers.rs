//! The services behind the meter, over HTTP: what those of OpenAI and Anthropic answer to "hello",
//! and a place for uploads.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tower_credits::Identity;

const TEXT: &str = "hello";

pub(crate) fn router() -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/messages", post(messages))
        .route("/upload", post(upload))
}

/// `true` if what a caller gets is to be cut off: it does not end by itself.
pub(crate) fn is_cut(caller: &Identity) -> bool {
    ["cut", "torn"].contains(&caller.tier.as_str())
}

async fn chat(Extension(caller): Extension<Arc<Identity>>, body: Bytes) -> Response {
    if caller.tier.as_str() == "torn" {
        return frames(&caller, "application/octet-stream", vec!["some".into(), "bytes".into()]);
    }
    if !wants_events(&body) {
        let message = json!({ "role": "assistant", "content": TEXT });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        let usage = json!({ "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 });
        return json(&json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_764_349_200,
            "model": "echo", "choices": [choice], "usage": usage,
        }));
    }
    let chunk = |delta: Value, reason: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
        let chunk = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_764_349_200,
            "model": "echo", "choices": [choice],
        });
        format!("data: {chunk}\n\n")
    };
    let chunks = vec![
        chunk(json!({ "role": "assistant", "content": "" }), Value::Null),
        chunk(json!({ "content": TEXT }), Value::Null),
        chunk(json!({}), "stop".into()),
        "data: [DONE]\n\n".to_owned(),
    ];
    frames(&caller, "text/event-stream", chunks)
}

async fn messages(Extension(caller): Extension<Arc<Identity>>, body: Bytes) -> Response {
    let text = |text: &str| json!({ "type": "text", "text": text });
    let message = |content: &[Value], stop_reason: Value| {
        json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "echo",
            "content": content, "stop_reason": stop_reason, "stop_sequence": null,
            "usage": { "input_tokens": 1, "output_tokens": 1 },
        })
    };
    if !wants_events(&body) {
        return json(&message(&[text(TEXT)], "end_turn".into()));
    }
    let delta = json!({ "type": "text_delta", "text": TEXT });
    let end = json!({ "stop_reason": "end_turn", "stop_sequence": null });
    let events = [
        json!({ "type": "message_start", "message": message(&[], Value::Null) }),
        json!({ "type": "content_block_start", "index": 0, "content_block": text("") }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "delta": end, "usage": { "output_tokens": 1 } }),
        json!({ "type": "message_stop" }),
    ];
    let named = |event: &Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    };
    frames(&caller, "text/event-stream", events.iter().map(named).collect())
}

/// Reads whatever comes.
async fn upload(body: Body) -> String {
    let mut chunks = body.into_data_stream();
    let mut bytes = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        bytes += chunk.len();
    }
    format!("{bytes} bytes")
}

fn wants_events(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|body| body["stream"] == true)
}

fn json(answer: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], answer.to_string()).into_response()
}

/// Streams these frames. What is to be cut off goes on after its second.
fn frames(caller: &Identity, content_type: &'static str, frames: Vec<String>) -> Response {
    let frames = stream::iter(frames.into_iter().map(Ok::<_, Infallible>));
    let body = if is_cut(caller) {
        Body::from_stream(frames.take(2).chain(stream::pending()))
    } else {
        Body::from_stream(frames)
    };
    ([(CONTENT_TYPE, content_type)], body).into_response()
}
