//! What happens to a connection while it is open.

#[path = "../../tests/support/logs.rs"]
#[allow(dead_code, unreachable_pub, reason = "the other tests use the rest")]
mod logs;
#[path = "../../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the other tests use the rest")]
pub(crate) mod redis_server;

use std::time::Duration;

use tokio::time::Instant;

use super::{Connection, connection::LOOKS_AGAIN};

#[tokio::test]
async fn a_server_that_is_set_to_evict_is_noticed_within_a_minute() {
    let server = redis_server::RedisServer::start();
    let logs = logs::Logs::begin();
    let connection = Connection::new(server.url().as_str().into(), "tc").unwrap();
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
    assert!(logs.lines(&["balances"]).is_empty(), "it is not looked at with every call");
    connection.look_again();
    let until = Instant::now() + Duration::from_secs(10);
    let lines = loop {
        assert_eq!(asks().await, "PONG");
        let lines = logs.lines(&["ERROR", "balances may be lost", "allkeys-lru", "noeviction"]);
        if !lines.is_empty() || Instant::now() > until {
            break lines;
        }
    };
    assert_eq!(lines.len(), 1, "it is said, once in {LOOKS_AGAIN:?}");
}
