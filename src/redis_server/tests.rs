//! Connections while they are open, and while they cannot be opened.

#[path = "../../tests/support/logs.rs"]
#[allow(dead_code, unreachable_pub, reason = "the other tests use the rest")]
mod logs;
#[path = "../../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the other tests use the rest")]
pub(crate) mod redis_server;

use std::{net::TcpListener, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{
    Connection, Fault, RedisServer, Servers,
    connection::{CHECK_INTERVAL, OPEN_TIMEOUT, RETRY_PAUSE},
};

fn connection(server: RedisServer) -> Connection {
    match Servers::new(server, "tc").unwrap() {
        Servers::One(one) => one.connection,
        Servers::Cluster(_) => unreachable!("one server"),
    }
}

#[tokio::test]
async fn a_server_that_is_set_to_evict_is_noticed_within_a_minute() {
    let server = redis_server::RedisServer::start();
    let (log, _guard) = logs::Log::of_this_thread();
    let connection = connection(server.url().as_str().into());
    let asks = async || -> String {
        connection
            .run(Duration::from_secs(5), |mut link| async move {
                redis::cmd("PING").query_async(&mut link).await
            })
            .await
            .unwrap()
    };
    assert_eq!(asks().await, "PONG");
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_eq!(asks().await, "PONG");
    assert!(log.lines(&["balances"]).is_empty(), "it is not checked with every call");
    connection.make_check_due();
    let until = Instant::now() + Duration::from_secs(10);
    let lines = loop {
        assert_eq!(asks().await, "PONG");
        let lines = log.lines(&["ERROR", "balances may be lost", "allkeys-lru", "noeviction"]);
        if !lines.is_empty() || Instant::now() > until {
            break lines;
        }
    };
    assert_eq!(lines.len(), 1, "it is logged, once in {CHECK_INTERVAL:?}");
}

/// A task that makes a call when it is dropped, as one that runs when its runtime begins to end.
struct CallsWhenDropped(Connection);

impl Drop for CallsWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.open(Duration::ZERO).now_or_never();
    }
}

#[test]
fn a_runtime_ends_in_which_a_connection_is_opened_at_its_end() {
    let calls = CallsWhenDropped(connection("redis://127.0.0.1:1/".into()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap();
    let (send, begun) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let _calls = calls;
        send.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    begun.recv().unwrap();
    let (send, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        send.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(20)).expect("the runtime ends");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_could_not_be_opened_is_tried_again_even_if_nobody_waited_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = RedisServer::from(format!("redis://{}/", listener.local_addr().unwrap()));
    let connection = connection(server);
    let ask = async || {
        let ping =
            |mut link| async move { redis::cmd("PING").query_async::<String>(&mut link).await };
        connection.run(Duration::from_millis(250), ping).await.unwrap_err()
    };
    // Nothing answers there, and the caller gives up long before the opening does.
    assert!(matches!(ask().await, Fault::Deadline(_)));
    tokio::time::sleep(OPEN_TIMEOUT + RETRY_PAUSE).await;
    let before = std::iter::from_fn(|| listener.accept().ok()).count();
    assert!((2..=9).contains(&before), "others are tried in parallel with the first: {before}");
    assert!(matches!(ask().await, Fault::Deadline(_)), "not the failure of the first");
    assert!(std::iter::from_fn(|| listener.accept().ok()).count() > 0);
}
