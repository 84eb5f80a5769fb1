//! The file holds what [`AccountState`] says, after every step and after every fault.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use redb::{Database, ReadableDatabase, ReadableTable, backends::InMemoryBackend};

use super::{
    super::{
        AccountState, Accounts, Amendment, Book, LeaseId, Ledger, LedgerError, Outcome, PartTerms,
        Record, Renewal, Terms, contract,
        histories::{MAX_LINES, Step, by_book, history, months, nanos, shown},
    },
    EmbeddedLedger,
    account::whole,
    failure::{Failure, PURPOSE},
    rows,
    writer::Writer,
};
use crate::{
    Account, Limits, Period,
    clock::{Clock, ManualClock, SystemClock, UnixTime},
    database_file::{DatabaseFile, FileError, ROWS, SCHEMA_KEY, sealed},
};

/// A folder of a test's own.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("tower-credits-file-{}-{:x}", std::process::id(), fastrand::u64(..));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn the_ledger_in_a_file_holds_the_contract() {
    let folder = Folder::new();
    let clock = ManualClock::at("2026-11".parse().unwrap());
    let ledger =
        EmbeddedLedger::builder(folder.file("manual")).clock(clock.clone()).open().unwrap();
    contract::check(&ledger, Some(&clock)).await.unwrap();
    contract::check(&EmbeddedLedger::open(folder.file("system")).unwrap(), None).await.unwrap();
}

/// The record and the books of an account as they are stored.
fn stored(
    rows: &impl ReadableTable<&'static [u8], &'static [u8]>,
    account: &Account,
) -> (Record, Vec<Book>) {
    let record = rows::record(rows, account).unwrap();
    let books = months().map(|month| {
        let book = rows::book(rows, month, account).unwrap();
        let lines = rows::lines(rows, month, account).unwrap();
        assert_eq!(record.months.get(&month).copied().unwrap_or_default(), lines.len());
        whole(book.unwrap_or_else(|| Book::new(month)), lines).with_max_lines(MAX_LINES)
    });
    (record.record, books.into())
}

#[test]
fn rows_are_the_state_after_every_step_of_random_histories() {
    let histories = std::env::var("HISTORIES")
        .map_or(10_000, |histories| histories.parse().expect("HISTORIES is a number"))
        / 10;
    let folder = Folder::new();
    let writer = Writer {
        file: Arc::new(DatabaseFile::open(&folder.file("unused"), PURPOSE).unwrap()),
        clock: Arc::new(SystemClock),
        max_lines: MAX_LINES,
    };
    let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut rows = transaction.open_table(ROWS).unwrap();
    for seed in 0..histories {
        let steps: Vec<_> = history(&mut Rng::with_seed(seed))
            .into_iter()
            .filter(|step| !matches!(step, Step::Save | Step::Lose { .. }))
            .collect();
        let account = Account::user(&format!("u{seed}")).unwrap();
        for (number, (step, expected)) in steps.iter().zip(by_book(&steps)).enumerate() {
            let answer = match step.clone() {
                Step::Renew { period, renewal, not_after, now } => {
                    let today = Period::containing(now);
                    answered(writer.renew(
                        &mut rows,
                        &account,
                        (period, today),
                        &renewal,
                        not_after,
                        now,
                    ))
                }
                Step::Amend { amendment, now } => {
                    let today = Period::containing(now);
                    answered(writer.amend(&mut rows, &account, today, amendment, now))
                }
                Step::Claim { period, threshold, by, now } => {
                    let claim = |state: &mut AccountState| state.claim(period, threshold, by, now);
                    answered(writer.change(&mut rows, &account, &[period], &[], claim))
                }
                Step::Save | Step::Lose { .. } => continue,
            };
            let (record, books) = stored(&rows, &account);
            assert_eq!(
                (answer, record, books),
                expected,
                "history {seed}, step {number}: {step:?}"
            );
        }
    }
}

fn answered(answer: Result<impl std::fmt::Debug, Failure>) -> String {
    shown(answer.map_err(|failure| match failure {
        Failure::Call(error) => error,
        Failure::File(reason) => panic!("{reason}"),
    }))
}

/// A lease's renewal that settles this much in all.
fn renewal(lease: u128, seq: u64, settled: i64) -> Renewal {
    Renewal {
        lease: LeaseId::from_bits(lease),
        seq,
        batch: seq,
        settled: nanos(settled),
        reported: nanos(0),
        lines: [].into(),
        keep: nanos(0),
        refill: nanos(0),
        need: nanos(0),
        extra: nanos(0),
        terms: Terms {
            included: nanos(1_000_000),
            included_per_day: nanos(0),
            per_seat: false,
            pay_as_you_go: nanos(0),
        },
        terms_at: UnixTime::now(),
        ttl: Duration::from_secs(600),
        forget: false,
        most_per_day: None,
        parts: std::sync::Arc::default(),
        permits: None,
        concurrency: None,
    }
}

const SECOND: Duration = Duration::from_secs(1);

async fn used(ledger: &EmbeddedLedger, account: &Account, period: Period) -> i64 {
    ledger.statement(account, period, None).await.unwrap().used.as_nano_usd()
}

#[tokio::test]
async fn months_beyond_thirteen_are_removed_and_so_is_an_erased_account() {
    let folder = Folder::new();
    let first: Period = "2026-01".parse().unwrap();
    let clock = ManualClock::at(first);
    let path = folder.file("credits.redb");
    let ledger = EmbeddedLedger::builder(&path).clock(clock.clone()).open().unwrap();
    let alice = Account::user("alice").unwrap();
    let mut month = first;
    for number in 1..=20 {
        clock.set_unix_time(month.begins());
        ledger.renew(&alice, month, &renewal(number, 1, 7), SECOND).await.unwrap();
        month = month.next();
    }
    let accounts = Accounts::new(ledger.clone());
    let listed = async |month| {
        accounts.list(month, None, 10.try_into().unwrap()).await.unwrap().accounts.len()
    };
    assert_eq!((listed(first).await, listed(month.previous()).await), (0, 1));
    assert_eq!(used(&ledger, &alice, month.previous()).await, 7);
    ledger.amend(&alice, Amendment::Erase).await.unwrap();
    assert_eq!(listed(month.previous()).await, 0);
    drop((accounts, ledger));
    let database = Database::open(&path).unwrap();
    let rows = database.begin_read().unwrap().open_table(ROWS).unwrap();
    let keys: Vec<_> = rows
        .iter()
        .unwrap()
        .map(|row| String::from_utf8(row.unwrap().0.value().to_vec()).unwrap())
        .collect();
    assert_eq!(keys, ["ruser:alice", "s"], "nothing of it is left but that it was erased");
}

#[tokio::test]
async fn a_file_is_used_by_one_process_and_balances_survive() {
    let folder = Folder::new();
    let path = folder.file("credits.redb");
    let (alice, month) = (Account::user("alice").unwrap(), Period::containing(UnixTime::now()));
    let ledger = EmbeddedLedger::open(&path).unwrap();
    ledger.renew(&alice, month, &renewal(1, 1, 7), SECOND).await.unwrap();
    let error = EmbeddedLedger::open(&path).unwrap_err();
    assert!(matches!(error, LedgerError::Unfit(_)), "{error}");
    assert!(error.to_string().contains("is in use by another process"), "{error}");
    drop(ledger);
    let ledger = EmbeddedLedger::open(&path).unwrap();
    assert_eq!(used(&ledger, &alice, month).await, 7);
    let error = EmbeddedLedger::open(folder.file("no/folder")).unwrap_err().to_string();
    assert!(error.contains("no/folder cannot be opened"), "{error}");
    std::fs::write(folder.file("text"), "x".repeat(100_000)).unwrap();
    let error = EmbeddedLedger::open(folder.file("text")).unwrap_err().to_string();
    assert!(error.contains("is no ledger"), "{error}");
}

/// Settles amounts of ten accounts, and copies the file in between, as a power failure would leave
/// it: each copy is a ledger that has at least what was acknowledged before, and no more than what
/// was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_file_between_commits_has_all_that_was_acknowledged() {
    let folder = Folder::new();
    let path = folder.file("credits.redb");
    let month = Period::containing(UnixTime::now());
    let accounts: Vec<_> =
        (0..10).map(|user| Account::user(&format!("u{user}")).unwrap()).collect();
    let ledger = EmbeddedLedger::open(&path).unwrap();
    for round in 1..=20_u64 {
        let settled = i64::try_from(round).unwrap() * 10;
        let calls = accounts.iter().enumerate().map(|(lease, account)| {
            let renewal = renewal(lease as u128 + 1, round, settled);
            let ledger = ledger.clone();
            async move { ledger.renew(account, month, &renewal, SECOND).await.unwrap() }
        });
        futures_util::future::join_all(calls).await;
        let copy = folder.file(&format!("copy-{round}"));
        std::fs::copy(&path, &copy).unwrap();
        let copied = EmbeddedLedger::open(&copy).unwrap();
        for account in &accounts {
            assert_eq!(used(&copied, account, month).await, settled, "round {round}");
        }
    }
    // In the middle of commits: what is on the disk then is some whole transaction.
    let (mut acknowledged, mut copies) = (200, 0);
    let writes = tokio::spawn({
        let (ledger, account) = (ledger.clone(), accounts[0].clone());
        async move {
            for seq in 21..=200_u64 {
                let settled = i64::try_from(seq).unwrap() * 10;
                ledger.renew(&account, month, &renewal(1, seq, settled), SECOND).await.unwrap();
            }
        }
    });
    while !writes.is_finished() {
        let copy = folder.file("copy");
        std::fs::copy(&path, &copy).unwrap();
        if let Ok(copied) = EmbeddedLedger::open(&copy) {
            let used = used(&copied, &accounts[0], month).await;
            assert!((acknowledged..=2_000).contains(&used), "{used}");
            (acknowledged, copies) = (used, copies + 1);
        }
        tokio::task::yield_now().await;
    }
    writes.await.unwrap();
    assert!(copies > 0);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_an_outage_until_it_can() {
    let folder = Folder::new();
    let path = folder.file("credits.redb");
    let (alice, month) = (Account::user("alice").unwrap(), Period::containing(UnixTime::now()));
    let ledger = EmbeddedLedger::open(&path).unwrap();
    ledger.renew(&alice, month, &renewal(1, 1, 7), SECOND).await.unwrap();
    // As after any I/O error: the database answers nothing any more.
    let file = ledger.file();
    let database = file.database().unwrap();
    let error = file.failed(&database, "no space left on device");
    assert!(matches!(&error, FileError::Away(reason) if reason.contains("no space left")));
    // While the old one is open, the file cannot be opened again.
    let error = ledger.renew(&alice, month, &renewal(1, 2, 9), SECOND).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    drop(database);
    let answer = loop {
        match ledger.renew(&alice, month, &renewal(1, 2, 9), SECOND).await {
            Ok(answer) => break answer,
            Err(error) => assert!(error.is_outage(), "{error}"),
        }
    };
    assert!(matches!(answer.outcome, Outcome::Renewed { .. }));
    assert_eq!(used(&ledger, &alice, month).await, 9);
}

#[tokio::test]
async fn a_file_that_is_gone_is_not_replaced_by_an_empty_one() {
    let folder = Folder::new();
    let (path, elsewhere) = (folder.file("credits.redb"), folder.file("moved"));
    let (alice, month) = (Account::user("alice").unwrap(), Period::containing(UnixTime::now()));
    let ledger = EmbeddedLedger::open(&path).unwrap();
    ledger.renew(&alice, month, &renewal(1, 1, 7), SECOND).await.unwrap();
    let database = ledger.file().database().unwrap();
    drop(ledger.file().failed(&database, "input/output error"));
    drop(database);
    std::fs::rename(&path, &elsewhere).unwrap();
    for (is_empty, reason) in [(false, "cannot be opened"), (true, "is no ledger")] {
        if is_empty {
            std::fs::write(&path, "").unwrap();
        }
        // It is tried again at intervals.
        loop {
            let error = ledger.renew(&alice, month, &renewal(1, 2, 9), SECOND).await.unwrap_err();
            assert!(error.is_outage(), "{error}");
            if error.to_string().contains(reason) {
                break;
            }
        }
    }
    std::fs::rename(&elsewhere, &path).unwrap();
    while ledger.renew(&alice, month, &renewal(1, 2, 9), SECOND).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(used(&ledger, &alice, month).await, 9);
}

#[tokio::test]
async fn one_damaged_account_is_nobody_elses_trouble() {
    let folder = Folder::new();
    let path = folder.file("credits.redb");
    let month = Period::containing(UnixTime::now());
    let [alice, bob] = ["alice", "bob"].map(|user| Account::user(user).unwrap());
    let ledger = EmbeddedLedger::open(&path).unwrap();
    for account in [&alice, &bob] {
        ledger.renew(account, month, &renewal(1, 1, 7), SECOND).await.unwrap();
    }
    drop(ledger);
    damage(&path, &rows::book_key(month, &alice));
    let ledger = EmbeddedLedger::open(&path).unwrap();
    for error in [
        ledger.renew(&alice, month, &renewal(1, 2, 9), SECOND).await.unwrap_err(),
        ledger.statement(&alice, month, None).await.unwrap_err(),
    ] {
        assert!(matches!(error, LedgerError::Malformed(_)), "{error}");
    }
    ledger.renew(&bob, month, &renewal(1, 2, 9), SECOND).await.unwrap();
    assert_eq!(used(&ledger, &bob, month).await, 9);
    ledger.check(SECOND).await.unwrap();
}

fn damage(path: &Path, key: &[u8]) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(ROWS).unwrap().insert(key, &b"{\"period\":"[..]).unwrap();
    transaction.commit().unwrap();
}

#[tokio::test]
async fn calls_that_come_together_are_written_together() {
    let folder = Folder::new();
    let ledger = EmbeddedLedger::open(folder.file("credits.redb")).unwrap();
    let month = Period::containing(UnixTime::now());
    let calls = (1..=500_u32).map(|user| {
        let ledger = ledger.clone();
        async move {
            let account = Account::user(&format!("u{user}")).unwrap();
            ledger.renew(&account, month, &renewal(1, 1, 1), 60 * SECOND).await
        }
    });
    let answers = futures_util::future::join_all(calls).await;
    let outcomes: BTreeMap<_, usize> =
        answers.into_iter().fold(BTreeMap::new(), |mut outcomes, answer| {
            *outcomes.entry(answer.unwrap().outcome.label()).or_default() += 1;
            outcomes
        });
    assert_eq!(outcomes, [("renewed", 500)].into());
    let (mut listed, mut next) = (0, None);
    loop {
        let page = ledger.list(month, next.as_ref(), 30.try_into().unwrap()).await.unwrap();
        (listed, next) = (listed + page.accounts.len(), page.next);
        if next.is_none() {
            break;
        }
    }
    assert_eq!(listed, 500);
    let (commits, calls) = ledger.commits();
    assert_eq!(calls, 500);
    assert!(commits < 250, "{commits} commits");
}

/// A clock that can be held up, and with it the thread that reads it.
#[derive(Clone, Debug, Default)]
struct Held(Arc<AtomicBool>);

impl Clock for Held {
    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    fn unix_time(&self) -> UnixTime {
        while self.0.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        SystemClock.unix_time()
    }
}

/// The thread that writes is held up until nobody waits for the renewal any more.
#[tokio::test]
async fn a_renewal_does_not_act_after_its_deadline() {
    let folder = Folder::new();
    let clock = Held::default();
    let ledger = EmbeddedLedger::builder(folder.file("late")).clock(clock.clone()).open().unwrap();
    let (account, month) = (Account::user("alice").unwrap(), Period::containing(UnixTime::now()));
    let renew = async |held_up: Duration, within: Duration, lease| {
        clock.0.store(true, Ordering::SeqCst);
        let renewal = renewal(lease, 1, 100);
        let hold_up = async {
            let until = Instant::now() + held_up;
            while Instant::now() < until {
                std::thread::yield_now();
            }
            clock.0.store(false, Ordering::SeqCst);
        };
        tokio::join!(ledger.renew(&account, month, &renewal, within), hold_up).0
    };
    let (short, long) = (Duration::from_millis(20), Duration::from_millis(40));
    let late = renew(long, short, 1).await;
    assert!(matches!(late, Err(LedgerError::Deadline(_))), "{late:?}");
    assert_eq!(used(&ledger, &account, month).await, 0);
    renew(short, 60 * SECOND, 2).await.unwrap();
    assert_eq!(used(&ledger, &account, month).await, 100);
}

/// Rows of schema version 1, as that version wrote them.
const VERSION_1: [(&str, &str); 3] = [
    (
        "l2026-11\0org:acme\0{\"Of\":{\"day\":15,\"model\":\"whisper\",\"hardware\":\"gpu\",\
         \"feature\":\"api\",\"subject\":\"alice\"}}",
        r#"{"requests":2,"compute_micros":700,"cost":700}"#,
    ),
    (
        "m2026-11\0org:acme",
        r#"{"period":"2026-11","used":700,"purchased_used":50,"charged":0,"recovered":0,"refunded":50,"sums":{"settled":700,"forgotten":0},"terms":{"terms":{"included":200,"per_seat":true,"pay_as_you_go":10000},"seats":3,"stated_at":1794700800000},"lines":[],"refunds":{"case-1":{"amount":50,"reason":"slow"}},"moved_to":{},"moved_from":{},"leases":{"entries":{"00000000000000000000000000000001":{"seq":1,"batch":1,"settled":700}},"sums":{"sums":{"settled":700,"forgotten":0},"behind_until":null,"moved":0}},"holds":{"entries":{"00000000000000000000000000000001":{"amount":40,"expires":1794701400000}},"held":40,"next_expiry":1794701400000},"claims":{"included 80":"00000000000000000000000000000001"},"max_lines":20000}"#,
    ),
    (
        "rorg:acme",
        r#"{"record":{"seats":3,"spending_limit":9000,"grants":{"order-1":{"amount":500,"left":450,"expires":null}},"spent":{},"closed":null,"reserved":{"2026-11":{"amount":40,"until":1794701400000}},"purchased_used":{"2026-11":50},"erased":null},"months":{"2026-11":1}}"#,
    ),
];

#[tokio::test]
async fn a_file_of_the_version_before_is_read_and_goes_on() {
    let folder = Folder::new();
    let path = folder.file("credits.redb");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut rows = transaction.open_table(ROWS).unwrap();
    rows.insert(SCHEMA_KEY, &b"ledger 1"[..]).unwrap();
    for (key, value) in VERSION_1 {
        let row = sealed(key.as_bytes(), value.as_bytes().to_vec());
        rows.insert(key.as_bytes(), &*row).unwrap();
    }
    drop(rows);
    transaction.commit().unwrap();
    drop(database);

    let month: Period = "2026-11".parse().unwrap();
    let clock = ManualClock::at(month);
    clock.set_unix_time(month.begins() + Duration::from_secs(14 * 86_400));
    let ledger = EmbeddedLedger::builder(&path).clock(clock).open().unwrap();
    let acme = Account::org("acme").unwrap();
    let audit = ledger.audit(&acme, month).await.unwrap();
    assert!(audit.is_sound(), "{audit}");
    let statement = ledger.statement(&acme, month, None).await.unwrap();
    assert_eq!(
        (statement.used, statement.held, statement.refunded, statement.purchased_left),
        (nanos(700), nanos(40), nanos(50), nanos(450))
    );
    // Its lease goes on, now as a lease of a part.
    let parts = [PartTerms { part: "research".parse().unwrap(), limits: Limits::NONE }].into();
    let next = Renewal { parts, need: nanos(40), ..renewal(1, 2, 740) };
    ledger.renew(&acme, month, &next, SECOND).await.unwrap();
    let audit = ledger.audit(&acme, month).await.unwrap();
    assert!(audit.is_sound(), "{audit}");
    let statement = ledger.statement(&acme, month, None).await.unwrap();
    assert_eq!((statement.used, statement.parts[0].used), (nanos(740), nanos(40)));
    drop(ledger);
    let database = Database::open(&path).unwrap();
    let rows = database.begin_read().unwrap().open_table(ROWS).unwrap();
    let schema = rows.get(SCHEMA_KEY).unwrap().unwrap().value().to_vec();
    assert_eq!(schema, b"ledger 2", "the version before does not read its parts away");
}
