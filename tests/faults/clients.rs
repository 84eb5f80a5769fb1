//! Clients that leave, vanish, stall, or send little, while a service works for them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use tokio::task::block_in_place;

use super::{
    load::{FIRST_STREAM, LATE, Oracle, STREAMS, USERS, user},
    proxy::{Network, Proxy},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClientFault {
    Leaves,
    Resets,
    /// No packet tells that it is gone.
    Vanishes,
    /// It reads nothing.
    Stalls,
    /// Its HTTP/2 window is 0: the server may send a head, and no body.
    WindowOfZero,
    /// It sends HTTP/2 requests, and resets each soon after.
    ResetsRequests,
    /// It sends a byte of its body every 10 ms.
    UploadsSlowly,
}

const STREAM_LENGTH: Duration = Duration::from_millis(1_500);

const RESETS_PER_CLIENT: u32 = 8;

/// Returns how many clients were served.
pub async fn harm(
    fault: ClientFault,
    address: SocketAddr,
    rng: &mut fastrand::Rng,
    oracle: &Oracle,
) -> usize {
    match fault {
        ClientFault::WindowOfZero => read_nothing(address, oracle).await,
        ClientFault::ResetsRequests => reset_requests(address, rng, oracle).await,
        ClientFault::UploadsSlowly => upload_slowly(address, oracle).await,
        _ => end_streams(fault, address, rng, oracle).await,
    }
}

fn head(number: usize, field: &str, length: usize) -> String {
    let user = user(number);
    format!(
        "POST /models/echo HTTP/1.1\r\nhost: node\r\nauthorization: Bearer {user}\r\n{field}\r\n\
         content-length: {length}\r\n\r\n"
    )
}

async fn end_streams(
    fault: ClientFault,
    address: SocketAddr,
    rng: &mut fastrand::Rng,
    oracle: &Oracle,
) -> usize {
    let between = Proxy::before(address.port()).await;
    let mut streams = Vec::new();
    for number in FIRST_STREAM..USERS {
        let mut stream = TcpStream::connect(between.address).unwrap();
        let field = format!("x-stream: {}", STREAM_LENGTH.as_millis());
        stream.write_all(head(number, &field, 0).as_bytes()).unwrap();
        let began = Instant::now();
        // A busy machine may deny one.
        if block_in_place(|| read_head(&mut stream)).starts_with("HTTP/1.1 200") {
            streams.push((number, stream, began));
        }
    }
    tokio::time::sleep(Duration::from_millis(rng.u64(200..700))).await;
    if fault == ClientFault::Vanishes {
        between.set(Network::BlackHole);
    }
    let (mut open, mut expected, served) = (Vec::new(), Vec::new(), streams.len());
    for (number, stream, began) in streams {
        let ran = began.elapsed();
        let (least, most) = match fault {
            // The proxy notices at once, and the server at its next frame.
            ClientFault::Leaves | ClientFault::Resets => (ran.saturating_sub(LATE), ran + LATE),
            // Nobody notices: the service ends its work.
            _ => (STREAM_LENGTH - LATE, STREAM_LENGTH + LATE),
        };
        expected.push((number, least, most));
        if fault == ClientFault::Resets {
            let stream = socket_of(stream);
            stream.set_zero_linger().unwrap();
            drop(stream);
        } else if fault != ClientFault::Leaves {
            open.push(stream);
        }
    }
    tokio::time::sleep(STREAM_LENGTH).await;
    // Now that it is known how late the machine was.
    for (number, least, most) in expected {
        oracle.expect(number, least, most);
    }
    drop(open);
    served
}

/// Opens streams of which the server can send no frame.
async fn read_nothing(address: SocketAddr, oracle: &Oracle) -> usize {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let (mut open, mut served) = (Vec::new(), 0);
    for number in FIRST_STREAM..USERS {
        let (mut client, connection) = connect(&builder, address).await;
        let (answer, _) = client.send_request(request(number), true).unwrap();
        let answer = answer.await.unwrap();
        if answer.status() == 200 {
            served += 1;
        }
        open.push((number, client, connection, answer));
    }
    tokio::time::sleep(STREAM_LENGTH).await;
    for (number, _, connection, answer) in open {
        if answer.status() == 200 {
            oracle.expect(number, STREAM_LENGTH - LATE, STREAM_LENGTH + LATE);
        }
        connection.abort();
    }
    served
}

async fn reset_requests(address: SocketAddr, rng: &mut fastrand::Rng, oracle: &Oracle) -> usize {
    let builder = h2::client::Builder::new();
    for number in FIRST_STREAM..USERS {
        let (mut client, connection) = connect(&builder, address).await;
        let began = Instant::now();
        for _ in 0..RESETS_PER_CLIENT {
            client = client.ready().await.unwrap();
            let (_answer, mut stream) = client.send_request(request(number), true).unwrap();
            tokio::time::sleep(Duration::from_millis(rng.u64(0..150))).await;
            stream.send_reset(h2::Reason::CANCEL);
        }
        // Each was billed as long as it ran. A busy machine may deny some, or be late to begin.
        let ran = began.elapsed();
        oracle.expect(number, (ran / 2).saturating_sub(LATE), ran + LATE);
        connection.abort();
    }
    STREAMS
}

/// Sends bodies of which a byte comes each ten milliseconds, to a service that reads them.
async fn upload_slowly(address: SocketAddr, oracle: &Oracle) -> usize {
    const BYTES: u32 = 40;
    let mut served = 0;
    for number in FIRST_STREAM..USERS {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let head = head(number, "x-read: 1\r\nx-compute: 10", BYTES as usize);
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..BYTES {
            tokio::time::sleep(Duration::from_millis(10)).await;
            stream.write_all(b"x").unwrap();
        }
        if block_in_place(|| read_head(&mut stream)).starts_with("HTTP/1.1 200") {
            served += 1;
            // As the service reports, and not the time in which it waited.
            oracle.expect(number, Duration::from_millis(10), Duration::from_millis(10));
        }
    }
    served
}

fn request(number: usize) -> Request<()> {
    Request::post("http://node/models/echo")
        .header("authorization", format!("Bearer {}", user(number)))
        .header("x-stream", STREAM_LENGTH.as_millis().to_string())
        .body(())
        .unwrap()
}

async fn connect(
    builder: &h2::client::Builder,
    address: SocketAddr,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<()>) {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (client, connection) = builder.handshake(socket).await.unwrap();
    let connection = tokio::spawn(async move { drop(connection.await) });
    (client.ready().await.unwrap(), connection)
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = [0; 512];
    let size = stream.read(&mut head).unwrap();
    String::from_utf8_lossy(&head[..size]).into_owned()
}

fn socket_of(stream: TcpStream) -> tokio::net::TcpStream {
    stream.set_nonblocking(true).unwrap();
    tokio::net::TcpStream::from_std(stream).unwrap()
}
