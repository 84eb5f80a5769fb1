//! Many renewals at once, which go together in calls: each has its own answer, deadline and error.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower_credits::{
    Account, Period, RedisLedger,
    clock::UnixTime,
    ledger::{
        Answer, LeaseId, Ledger, LedgerError, LineKey, Outcome, Renewal, Terms, Usage, UsageLine,
    },
};

use crate::support::{redis_server::RedisServer, *};

fn account(number: usize) -> Account {
    Account::user(&format!("user-{number}")).unwrap()
}

fn month() -> Period {
    Period::containing(UnixTime::now())
}

/// A renewal that settles a nano-dollar more than the one before.
fn settles(seq: u64) -> Renewal {
    settles_each(seq, 1, 1)
}

/// A renewal that settles so much more than the one before, in so many lines.
fn settles_each(seq: u64, cost: i64, lines: i64) -> Renewal {
    let line = |number: i64| UsageLine {
        key: LineKey::Of {
            day: 1,
            model: format!("model-{number}").parse().unwrap(),
            hardware: "gpu".parse().unwrap(),
            feature: "api".parse().unwrap(),
            subject: "alice".parse().unwrap(),
        },
        usage: Usage { requests: 1, compute_micros: 1, cost: nanos(cost / lines) },
    };
    Renewal {
        lease: LeaseId::from_bits(1),
        seq,
        batch: seq,
        settled: nanos(seq as i64 * cost),
        reported: nanos((seq as i64 - 1) * cost),
        lines: (0..lines).map(line).collect(),
        keep: nanos(0),
        refill: nanos(0),
        need: nanos(5 * cost),
        extra: nanos(0),
        terms: Terms {
            included: nanos(1_000_000),
            included_per_day: nanos(0),
            per_seat: false,
            pay_as_you_go: nanos(0),
        },
        terms_at: UnixTime::now(),
        ttl: seconds(600),
        forget: false,
        most_per_day: None,
        parts: Arc::default(),
        permits: None,
        concurrency: None,
    }
}

fn is_renewed(answer: &Result<Answer, LedgerError>) -> bool {
    matches!(answer, Ok(Answer { outcome: Outcome::Renewed { .. }, .. }))
}

fn calls(server: &RedisServer) -> u64 {
    server.calls("evalsha") + server.calls("eval")
}

async fn used(ledger: &RedisLedger, number: usize) -> i64 {
    ledger.statement(&account(number), month(), None).await.unwrap().used.as_nano_usd()
}

#[tokio::test]
async fn each_has_its_own_answer_in_a_few_calls() {
    const ACCOUNTS: usize = 500;
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let renew_all = async |seq: u64| {
        let renew = async |number| {
            let renewal = settles_each(seq, 1 + number as i64, 1);
            ledger.renew(&account(number), month(), &renewal, seconds(20)).await
        };
        join_all((0..ACCOUNTS).map(renew)).await
    };
    for seq in 1..=3 {
        let before = calls(&server);
        for (number, answer) in renew_all(seq).await.into_iter().enumerate() {
            let Outcome::Renewed { hold, standing, .. } = answer.unwrap().outcome else {
                panic!("account {number} was not renewed")
            };
            let cost = 1 + number as i64;
            assert_eq!((hold, standing.used), (nanos(5 * cost), nanos(seq as i64 * cost)));
        }
        let calls = calls(&server) - before;
        // Other clients of the server wait for a call of 32 at most.
        let few = ACCOUNTS as u64 / 32..ACCOUNTS as u64 / 4;
        assert!(few.contains(&calls), "{ACCOUNTS} renewals in {calls} calls");
    }

    // What is wrong with one account is not the others'.
    let book = |number: usize| format!("tc:{{user:user-{number}}}:{}", month());
    server.command(&["HSET", &book(123), "total", "x"]);
    server.command(&["DEL", &book(321)]);
    server.command(&["SET", &book(321), "not a hash"]);
    for seq in [4, 4, 5] {
        let before = calls(&server);
        for (number, answer) in renew_all(seq).await.into_iter().enumerate() {
            match (number, answer) {
                (123 | 321, Err(LedgerError::Malformed(reason))) => {
                    assert!(reason.contains(&book(number)), "{reason}");
                }
                (123 | 321, other) => panic!("{other:?}"),
                (_, answer) => assert!(is_renewed(&answer), "account {number}"),
            }
        }
        assert!(calls(&server) - before < ACCOUNTS as u64 / 4);
    }
    for number in (0..ACCOUNTS).filter(|number| ![123, 321].contains(number)) {
        assert_eq!(used(&ledger, number).await, 5 * (1 + number as i64));
    }
}

/// Large renewals, and two leases of one account.
#[tokio::test]
async fn renewals_of_every_size_go_together() {
    const ACCOUNTS: usize = 100;
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let lines = |number: usize| [1, 40, 130, 2_000][if number == 7 { 3 } else { number % 3 }];
    let renew = async |at: usize| {
        let number = at % ACCOUNTS;
        let lease = LeaseId::from_bits(1 + (at / ACCOUNTS) as u128);
        let renewal = settles_each(1, lines(number), lines(number));
        let renewal = Renewal { lease, ..renewal };
        ledger.renew(&account(number), month(), &renewal, seconds(20)).await
    };
    for answer in join_all((0..2 * ACCOUNTS).map(renew)).await {
        assert!(is_renewed(&answer));
    }
    for number in 0..ACCOUNTS {
        assert_eq!(used(&ledger, number).await, 2 * lines(number), "account {number}");
    }
}

/// Callers that wait for no answer any more, and do not say so, keep nobody.
#[tokio::test]
async fn a_caller_that_stands_still_keeps_nobody() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let (renewal, accounts): (_, Vec<_>) = (settles(1), (0..300).map(account).collect());
    let renew = |number: usize| ledger.renew(&accounts[number], month(), &renewal, seconds(20));
    let mut stand_still: Vec<_> = (0..40).map(renew).collect();
    for renewing in &mut stand_still {
        assert!(futures_util::poll!(renewing).is_pending());
    }
    let others = join_all((40..300).map(renew));
    let answers = tokio::time::timeout(seconds(10), others).await.expect("they have answers");
    assert!(answers.iter().all(is_renewed));
    assert!(join_all(stand_still).await.iter().all(is_renewed));
}

/// A server that is full refuses all, with the error that says so, and is not asked again at once.
#[tokio::test]
async fn a_server_that_refuses_refuses_all() {
    const ACCOUNTS: usize = 200;
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let renew_all = async |seq: u64| {
        let renewal = settles(seq);
        let renew =
            async |number| ledger.renew(&account(number), month(), &renewal, seconds(20)).await;
        join_all((0..ACCOUNTS).map(renew)).await
    };
    assert!(renew_all(1).await.iter().all(is_renewed));
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let before = calls(&server);
    for answer in renew_all(2).await {
        let Err(LedgerError::Unreachable { reason, .. }) = answer else { panic!("{answer:?}") };
        assert!(reason.contains("OOM"), "{reason}");
    }
    assert!(calls(&server) - before < ACCOUNTS as u64 / 4);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(renew_all(2).await.iter().all(is_renewed));
    let before = calls(&server);
    assert!(renew_all(3).await.iter().all(is_renewed));
    assert!(calls(&server) - before < ACCOUNTS as u64 / 4, "they go together as before");
    for number in 0..ACCOUNTS {
        assert_eq!(used(&ledger, number).await, 3);
    }
}

/// Where a login has no right to an account, the others have their answers.
#[tokio::test]
async fn a_login_may_have_rights_to_some_accounts_only() {
    const ACCOUNTS: usize = 100;
    let server = RedisServer::start();
    let rights = ["on", "nopass", "+@all", "~tc:{user:*", "~tc:schema", "~tc:check"];
    server.command(&[&["ACL", "SETUSER", "some"], &rights[..]].concat());
    let url = server.url().replace("redis://", "redis://some:any@");
    let ledger = RedisLedger::connect(url).await.unwrap();
    let renewal = settles(1);
    let of = |number: usize| match number {
        50 => Account::org("acme").unwrap(),
        number => account(number),
    };
    let renew = async |number| ledger.renew(&of(number), month(), &renewal, seconds(20)).await;
    for (number, answer) in join_all((0..ACCOUNTS).map(renew)).await.into_iter().enumerate() {
        assert_eq!(is_renewed(&answer), number != 50, "account {number}");
    }
}

/// Nothing is malformed because a login may not read it.
#[tokio::test]
async fn what_cannot_be_read_is_not_called_malformed() {
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "some", "on", "nopass", "+@all", "-hmget", "~*"]);
    let url = server.url().replace("redis://", "redis://some:any@");
    let ledger = RedisLedger::connect(url).await.unwrap();
    let renewal = settles(1);
    let renew = async |number| ledger.renew(&account(number), month(), &renewal, seconds(20)).await;
    for answer in join_all((0..50).map(renew)).await {
        let Err(error) = answer else { panic!("{answer:?}") };
        assert!(!matches!(error, LedgerError::Malformed(_)), "{error}");
        assert!(!error.to_string().contains("delete it"), "{error}");
    }
}

/// A command that only one of them needs fails: those before it in its call had their effect, and
/// are not sent again. A permit of a request rate would be lost by it.
#[tokio::test]
async fn only_what_had_no_answer_is_sent_again() {
    const ACCOUNTS: usize = 100;
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "some", "on", "nopass", "+@all", "-hdel", "~*"]);
    let url = server.url().replace("redis://", "redis://some:any@");
    let ledger = RedisLedger::connect(url).await.unwrap();
    let renew_all = async |seq: u64| {
        let renew = async |number| {
            let renewal = settles(seq);
            // A goodbye, which settles nothing more, removes an entry.
            let renewal = match (number, seq) {
                (50, 2) => Renewal { seq, forget: true, need: nanos(0), ..settles(1) },
                _ => renewal,
            };
            ledger.renew(&account(number), month(), &renewal, seconds(20)).await
        };
        join_all((0..ACCOUNTS).map(renew)).await
    };
    assert!(renew_all(1).await.iter().all(is_renewed));
    // Each reads the record once.
    let before = server.calls("hgetall");
    for (number, answer) in renew_all(2).await.into_iter().enumerate() {
        assert_eq!(is_renewed(&answer), number != 50, "account {number}");
    }
    assert_eq!(server.calls("hgetall") - before, ACCOUNTS as u64 + 1);
}

/// A replica that has lost its master has data for nobody, which is no damage.
#[tokio::test]
async fn a_replica_without_its_master_is_an_outage() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let renew_all = async |seq: u64| {
        let renewal = settles(seq);
        let renew =
            async |number| ledger.renew(&account(number), month(), &renewal, seconds(20)).await;
        join_all((0..50).map(renew)).await
    };
    assert!(renew_all(1).await.iter().all(is_renewed));
    server.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    let nobody = RedisServer::free_port().to_string();
    server.command(&["REPLICAOF", "127.0.0.1", &nobody]);
    for answer in renew_all(2).await {
        assert!(matches!(answer, Err(LedgerError::Unreachable { .. })), "{answer:?}");
    }
    server.command(&["REPLICAOF", "NO", "ONE"]);
    eventually(async || renew_all(2).await.iter().all(is_renewed).then_some(())).await;
    assert_eq!(used(&ledger, 7).await, 2);
}

/// A server that does not say that it is one by itself may be a proxy before several, which finds
/// the server by the first key. So may a connection of the host.
#[tokio::test]
async fn behind_a_proxy_each_is_a_call_of_its_own() {
    const ACCOUNTS: usize = 100;
    let server = RedisServer::start();
    server.command(&["ACL", "SETUSER", "some", "on", "nopass", "+@all", "-info", "~*"]);
    let url = server.url().replace("redis://", "redis://some:any@");
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let of_host = tower_credits::RedisServer::from_connection(connection);
    for (seq, of) in [(1, tower_credits::RedisServer::from(&*url)), (2, of_host)] {
        let ledger = RedisLedger::connect(of).await.unwrap();
        let (before, renewal) = (server.calls("evalsha"), settles(seq));
        let renew =
            async |number| ledger.renew(&account(number), month(), &renewal, seconds(20)).await;
        assert!(join_all((0..ACCOUNTS).map(renew)).await.iter().all(is_renewed));
        assert!(server.calls("evalsha") - before >= ACCOUNTS as u64);
    }
}

/// Callers go away at any moment, also those whose renewals lead a call: the others have their
/// answers, and nothing is debited twice or lost once it is sent again.
#[tokio::test]
async fn callers_may_go_away() {
    const ACCOUNTS: usize = 120;
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    for seed in 1..=60 {
        let mut rng = Rng::with_seed(seed);
        let renewal = settles(seed);
        let calls = (0..ACCOUNTS).map(|number| {
            // How often it is polled before it is dropped; some never are.
            let polls = [0, 1, 2, 3, 4, usize::MAX][rng.usize(0..6)];
            let (ledger, renewal) = (&ledger, &renewal);
            async move {
                let account = account(number);
                let mut renewing =
                    pin!(ledger.renew(&account, month(), renewal, Duration::from_secs(20)));
                let mut polled = 0;
                let answer = poll_fn(|context| {
                    if polled == polls {
                        return Poll::Ready(None);
                    }
                    polled += 1;
                    renewing.as_mut().poll(context).map(Some)
                });
                // A caller that goes away does so as soon as it is polled again.
                answer.await
            }
        });
        for (number, answer) in join_all(calls).await.into_iter().enumerate() {
            assert!(answer.is_none_or(|answer| is_renewed(&answer)), "account {number}");
        }
    }
    for number in 0..ACCOUNTS {
        let answer = ledger.renew(&account(number), month(), &settles(60), seconds(20)).await;
        assert!(is_renewed(&answer));
        assert_eq!(used(&ledger, number).await, 60);
    }
}

/// While the server is silent, those with little time give up at their deadlines, and have no
/// effect later. Those that wait with them have their answers once it goes on.
#[tokio::test]
async fn each_has_its_own_deadline() {
    const ACCOUNTS: usize = 100;
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    server.stop();
    let renewal = settles(1);
    let long = seconds(20);
    let within =
        |number: usize| [Duration::from_millis(100), Duration::from_millis(400), long][number % 3];
    let given_up = counter();
    let renew = async |number| {
        let answer = ledger.renew(&account(number), month(), &renewal, within(number)).await;
        given_up.fetch_add(usize::from(answer.is_err()), Ordering::SeqCst);
        answer
    };
    let all = join_all((0..ACCOUNTS).map(renew));
    let goes_on = async {
        let short = (0..ACCOUNTS).filter(|number| within(*number) < long).count();
        eventually(async || (given_up.load(Ordering::SeqCst) == short).then_some(())).await;
        // For 50 ms more they may have one.
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.go_on();
    };
    let (answers, ()) = tokio::join!(all, goes_on);
    for (number, answer) in answers.into_iter().enumerate() {
        if within(number) < long {
            let Err(LedgerError::Deadline(given)) = answer else { panic!("{number}: {answer:?}") };
            assert_eq!(given, within(number));
            assert_eq!(used(&ledger, number).await, 0, "account {number}");
        } else {
            assert!(is_renewed(&answer), "account {number}");
            assert_eq!(used(&ledger, number).await, 1, "account {number}");
        }
    }
}

/// Some servers behind one address take no call with keys of several slots: each renewal is a call
/// of its own then.
#[tokio::test]
async fn a_server_may_take_no_calls_for_several_accounts() {
    const ACCOUNTS: usize = 200;
    let server = RedisServer::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let port = server.port;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let ((mut commands, mut to_client), (mut answers, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut to_client).await });
            tokio::spawn(async move {
                let mut read = Vec::new();
                while commands.read_buf(&mut read).await.is_ok_and(|size| size > 0) {
                    while let Some((words, len)) = command(&read) {
                        let sent = if is_of_one_slot(&words) { &read[..len] } else { REFUSES };
                        to_server.write_all(sent).await.unwrap();
                        read.drain(..len);
                    }
                }
            });
        }
    });
    let ledger = RedisLedger::connect(&*url).await.unwrap();
    let mut refused = Vec::new();
    for seq in 1..=3 {
        let renewal = settles(seq);
        let renew =
            async |number| ledger.renew(&account(number), month(), &renewal, seconds(20)).await;
        assert!(join_all((0..ACCOUNTS).map(renew)).await.iter().all(is_renewed));
        refused.push(server.calls("echo"));
    }
    // It is not tried again and again.
    assert!(refused[0] > 0 && refused.iter().all(|count| *count == refused[0]), "{refused:?}");
    for number in 0..ACCOUNTS {
        assert_eq!(used(&ledger, number).await, 3);
    }
}

/// Has the server count a call that is refused, and answer with an error in its place.
const REFUSES: &[u8] = b"*3\r\n$4\r\nEVAL\r\n$100\r\nredis.call('ECHO', '') return \
    redis.error_reply('CROSSSLOT Keys in request don\\'t hash to one slot')\r\n$1\r\n0\r\n";

/// The words of the first command, and its length.
fn command(read: &[u8]) -> Option<(Vec<String>, usize)> {
    let line = |at: usize| {
        let end = at + read.get(at..)?.windows(2).position(|two| two == b"\r\n")?;
        let number = std::str::from_utf8(&read[at + 1..end]).unwrap().parse().unwrap();
        Some((number, end + 2))
    };
    let (count, mut at): (usize, _) = line(0)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (len, begin) = line(at)?;
        words.push(String::from_utf8_lossy(read.get(begin..begin + len)?).into_owned());
        at = begin + len + 2;
    }
    (at <= read.len()).then_some((words, at))
}

fn is_of_one_slot(words: &[String]) -> bool {
    if !words[0].starts_with("EVAL") {
        return true;
    }
    let keys = &words[3..3 + words[2].parse::<usize>().unwrap()];
    let tag = |key: &String| key.split(['{', '}']).nth(1).map(str::to_owned);
    keys.iter().all(|key| tag(key) == tag(&keys[0]))
}
