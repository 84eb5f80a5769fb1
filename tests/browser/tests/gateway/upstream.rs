//! A model's server that answers word by word, when the test lets it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore};

/// The answer to every message, unless that asks to count.
pub const ANSWER: [&str; 8] =
    ["Air ", "scatters ", "blue ", "light ", "more ", "than ", "red ", "light."];

pub struct Upstream {
    pub url: String,
    state: Arc<Shared>,
}

struct Shared {
    /// Each word, and each SQL, takes one.
    words: Semaphore,
    /// Answers that have not ended.
    open: AtomicUsize,
    /// The answer to the next question about a table.
    sql: Mutex<String>,
    /// Bodies of all requests.
    requests: Mutex<Vec<Value>>,
}

/// Counts as an answer while it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(state: &Arc<Shared>) -> Self {
        state.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }

    async fn next_word(&self) {
        self.0.words.acquire().await.unwrap().forget();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Upstream {
    pub async fn start() -> Self {
        let state = Arc::new(Shared {
            words: Semaphore::new(0),
            open: AtomicUsize::new(0),
            sql: Mutex::default(),
            requests: Mutex::default(),
        });
        let app = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(complete))
            .with_state(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, state }
    }

    /// Lets it answer so many words more.
    pub fn let_say(&self, words: usize) {
        self.state.words.add_permits(words);
    }

    pub fn set_sql(&self, sql: &str) {
        sql.clone_into(&mut self.state.sql.lock().unwrap());
    }

    pub fn open_answers(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// The latest request, and how many there were.
    pub fn latest(&self) -> (Value, usize) {
        let requests = self.state.requests.lock().unwrap();
        (requests.last().cloned().unwrap_or_default(), requests.len())
    }
}

impl Shared {
    fn note(&self, body: &str) -> Value {
        let body: Value = serde_json::from_str(body).unwrap();
        self.requests.lock().unwrap().push(body.clone());
        body
    }
}

/// What is said as the word of this number: an endless count, if that is asked for.
fn word(counts: bool, number: usize) -> Option<String> {
    if counts {
        return Some(format!("{} ", number + 1));
    }
    ANSWER.get(number).map(|&word| word.to_owned())
}

fn event(delta: Value, finish: Option<&str>) -> String {
    let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
    let chunk = json!({ "object": "chat.completion.chunk", "choices": [choice] });
    format!("data: {chunk}\n\n")
}

async fn chat(State(state): State<Arc<Shared>>, body: String) -> Response {
    let asked = state.note(&body);
    let question = asked["messages"].as_array().unwrap().last().unwrap()["content"].as_str();
    let counts = question.unwrap().starts_with("Count");
    let begin = Some((Open::new(&state), 0));
    let events = stream::unfold(begin, move |at| async move {
        let (open, number) = at?;
        if number == 0 {
            return Some((event(json!({ "role": "assistant" }), None), Some((open, 1))));
        }
        let Some(text) = word(counts, number - 1) else {
            let end = format!("{}data: [DONE]\n\n", event(json!({}), Some("stop")));
            return Some((end, None));
        };
        open.next_word().await;
        Some((event(json!({ "content": text }), None), Some((open, number + 1))))
    });
    let events = futures_util::StreamExt::map(events, Ok::<_, std::convert::Infallible>);
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}

async fn complete(State(state): State<Arc<Shared>>, body: String) -> Response {
    state.note(&body);
    Open::new(&state).next_word().await;
    let sql = format!("{}\n", state.sql.lock().unwrap());
    let answer = json!({ "choices": [{ "index": 0, "text": sql, "finish_reason": "stop" }] });
    ([("content-type", "application/json")], answer.to_string()).into_response()
}
