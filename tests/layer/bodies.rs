//! Requests whose body says what they run.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{
    CreditMeter, CreditMeterBuilder, MemoryLedger, Plan, Rejection,
    clock::TokioClock,
    identify::{IdentifyError, IdentifyWith, IdentityFromExtensions},
    meter::{BufferedBody, MeterBody},
};

use crate::support::{
    bodies::{Fed, Frames},
    *,
};

const ROUTES: &str = "[models.large]\nhardware = \"gpu-small\"\n[models.small]\nhardware = \
                      \"gpu-small\"\n[routes]\n\"/v1/{*any}\" = { model = \"{body:model}\", \
                      denials = \"openai\" }\n\"/list\" = \"authenticated\"\n";

fn plan_by_body() -> Plan {
    Plan::from_toml(&PLAN.replace("[routes]\n", ROUTES)).unwrap()
}

fn builder() -> CreditMeterBuilder {
    CreditMeter::builder(plan_by_body(), MemoryLedger::new(), IdentityFromExtensions)
        .report_within(Duration::from_millis(20))
        .clock(TokioClock)
}

fn asked<B>(content_type: &str, body: B) -> Request<B> {
    Request::post("/v1/chat/completions")
        .header("content-type", content_type)
        .extension(identity("alice", "pro"))
        .body(body)
        .unwrap()
}

/// What the service got: its frames, joined where they are data.
#[derive(Clone, Debug, Default, PartialEq)]
struct Got {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// Sends a request through the layer. `None` if the service was not called.
async fn send<B>(meter: &CreditMeter, request: Request<B>) -> (Response<Value>, Option<Got>)
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
{
    let got = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&got);
    let service =
        meter.buffer_bodies().layer(service_fn(move |request: Request<BufferedBody<B>>| {
            let seen = Arc::clone(&seen);
            async move {
                let hint = request.body().size_hint();
                let body = Box::pin(request.into_body()).collect().await.unwrap();
                let trailers = body.trailers().cloned();
                let data = body.to_bytes().to_vec();
                assert!(hint.exact().is_none_or(|length| length == data.len() as u64));
                *seen.lock().unwrap() = Some(Got { data, trailers });
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
            }
        }));
    let (parts, body): (_, MeterBody<_>) = service.oneshot(request).await.unwrap().into_parts();
    let body = read(Response::new(body)).await.unwrap();
    let got = got.lock().unwrap().take();
    (Response::from_parts(parts, serde_json::from_slice(&body).unwrap()), got)
}

fn reason(response: &Response<Value>) -> &'static str {
    response.extensions().get::<Rejection>().unwrap().reason()
}

/// The models that were billed, and how often.
async fn billed(meter: &CreditMeter, requests: u64) -> Vec<(String, u64)> {
    let lines = settled(meter, "alice", "pro", requests).await.lines;
    let mut billed: Vec<_> =
        lines.iter().map(|line| (line.model.to_string(), line.usage.requests)).collect();
    billed.sort();
    billed
}

fn form(parts: &[(&str, &str)]) -> (String, Vec<u8>) {
    let mut body = String::new();
    for (head, content) in parts {
        body +=
            &format!("--b0undary\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n");
    }
    ("multipart/form-data; boundary=b0undary".to_owned(), (body + "--b0undary--\r\n").into_bytes())
}

#[tokio::test]
async fn the_model_is_read_from_json_and_forms_and_the_body_is_handed_on_as_it_came() {
    let meter = builder().build().unwrap();
    let json = br#"{ "messages" : [],  "model":"large","stream":true }"#.to_vec();
    let (response, got) =
        send(&meter, asked("application/json", Full::new(Bytes::from(json.clone())))).await;
    assert_eq!(response.status(), StatusCode::OK, "{response:?}");
    assert_eq!(got.unwrap().data, json);

    let (content_type, form) = form(&[
        ("name=\"file\"; filename=\"a.wav\"", "RIFF\u{0}\r\n-"),
        ("name=\"model\"", "small"),
    ]);
    let frames = form.chunks(7).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))));
    let body = Frames::new(frames).with_trailers();
    let (_, got) = send(&meter, asked(&content_type, body)).await;
    let got = got.unwrap();
    assert_eq!((got.data, got.trailers.unwrap().len()), (form, 1), "trailers, too");
    assert_eq!(billed(&meter, 2).await, [("large".to_owned(), 1), ("small".to_owned(), 1)]);
}

#[tokio::test]
async fn what_is_wrong_with_a_body_is_said_with_the_models_that_there_are() {
    let meter = builder().max_request_body(100).build().unwrap();
    let large = format!(r#"{{"model":"large","x":"{}"}}"#, "x".repeat(100));
    for (content_type, body, status, reason_said, says) in [
        (
            "application/json",
            r#"{"model":"huge"}"#,
            404,
            "MODEL_NOT_FOUND",
            "\"huge\". You can use: echo, large, small.",
        ),
        (
            "application/json",
            r#"{"models":"large"}"#,
            400,
            "INVALID_BODY",
            "no field `model`. Add it. You can use: echo",
        ),
        ("application/json", "", 400, "INVALID_BODY", "not valid JSON"),
        (
            "application/json",
            r#"{"model":"small","model":"large"}"#,
            400,
            "INVALID_BODY",
            "more than once",
        ),
        (
            "application/json",
            r#"{"model":"small","MODEL":"large"}"#,
            400,
            "INVALID_BODY",
            "more than once",
        ),
        (
            "application/json",
            r#"{"Model":"large"}"#,
            400,
            "INVALID_BODY",
            "exactly as it is written",
        ),
        ("application/json", "{", 400, "INVALID_BODY", "not valid JSON: EOF"),
        (
            "text/plain",
            r#"{"model":"large"}"#,
            415,
            "BODY_NOT_READABLE",
            "`Content-Type: application/json`",
        ),
        ("application/json", &*large, 413, "BODY_TOO_LARGE", "more than 100 bytes"),
    ] {
        for announced in [true, false] {
            let bytes = Bytes::from(body.to_owned());
            let answer = if announced {
                send(&meter, asked(content_type, Full::new(bytes))).await
            } else {
                let body = Frames::new([Ok(Frame::data(bytes))]);
                send(&meter, asked(content_type, body)).await
            };
            let (response, got) = answer;
            assert_eq!((response.status().as_u16(), reason(&response)), (status, reason_said));
            let error = &response.body()["error"];
            assert!(error["message"].as_str().unwrap().contains(says), "{says}: {error}");
            assert_eq!(got, None, "{says}");
        }
    }
    let mut encoded = asked("application/json", Full::new(Bytes::from_static(b"{}")));
    encoded.headers_mut().insert("content-encoding", http::HeaderValue::from_static("gzip"));
    assert_eq!(reason(&send(&meter, encoded).await.0), "BODY_NOT_READABLE");
    let statement = statement(&meter, "alice", "pro").await;
    assert!(statement.used.is_zero() && statement.held.is_zero(), "nothing ran");
}

/// A hundred thousand levels: more than a stack has room for, if each level took some of it.
#[tokio::test]
async fn json_of_any_depth_is_passed_over() {
    let meter = builder().build().unwrap();
    let levels = 100_000;
    for (open, close) in [("[", "]"), ("{\"model\":", "}")] {
        let deep = format!("{}1{}", open.repeat(levels), close.repeat(levels));
        for body in [
            format!("{{\"x\":{deep},\"model\":\"large\"}}"),
            format!("{{\"model\":\"large\",\"x\":{deep}}}"),
        ] {
            let (response, got) =
                send(&meter, asked("application/json", Full::new(Bytes::from(body.clone())))).await;
            assert_eq!(response.status(), 200);
            assert!(got.unwrap().data == body.as_bytes());
        }
        for body in [
            format!("{{\"model\":{deep}}}"),
            deep.clone(),
            format!("{{\"model\":\"large\",\"x\":{}", open.repeat(levels)),
            format!("{{\"model\":\"large\",\"x\":{}", close.repeat(levels)),
        ] {
            let (response, got) =
                send(&meter, asked("application/json", Full::new(Bytes::from(body)))).await;
            assert_eq!((response.status(), got), (StatusCode::BAD_REQUEST, None));
        }
    }
    assert_eq!(billed(&meter, 4).await, [("large".to_owned(), 4)]);
}

#[tokio::test]
async fn a_list_of_models_is_free_for_who_is_known() {
    let meter = builder().build().unwrap();
    let list = || Request::get("/list").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(send(&meter, list()).await.0.status(), StatusCode::UNAUTHORIZED);
    let mut known = list();
    known.extensions_mut().insert(identity("alice", "none"));
    let (response, got) = send(&meter, known).await;
    assert_eq!((response.status(), got.is_some()), (StatusCode::OK, true), "without credits, too");
}

/// A body that notes that it was polled.
struct Watched(Full<Bytes>, Arc<AtomicBool>);

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.1.store(true, Ordering::SeqCst);
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_before_the_caller_is_known() {
    let polled = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&polled);
    let identify = IdentifyWith::new(move |head| {
        let name = head.headers.get("x-user").map(|name| name.to_str().unwrap().to_owned());
        let seen = Arc::clone(&seen);
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!seen.load(Ordering::SeqCst), "the body was read");
            name.map(|name| identity(&name, "pro")).ok_or(IdentifyError::Missing)
        }
    });
    let meter = CreditMeter::new(plan_by_body(), MemoryLedger::new(), identify);
    let asked = |user: Option<&str>| {
        polled.store(false, Ordering::SeqCst);
        let body = Full::new(Bytes::from_static(br#"{"model":"large"}"#));
        let request = user
            .into_iter()
            .fold(Request::post("/v1/x"), |request, user| request.header("x-user", user));
        request.body(Watched(body, Arc::clone(&polled))).unwrap()
    };
    assert_eq!(reason(&send(&meter, asked(None)).await.0), "UNAUTHENTICATED");
    let (response, got) = send(&meter, asked(Some("alice"))).await;
    assert_eq!((response.status(), got.is_some()), (StatusCode::OK, true));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up_and_a_slow_one_is_not() {
    let meter = builder().build().unwrap();
    let (_feed, body) = Fed::new();
    let began = tokio::time::Instant::now();
    let (response, _) = send(&meter, asked("application/json", body)).await;
    assert_eq!((response.status().as_u16(), reason(&response)), (408, "BODY_STALLED"));
    assert!(began.elapsed() >= Duration::from_secs(60), "{:?}", began.elapsed());

    let (feed, body) = Fed::new();
    let feeding = async {
        feed.send(Bytes::from_static(br#"{"model":"#)).await.unwrap();
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            feed.send(Bytes::from(vec![b' '; 32 << 10])).await.unwrap();
        }
        feed.send(Bytes::from_static(br#""large"}"#)).await.unwrap();
        drop(feed);
    };
    let ((response, got), ()) =
        tokio::join!(send(&meter, asked("application/json", body)), feeding);
    assert_eq!((response.status(), got.is_some()), (StatusCode::OK, true), "{response:?}");
    let statement = settled(&meter, "alice", "pro", 1).await;
    assert!(statement.used < nanos(SLICE), "the upload is not billed: {}", statement.used);
}

#[tokio::test(start_paused = true)]
async fn all_bodies_together_are_bounded_and_their_memory_comes_back() {
    let meter = builder().max_request_body(1_000).max_request_bodies_total(1_500).build().unwrap();
    let (feed, body) = Fed::new();
    let first = tokio::spawn({
        let meter = meter.clone();
        async move { send(&meter, asked("application/json", body)).await }
    });
    feed.send(Bytes::from(vec![b' '; 900])).await.unwrap();
    eventually(async || (feed.capacity() == feed.max_capacity()).then_some(())).await;
    let padded = || Bytes::from(format!(r#"{{"model":"large","x":"{}"}}"#, "x".repeat(700)));
    let (response, _) = send(&meter, asked("application/json", Full::new(padded()))).await;
    assert_eq!((response.status().as_u16(), reason(&response)), (503, "BUSY"));
    drop(feed);
    assert_eq!(reason(&first.await.unwrap().0), "INVALID_BODY");
    let (response, _) = send(&meter, asked("application/json", Full::new(padded()))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(builder().max_request_body(2).max_request_bodies_total(1).build().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_while_the_body_is_read_leaves_nothing() {
    let meter = builder().build().unwrap();
    let (feed, body) = Fed::new();
    let sending = send(&meter, asked("application/json", body));
    assert!(tokio::time::timeout(Duration::from_secs(1), sending).await.is_err());
    assert!(feed.is_closed());
    let statement = statement(&meter, "alice", "pro").await;
    assert!(statement.used.is_zero() && statement.held.is_zero() && statement.requests() == 0);
}

/// A buffer that tells when it is freed.
struct Buffer(Arc<AtomicUsize>, [u8; 8 << 10]);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A byte that comes alone would keep the whole buffer alive that it was read into.
#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_in_keeps_no_buffers() {
    let meter = builder().build().unwrap();
    let alive = counter();
    let (feed, body) = Fed::new();
    let feeding = async {
        for byte in br#"{"model":"large"}"#.iter().chain(&[b' '; 1_000]) {
            alive.fetch_add(1, Ordering::SeqCst);
            let buffer = Bytes::from_owner(Buffer(Arc::clone(&alive), [*byte; 8 << 10]));
            feed.send(buffer.slice(..1)).await.unwrap();
            drop(buffer);
            tokio::task::yield_now().await;
            let kept = alive.load(Ordering::SeqCst);
            assert!(kept <= feed.max_capacity(), "{kept} buffers are kept");
        }
        drop(feed);
    };
    let ((response, got), ()) =
        tokio::join!(send(&meter, asked("application/json", body)), feeding);
    assert_eq!((response.status(), got.is_some()), (StatusCode::OK, true));
}

/// A client that expects 100-continue has been told to go on once its body was read.
#[tokio::test(start_paused = true)]
async fn the_rest_of_a_body_that_is_too_large_is_read_on() {
    let meter = builder().max_request_body(100).build().unwrap();
    let (feed, body) = Fed::new();
    let mut upload = asked("application/json", body);
    upload.headers_mut().insert("expect", http::HeaderValue::from_static("100-continue"));
    let feeding = tokio::spawn(async move {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            feed.send(Bytes::from(vec![b' '; 90])).await.expect("it is read on");
        }
    });
    assert_eq!(reason(&send(&meter, upload).await.0), "BODY_TOO_LARGE");
    feeding.await.unwrap();
}

/// In shadow mode nothing is denied: what cannot be read is handed on, with all that was read.
#[tokio::test]
async fn in_shadow_mode_the_whole_body_is_handed_on() {
    let meter = builder().max_request_body(10).shadow(true).build().unwrap();
    for body in ["x".repeat(9), "x".repeat(1_000)] {
        let frames = body.as_bytes().chunks(9).map(Bytes::copy_from_slice);
        let frames: Vec<_> = frames.map(|chunk| Ok(Frame::data(chunk))).collect();
        let (response, got) = send(&meter, asked("application/json", Frames::new(frames))).await;
        assert_eq!((response.status(), got.unwrap().data), (StatusCode::OK, body.into_bytes()));
    }
}

/// The layer that leaves bodies as they are cannot read one.
#[tokio::test]
async fn a_layer_that_reads_no_bodies_says_so() {
    let meter = builder().build().unwrap();
    let called = counter();
    let count = Arc::clone(&called);
    let service = meter.layer(service_fn(move |_: Request<Full<Bytes>>| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    }));
    let request = asked("application/json", Full::new(Bytes::from_static(br#"{"model":"large"}"#)));
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.extensions().get(), Some(&Rejection::Unclassified));
    assert_eq!(called.load(Ordering::SeqCst), 0);
    assert!(statement(&meter, "alice", "pro").await.used.is_zero());
}

/// The model that a service runs, by parsers that others wrote. Each gives its own reading.
fn readings_of_json(body: &[u8]) -> Vec<Option<String>> {
    let text = String::from_utf8_lossy(body);
    let by_serde = serde_json::from_slice::<Value>(body).ok();
    let by_json = json::parse(&text).ok();
    vec![
        by_serde.and_then(|value| Some(value.get("model")?.as_str()?.to_owned())),
        by_json.and_then(|value| Some(value["model"].as_str()?.to_owned())),
        first_of(&text),
    ]
}

/// A parser that ignores case, as Go's does, and takes the first of two.
fn first_of(text: &str) -> Option<String> {
    struct First(Option<Value>);
    impl<'de> serde::Deserialize<'de> for First {
        fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = First;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<First, A::Error> {
                    let mut first = None;
                    while let Some((key, value)) = map.next_entry::<String, Value>()? {
                        if key.to_lowercase() == "model" && first.is_none() {
                            first = Some(value);
                        }
                    }
                    Ok(First(first))
                }
            }
            json.deserialize_map(Visitor)
        }
    }
    serde_json::from_str::<First>(text).ok()?.0?.as_str().map(str::to_owned)
}

/// The value of `model` by two multipart parsers, and by one that takes the last of two.
async fn readings_of_form(content_type: &str, body: &[u8]) -> Vec<Option<String>> {
    let strict = async {
        let boundary = multer::parse_boundary(content_type).ok()?;
        let body = body.to_vec();
        let stream = futures_util::stream::once(async { Ok::<_, Infallible>(Bytes::from(body)) });
        let mut form = multer::Multipart::new(stream, boundary);
        let mut found = None;
        while let Some(field) = form.next_field().await.ok()? {
            if field.name() == Some("model") && found.is_none() {
                found = Some(field.text().await.ok()?);
            }
        }
        found
    };
    let whole = [format!("Content-Type: {content_type}\r\n\r\n").as_bytes(), body].concat();
    let lenient = mailparse::parse_mail(&whole).ok().and_then(|mail| {
        let mut named = mail.subparts.iter().filter(|part| {
            let disposition = part.get_content_disposition();
            disposition.params.get("name").is_some_and(|name| name.eq_ignore_ascii_case("model"))
        });
        let content = named.next_back()?.get_body_raw().ok()?;
        let content = String::from_utf8(content).ok()?;
        Some(content.strip_suffix("\r\n").map_or(content.clone(), str::to_owned))
    });
    vec![strict.await, lenient]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just(r#""model""#.to_owned()),
        1 => Just(r#""Model""#.to_owned()),
        1 => Just(r#""mod\u0065l""#.to_owned()),
        1 => Just(r#""model\u0000""#.to_owned()),
        1 => Just("\"model\"".replace('o', "\u{43e}")),
        9 => "[a-z]{1,6}".prop_map(|key| format!("\"{key}\"")),
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop_oneof![Just(r#""large""#), Just(r#""small""#), Just(r#""sm\u0061ll""#)]
            .prop_map(str::to_owned),
        1 => Just(r#"{"model":"large"}"#.to_owned()),
        1 => Just("[1,2.5e3,null]".to_owned()),
        1 => Just(r#""{\"model\":\"large\"}""#.to_owned()),
        1 => "[ -!#-\\[\\]-~]{0,9}".prop_map(|text| format!("\"{text}\"")),
    ]
}

/// JSON objects, some of them broken.
fn json_body() -> impl Strategy<Value = String> {
    let pairs = proptest::collection::vec((key(), value()), 0..5);
    let space = prop_oneof![
        6 => Just(""), 2 => Just(" "), 2 => Just("\n"), 1 => Just("/**/"), 1 => Just("\u{feff}")
    ];
    let after = prop_oneof![6 => Just(""), 1 => Just(","), 1 => Just("{}"), 1 => Just(" ")];
    let model =
        prop_oneof![1 => Just(None), 4 => Just(Some(r#""small""#)), 4 => Just(Some(r#""large""#))];
    (pairs, model, space, after).prop_map(|(mut pairs, model, space, after)| {
        if let Some(model) = model {
            let at = pairs.len() / 2;
            pairs.insert(at, (r#""model""#.to_owned(), model.to_owned()));
        }
        let pairs: Vec<_> =
            pairs.iter().map(|(key, value)| format!("{space}{key}:{space}{value}")).collect();
        format!("{space}{{{}}}{after}", pairs.join(","))
    })
}

/// Forms, some of them broken.
fn form_body() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        9 => Just("name=\"model\""),
        1 => Just("name=model"),
        1 => Just("name=\"Model\""),
        1 => Just("name=\"model[]\""),
        1 => Just("name=\"a\\\"; name=\"model\""),
        1 => Just("name=\"a\"; name=\"model\""),
        1 => Just("name*=utf-8''model"),
        1 => Just("name=\"x\"; name*0=\"model\""),
        1 => Just("foo=\"; name=model;\"; name=\"x\""),
        1 => Just("name=\" model\""),
        1 => Just("name=\"[model]\""),
        1 => Just("name=\"=?UTF-8?Q?model?=\""),
        3 => Just("name=\"file\"; filename=\"model\""),
        1 => Just("name=\"model\"; filename=\"x\""),
        2 => Just("name=\"prompt\""),
    ];
    let content = prop_oneof![
        3 => Just("large".to_owned()),
        3 => Just("small".to_owned()),
        1 => Just("x\r\n--b0undary \r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nsmall".to_owned()),
        1 => Just("x\n--b0undary\nContent-Disposition: form-data; name=\"model\"\n\nlarge".to_owned()),
        1 => "[ -~\r\n]{0,20}",
    ];
    let more = prop_oneof![
        6 => Just(""),
        1 => Just("Content-Type: text/plain\r\n"),
        1 => Just("Content-Transfer-Encoding: base64\r\n"),
        1 => Just("Content-Disposition: form-data; name=\"model\"\r\n"),
    ];
    let parts = proptest::collection::vec((name, more, content), 0..3);
    let before = prop_oneof![8 => Just(""), 1 => Just("preamble\r\n"), 1 => Just("\r\n")];
    let after = prop_oneof![8 => Just("--b0undary--\r\n"), 1 => Just("--b0undary--"), 1 => Just("--b0undary\r\n"), 1 => Just("")];
    (before, parts, after).prop_map(|(before, parts, after)| {
        let parts: String = parts
            .iter()
            .map(|(name, more, content)| {
                format!(
                    "--b0undary\r\nContent-Disposition: form-data; {name}\r\n{more}\r\n{content}\r\n"
                )
            })
            .collect();
        format!("{before}{parts}{after}")
    })
}

/// Sends a body. Returns the model that was billed, or `None` if it was denied.
async fn model_billed(content_type: &str, body: &str) -> Option<String> {
    let meter = builder().build().unwrap();
    let request = asked(content_type, Full::new(Bytes::from(body.to_owned())));
    let (response, got) = send(&meter, request).await;
    if response.status() != StatusCode::OK {
        assert!(matches!(response.status().as_u16(), 400 | 404), "{response:?}");
        return None;
    }
    assert_eq!(got.unwrap().data, body.as_bytes());
    billed(&meter, 1).await.pop().map(|(model, _)| model)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    /// What is billed is what every parser runs.
    #[test]
    fn json_is_billed_as_every_parser_reads_it(body in json_body()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        if let Some(model) = runtime.block_on(model_billed("application/json", &body)) {
            for reading in readings_of_json(body.as_bytes()) {
                prop_assert_eq!(reading.as_deref(), Some(&*model), "{}", body);
            }
        }
    }

    #[test]
    fn a_form_is_billed_as_every_parser_reads_it(body in form_body()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let content_type = "multipart/form-data; boundary=b0undary";
        if let Some(model) = runtime.block_on(model_billed(content_type, &body)) {
            for reading in runtime.block_on(readings_of_form(content_type, body.as_bytes())) {
                prop_assert_eq!(reading.as_deref(), Some(&*model), "{}", body);
            }
        }
    }
}

#[test]
fn the_generated_bodies_are_billed_often_enough_to_say_something() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut count = |content_type: &str, bodies: &BoxedStrategy<String>| {
        let bodies = (0..200).map(|_| bodies.new_tree(&mut runner).unwrap().current());
        bodies.filter(|body| runtime.block_on(model_billed(content_type, body)).is_some()).count()
    };
    let json = count("application/json", &json_body().boxed());
    let form = count("multipart/form-data; boundary=b0undary", &form_body().boxed());
    assert!(json >= 20 && form >= 10, "{json} and {form} of 200");
}
