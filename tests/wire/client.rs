//! What the tests of this folder call with.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream};
use h2::{RecvStream, SendStream, client::SendRequest};
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tonic::{Code, Request, transport::Channel};

use super::proto::{Audio, denoise_client::DenoiseClient};

pub fn audio(pcm: &'static str) -> Audio {
    Audio { pcm: pcm.into() }
}

/// One message, and then nothing for as long as anybody listens.
pub fn endless(pcm: &'static str) -> impl Stream<Item = Audio> + Send + 'static {
    use futures_util::StreamExt;
    stream::iter([audio(pcm)]).chain(stream::pending())
}

/// A request with a token, where there is one.
pub fn asking<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

pub async fn connect(address: SocketAddr) -> DenoiseClient<Channel> {
    DenoiseClient::new(
        Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap(),
    )
}

/// A field of metadata or trailers.
pub fn field<'a>(metadata: &'a tonic::metadata::MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name).and_then(|value| value.to_str().ok())
}

/// How a client names what it got.
pub fn named(code: Code) -> String {
    format!("{code:?}")
}

/// A wire to a server that can be cut.
pub struct Wire {
    pub address: SocketAddr,
    carrying: JoinHandle<()>,
}

impl Wire {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let carrying = tokio::spawn(async move {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(server).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
        });
        Self { address, carrying }
    }

    /// Both ends see their connection close.
    pub fn cut(self) {
        self.carrying.abort();
    }
}

/// A bare HTTP/2 connection, for what no client does by itself.
pub struct Bare {
    client: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl Bare {
    pub async fn to(server: SocketAddr) -> Self {
        let socket = TcpStream::connect(server).await.unwrap();
        // Small frames are sent as they come, and not when the other side has acknowledged those
        // before.
        socket.set_nodelay(true).unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        Self { client, connection: tokio::spawn(async move { drop(connection.await) }) }
    }

    pub fn has_ended(&self) -> bool {
        self.connection.is_finished()
    }

    /// Opens a stream and sends a message on it; the other side learns that it was the last where
    /// `ends`.
    pub async fn open(
        &mut self,
        path: &str,
        token: &str,
        body: Bytes,
        ends: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.open_with(path, token, body, ends, &[]).await
    }

    /// The same, with more header fields.
    pub async fn open_with(
        &mut self,
        path: &str,
        token: &str,
        body: Bytes,
        ends: bool,
        fields: &[(&str, &str)],
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut client = self.client.clone().ready().await?;
        let request = http::Request::post(format!("http://test{path}"))
            .header("authorization", format!("Bearer {token}"));
        let request = if path.starts_with("/denoise") {
            request.header("content-type", "application/grpc").header("te", "trailers")
        } else {
            request
        };
        let request =
            fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let (response, mut stream) = client.send_request(request.body(()).unwrap(), false)?;
        stream.send_data(body, ends)?;
        Ok((response, stream))
    }
}

/// Reads what comes, the trailers included.
pub async fn read_h2(
    mut body: RecvStream,
) -> Result<(Vec<u8>, Option<http::HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, body.trailers().await?))
}

/// A message as gRPC frames it: not compressed, its length, and the message (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
pub fn framed(message: &Audio) -> Bytes {
    let message = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(&message);
    framed.freeze()
}
