//! Exports: against stand-ins of OpenMeter, Stripe and Lago, and cut off at any step.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]
#![cfg(feature = "export")]

#[allow(dead_code, reason = "each binary uses its part")]
mod support {
    pub mod folder;
    pub mod receivers;
}

use std::{
    collections::{BTreeMap, HashMap},
    future::{Future, poll_fn},
    num::NonZeroUsize,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use tower_credits::{
    Account, Accounts, Credits, Period,
    clock::{ManualClock, UnixTime},
    export::{
        Customers, Doubt, EventFile, ExportError, Exporter, Lago, OpenMeter, Receiver,
        ReceiverError, ReceiverFuture, Refusal, StripeMeter, UsageEvent,
    },
    ledger::{
        AccountSummary, AccountsPage, Amendment, Answer, Cursor, Ledger, LedgerError, LedgerFuture,
        LineKey, Renewal, Statement, StatementLine, Terms, Usage, UsageLine,
    },
};

use crate::support::{folder::Folder, receivers};

/// A ledger of statements that a test writes. Usage gets in by requests in other tests.
#[derive(Clone, Debug, Default)]
struct Statements(Arc<Mutex<BTreeMap<Account, Statement>>>);

impl Ledger for Statements {
    fn renew<'a>(
        &'a self,
        _: &'a Account,
        _: Period,
        _: &'a Renewal,
        _: Duration,
    ) -> LedgerFuture<'a, Answer> {
        unreachable!("nothing runs")
    }

    fn statement<'a>(
        &'a self,
        account: &'a Account,
        period: Period,
        _: Option<Terms>,
    ) -> LedgerFuture<'a, Statement> {
        let found = self.0.lock().unwrap().get(account).cloned();
        let found = found.filter(|found| found.period == period);
        let statement = found.unwrap_or_else(|| Statement::empty(account.clone(), period));
        Box::pin(async move {
            tokio::task::yield_now().await;
            Ok(statement)
        })
    }

    fn amend<'a>(&'a self, _: &'a Account, _: Amendment) -> LedgerFuture<'a, bool> {
        unreachable!("nothing is changed")
    }

    fn list<'a>(
        &'a self,
        period: Period,
        from: Option<&'a Cursor>,
        _: NonZeroUsize,
    ) -> LedgerFuture<'a, AccountsPage> {
        // Three on a page.
        let from: usize = from.map_or(0, |from| from.as_str().parse().unwrap());
        let statements = self.0.lock().unwrap();
        let all: Vec<_> = statements
            .values()
            .filter(|found| found.period == period)
            .map(|found| AccountSummary {
                account: found.account.clone(),
                used: found.used,
                refunded: found.refunded,
                held: found.held,
                closed: false,
            })
            .collect();
        let next = (from + 3 < all.len()).then(|| Cursor::new((from + 3).to_string()));
        let accounts = all.into_iter().skip(from).take(3).collect();
        Box::pin(async move { Ok::<_, LedgerError>(AccountsPage { accounts, next }) })
    }
}

impl Statements {
    fn accounts(&self) -> Accounts {
        Accounts::new(self.clone())
    }

    /// Adds usage to a line.
    fn uses(&self, account: &str, period: Period, key: LineKey, nanos: i64) {
        let account: Account = account.parse().unwrap();
        let mut statements = self.0.lock().unwrap();
        let statement =
            statements.entry(account.clone()).or_insert_with(|| Statement::empty(account, period));
        let cost = Credits::from_nano_usd(nanos).unwrap();
        let new = Usage { requests: 1, compute_micros: 1_000, cost };
        let line = StatementLine::from(UsageLine { key, usage: new });
        let is_same = |other: &&mut StatementLine| {
            let one = (&other.day, &other.model, &other.hardware, &other.feature, &other.subject);
            one == (&line.day, &line.model, &line.hardware, &line.feature, &line.subject)
        };
        match statement.lines.iter_mut().find(is_same) {
            Some(found) => {
                found.usage.requests += 1;
                found.usage.compute_micros += 1_000;
                found.usage.cost = found.usage.cost.saturating_add(cost);
            }
            None => statement.lines.push(line),
        }
        statement.used = statement.used.saturating_add(cost);
    }

    /// A failover forgets part of a line, and the ledger recovers the amount without details.
    fn forgets(&self, account: &str, nanos: i64) {
        let mut statements = self.0.lock().unwrap();
        let Some(statement) = statements.get_mut(&account.parse::<Account>().unwrap()) else {
            return;
        };
        let Some(line) = statement.lines.iter_mut().find(|line| line.subject.is_some()) else {
            return;
        };
        let cost = line.usage.cost.min(Credits::from_nano_usd(nanos).unwrap());
        line.usage.cost = line.usage.cost.saturating_sub(cost);
        match statement.lines.iter_mut().find(|line| line.model.as_str() == "recovered") {
            Some(line) => line.usage.cost = line.usage.cost.saturating_add(cost),
            None => statement.lines.push(StatementLine::recovered(cost)),
        }
    }

    fn sums(&self) -> HashMap<String, u64> {
        let statements = self.0.lock().unwrap();
        let used = |statement: &Statement| statement.used.as_nano_usd().unsigned_abs();
        statements.values().map(|found| (found.account.to_string(), used(found))).collect()
    }
}

fn line(day: u8, model: &str, subject: &str) -> LineKey {
    LineKey::Of {
        day,
        model: model.parse().unwrap(),
        hardware: "gpu".parse().unwrap(),
        feature: "api".parse().unwrap(),
        subject: subject.parse().unwrap(),
    }
}

/// A line of a random day, model and caller.
fn random_line(rng: &mut fastrand::Rng) -> LineKey {
    if rng.u8(0..10) == 0 {
        return LineKey::Other;
    }
    let (model, subject) = (["m", "n", "a,b"][rng.usize(0..3)], ["x", "y"][rng.usize(0..2)]);
    line(rng.u8(1..4), model, subject)
}

fn this_month() -> Period {
    Period::containing(UnixTime::now())
}

/// A receiver that fails at random, and counts each id once.
#[derive(Clone, Debug)]
struct Counting {
    events: Arc<Mutex<HashMap<String, UsageEvent>>>,
    rng: Arc<Mutex<fastrand::Rng>>,
    fails: bool,
    answers: bool,
    refuses: bool,
    loses_answers: bool,
    remembers_for: Option<Duration>,
}

impl Counting {
    fn new(seed: u64) -> Self {
        Self {
            events: Arc::default(),
            rng: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
            fails: false,
            answers: true,
            refuses: false,
            loses_answers: false,
            remembers_for: None,
        }
    }

    fn sums(&self) -> HashMap<String, u64> {
        let mut sums = HashMap::new();
        for event in self.events.lock().unwrap().values() {
            *sums.entry(event.account.to_string()).or_default() +=
                event.cost.as_nano_usd().unsigned_abs();
        }
        sums
    }
}

impl Receiver for Counting {
    fn deliver<'a>(&'a self, events: &'a [UsageEvent]) -> ReceiverFuture<'a> {
        Box::pin(async move {
            if self.refuses {
                let refusal = |index| Refusal { index, reason: "no such customer".to_owned() };
                return Ok((0..events.len()).map(refusal).collect());
            }
            for event in events {
                if self.fails && self.rng.lock().unwrap().u8(0..8) == 0 {
                    return Err(ReceiverError::unavailable("a fault"));
                }
                let before = self.events.lock().unwrap().insert(event.id.clone(), event.clone());
                assert!(before.is_none_or(|before| before == *event), "one id, two events");
                tokio::task::yield_now().await;
            }
            if self.loses_answers || self.fails && self.rng.lock().unwrap().u8(0..4) == 0 {
                return Err(ReceiverError::unavailable("a lost answer"));
            }
            if !self.answers {
                std::future::pending::<()>().await;
            }
            Ok(Vec::new())
        })
    }

    fn name(&self) -> String {
        "counting".to_owned()
    }

    fn batch_size(&self) -> usize {
        4
    }

    fn remembers_for(&self) -> Option<Duration> {
        self.remembers_for
    }
}

/// Opens a state that the export before may not have closed yet.
async fn open(accounts: &Accounts, receiver: &Counting, state: &Path) -> Exporter {
    loop {
        let opened = if state.exists() {
            Exporter::open(accounts.clone(), receiver.clone(), state)
        } else {
            Exporter::create(accounts.clone(), receiver.clone(), state)
        };
        match opened {
            Ok(exporter) => return exporter.retry_for(Duration::ZERO),
            Err(error) if error.to_string().contains("in use") => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Polls a future so many times at most; `None` if it was dropped then.
async fn within<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut polls) = (pin!(future), polls);
    poll_fn(move |context| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[tokio::test]
async fn an_export_that_is_cut_off_at_any_step_adds_up_to_the_ledger() {
    let (mut cuts, mut complete, mut forgotten) = (0, 0, 0);
    // EXPORTS sets how many histories are played.
    let seeds: u64 = std::env::var("EXPORTS").map_or(8, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let folder = Folder::new(&format!("export-{seed}"));
        let state = folder.0.join("state");
        let (ledger, period) = (Statements::default(), this_month());
        let mut receiver = Counting::new(seed);
        receiver.fails = true;
        for _ in 0..45 {
            for _ in 0..rng.usize(0..8) {
                let account = format!("user:{}", rng.u8(0..8));
                ledger.uses(&account, period, random_line(&mut rng), rng.i64(0..1_000));
            }
            if rng.u8(0..4) == 0 {
                forgotten += 1;
                ledger.forgets(&format!("user:{}", rng.u8(0..8)), rng.i64(1..1_000));
            }
            let exporter = open(&ledger.accounts(), &receiver, &state).await;
            match within(rng.usize(1..25), exporter.export(&[period])).await {
                None => cuts += 1,
                Some(Ok(report)) => complete += usize::from(report.is_complete()),
                Some(Err(ExportError::Receiver { .. })) => {}
                Some(Err(error)) => panic!("{error}"),
            }
            // At no time more than the ledger has.
            for (account, sum) in receiver.sums() {
                assert!(sum <= ledger.sums()[&account], "seed {seed}: {account}");
            }
        }
        receiver.fails = false;
        let exporter = open(&ledger.accounts(), &receiver, &state).await;
        assert!(exporter.export(&[period]).await.unwrap().is_complete());
        let ledger: HashMap<_, _> = ledger.sums().into_iter().filter(|(_, sum)| *sum > 0).collect();
        let received: HashMap<_, _> =
            receiver.sums().into_iter().filter(|(_, sum)| *sum > 0).collect();
        assert_eq!(received, ledger, "seed {seed}");
        let nothing = exporter.export(&[period]).await.unwrap();
        assert_eq!((nothing.events, nothing.repeated), (0, 0), "seed {seed}");
    }
    println!("{cuts} exports cut off, {complete} complete, {forgotten} times usage was forgotten");
    assert!(
        cuts >= 10 * seeds && complete > 0 && forgotten > 5 * seeds,
        "{cuts}, {complete}, {forgotten}"
    );
}

/// An export goes on while another one does: each amount is sent once.
#[tokio::test]
async fn exports_that_overlap_send_each_amount_once() {
    let (ledger, folder) = (ledger(), Folder::new("export-overlap"));
    let receiver = Counting::new(1);
    let state = folder.0.join("state");
    let exporter = Exporter::create(ledger.accounts(), receiver.clone(), &state).unwrap();
    for round in 0..4 {
        let mut rng = fastrand::Rng::with_seed(round);
        let months = [this_month()];
        let grows = async {
            for _ in 0..20 {
                ledger.uses("user:1", this_month(), random_line(&mut rng), 3);
                tokio::task::yield_now().await;
            }
        };
        let one = exporter.export(&months);
        let (one, other, ()) = tokio::join!(one, exporter.export(&months), grows);
        assert!(one.unwrap().is_complete() && other.unwrap().is_complete());
        // One is cut off, and what it began goes on.
        ledger.uses("user:2", this_month(), line(1, "m", "x"), 5);
        let _ = within(3 + usize::try_from(round).unwrap() * 3, exporter.export(&months)).await;
        exporter.export(&months).await.unwrap();
    }
    exporter.export(&[this_month()]).await.unwrap();
    assert_eq!(receiver.sums(), ledger.sums());
}

/// The ledger of these tests: accounts with several lines, some of days that have passed.
fn ledger() -> Statements {
    let ledger = Statements::default();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..2_000 {
        let account = format!("user:{}", rng.u8(0..40));
        ledger.uses(&account, this_month(), random_line(&mut rng), rng.i64(1..100_000));
    }
    ledger
}

/// Exports until everything has arrived, while the ledger grows.
async fn export_all(
    ledger: &Statements,
    receiver: impl Receiver,
    standin: &receivers::Receiver,
    one_in: u32,
) {
    let folder = Folder::new(&format!("export-{}", receiver.name()));
    standin.fail_one_in(one_in);
    let exporter = Exporter::create(ledger.accounts(), receiver, folder.0.join("state"))
        .unwrap()
        .retry_for(Duration::from_secs(300));
    for round in 0..5 {
        let report = exporter.export(&[this_month()]).await.unwrap();
        assert!(report.is_complete(), "{report:?}");
        for account in 0..10 {
            let account = format!("user:{account}");
            ledger.uses(&account, this_month(), line(1, "m", "x"), 1 + round);
        }
    }
    standin.never_fail();
    exporter.export(&[this_month()]).await.unwrap();
    let received = standin.received.lock().unwrap();
    assert_eq!((&received.wrong, received.overlaps), (&Vec::new(), 0));
    assert!(received.repeated > 0, "an answer was lost");
}

#[tokio::test]
async fn openmeter_has_what_the_ledger_has_whatever_fails() {
    let (ledger, standin) = (ledger(), receivers::Receiver::openmeter().await);
    export_all(&ledger, OpenMeter::to(&standin.url).unwrap(), &standin, 6).await;
    assert_eq!(standin.sums(), ledger.sums());
}

#[tokio::test]
async fn stripe_has_what_the_ledger_has_whatever_fails() {
    let (ledger, standin) = (ledger(), receivers::Receiver::stripe().await);
    let customers = (0..40).map(|n| (format!("user:{n}").parse().unwrap(), format!("user:{n}")));
    let stripe = StripeMeter::new("inference", "sk_test_1", customers.collect::<Customers>())
        .unwrap()
        .url(&standin.url)
        .unwrap()
        .calls_per_second(5_000);
    // Each event is a call.
    export_all(&ledger, stripe, &standin, 100).await;
    assert_eq!(standin.sums(), ledger.sums());
}

#[tokio::test]
async fn lago_has_what_the_ledger_has_whatever_fails() {
    let (ledger, standin) = (ledger(), receivers::Receiver::lago().await);
    let lago = Lago::to(&standin.url, "lago-key", "inference").unwrap();
    export_all(&ledger, lago, &standin, 6).await;
    assert_eq!(standin.sums(), ledger.sums());
}

#[tokio::test]
async fn an_event_that_is_refused_is_named_and_holds_up_no_other() {
    let (ledger, folder) = (ledger(), Folder::new("export-refused"));
    ledger.uses("user:gone", this_month(), line(1, "m", "x"), 7);
    let standin = receivers::Receiver::lago().await;
    let lago = Lago::to(&standin.url, "lago-key", "inference").unwrap();
    let exporter = Exporter::create(ledger.accounts(), lago, folder.0.join("lago")).unwrap();
    for _ in 0..2 {
        let report = exporter.export(&[this_month()]).await.unwrap();
        assert_eq!((report.refused, report.refusals.len()), (1, 1));
        let (event, reason) = &report.refusals[0];
        assert_eq!(event.account.to_string(), "user:gone");
        assert!(reason.contains("invalid_format"), "{reason}");
    }
    let mut expected = ledger.sums();
    expected.remove("user:gone");
    assert_eq!(standin.sums(), expected);

    let standin = receivers::Receiver::stripe().await;
    let customers: Customers = "user:gone, cus_gone\nuser:1, cus_1".parse().unwrap();
    let stripe = |key| {
        let stripe = StripeMeter::new("inference", key, customers.clone()).unwrap();
        stripe.url(&standin.url).unwrap().calls_per_second(1_000)
    };
    let state = folder.0.join("stripe");
    let exporter = Exporter::create(ledger.accounts(), stripe("sk_test_1"), &state).unwrap();
    let report = exporter.export(&[this_month()]).await.unwrap();
    assert_eq!((report.refused, report.accounts, report.skipped), (1, 2, 39));
    assert!(report.refusals[0].1.contains("No such customer"));
    assert_eq!(standin.sums(), HashMap::from([("cus_1".to_owned(), ledger.sums()["user:1"])]));
    drop(exporter);

    // A key that is wrong is no event's fault, and nothing is tried again.
    let wrong = Exporter::open(ledger.accounts(), stripe("sk_test_2"), &state).unwrap();
    ledger.uses("user:1", this_month(), line(1, "m", "x"), 7);
    let error = wrong.export(&[this_month()]).await.unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("Invalid API Key"), "{error}");
    drop(wrong);
    let exporter = Exporter::open(ledger.accounts(), stripe("sk_test_1"), &state).unwrap();
    exporter.export(&[this_month()]).await.unwrap();
    assert_eq!(standin.sums()["cus_1"], ledger.sums()["user:1"]);
}

#[tokio::test]
async fn events_that_a_receiver_may_have_forgotten_wait_for_a_decision() {
    for doubt in [Doubt::Arrived, Doubt::Lost] {
        let (ledger, folder) = (Statements::default(), Folder::new(&format!("export-{doubt:?}")));
        let month: Period = "2026-11".parse().unwrap();
        ledger.uses("user:a", month, line(1, "m", "x"), 5);
        let clock = ManualClock::at(month);
        let mut receiver = Counting::new(1);
        receiver.remembers_for = Some(Duration::from_secs(24 * 60 * 60));
        let state = folder.0.join("state");
        let accounts = ledger.accounts();
        let silent = Counting { answers: false, ..receiver.clone() };
        let exporter =
            Exporter::create(accounts.clone(), silent, &state).unwrap().clock(clock.clone());
        // It is cut off when the event has arrived, and the state does not know that.
        let arrived = poll_fn(|context| {
            context.waker().wake_by_ref();
            let has_none = receiver.events.lock().unwrap().is_empty();
            if has_none { Poll::Pending } else { Poll::Ready(()) }
        });
        let months = [month];
        tokio::select! {
            _ = exporter.export(&months) => panic!("it has no answer"),
            () = arrived => {}
        }
        drop(exporter);
        clock.advance(Duration::from_secs(23 * 60 * 60));
        let exporter = open(&accounts, &receiver, &state).await.clock(clock.clone());
        ledger.uses("user:a", month, line(1, "m", "x"), 2);
        let report = exporter.export(&[month]).await.unwrap();
        let found = (report.in_doubt, report.events, report.is_complete());
        assert_eq!(found, (1, 1, false), "{report:?}");
        assert_eq!(report.doubts[0].cost, "0.000000005".parse().unwrap());
        assert_eq!(exporter.resolve(doubt, |_| true).await.unwrap(), 1);
        let report = exporter.export(&[month]).await.unwrap();
        assert!(report.is_complete());
        assert_eq!(report.repeated, if doubt == Doubt::Lost { 1 } else { 0 });
        assert_eq!(receiver.sums()["user:a"], 7);
    }
}

#[tokio::test]
async fn a_state_belongs_to_one_receiver_and_is_not_made_by_accident() {
    let (ledger, folder) = (ledger(), Folder::new("export-state"));
    let (one, other) = (folder.0.join("one.jsonl"), folder.0.join("other.jsonl"));
    let state = folder.0.join("state");
    let file = || EventFile::json_lines(&one).unwrap();
    // Nor is an empty file a state.
    std::fs::write(&state, b"").unwrap();
    let error = Exporter::open(ledger.accounts(), file(), &state).unwrap_err().to_string();
    assert!(error.contains("there is no state of an export"), "{error}");
    drop(Exporter::create(ledger.accounts(), file(), &state).unwrap());
    let error = Exporter::create(ledger.accounts(), file(), &state).unwrap_err().to_string();
    assert!(error.contains("already: open it"), "{error}");
    let other = EventFile::json_lines(&other).unwrap();
    let error = Exporter::open(ledger.accounts(), other, &state).unwrap_err().to_string();
    assert!(error.contains("other.jsonl") && error.contains("sends everything again"), "{error}");
}

#[tokio::test]
async fn a_file_has_each_event_once_wherever_a_write_was_torn() {
    let (ledger, folder) = (ledger(), Folder::new("export-files"));
    let format = |name: &str, path: &Path| match name {
        "json" => EventFile::json_lines(path).unwrap(),
        _ => EventFile::csv(path).unwrap(),
    };
    for name in ["json", "csv"] {
        let (file, state) = (folder.0.join(name), folder.0.join(format!("{name}.state")));
        let exporter = Exporter::create(ledger.accounts(), format(name, &file), &state).unwrap();
        // Events that are sent again have the time that they had.
        let clock = ManualClock::at(this_month());
        exporter.clock(clock.clone()).export(&[this_month()]).await.unwrap();
        let whole = std::fs::read(&file).unwrap();
        let receiver = format(name, &file);
        // The same events come again, after a crash that left a part of them.
        let events: Vec<UsageEvent> = {
            let state = folder.0.join(format!("{name}.again"));
            let file = EventFile::json_lines(folder.0.join(format!("{name}.lines"))).unwrap();
            let exporter = Exporter::create(ledger.accounts(), file, state).unwrap();
            let mut events = Vec::new();
            exporter
                .clock(clock.clone())
                .preview(&[this_month()], |event| events.push(event.clone()))
                .await
                .unwrap();
            events
        };
        drop(receiver);
        for length in [0, 1, 50, whole.len() / 2, whole.len() - 1, whole.len()] {
            let torn = folder.0.join(format!("{name}-{length}"));
            std::fs::write(&torn, &whole[..length]).unwrap();
            // Pages of three accounts each, as the ledger lists them, were one delivery each.
            let receiver = format(name, &torn);
            let written = String::from_utf8_lossy(&whole[..length]).into_owned();
            let first = events
                .iter()
                .position(|event| !written.contains(&event.id))
                .unwrap_or(events.len());
            // The delivery under way had the last event that is there in part.
            let begin = first.saturating_sub(usize::from(first > 0));
            receiver.deliver(&events[begin..]).await.unwrap();
            let now = std::fs::read_to_string(&torn).unwrap();
            for event in &events {
                assert_eq!(now.matches(&event.id).count(), 1, "{name} {length}");
            }
            assert_eq!(now.lines().count(), String::from_utf8_lossy(&whole).lines().count());
        }
    }
    // A table that a spreadsheet reads.
    let mut rows = csv::Reader::from_path(folder.0.join("csv")).unwrap();
    let mut sum = 0;
    for row in rows.records() {
        sum += row.unwrap()[11].parse::<u64>().unwrap();
    }
    assert_eq!(sum, ledger.sums().values().sum::<u64>());
}

#[tokio::test]
async fn a_preview_sends_and_writes_nothing() {
    let (ledger, folder) = (ledger(), Folder::new("export-preview"));
    let receiver = Counting::new(1);
    let state = folder.0.join("state");
    let exporter = Exporter::create(ledger.accounts(), receiver.clone(), &state).unwrap();
    let mut seen = 0;
    let found = exporter.preview(&[this_month()], |_| seen += 1).await.unwrap();
    assert_eq!(found.cost().as_nano_usd().unsigned_abs(), ledger.sums().values().sum::<u64>());
    assert!(receiver.events.lock().unwrap().is_empty());
    let sent = exporter.export(&[this_month()]).await.unwrap();
    assert_eq!((seen, found.events, found.usage), (sent.events, sent.events, sent.usage));
}

/// An event whose answer was lost is in doubt a day later, also if it was refused since.
#[tokio::test]
async fn a_refusal_does_not_end_an_older_doubt() {
    let (ledger, folder) = (Statements::default(), Folder::new("export-refused-doubt"));
    let month: Period = "2026-11".parse().unwrap();
    ledger.uses("user:a", month, line(1, "m", "x"), 5);
    let (clock, accounts) = (ManualClock::at(month), ledger.accounts());
    let mut receiver = Counting::new(1);
    receiver.remembers_for = Some(Duration::from_secs(24 * 60 * 60));
    let state = folder.0.join("state");
    let lossy = Counting { loses_answers: true, ..receiver.clone() };
    let exporter = Exporter::create(accounts.clone(), lossy, &state).unwrap();
    let exporter = exporter.clock(clock.clone()).retry_for(Duration::ZERO);
    exporter.export(&[month]).await.unwrap_err();
    drop(exporter);
    // Then the receiver refuses it, for whatever reason.
    let refusing = Counting { refuses: true, ..receiver.clone() };
    let exporter = open(&accounts, &refusing, &state).await.clock(clock.clone());
    let report = exporter.export(&[month]).await.unwrap();
    assert_eq!((report.refused, report.in_doubt), (1, 0));
    drop(exporter);
    clock.advance(Duration::from_secs(48 * 60 * 60));
    let exporter = open(&accounts, &receiver, &state).await.clock(clock.clone());
    let report = exporter.export(&[month]).await.unwrap();
    assert_eq!((report.refused, report.in_doubt, report.events), (0, 1, 0));
    assert_eq!(exporter.resolve(Doubt::Arrived, |event| event.id == "another").await.unwrap(), 0);
    assert_eq!(exporter.resolve(Doubt::Arrived, |_| true).await.unwrap(), 1);
    assert!(exporter.export(&[month]).await.unwrap().is_complete());
    assert_eq!(receiver.sums()["user:a"], 5);
}
