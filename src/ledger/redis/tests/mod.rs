//! The Lua script and [`Book`] are one function: compared answer for answer and state for state on
//! random histories.
//!
//! The script runs on a real server, on a clock that the test sets. `HISTORIES` sets how many
//! histories are played.

mod several;

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use redis::{Script, Value};

use super::{
    super::{
        Amendment, Book, LeaseId, LedgerError, LineKey, Record, Renewal, Terms, Usage, UsageLine,
        histories::{
            MAX_LINES, Seen, Step, StoredKey, by_book, history, months, nanos, plain_history, shown,
        },
    },
    call,
    codec::{Hash, Hashes},
    schema::{self, Keys},
    script,
};
use crate::{
    Account, Credits, Period,
    clock::UnixTime,
    redis_server::{Fault, tests::redis_server::RedisServer},
};

/// In place of the server's clock.
pub(super) const TEST_CLOCK: &str =
    "local function clock() return tonumber(redis.call('GET', 'test:clock')) end\n";

fn has_parts(book: &Book) -> bool {
    !(book.parts.totals.is_empty() && book.parts.holds.is_empty())
}

/// The key of a part.
fn key_of(part: StoredKey, keys: &[Keys; 4]) -> &str {
    match part {
        StoredKey::Record => &keys[0].record,
        StoredKey::Spent => &keys[0].spent,
        StoredKey::Book(month) => &keys[month].book,
        StoredKey::Leases(month) => &keys[month].leases,
        StoredKey::Holds(month) => &keys[month].holds,
        StoredKey::Parts => &keys[0].parts,
        StoredKey::MonthParts(month) => &keys[month].month_parts,
    }
}

/// The scripts of schema version 4, which was released before this one.
pub(super) const SCHEMA_4: [&str; 2] = [
    include_str!("../../../../tests/redis/schema-4/renew.lua"),
    include_str!("../../../../tests/redis/schema-4/amend.lua"),
];

/// Returns a renewal's call by a node of schema version 4, which has no parts, and sends each
/// number as an argument.
pub(super) fn renewal_of_schema_4(
    how: (&str, &str),
    keys: &Keys,
    renewal: &Renewal,
    now: UnixTime,
    not_after: UnixTime,
) -> redis::Cmd {
    let (period, today) = (keys.period, Period::containing(now));
    let current = (today != period).then(|| keys.book_of(today));
    let nanos = |amount: Credits| amount.as_nano_usd().unsigned_abs();
    let mut call = redis::cmd(how.0);
    call.arg(how.1).arg(5 + usize::from(current.is_some()));
    call.arg(&[&keys.record, &keys.spent, &keys.book, &keys.leases, &keys.holds]).arg(current);
    call.arg(renewal.lease.to_string()).arg(&[
        renewal.seq,
        renewal.batch,
        nanos(renewal.settled),
        nanos(renewal.reported),
        nanos(renewal.keep),
        nanos(renewal.refill),
        nanos(renewal.need),
        nanos(renewal.extra),
        nanos(renewal.terms.included),
        u64::from(renewal.terms.per_seat),
        nanos(renewal.terms.pay_as_you_go),
        renewal.terms_at.as_secs(),
        (UnixTime::EPOCH + renewal.ttl).as_millis(),
        u64::from(renewal.forget),
        not_after.as_millis(),
        period.begins().as_millis(),
        period.ends().as_millis(),
        today.begins().as_millis(),
        today.ends().as_millis(),
        MAX_LINES as u64,
    ]);
    for line in renewal.lines.iter() {
        let Usage { requests, compute_micros, cost } = line.usage;
        call.arg(call::LineField(&line.key)).arg(&[requests, compute_micros, nanos(cost)]);
    }
    call
}

/// Plays a history on the server, in one round trip. Steps that are `old` are made by nodes of
/// schema version 4, whose scripts are the last two.
async fn by_script(
    server: &mut redis::aio::MultiplexedConnection,
    scripts: &[Script],
    account: &Account,
    steps: &[Step],
    old: &[bool],
) -> Vec<Seen> {
    let player = Player::new(account.clone(), scripts);
    let mut pipe = redis::pipe();
    let mut commands = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let before = pipe.len();
        if let Some(now) = moment(step) {
            pipe.cmd("SET").arg("test:clock").arg(now.as_millis().to_string());
        }
        player.make(step, old.get(number) == Some(&true), &mut pipe);
        commands.push(pipe.len() - before);
        player.look(&mut pipe);
    }
    let answers: Vec<Value> = server.send_packed_commands(&pipe, 0, pipe.len()).await.unwrap();
    let mut answers = answers.into_iter();
    let mut seen = Vec::new();
    for (step, commands) in steps.iter().zip(commands) {
        let answer = said(step, answers.by_ref().take(commands).last().unwrap_or(Value::Nil));
        let (record, books) = player.looked(&mut answers);
        seen.push((answer, record, books));
    }
    seen
}

/// The moment of a step, if it has one.
fn moment(step: &Step) -> Option<UnixTime> {
    match step {
        Step::Amend { now, .. } | Step::Claim { now, .. } | Step::Renew { now, .. } => Some(*now),
        Step::Save | Step::Lose { .. } => None,
    }
}

/// The answer to a step.
fn said(step: &Step, answer: Value) -> String {
    let refused = |error| LedgerError::from(Fault::from(error));
    match (step, answer.extract_error().map_err(refused)) {
        (Step::Save | Step::Lose { .. }, _) => String::new(),
        (_, Err(error)) => shown(Err::<(), _>(error)),
        (Step::Amend { amendment, .. }, Ok(answer)) => {
            shown(Ok(call::read_amended(amendment, redis::from_redis_value(answer).unwrap())))
        }
        (Step::Claim { .. }, Ok(answer)) => {
            shown(Ok(redis::from_redis_value::<bool>(answer).unwrap()))
        }
        (Step::Renew { .. }, Ok(answer)) => {
            let answer: String = redis::from_redis_value(answer).unwrap();
            shown(call::read_answer(&answer))
        }
    }
}

/// An account on the server, and the scripts that change it.
struct Player<'a> {
    account: Account,
    keys: [Keys; 4],
    scripts: &'a [Script],
}

impl<'a> Player<'a> {
    fn new(account: Account, scripts: &'a [Script]) -> Self {
        let keys = months().map(|period| Keys::new("tc", &account, period));
        Self { account, keys, scripts }
    }

    fn all_keys(&self) -> impl Iterator<Item = &String> {
        let months = self.keys.iter().flat_map(
            |Keys { book, leases, holds, claims, month_parts, .. }| {
                [book, leases, holds, claims, month_parts]
            },
        );
        let Keys { record, spent, parts, .. } = &self.keys[0];
        [record, spent, parts].into_iter().chain(months)
    }

    /// The keys of the account in a month.
    fn of(&self, period: Period) -> &Keys {
        self.keys.iter().find(|keys| keys.period == period).unwrap()
    }

    /// Makes a step, at the moment that was set.
    fn make(&self, step: &Step, is_old: bool, pipe: &mut redis::Pipeline) {
        let [renew, amend] =
            [0, 1].map(|at| self.scripts[at + if is_old { 2 } else { 0 }].get_hash());
        let how = ("EVALSHA", amend);
        match step {
            Step::Amend { amendment, now } => {
                pipe.add_command(call::amendment(how, "tc", &self.account, amendment, *now));
            }
            Step::Claim { period, threshold, by, .. } => {
                pipe.add_command(call::claim(how, self.of(*period), threshold, *by));
            }
            Step::Renew { period, renewal, not_after, now } => {
                let how = ("EVALSHA", renew);
                let keys = self.of(*period);
                pipe.add_command(if is_old {
                    renewal_of_schema_4(how, keys, renewal, *now, *not_after)
                } else {
                    call::renewal(how, keys, renewal, MAX_LINES, *now, *not_after)
                });
            }
            Step::Save => {
                for key in self.all_keys() {
                    let saved = format!("saved:{key}");
                    pipe.cmd("DEL").arg(&saved).cmd("COPY").arg(key).arg(saved);
                }
            }
            Step::Lose { part, restore } => {
                let key = key_of(*part, &self.keys);
                pipe.cmd("DEL").arg(key);
                if *restore {
                    pipe.cmd("COPY").arg(format!("saved:{key}")).arg(key);
                }
            }
        }
    }

    /// Reads everything.
    fn look(&self, pipe: &mut redis::Pipeline) {
        for key in self.all_keys() {
            pipe.cmd("HGETALL").arg(key);
        }
    }

    /// Returns what was read.
    fn looked(&self, answers: &mut impl Iterator<Item = Value>) -> (Record, Vec<Book>) {
        let mut hash = || -> Hash { redis::from_redis_value(answers.next().unwrap()).unwrap() };
        let (record, spent, parts) = (hash(), hash(), hash());
        let mut hashes = Hashes {
            keys: &self.keys[0],
            record,
            spent,
            book: hash(),
            leases: hash(),
            holds: hash(),
            claims: hash(),
            month_parts: hash(),
            parts,
        };
        let record = hashes.record().unwrap();
        let mut books = vec![hashes.book().unwrap().with_max_lines(MAX_LINES)];
        for keys in &self.keys[1..] {
            hashes = Hashes {
                keys,
                book: hash(),
                leases: hash(),
                holds: hash(),
                claims: hash(),
                month_parts: hash(),
                ..hashes
            };
            books.push(hashes.book().unwrap().with_max_lines(MAX_LINES));
        }
        (record, books)
    }
}

/// Opens a connection that waits for an answer for as long as a busy machine may need: by default
/// it is half a second, and a whole history is one answer.
pub(super) async fn connected(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    let config =
        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// The number of histories that a test plays.
fn histories() -> u64 {
    let set = std::env::var("HISTORIES");
    set.map_or(10_000, |histories| histories.parse().expect("HISTORIES is a number"))
}

async fn scripts(link: &mut redis::aio::MultiplexedConnection) -> [Script; 4] {
    let old = |at: usize| SCHEMA_4[at].replace("--CLOCK--\n", TEST_CLOCK);
    let new = [script::renew_text(TEST_CLOCK), script::amend_text(TEST_CLOCK)];
    let [renew, amend] = new;
    let scripts = [renew, amend, old(0), old(1)].map(|text| Script::new(&text));
    for script in &scripts {
        script.load_async(link).await.unwrap();
    }
    scripts
}

#[tokio::test]
async fn the_script_and_the_book_agree_state_for_state() {
    let histories = histories();
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = connected(&server).await;
    let scripts = scripts(&mut link).await;
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let (mut debited_late, mut given_back, mut repaired, mut set_aside) = (0, 0, 0, 0);
    let mut limited: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..histories {
        let steps = history(&mut Rng::with_seed(seed));
        let account = Account::user(&format!("u{seed}")).unwrap();
        let (expected, found) =
            (by_book(&steps), by_script(&mut link, &scripts, &account, &steps, &[]).await);
        for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
            assert_eq!(
                expected,
                found,
                "history {seed}, step {step}, {:?}, after {:?}",
                steps[step],
                step.checked_sub(1).map(|before| by_book(&steps).swap_remove(before))
            );
        }
        assert_eq!(expected.len(), found.len());
        let lossy = steps.iter().any(|step| matches!(step, Step::Lose { .. }));
        for (step, (answer, record, books)) in steps.iter().zip(expected) {
            let outcome = answer
                .split([' ', ','])
                .find(|word| !["Answer", "{", "outcome:"].contains(word))
                .unwrap_or_default();
            let step = match step {
                Step::Amend { amendment, .. } => {
                    format!("{amendment:?}").split([' ', '(']).next().unwrap_or_default().to_owned()
                }
                Step::Claim { .. } => "Claim".to_owned(),
                Step::Save => "Save".to_owned(),
                Step::Lose { part, restore } => format!("Lose {part:?} {restore}"),
                Step::Renew { .. } => "Renew".to_owned(),
            };
            *outcomes.entry(format!("{step} {outcome}")).or_default() += 1;
            if let Some((_, limit)) = answer.split_once("LimitStanding { ") {
                let limit = limit.split(", limit").next().unwrap_or_default();
                *limited.entry(limit.to_owned()).or_default() += 1;
            }
            debited_late +=
                usize::from(books.iter().any(|book| book.lines.contains_key(&LineKey::Late)));
            repaired += usize::from(lossy && books.iter().any(|book| !book.recovered.is_zero()));
            set_aside += usize::from(!record.spent.is_empty());
            given_back += usize::from(
                books.iter().any(|book| !book.refunded.is_zero() && !book.purchased_used.is_zero()),
            );
            // What was used stands in the lines, whatever happened.
            let adds_up = |book: &Book| {
                book.lines_cost() == book.used
                    && book.refunded <= book.used
                    && (lossy || book.purchased_used <= book.used)
            };
            assert!(books.iter().all(adds_up), "history {seed}: {books:?}");
        }
        if seed % 500 == 499 {
            redis::cmd("FLUSHDB").exec_async(&mut link).await.unwrap();
        }
    }
    eprintln!(
        "{histories} histories agree; answers: {outcomes:?}; by limits {limited:?}; debited late \
         {debited_late}, refunded with purchases {given_back}, repaired {repaired}, grants set aside {set_aside}"
    );
    let kinds =
        ["Renewed", "Superseded", "Forgotten", "Late", "NotBegun", "Closed", "Erased", "refused"]
            .map(|kind| format!("Renew {kind}"));
    let corrections = [
        "Refund true",
        "Refund false",
        "Refund refused",
        "Close true",
        "Close false",
        "Close refused",
        "Claim false",
        "Erase true",
        "Grant refused",
    ];
    let all =
        kinds.iter().map(String::as_str).chain(corrections).all(|kind| outcomes.contains_key(kind));
    assert!(
        (all && limited.len() == 7
            && given_back > 0
            && debited_late > 0
            && repaired > 0
            && set_aside > 0)
            || histories < 1_000,
        "every kind of answer came up: {outcomes:?}"
    );
}

/// `plain.lua` answers many of these renewals, with the outcome of the book.
#[tokio::test]
async fn plain_renewals_have_the_outcome_that_the_book_has() {
    let histories = histories();
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = connected(&server).await;
    let renew = script::renew_text(TEST_CLOCK);
    let answers = "if plain_answer then return plain_answer end";
    assert_eq!(renew.matches(answers).count(), 1);
    let counts = "if plain_answer then redis.call('INCR', 'test:plain') return plain_answer end";
    let scripts = [renew.replace(answers, counts), script::amend_text(TEST_CLOCK)]
        .map(|text| Script::new(&text));
    for script in &scripts {
        script.load_async(&mut link).await.unwrap();
    }
    let (mut renewals, mut plain) = (0, 0);
    for seed in 0..histories {
        let steps = plain_history(&mut Rng::with_seed(seed));
        let account = Account::user(&format!("u{seed}")).unwrap();
        let found = by_script(&mut link, &scripts, &account, &steps, &[]).await;
        for (step, (expected, found)) in by_book(&steps).iter().zip(&found).enumerate() {
            assert_eq!(expected, found, "history {seed}, step {step}, {:?}", steps[step]);
        }
        renewals += steps.iter().filter(|step| matches!(step, Step::Renew { .. })).count();
        if seed % 500 == 499 || seed + 1 == histories {
            let count: Option<usize> =
                redis::cmd("GET").arg("test:plain").query_async(&mut link).await.unwrap();
            plain += count.unwrap_or_default();
            redis::cmd("FLUSHDB").exec_async(&mut link).await.unwrap();
        }
    }
    eprintln!("{plain} of {renewals} renewals were plain");
    assert!(plain > renewals / 5 || histories < 1_000, "{plain} of {renewals}");
}

/// The content of a key, and the moment at which it expires.
type Stored = (BTreeMap<String, String>, i64);

/// The script answers and stores the same with and without `plain.lua`, also if a stored value is
/// damaged.
#[tokio::test]
async fn without_the_short_way_the_script_does_the_same() {
    // Of equal length, so that the accounts' keys are.
    const NAMES: [&str; 2] = ["short", "whole"];
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = connected(&server).await;
    let text = script::renew_text(TEST_CLOCK);
    // `plain.lua` is not called, so `renew.lua` reads the keys itself.
    let without =
        text.replace("local plain_answer = renew_plain(KEYS, ARGV)", "local plain_answer");
    assert_ne!(text, without);
    let renew = [text, without].map(|text| Script::new(&text));
    let amend = Script::new(&script::amend_text(TEST_CLOCK));
    for script in renew.iter().chain([&amend]) {
        script.load_async(&mut link).await.unwrap();
    }
    let (mut answers, mut errors, mut steps) = (0, 0, 0);
    for seed in 0..1_500 {
        let mut rng = Rng::with_seed(seed);
        let is_damaged = rng.bool();
        let accounts = NAMES.map(|name| Account::user(&format!("{name}{seed}")).unwrap());
        for step in plain_history(&mut rng) {
            let (now, period) = match &step {
                Step::Renew { now, period, .. } => (*now, *period),
                Step::Amend { now, .. } => (*now, months()[0]),
                _ => continue,
            };
            let [keys, others] =
                [0, 1].map(|side| Keys::new("tc", &accounts[side], period)).map(keys_of_month);
            let stored = damage(&mut link, &mut rng, is_damaged, [&keys, &others]).await;
            let mut pipe = redis::pipe();
            pipe.cmd("SET").arg("test:clock").arg(now.as_millis().to_string());
            for side in 0..2 {
                let how = ("EVALSHA", renew[side].get_hash());
                pipe.add_command(match &step {
                    Step::Renew { period, renewal, not_after, now } => {
                        let keys = Keys::new("tc", &accounts[side], *period);
                        call::renewal(how, &keys, renewal, MAX_LINES, *now, *not_after)
                    }
                    Step::Amend { amendment, now } => {
                        let how = ("EVALSHA", amend.get_hash());
                        call::amendment(how, "tc", &accounts[side], amendment, *now)
                    }
                    _ => unreachable!("other steps were left out"),
                });
            }
            let said: Vec<Value> = link.send_packed_commands(&pipe, 0, 3).await.unwrap();
            let [short, whole] = [1, 2].map(|side| {
                let said = said[side].clone().extract_error().map_err(|error| {
                    // Redis adds the script's hash.
                    let text = error.to_string();
                    let text = text.split(" script: ").next().unwrap_or_default().to_owned();
                    text.replace(NAMES[1], NAMES[0])
                });
                format!("{said:?}")
            });
            assert_eq!(short, whole, "history {seed}, {step:?}");
            let (of_short, of_whole) =
                (state(&mut link, &keys).await, state(&mut link, &others).await);
            assert_eq!(of_short, of_whole, "history {seed}, {step:?}");
            *(if short.starts_with("Ok") { &mut answers } else { &mut errors }) += 1;
            steps += 1;
            // Unless the step wrote another value.
            if let Some(Damage { key, field, before, after }) = stored {
                for key in [&keys[key], &others[key]] {
                    let found: Option<String> = redis::cmd("HGET")
                        .arg(key)
                        .arg(&field)
                        .query_async(&mut link)
                        .await
                        .unwrap();
                    if found.as_ref() == Some(&after) {
                        let mut set = redis::cmd("HSET");
                        set.arg(key).arg(&field).arg(&before).exec_async(&mut link).await.unwrap();
                    }
                }
            }
        }
    }
    eprintln!("{steps} steps: {answers} answers, {errors} errors");
    assert!(answers > 10_000 && errors > 500, "{answers} answers, {errors} errors");
}

/// The keys of an account and one month, without those of parts and claims.
fn keys_of_month(keys: Keys) -> [String; 5] {
    [keys.record, keys.spent, keys.book, keys.leases, keys.holds]
}

async fn state(link: &mut redis::aio::MultiplexedConnection, keys: &[String; 5]) -> Vec<Stored> {
    let mut pipe = redis::pipe();
    for key in keys {
        pipe.cmd("HGETALL").arg(key).cmd("PEXPIRETIME").arg(key);
    }
    let all: Vec<Value> = pipe.query_async(link).await.unwrap();
    let read = |of: &[Value]| {
        let hash: BTreeMap<String, String> = redis::from_redis_value(of[0].clone()).unwrap();
        (hash, redis::from_redis_value(of[1].clone()).unwrap())
    };
    all.chunks(2).map(read).collect()
}

/// A value that was damaged: the number of its key, its field, what it was and what it is.
struct Damage {
    key: usize,
    field: String,
    before: String,
    after: String,
}

/// Damages the same value of both accounts, in a quarter of the steps.
async fn damage(
    link: &mut redis::aio::MultiplexedConnection,
    rng: &mut Rng,
    is_damaged: bool,
    [keys, others]: [&[String; 5]; 2],
) -> Option<Damage> {
    if !is_damaged || rng.u8(0..4) > 0 {
        return None;
    }
    let key = [0, 2, 3, 4][rng.usize(0..4)];
    let hash: BTreeMap<String, String> =
        redis::cmd("HGETALL").arg(&keys[key]).query_async(link).await.unwrap();
    // Only `renew.lua` reads the line `other`, and so finds damage there.
    let hash: Vec<_> = hash.into_iter().filter(|(field, _)| field != schema::OTHER_LINE).collect();
    if hash.is_empty() {
        return None;
    }
    let (field, before) = hash[rng.usize(0..hash.len())].clone();
    let mut words: Vec<&str> = before.split(' ').collect();
    let word = rng.usize(0..words.len());
    words[word] = ["x", "", "-1", "1e3", "0x10", "9007199254740992", "99999999999999999999", " 1"]
        [rng.usize(0..8)];
    let after = words.join(" ");
    for key in [&keys[key], &others[key]] {
        redis::cmd("HSET").arg(key).arg(&field).arg(&after).exec_async(link).await.unwrap();
    }
    Some(Damage { key, field, before, after })
}

/// There, `%d` has 32 bits, which the script finds out by a number: here by another one.
#[tokio::test]
async fn numbers_are_written_whole_where_whole_numbers_have_32_bits() {
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = connected(&server).await;
    let max = format!("~= '{}'", Credits::MAX.as_nano_usd());
    let texts = [script::renew_text(TEST_CLOCK), script::amend_text(TEST_CLOCK)].map(|text| {
        assert!(text.contains(&max), "the script asks");
        Script::new(&text.replace(&max, "~= ''"))
    });
    for script in &texts {
        script.load_async(&mut link).await.unwrap();
    }
    for seed in 0..600 {
        let of = if seed % 2 == 0 { history } else { plain_history };
        let steps = of(&mut Rng::with_seed(seed));
        let account = Account::user(&format!("u{seed}")).unwrap();
        let found = by_script(&mut link, &texts, &account, &steps, &[]).await;
        assert_eq!(by_book(&steps), found, "history {seed}");
    }
}

/// An upgrade while old and new nodes run: they share accounts, and none disturbs the other.
#[tokio::test]
async fn nodes_of_the_version_before_share_accounts_with_those_of_this_one() {
    let histories = histories();
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = connected(&server).await;
    let scripts = scripts(&mut link).await;
    let (mut by_old, mut by_new, mut in_parts) = (0, 0, 0);
    for seed in 0..histories / 5 {
        let mut rng = Rng::with_seed(1_000_000 + seed);
        let mut steps = history(&mut rng);
        // Old nodes do not know the limit of an account's day.
        steps.retain(|step| {
            let Step::Amend { amendment, .. } = step else { return true };
            !matches!(amendment, Amendment::Limits { part: None, .. })
        });
        let mut old = Vec::new();
        for step in &mut steps {
            // Nor credits of a day. A lease is of one node, and those of old nodes have no share.
            if let Step::Renew { renewal, .. } = step {
                renewal.terms.included_per_day = nanos(0);
                if renewal.parts.is_empty() {
                    renewal.concurrency = None;
                }
            }
            let is_old = rng.bool()
                && match step {
                    Step::Renew { renewal, .. } if renewal.parts.is_empty() => {
                        (renewal.most_per_day, renewal.permits) = (None, None);
                        true
                    }
                    Step::Renew { .. } => false,
                    Step::Amend { amendment, .. } => {
                        !matches!(amendment, Amendment::Limits { .. } | Amendment::Erase)
                    }
                    _ => true,
                };
            old.push(is_old);
            (by_old, by_new) = (by_old + usize::from(is_old), by_new + usize::from(!is_old));
        }
        let account = Account::user(&format!("u{seed}")).unwrap();
        let expected = by_book(&steps);
        let found = by_script(&mut link, &scripts, &account, &steps, &old).await;
        for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
            assert_eq!(expected, found, "history {seed}, step {step}, {:?}", steps[step]);
        }
        in_parts += expected
            .last()
            .map_or(0, |(_, _, books)| books.iter().filter(|book| has_parts(book)).count());
        if seed % 500 == 499 {
            redis::cmd("FLUSHDB").exec_async(&mut link).await.unwrap();
        }
    }
    eprintln!("{by_old} steps of old nodes, {by_new} of new ones, {in_parts} months with parts");
    assert!(by_old > 0 && by_new > 0 && in_parts > 0);
}

#[tokio::test]
async fn usage_beyond_the_most_lines_goes_to_one_line() {
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = connected(&server).await;
    let scripts = scripts(&mut link).await;
    let period = months()[0];
    let now = period.begins() + Duration::from_secs(1);
    let steps: Vec<_> = (0..3_u64)
        .map(|batch| {
            let lines = (0..3).map(|number| UsageLine {
                key: LineKey::Of {
                    day: 1,
                    model: format!("model-{}", 3 * batch + number).parse().unwrap(),
                    hardware: "gpu".parse().unwrap(),
                    feature: "api".parse().unwrap(),
                    subject: "alice".parse().unwrap(),
                },
                usage: Usage { requests: 1, compute_micros: 1, cost: nanos(1) },
            });
            let renewal = Renewal {
                lease: LeaseId::from_bits(1),
                seq: batch + 1,
                batch: batch + 1,
                settled: nanos(3 * (i64::try_from(batch).unwrap() + 1)),
                reported: nanos(3 * i64::try_from(batch).unwrap()),
                lines: lines.collect(),
                keep: Credits::ZERO,
                refill: Credits::ZERO,
                need: Credits::ZERO,
                extra: Credits::ZERO,
                terms: Terms::nothing(),
                terms_at: now,
                ttl: Duration::from_secs(600),
                forget: false,
                most_per_day: None,
                parts: std::sync::Arc::default(),
                permits: None,
                concurrency: None,
            };
            Step::Renew { period, renewal, not_after: now, now }
        })
        .collect();
    let (expected, found) = (
        by_book(&steps),
        by_script(&mut link, &scripts, &Account::user("many").unwrap(), &steps, &[]).await,
    );
    assert!(expected == found, "both sides agree");
    let book = &expected[2].2[0];
    assert_eq!((book.lines.len(), book.lines[&LineKey::Other].requests), (MAX_LINES + 1, 4));
    assert_eq!(book.lines_cost(), book.used());
}
