//! A TCP proxy that does to its connections what networks do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// What a proxy does to the bytes that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Network {
    Well,
    /// What is sent to the server arrives this late: after whoever asked has given up.
    LateRequests,
    /// Answers arrive that late.
    LateAnswers,
    /// Requests arrive, and are carried out. Their answers do not.
    DropsAnswers,
    /// Nothing arrives at the server. What it sends passes.
    DropsRequests,
    /// Nothing passes.
    BlackHole,
    /// Only connections of Redis clients pass: not those of replicas and Sentinels.
    OnlyRedisClients,
    /// A byte each millisecond.
    Trickle,
    /// A connection is reset in the middle of an answer.
    ResetsInAnswers,
    /// No connection is taken.
    Refuses,
}

const LATE: Duration = Duration::from_millis(400);

#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    port: Arc<AtomicU16>,
    mode: Arc<AtomicU8>,
    /// Answers that passed, and the number of the answer at which `reached` is notified.
    answers: Arc<AtomicU64>,
    stop_at: Arc<AtomicU64>,
    pub reached: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl Proxy {
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let proxy = Self {
            address: listener.local_addr().expect("an address"),
            port: Arc::new(AtomicU16::new(port)),
            mode: Arc::default(),
            answers: Arc::default(),
            stop_at: Arc::new(AtomicU64::new(u64::MAX)),
            reached: Arc::default(),
        };
        let this = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if this.mode() == Network::Refuses as u8 {
                    continue;
                }
                let port = this.port.load(Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                // Either way's end is the end of both.
                let is_client = Arc::<AtomicBool>::default();
                let there =
                    this.clone().pass(from_client, to_server, Way::ToServer, is_client.clone());
                let back = this.clone().pass(from_server, to_client, Way::ToClient, is_client);
                tokio::spawn(async move {
                    tokio::select! {
                        () = there => {}
                        () = back => {}
                    }
                });
            }
        });
        proxy
    }

    pub fn set(&self, network: Network) {
        self.mode.store(network as u8, Ordering::SeqCst);
    }

    /// Goes to another server from now on.
    pub fn lead_to(&self, port: u16) {
        self.port.store(port, Ordering::SeqCst);
    }

    fn mode(&self) -> u8 {
        self.mode.load(Ordering::SeqCst)
    }

    /// Notifies `reached` when this many more answers have come from the server, and holds that one
    /// back.
    pub fn stop_after(&self, answers: u64) {
        let now = self.answers.load(Ordering::SeqCst);
        self.stop_at.store(now + answers, Ordering::SeqCst);
    }

    async fn pass(
        self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        way: Way,
        is_client: Arc<AtomicBool>,
    ) {
        let mut has_begun = false;
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(size @ 1..) = from.read(&mut buffer).await {
            let bytes = &buffer[..size];
            if way == Way::ToServer && !has_begun {
                has_begun = true;
                // Client libraries begin with their names; replicas and Sentinels do not.
                let names_itself = memchr::memmem::find(bytes, b"LIB-NAME").is_some();
                is_client.store(names_itself, Ordering::SeqCst);
            }
            let mode = self.mode();
            let is = |network: Network| mode == network as u8;
            if way == Way::ToClient {
                let number = self.answers.fetch_add(1, Ordering::SeqCst);
                if number >= self.stop_at.load(Ordering::SeqCst) {
                    self.reached.notify_one();
                    std::future::pending::<()>().await;
                }
            }
            let (there, back) = (way == Way::ToServer, way == Way::ToClient);
            let is_dropped = is(Network::BlackHole)
                || (is(Network::OnlyRedisClients) && !is_client.load(Ordering::SeqCst))
                || (there && is(Network::DropsRequests))
                || (back && is(Network::DropsAnswers));
            if is_dropped {
                continue;
            }
            if (there && is(Network::LateRequests)) || (back && is(Network::LateAnswers)) {
                tokio::time::sleep(LATE).await;
            }
            let sent = if is(Network::Trickle) {
                trickle(&mut to, bytes).await
            } else if back && is(Network::ResetsInAnswers) {
                let _ = to.write_all(&bytes[..size / 2]).await;
                return;
            } else {
                to.write_all(bytes).await
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

async fn trickle(to: &mut OwnedWriteHalf, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        to.write_all(&[*byte]).await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
