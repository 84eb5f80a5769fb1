//! Cost of the script that renews: the time it takes of the server, and how many bytes go over the
//! wire: a table that `scripts/faults` prints. Schema version 4, which had no parts, is beside it
//! in the same run.

use std::{collections::HashMap, time::Duration};

use redis::{Script, aio::MultiplexedConnection};

use super::{
    super::{
        ConcurrencyRequest, LeaseId, LineKey, PartTerms, PermitRequest, Renewal, Terms, Usage,
        UsageLine, histories::nanos,
    },
    call,
    schema::Keys,
    script,
    tests::{SCHEMA_4, TEST_CLOCK, connected, renewal_of_schema_4},
};
use crate::{
    Account, Credits, Limits, Part, Period, clock::UnixTime,
    redis_server::tests::redis_server::RedisServer,
};

/// Renewals of a round, and rounds.
const RENEWALS: u64 = 500;
const ROUNDS: usize = 101;

/// One row.
struct Kind {
    name: &'static str,
    is_old: bool,
    change: fn(Renewal) -> Renewal,
}

fn renewal(seq: u64) -> Renewal {
    let line = UsageLine {
        key: LineKey::Of {
            day: 1,
            model: "flux-dev".parse().unwrap(),
            hardware: "gpu-small".parse().unwrap(),
            feature: "api".parse().unwrap(),
            subject: "alice".parse().unwrap(),
        },
        usage: Usage { requests: 1, compute_micros: 100_000, cost: nanos(12_000) },
    };
    let settled = nanos(12_000 * i64::try_from(seq).unwrap());
    Renewal {
        lease: LeaseId::from_bits(7),
        seq,
        batch: seq,
        settled,
        reported: settled.saturating_sub(nanos(12_000)),
        lines: [line].into(),
        keep: nanos(120_000),
        refill: Credits::ZERO,
        need: nanos(120_000),
        extra: nanos(120_000),
        terms: Terms {
            included: nanos(1 << 50),
            included_per_day: nanos(0),
            per_seat: false,
            pay_as_you_go: nanos(0),
        },
        terms_at: UnixTime::EPOCH,
        ttl: Duration::from_secs(600),
        forget: false,
        most_per_day: None,
        parts: [].into(),
        permits: None,
        concurrency: None,
    }
}

fn with_path(renewal: Renewal) -> Renewal {
    let limits = Limits { per_month: Some(nanos(1 << 50)), per_day: Some(nanos(1 << 50)) };
    let path: Part = "research/alice/ci".parse().unwrap();
    let parts = path.path().map(|part| PartTerms { part, limits }).collect();
    Renewal { parts, ..renewal }
}

fn with_permits(renewal: Renewal) -> Renewal {
    let permits = PermitRequest { rate: "600000/60000000/100000".parse().unwrap(), wanted: 3 };
    Renewal { permits: Some(permits), ..renewal }
}

fn with_concurrency(renewal: Renewal) -> Renewal {
    let request = ConcurrencyRequest { most: 8.try_into().unwrap(), running: 1, wanted: 3 };
    Renewal { concurrency: Some(request), ..renewal }
}

fn with_days(renewal: Renewal) -> Renewal {
    let terms = Terms { included_per_day: nanos(1 << 50), ..renewal.terms };
    Renewal { terms, ..renewal }
}

const KINDS: [Kind; 8] = [
    Kind { name: "schema 4", is_old: true, change: |renewal| renewal },
    Kind { name: "no part", is_old: false, change: |renewal| renewal },
    Kind {
        name: "a limit of the account's day",
        is_old: false,
        change: |renewal| Renewal { most_per_day: Some(nanos(1 << 50)), ..renewal },
    },
    Kind { name: "credits of a day", is_old: false, change: with_days },
    Kind { name: "a rate over all nodes", is_old: false, change: with_permits },
    Kind { name: "concurrent requests over all nodes", is_old: false, change: with_concurrency },
    Kind { name: "a path of three", is_old: false, change: with_path },
    Kind {
        name: "all of these",
        is_old: false,
        change: |renewal| with_path(with_days(with_concurrency(with_permits(renewal)))),
    },
];

/// Returns the microseconds that the server took for each call, by its own count, and the bytes of
/// a call and of its answer.
async fn round(
    link: &mut MultiplexedConnection,
    script: &Script,
    kind: &Kind,
    account: &Account,
    from: u64,
) -> (f64, usize, usize) {
    let now = UnixTime::now();
    let keys = Keys::new("tc", account, Period::containing(now));
    let mut pipe = redis::pipe();
    let mut bytes = 0;
    for seq in from..from + RENEWALS {
        let renewal = (kind.change)(renewal(seq));
        let how = ("EVALSHA", script.get_hash());
        let not_after = now + Duration::from_secs(60);
        let call = if kind.is_old {
            renewal_of_schema_4(how, &keys, &renewal, now, not_after)
        } else {
            call::renewal(how, &keys, &renewal, 20_000, now, not_after)
        };
        bytes += call.get_packed_command().len();
        pipe.add_command(call);
    }
    redis::cmd("CONFIG").arg("RESETSTAT").exec_async(link).await.unwrap();
    let answers: Vec<String> = pipe.query_async(link).await.unwrap();
    assert!(answers.iter().all(|answer| answer.starts_with("renewed ")), "{:?}", answers.first());
    let took = evalsha_micros(link).await;
    let renewals = RENEWALS as usize;
    let answered = answers.iter().map(String::len).sum::<usize>();
    (took / RENEWALS as f64, bytes / renewals, answered / renewals)
}

#[tokio::test]
#[ignore = "a table: scripts/faults prints it"]
async fn what_the_script_costs() {
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = connected(&server).await;
    let texts = [SCHEMA_4[0].replace("--CLOCK--\n", TEST_CLOCK), script::renew_text(TEST_CLOCK)];
    let scripts = texts.map(|text| Script::new(&text));
    for script in &scripts {
        script.load_async(&mut link).await.unwrap();
    }
    let mut times = vec![Vec::new(); KINDS.len()];
    let mut sizes = [(0, 0); KINDS.len()];
    for number in 0..=ROUNDS {
        let now = UnixTime::now().as_millis();
        redis::cmd("SET").arg("test:clock").arg(now).exec_async(&mut link).await.unwrap();
        for (at, kind) in KINDS.iter().enumerate() {
            let account = Account::user(&format!("kind-{at}")).unwrap();
            let script = &scripts[usize::from(!kind.is_old)];
            let from = 1 + number as u64 * RENEWALS;
            let (took, sent, answered) = round(&mut link, script, kind, &account, from).await;
            // The first round warms up.
            if number > 0 {
                times[at].push(took);
            }
            sizes[at] = (sent, answered);
        }
    }
    let medians = times.iter_mut().map(|times| {
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2], times[times.len() / 20], times[times.len() * 19 / 20])
    });
    let medians: Vec<_> = medians.collect();
    println!("| renewal | us of the server (5 % .. 95 %) | / schema 4's | bytes sent | answered |");
    println!("|---|---|---|---|---|");
    for ((kind, (median, low, high)), (sent, answered)) in KINDS.iter().zip(&medians).zip(sizes) {
        let ratio = median / medians[0].0;
        println!(
            "| {} | {median:.2} ({low:.2} .. {high:.2}) | {ratio:.3} | {sent} | {answered} |",
            kind.name
        );
    }
}

/// The commands of a renewal alone, on keys of its own.
const COMMANDS: &str = "
local keys, arguments, answers, key, at = KEYS, ARGV, {}, 0, 0
redis.call('TIME')
while at < #arguments do
  local more, count = arguments[at + 1] + 0, arguments[at + 2] + 0
  at = at + 2
  local record, book, leases, holds = keys[key + 1], keys[key + 3], keys[key + 4], keys[key + 5]
  local lease, line = arguments[at + 1], arguments[at + 5]
  redis.call('HGETALL', record)
  redis.call('HMGET', leases, lease, 'sum')
  redis.call('HMGET', holds, lease, 'sum')
  redis.call('HMGET', book, 'total', 'terms', line)
  redis.call('HSET', leases, lease, '123 123 1234567', 'sum', '1234567 0 0 0')
  redis.call('HSET', holds, lease, '120000 1793491200000', 'sum', '120000 1793491200000')
  redis.call('HSET', book, 'total', '1234567 0 0 0 0 1234567 0 1', line, '123 1234567 1234567')
  answers[#answers + 1], key, at = 'renewed ' .. line, key + more, at + count
end
return answers";

/// Prints what it saves to send renewals of several accounts in one call.
#[tokio::test]
#[ignore = "a table: scripts/faults prints it"]
async fn what_several_renewals_in_a_call_save() {
    const ACCOUNTS: u64 = 512;
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = connected(&server).await;
    let one = script::renew_text(TEST_CLOCK);
    let several = script::several_text(TEST_CLOCK);
    let (one, several, commands) =
        (Script::new(&one), Script::new(&several), Script::new(COMMANDS));
    for script in [&one, &several, &commands] {
        script.load_async(&mut link).await.unwrap();
    }
    let kinds = [
        ("one in a call", &one, 1),
        ("one in a call, as one of several", &several, 1),
        ("8 in a call", &several, 8),
        ("32 in a call, the most", &several, 32),
        ("the commands alone, 1 in a call", &commands, 1),
        ("the commands alone, 32 in a call", &commands, 32),
    ];
    let mut times = vec![Vec::new(); kinds.len()];
    for number in 0..=ROUNDS / 2 {
        let now = UnixTime::now();
        let millis = now.as_millis();
        redis::cmd("SET").arg("test:clock").arg(millis).exec_async(&mut link).await.unwrap();
        for (kind, (name, script, together)) in kinds.iter().enumerate() {
            let calls: Vec<_> = (0..ACCOUNTS)
                .map(|account| {
                    let account = Account::user(&format!("several-{kind}-{account}")).unwrap();
                    let keys = Keys::new("tc", &account, Period::containing(now));
                    let renewal = renewal(number as u64 + 1);
                    let not_after = now + Duration::from_secs(60);
                    call::renewal(("", ""), &keys, &renewal, 20_000, now, not_after)
                })
                .collect();
            let mut pipe = redis::pipe();
            for calls in calls.chunks(*together) {
                pipe.add_command(joined(calls, script.get_hash(), kind == 0));
            }
            redis::cmd("CONFIG").arg("RESETSTAT").exec_async(&mut link).await.unwrap();
            let answers: Vec<redis::Value> = pipe.query_async(&mut link).await.unwrap();
            let answers = format!("{answers:?}");
            assert_eq!(answers.matches("renewed ").count(), ACCOUNTS as usize, "{name}: {answers}");
            let took = evalsha_micros(&mut link).await / ACCOUNTS as f64;
            if number > 0 {
                times[kind].push(took);
            }
        }
    }
    println!("| renewals | us of the server for each (least) | / one in a call |");
    println!("|---|---|---|");
    let mut first = None;
    for ((name, ..), times) in kinds.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let first = *first.get_or_insert(median);
        println!("| {name} | {median:.2} ({:.2}) | {:.3} |", times[0], median / first);
    }
}

/// Joins calls to one. Each brings the numbers of its keys and arguments, unless it is `alone`.
fn joined(calls: &[redis::Cmd], hash: &str, alone: bool) -> redis::Cmd {
    let (mut all_keys, mut all_arguments) = (Vec::new(), Vec::new());
    for call in calls {
        let words: Vec<Vec<u8>> = call
            .args_iter()
            .filter_map(|word| match word {
                redis::Arg::Simple(word) => Some(word.to_vec()),
                _ => None,
            })
            .collect();
        let keys: usize = String::from_utf8_lossy(&words[2]).parse().unwrap();
        let (keys, arguments) = words[3..].split_at(keys);
        if !alone {
            let numbers = [keys.len(), arguments.len()];
            all_arguments.extend(numbers.map(|number| number.to_string().into_bytes()));
        }
        all_keys.extend_from_slice(keys);
        all_arguments.extend_from_slice(arguments);
    }
    let mut joined = redis::cmd("EVALSHA");
    joined.arg(hash).arg(all_keys.len()).arg(all_keys).arg(all_arguments);
    joined
}

/// Returns the time that the server took for all calls of scripts, by its own count.
async fn evalsha_micros(link: &mut MultiplexedConnection) -> f64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(link).await.unwrap();
    let stats: HashMap<_, _> = stats.lines().filter_map(|line| line.split_once(':')).collect();
    let took = stats["cmdstat_evalsha"].split(',').find_map(|field| field.strip_prefix("usec="));
    took.unwrap().parse().unwrap()
}
