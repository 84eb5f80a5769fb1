//! The journal: what a process had not settled when it died is settled by the next, once; a file
//! that is torn or has flipped bits settles what is whole in it, and nothing else.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{
    ComputeTime, CreditMeter, Journal, MemoryLedger, identify::IdentityFromExtensions,
    ledger::Ledger,
};

use crate::support::{bodies::Fed, fair::on_a_fair_machine, folder::Folder, switched::Switched, *};

/// A meter of a process that writes this journal, whose clock is the system's.
fn process(ledger: impl Ledger, journal: &Path) -> CreditMeter {
    CreditMeter::builder(plan(), ledger, IdentityFromExtensions)
        .journal(Journal::open(journal).unwrap())
        .build()
        .unwrap()
}

/// Opens a journal whose meter is dropped: if the disk is busy, its thread may still flush it.
async fn reopened(journal: &Path) -> Journal {
    eventually(async || match Journal::open(journal) {
        Ok(opened) => Some(opened),
        Err(error) => {
            assert!(error.to_string().contains("in use by another process"), "{error}");
            None
        }
    })
    .await
}

/// Copies a journal that a process goes on writing, as it is on the disk.
fn copy(journal: &Path, to: PathBuf) -> PathBuf {
    std::fs::copy(journal, &to).unwrap();
    to
}

/// Runs requests of 10 ms each, of a user of the tier `pro`.
async fn spend(meter: &CreditMeter, user: &str, requests: u64) {
    spend_as(meter, user, "pro", requests).await;
}

async fn spend_as(meter: &CreditMeter, user: &str, tier: &str, requests: u64) {
    let service = meter.layer(service_fn(async |_: Request<Empty<Bytes>>| {
        let answer = Response::builder().extension(ComputeTime(Duration::from_millis(10)));
        Ok::<_, Infallible>(answer.body(Empty::<Bytes>::new()).unwrap())
    }));
    for _ in 0..requests {
        let request = request(user, tier, Empty::new());
        assert_eq!(service.clone().oneshot(request).await.unwrap().status(), StatusCode::OK);
    }
}

const COST: i64 = 1_200;

/// What is on a user's bill once the ledger has nothing on hold for them.
async fn used(meter: &CreditMeter, user: &str, at_least: i64) -> i64 {
    eventually(async || {
        let statement = statement(meter, user, "pro").await;
        let used = statement.used.as_nano_usd();
        (statement.held.is_zero() && used >= at_least).then_some(used)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_and_what_was_accrued_just_before_a_crash_is_debited_once() {
    on_a_fair_machine(crash).await;
}

/// What ran until a moment before a crash is in the journal: that moment is what a write takes.
async fn crash() -> Result<(), String> {
    let folder = Folder::new("journal-accrued");
    let journal = folder.0.join("journal");
    let memory = MemoryLedger::new();
    let way = Switched::to(memory.clone());
    let dying = process(way.clone(), &journal);
    spend(&dying, "alice", 3).await;
    assert_eq!(used(&dying, "alice", 3 * COST).await, 3 * COST);

    // A stream runs, and is on hold; then the ledger is away for this process.
    let streaming = dying.layer(service_fn(async |_: Request<Empty<Bytes>>| {
        let (feed, body) = Fed::new();
        tokio::spawn(async move {
            while feed.send(Bytes::from_static(b"token")).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Ok::<_, Infallible>(Response::new(body))
    }));
    let began = Instant::now();
    let stream = streaming.oneshot(request("alice", "pro", Empty::new())).await.unwrap();
    let mut stream = Box::pin(stream.into_body());
    stream.frame().await.unwrap().unwrap();
    way.off(true);
    // And one that ends meanwhile.
    spend(&dying, "alice", 1).await;
    let until = began + Duration::from_millis(400);
    while Instant::now() < until {
        stream.frame().await.unwrap().unwrap();
    }
    // A copy is taken piece by piece, which a crash is not: one that a write went on in may be of
    // no time at all, and cannot be opened.
    let crashed = folder.0.join("crashed");
    let (before, next) = eventually(async || {
        let before = began.elapsed();
        copy(&journal, crashed.clone());
        let journal = Journal::open(&crashed).ok()?;
        let builder = CreditMeter::builder(plan(), memory.clone(), IdentityFromExtensions);
        Some((before, builder.journal(journal).build().ok()?))
    })
    .await;
    let most = 4 * COST + i64::try_from(before.as_micros()).unwrap() * 120 / 1_000 + 1;
    let slack = Duration::from_millis(60);
    let least = most - i64::try_from(slack.as_micros()).unwrap() * 120 / 1_000;
    let used = used(&next, "alice", 4 * COST).await;
    assert!(used <= most, "{used} of {least} to {most}");
    if used < least {
        return Err(format!("{used} of {least} to {most}"));
    }
    let statement = statement(&next, "alice", "pro").await;
    let recovered = statement.lines.iter().any(|line| line.model.as_str() == "recovered");
    assert!(!recovered, "with its line: {statement:?}");
    next.shutdown().await;
    drop((next, stream, dying));
    // The leases of its journal are closed: a third process has nothing to settle.
    assert!(reopened(&crashed).await.unsettled().is_zero());
    Ok(())
}

/// Shuts a meter down, whose leases all say goodbye. `Err` if some did not: a shutdown has two
/// seconds for that, which a machine that is too busy to tell may exceed.
async fn shut_down(meter: &CreditMeter, ledger: &Switched) -> Result<(), String> {
    assert!(meter.shutdown().await.unsettled.is_empty());
    let (spoke, left) = ledger.leases();
    if left == spoke { Ok(()) } else { Err(format!("{left} of {spoke} said goodbye")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_shuts_down_leaves_an_empty_journal_and_two_cannot_share_one() {
    on_a_fair_machine(shuts_down_and_shares_no_journal).await;
}

async fn shuts_down_and_shares_no_journal() -> Result<(), String> {
    let folder = Folder::new("journal-shutdown");
    let journal = folder.0.join("journal");
    let ledger = Switched::default();
    let meter = process(ledger.clone(), &journal);
    for user in 0..20 {
        spend(&meter, &format!("u{user}"), 2).await;
    }
    let error = Journal::open(&journal).unwrap_err().to_string();
    assert!(error.contains("in use by another process"), "{error}");
    assert!(error.contains("give each node a journal of its own"), "{error}");
    shut_down(&meter, &ledger).await?;
    assert_eq!(ledger.leases(), (20, 20), "every lease has said goodbye");
    drop(meter);
    let opened = reopened(&journal).await;
    assert!(opened.is_empty(), "{opened:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_lease_says_goodbye_the_file_has_no_record_of_it() {
    on_a_fair_machine(has_no_record_at_goodbyes).await;
}

async fn has_no_record_at_goodbyes() -> Result<(), String> {
    let folder = Folder::new("journal-goodbye");
    let journal = folder.0.join("journal");
    let ledger = Switched::default();
    ledger.copies_at_goodbyes(&journal);
    let meter = process(ledger.clone(), &journal);
    spend(&meter, "alice", 3).await;
    shut_down(&meter, &ledger).await?;
    assert!(ledger.goodbyes() > 0, "it said goodbye");
    for number in 0..ledger.goodbyes() {
        // A copy in mid-write would not open, and would fail this test.
        let opened = Journal::open(journal.with_extension(number.to_string())).unwrap();
        assert!(opened.is_empty(), "{opened:?}");
    }
    Ok(())
}

/// A journal of what twelve users spent while the ledger was away.
async fn of_twelve(folder: &Folder) -> (PathBuf, i64) {
    let journal = folder.0.join("journal");
    let ledger = Switched::default();
    let meter = process(ledger.clone(), &journal);
    ledger.off(true);
    for user in 0..12 {
        spend(&meter, &format!("u{user}"), 2).await;
    }
    let whole = eventually(async || {
        let copied = copy(&journal, folder.0.join("whole"));
        let journal = Journal::open(&copied).ok()?;
        (journal.unsettled() == nanos(24 * COST)).then_some(copied)
    })
    .await;
    drop(meter);
    (whole, 24 * COST)
}

/// What a journal settles in a new ledger; `None` if it cannot be opened.
async fn settles(journal: &Path) -> Option<i64> {
    let ledger = MemoryLedger::new();
    let Ok(journal) = Journal::open(journal) else { return None };
    let meter = CreditMeter::builder(plan(), ledger, IdentityFromExtensions)
        .journal(journal)
        .build()
        .unwrap();
    assert!(meter.shutdown().await.unsettled.is_empty());
    let mut sum = 0;
    for user in 0..12 {
        let statement = statement(&meter, &format!("u{user}"), "pro").await;
        let used = statement.used.as_nano_usd();
        assert!(used == 0 || used == 2 * COST, "u{user}: {used}");
        sum += used;
    }
    Some(sum)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_or_flipped_journal_settles_what_is_whole_in_it_and_nothing_else() {
    let folder = Folder::new("journal-damaged");
    let (whole, all) = of_twelve(&folder).await;
    let copied = copy(&whole, folder.0.join("copied"));
    assert_eq!(settles(&copied).await, Some(all));
    let bytes = std::fs::read(&whole).unwrap();
    let damaged = folder.0.join("damaged");
    let mut rng = Rng::with_seed(7);
    let (mut refused, mut settled) = (0, 0);
    for round in 0..60 {
        let mut bytes = bytes.clone();
        if round % 6 == 0 {
            bytes.truncate(rng.usize(0..bytes.len()));
        } else {
            // In what was written, most often.
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            for _ in 0..rng.usize(1..20) {
                let at = rng.usize(0..used);
                bytes[at] ^= 1 << rng.u8(0..8);
            }
        }
        std::fs::write(&damaged, &bytes).unwrap();
        match settles(&damaged).await {
            None => refused += 1,
            Some(sum) => {
                assert!(sum <= all, "{sum}");
                settled += usize::from(sum == all);
            }
        }
    }
    eprintln!("of 60 damaged journals {refused} were refused, and {settled} had lost nothing");
    assert!(refused > 0 && settled > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_and_a_journal_do_not_take_each_others_files() {
    let folder = Folder::new("journal-swapped");
    let (journal, ledger) = (folder.0.join("journal"), folder.0.join("ledger"));
    drop(Journal::open(&journal).unwrap());
    drop(tower_credits::EmbeddedLedger::open(&ledger).unwrap());
    let error = Journal::open(&ledger).unwrap_err().to_string();
    assert!(error.contains("is a `ledger 2`") && error.contains("reads a `journal 2`"), "{error}");
    let error = tower_credits::EmbeddedLedger::open(&journal).unwrap_err().to_string();
    assert!(error.contains("is a `journal 2`") && error.contains("reads a `ledger 2`"), "{error}");
}

/// Alice became a customer of another tier while the node was down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_late_does_not_bring_old_terms_back() {
    let folder = Folder::new("journal-terms");
    let journal = folder.0.join("journal");
    let memory = MemoryLedger::new();
    let way = Switched::to(memory.clone());
    let dying = process(way.clone(), &journal);
    way.off(true);
    spend(&dying, "alice", 2).await;
    let crashed = eventually(async || {
        let copied = copy(&journal, folder.0.join("crashed"));
        let is_whole = Journal::open(&copied).is_ok_and(|j| j.unsettled() == nanos(2 * COST));
        is_whole.then_some(copied)
    })
    .await;
    // Terms count by whole seconds.
    let second = tower_credits::clock::UnixTime::now().as_secs();
    eventually(async || (tower_credits::clock::UnixTime::now().as_secs() > second).then_some(()))
        .await;
    let other = CreditMeter::new(plan(), memory.clone(), IdentityFromExtensions);
    spend_as(&other, "alice", "free", 1).await;
    settled(&other, "alice", "free", 1).await;
    let next = process(memory.clone(), &crashed);
    let alice = tower_credits::Account::user("alice").unwrap();
    let month = tower_credits::Period::containing(tower_credits::clock::UnixTime::now());
    let statement = eventually(async || {
        let statement = next.accounts().statement(&alice, month).await.unwrap();
        (statement.used == nanos(3 * COST)).then_some(statement)
    })
    .await;
    assert_eq!(statement.included, "0.10".parse().unwrap(), "those of `free`, stated last");
    drop((dying, next));
}
