//! Denials as their clients read them: formats, retries, gRPC-Web, and uploads.

use std::{convert::Infallible, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{CreditMeter, DenialFormat, MemoryLedger};

use super::denials::{ask, header, metered};
use crate::support::{
    bodies::{Fed, Frames},
    broken::Broken,
    *,
};

/// A client reads what its kind reads, whatever the meter is set to by default.
#[tokio::test]
async fn each_client_is_denied_in_the_way_that_it_reads() {
    let sent = async |meter: &CreditMeter, fields: &[(&'static str, &'static str)]| {
        let mut asked = request("alice", "none", Empty::<Bytes>::new());
        for (name, value) in fields {
            asked.headers_mut().insert(*name, http::HeaderValue::from_static(value));
        }
        ask(meter, asked).await
    };
    let paid = metered();
    let openai = [("user-agent", "OpenAI/Python 2.0"), ("x-stainless-lang", "python")];
    let (response, body) = sent(&paid, &openai).await;
    assert_eq!(header(&response, "content-type"), Some("application/json"));
    assert!(body["error"]["message"].as_str().unwrap().contains("used up"), "{body}");
    for name in ["x-request-id", "request-id"] {
        assert_eq!(header(&response, name), header(&response, "inference-id"));
    }
    let hugging_face = [("user-agent", "@huggingface/inference/4.13.3")];
    let (response, body) = sent(&paid, &hugging_face).await;
    assert_eq!(header(&response, "content-type"), Some("application/json"));
    assert!(body["error"].is_string());
    assert_eq!(header(&response, "x-error-message"), body["error"].as_str());

    // It would try 503 again without end.
    let away = meter(Broken).build().unwrap();
    assert_eq!(sent(&away, &hugging_face).await.0.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(sent(&away, &openai).await.0.status(), StatusCode::SERVICE_UNAVAILABLE);

    let chosen = meter(MemoryLedger::new())
        .denial_format_by(|head| {
            assert!(head.headers.contains_key("user-agent"), "a client without a name");
            DenialFormat::HuggingFace
        })
        .build()
        .unwrap();
    let (response, _) = sent(&chosen, &openai).await;
    assert_eq!(header(&response, "content-type"), Some("application/json"));
    // A host's function that panics leaves the choice to the client.
    let (response, _) = sent(&chosen, &[]).await;
    assert_eq!(header(&response, "content-type"), Some("application/problem+json"));
}

/// Where no layer has translated it, gRPC-Web gets its status in the head, as gRPC does.
#[tokio::test]
async fn a_grpc_web_call_gets_a_grpc_status() {
    let mut call = request("alice", "none", Empty::<Bytes>::new());
    let content_type = http::HeaderValue::from_static("application/grpc-web-text");
    call.headers_mut().insert("content-type", content_type);
    let service = metered().layer(service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let response = service.oneshot(call).await.unwrap();
    let field = |name: &str| response.headers()[name].to_str().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!((field("content-type"), field("grpc-status")), ("application/grpc-web+proto", "8"));
    assert!(field("grpc-message").contains("used up"));
}

/// A denied upload is read on while bytes keep coming, so that its client reads the answer.
#[tokio::test(start_paused = true)]
async fn a_denied_upload_is_read_on_while_it_comes() {
    let denied = async |body: Fed| {
        let service = metered().layer(service_fn(async |_: Request<Fed>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        service.oneshot(request("alice", "none", body)).await.unwrap().status()
    };
    // 20 MiB in ten seconds, then the end.
    let (feed, body) = Fed::new();
    let sending = tokio::spawn(async move {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            feed.send(Bytes::from(vec![0; 1 << 20])).await.unwrap();
        }
    });
    assert_eq!(denied(body).await, StatusCode::PAYMENT_REQUIRED);
    sending.await.unwrap();

    // Silence, a trickle without end, and more than anybody should send.
    for (bytes, pause, at_most) in [(1, 2_000, 4), (1, 900, 61), (8 << 20, 0, 1)] {
        let (feed, body) = Fed::new();
        let sending = tokio::spawn(async move {
            while feed.send(Bytes::from(vec![0; bytes])).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        });
        let began = tokio::time::Instant::now();
        assert_eq!(denied(body).await, StatusCode::PAYMENT_REQUIRED);
        assert!(began.elapsed() <= seconds(at_most), "{:?}", began.elapsed());
        sending.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_upload_is_read_on_until_it_has_sent_more_than_64_mib() {
    let mebibyte = Bytes::from(vec![0; 1 << 20]);
    for beyond in [0, 1] {
        let last = Bytes::from(vec![0; (1 << 20) + beyond]);
        let frames = std::iter::repeat_n(mebibyte.clone(), 63)
            .chain([last])
            .chain(std::iter::repeat_n(Bytes::from_static(b"x"), 10));
        let read = counter();
        let count = read.clone();
        let body =
            Frames::new(frames.map(|data| Ok(http_body::Frame::data(data)))).computing(move || {
                count.fetch_add(1, Ordering::SeqCst);
            });
        let service = metered().layer(service_fn(async |_: Request<Frames>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        let response = service.oneshot(request("alice", "none", body)).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
        // After 64 MiB it reads on, until something comes.
        let expected = if beyond == 0 { 65 } else { 64 };
        assert_eq!(read.load(Ordering::SeqCst), expected, "64 MiB and {beyond} bytes");
    }
}

/// A denied upload, its feed, and what it is told in the end.
struct Upload(tokio::sync::mpsc::Sender<Bytes>, tokio::task::JoinHandle<StatusCode>);

impl Upload {
    fn begin(meter: &CreditMeter, bytes: usize) -> Self {
        let (feed, body) = Fed::new();
        feed.try_send(Bytes::from(vec![0; bytes])).expect("there is room");
        let service = meter.layer(service_fn(async |_: Request<Fed>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        let asked = request("alice", "none", body);
        Self(feed, tokio::spawn(async move { service.oneshot(asked).await.unwrap().status() }))
    }

    fn sends_a_byte(&self) {
        let _ = self.0.try_send(Bytes::from_static(b"x"));
    }

    fn is_denied(&self) -> bool {
        self.1.is_finished()
    }

    /// How long it takes from now until it is denied, with a byte from it each 100 ms.
    async fn until_denied(mut self, others: &[Self]) -> Duration {
        let began = tokio::time::Instant::now();
        loop {
            tokio::select! {
                status = &mut self.1 => {
                    assert_eq!(status.expect("it is answered"), StatusCode::PAYMENT_REQUIRED);
                    return began.elapsed();
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            others.iter().chain([&self]).for_each(Self::sends_a_byte);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_long_uploads_256_are_read_on_and_all_others_until_a_mebibyte_or_a_second() {
    const LONG: usize = (1 << 20) + 1;
    let meter = metered();
    let mut long: Vec<_> = (0..256).map(|_| Upload::begin(&meter, LONG)).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let ms = |range: std::ops::Range<u64>| range.start..=range.end;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap();

    let large = millis(Upload::begin(&meter, LONG).until_denied(&long).await);
    assert!(ms(0..1).contains(&large), "more than a mebibyte: denied after {large} ms");
    let slow = millis(Upload::begin(&meter, 1 << 20).until_denied(&long).await);
    assert!(ms(100..101).contains(&slow), "a byte more later: denied after {slow} ms");
    let small = millis(Upload::begin(&meter, 1).until_denied(&long).await);
    assert!(ms(1_000..1_101).contains(&small), "a byte at a time: denied after {small} ms");
    assert_eq!(long.iter().filter(|upload| upload.is_denied()).count(), 0, "256 are read on");

    // One that ends makes room for another.
    let Upload(feed, denied) = long.pop().unwrap();
    drop(feed);
    assert_eq!(denied.await.unwrap(), StatusCode::PAYMENT_REQUIRED);
    long.push(Upload::begin(&meter, LONG));
    let small = millis(Upload::begin(&meter, 1).until_denied(&long).await);
    assert!(ms(1_000..1_101).contains(&small), "a byte at a time: denied after {small} ms");
    assert!(!long.iter().any(Upload::is_denied), "256 again");
}
