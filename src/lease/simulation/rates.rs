//! A request rate over all nodes, with the crate's own leases and record: within its bound however
//! the load is spread, and all of it is used where there is load.

use std::rc::Rc;

use fastrand::Rng;

use super::{HOLD, LEAST, at, nanos, request::Request};
use crate::{
    HoldAhead,
    lease::{
        PermitAnswer, RunId, SliceRequest,
        lease::{Lease, Next},
        rules::LeaseRules,
    },
    ledger::{AccountRate, Answer, Book, LeaseId, Record, Renewal, Terms},
};

/// 600 a minute, 100 at once.
const COUNT: u32 = 600;
const BURST: u32 = 100;
const PER: u64 = 60_000;
/// In milliseconds.
const FLUSH: u64 = 100;
const MINUTES: u64 = 10;

struct Node {
    lease: Lease<(), Rc<Request>>,
    running: Vec<(RunId, u64)>,
    /// Requests a second.
    load: f64,
    begun: u64,
    /// Requests that had to ask the ledger first.
    asked: u64,
}

/// The requests of all nodes.
struct Seen {
    /// The moments at which requests began.
    begun: Vec<u64>,
    /// The part of them that asked the ledger first.
    asked: f64,
    denied: u64,
}

fn run(seed: u64, rate: AccountRate, loads: &[f64], ahead: bool) -> Seen {
    let mut rng = Rng::with_seed(seed);
    let rules = LeaseRules {
        report_soon: at(FLUSH),
        report_within: at(FLUSH),
        ahead: ahead.then(HoldAhead::default),
        ..LeaseRules::default()
    };
    let terms = Terms {
        included: nanos(1 << 50),
        included_per_day: nanos(0),
        per_seat: false,
        pay_as_you_go: nanos(0),
    };
    let period = "2026-11".parse().unwrap();
    let (mut book, mut record) = (Book::new(period), Record::default());
    let clock = |tick| period.begins() + at(tick);
    let mut nodes: Vec<_> = (0..)
        .zip(loads)
        .map(|(number, load)| Node {
            lease: Lease::new(LeaseId::from_bits(number), at(0)),
            running: Vec::new(),
            load: *load,
            begun: 0,
            asked: 0,
        })
        .collect();
    let want = SliceRequest {
        hold: nanos(HOLD),
        min_slice: nanos(LEAST),
        first_refill_after: at(HOLD.unsigned_abs() / 2),
        max_concurrent: None,
        rate: Some(rate),
        most_running: None,
    };
    let mut sent: Vec<(u64, usize, Renewal)> = Vec::new();
    let mut answers: Vec<(u64, usize, u64, Answer)> = Vec::new();
    let (mut begun, mut denied) = (Vec::new(), 0);
    for tick in 0..MINUTES * PER {
        let now = at(tick);
        for (_, node, renewal) in sent.extract_if(.., |(arrives, ..)| *arrives <= tick) {
            let moment = clock(tick);
            let answer = book.renew(&mut record, &renewal, None, moment, moment).unwrap();
            answers.push((tick + rng.u64(0..2), node, renewal.seq, answer));
        }
        for (_, node, seq, answer) in answers.extract_if(.., |(arrives, ..)| *arrives <= tick) {
            let node = &mut nodes[node];
            let served = node.lease.answered(&rules, seq, &answer, |()| false, now);
            denied += served.beyond_rate.len() as u64;
            assert!(served.refused.is_empty(), "there are credits");
            for ((), id) in served.admitted {
                node.running.push((id, tick + 3));
                node.begun += 1;
                begun.push(tick);
            }
        }
        for (number, node) in nodes.iter_mut().enumerate() {
            for (id, _) in node.running.extract_if(.., |(_, ends)| *ends <= tick) {
                node.lease.end(id, false, now);
            }
            if rng.f64() < node.load / 1_000.0 {
                let request = Rc::new(Request::new(true, 2, true));
                match node.lease.find_permit(rate, now) {
                    PermitAnswer::None(_) => denied += 1,
                    answer => {
                        let admitted = if answer == PermitAnswer::AtHand {
                            node.lease.admit(want, request, now)
                        } else {
                            Err(request)
                        };
                        match admitted {
                            Ok(id) => {
                                node.running.push((id, tick + 3));
                                node.begun += 1;
                                begun.push(tick);
                            }
                            Err(request) => {
                                node.asked += 1;
                                node.lease.enqueue(want, request, ());
                            }
                        }
                    }
                }
            }
            if node.lease.next(&rules, false, now) == Next::Renew {
                let renewal = node.lease.renew(&rules, terms, false, now);
                sent.push((tick + rng.u64(1..3), number, renewal));
            }
            if node.lease.is_leaving() {
                let id = LeaseId::from_bits(u128::from(rng.u64(..)) << 8);
                node.lease = Lease::new(id, now);
            }
        }
    }
    let (all, asked) =
        nodes.iter().fold((0, 0), |(all, asked), node| (all + node.begun, asked + node.asked));
    Seen { begun, asked: asked as f64 / all as f64, denied }
}

/// Ten seconds with lost, repeated and late messages, and nodes that die. Returns the moments at
/// which requests began, and whether the ledger had anything on hold once all leases had lapsed.
fn run_with_faults(seed: u64, rate: AccountRate) -> (Vec<u64>, bool) {
    const END: u64 = 10_000;
    const DEADLINE: u64 = 250;
    const LOSS: f64 = 0.05;
    let mut rng = Rng::with_seed(seed);
    let ahead = rng.bool().then(HoldAhead::default);
    let rules = LeaseRules {
        report_soon: at(FLUSH),
        report_within: at(10 * FLUSH),
        deadline: at(DEADLINE),
        ahead,
        ..Default::default()
    };
    let terms = Terms { included: nanos(1 << 50), ..Terms::nothing() };
    let period = "2026-11".parse().unwrap();
    let (mut book, mut record) = (Book::new(period), Record::default());
    let clock = |tick| period.begins() + at(tick);
    let mut names = 0;
    let mut new_node = |load| {
        names += 1;
        let lease: Lease<(), Rc<Request>> = Lease::new(LeaseId::from_bits(names), at(0));
        (lease, Vec::<(RunId, u64)>::new(), Vec::<(u64, u64)>::new(), load)
    };
    let mut nodes: Vec<_> = (0..rng.usize(1..=5))
        .map(|_| [0.5, 5.0, 50.0, 500.0][rng.usize(0..4)])
        .map(&mut new_node)
        .collect();
    let want = SliceRequest {
        hold: nanos(HOLD),
        min_slice: nanos(LEAST),
        first_refill_after: at(HOLD.unsigned_abs() / 2),
        max_concurrent: None,
        rate: Some(rate),
        most_running: None,
    };
    let mut sent: Vec<(u64, usize, u64, Renewal)> = Vec::new();
    let mut begun = Vec::new();
    for tick in 0..END {
        let now = at(tick);
        for (_, number, sent_at, renewal) in sent.extract_if(.., |(arrives, ..)| *arrives <= tick) {
            let not_after = clock(sent_at + DEADLINE);
            let answer = book.renew(&mut record, &renewal, None, not_after, clock(tick)).unwrap();
            let (lease, running, awaited, _) = &mut nodes[number];
            if lease.id() == renewal.lease && rng.f64() >= LOSS {
                awaited.retain(|(seq, _)| *seq != renewal.seq);
                for ((), id) in
                    lease.answered(&rules, renewal.seq, &answer, |()| false, now).admitted
                {
                    running.push((id, tick + 3));
                    begun.push(tick);
                }
            }
        }
        for (number, node) in nodes.iter_mut().enumerate() {
            if rng.f64() < 0.000_2 {
                *node = new_node(node.3);
            }
            let (lease, running, awaited, load) = node;
            for (id, _) in running.extract_if(.., |(_, ends)| *ends <= tick) {
                lease.end(id, false, now);
            }
            for ((), id) in lease.grant_spare(|()| false, now).admitted {
                running.push((id, tick + 3));
                begun.push(tick);
            }
            if rng.f64() < *load / 1_000.0 && !lease.is_leaving() {
                let request = Rc::new(Request::new(true, 2, true));
                let found = lease.find_permit(rate, now);
                match found {
                    PermitAnswer::None(_) => {}
                    PermitAnswer::AtHand | PermitAnswer::Ask => {
                        let admitted = if found == PermitAnswer::AtHand {
                            lease.admit(want, request, now)
                        } else {
                            Err(request)
                        };
                        match admitted {
                            Ok(id) => {
                                running.push((id, tick + 3));
                                begun.push(tick);
                            }
                            Err(request) => lease.enqueue(want, request, ()),
                        }
                    }
                }
            }
            let late = |(_, sent_at): &mut (u64, u64)| tick - *sent_at >= DEADLINE;
            for (seq, _) in awaited.extract_if(.., late).collect::<Vec<_>>() {
                lease.unanswered(&rules, seq, now);
                drop(lease.drain_queue());
            }
            if lease.next(&rules, false, now) == Next::Renew {
                let renewal = lease.renew(&rules, terms, false, now);
                awaited.push((renewal.seq, tick));
                for _ in 0..=usize::from(rng.f64() < LOSS) {
                    if rng.f64() >= LOSS {
                        let delay = [1, 1, 2, 3, 150, 300][rng.usize(0..6)];
                        sent.push((tick + delay, number, tick, renewal.clone()));
                    }
                }
            }
        }
    }
    let account = crate::Account::user("alice").unwrap();
    let much_later = clock(END) + rules.ttl * 2;
    let statement =
        crate::ledger::Statement::from_book(&account, &book, &record, Some(terms), much_later);
    (begun, !statement.held.is_zero())
}

#[test]
fn a_rate_is_within_its_bound_whatever_is_lost_and_whichever_node_dies() {
    let seeds: u64 = std::env::var("SIMULATION_SEEDS")
        .map_or(97, |seeds| seeds.parse().expect("SIMULATION_SEEDS is a number"));
    let (mut most_used, mut all) = (0.0_f64, 0);
    for seed in 0..seeds * 4 {
        let (count, burst) = [(600, 100), (60, 1), (6_000, 20), (600, 600)][seed as usize % 4];
        let rate = AccountRate {
            count: count.try_into().unwrap(),
            per: at(PER),
            burst: Some(burst.try_into().unwrap()),
        };
        let (begun, is_held) = run_with_faults(seed, rate);
        assert!(!is_held, "{seed}");
        all += begun.len();
        for window in [1, FLUSH, 1_000, 10_000] {
            let bound = u64::from(burst) + u64::from(count) * (window + 2 * FLUSH) / PER + 1;
            let most = most_in(&begun, window);
            assert!(most <= bound, "{seed}, {rate}: {most} in {window} ms, and {bound} may");
            most_used = most_used.max(most as f64 / bound as f64);
        }
    }
    eprintln!("{all} requests began; at most {:.1} % of the bound", most_used * 100.0);
    assert!(most_used > 0.9, "the bound is reached");
}

/// The most requests that began in any `window`.
fn most_in(begun: &[u64], window: u64) -> u64 {
    let mut from = 0;
    let counts = begun.iter().enumerate().map(|(to, at)| {
        while begun[from] + window <= *at {
            from += 1;
        }
        (to - from + 1) as u64
    });
    counts.max().unwrap_or(0)
}

#[test]
fn a_rate_over_all_nodes_is_within_its_bound_and_used_whole() {
    let loads: [(&str, &[f64]); 6] = [
        ("even", &[3.0, 3.0, 3.0, 3.0, 3.0]),
        ("uneven", &[12.0, 2.0, 1.0, 0.5, 0.1]),
        ("one node", &[40.0, 0.0, 0.0, 0.0, 0.0]),
        ("far beyond", &[200.0, 100.0, 50.0, 20.0, 5.0]),
        ("half of the rate", &[2.0, 1.5, 1.0, 0.3, 0.2]),
        ("most of the rate", &[5.0, 2.0, 1.0, 0.5, 0.2]),
    ];
    let rate = AccountRate {
        count: COUNT.try_into().unwrap(),
        per: at(PER),
        burst: Some(BURST.try_into().unwrap()),
    };
    for ahead in [false, true] {
        for (seed, (name, loads)) in (1..).zip(loads) {
            let Seen { begun, asked, denied } = run(seed, rate, loads, ahead);
            for window in [1, FLUSH, 1_000, 10_000, PER, MINUTES * PER] {
                let bound = u64::from(BURST) + u64::from(COUNT) * (window + 2 * FLUSH) / PER + 1;
                let most = most_in(&begun, window);
                assert!(most <= bound, "{name}: {most} in {window} ms, and {bound} may");
            }
            let load: f64 = loads.iter().sum::<f64>() * 60.0 * MINUTES as f64;
            let rate = f64::from(COUNT) * MINUTES as f64;
            let used = begun.len() as f64 / load.min(rate);
            eprintln!(
                "{name}, ahead {ahead}: {:.1} % of what may be is used, {denied} denied, {:.1} % \
                 asked first",
                used * 100.0,
                asked * 100.0
            );
            assert!(used >= 0.97, "{name}: {used}");
        }
    }
}

/// Permits are there before requests that come steadily, far from the rate.
#[test]
fn far_from_its_rate_hardly_a_request_waits_for_a_permit() {
    let rate = AccountRate {
        count: 60_000.try_into().unwrap(),
        per: at(PER),
        burst: Some(1_000.try_into().unwrap()),
    };
    for load in [20.0, 50.0, 200.0, 400.0] {
        let Seen { asked, denied, .. } = run(7, rate, &[load], true);
        eprintln!("{load} requests a second: {:.2} % ask for a permit first", asked * 100.0);
        assert!(denied == 0 && (load < 200.0 || asked < 0.05), "{load}: {asked}");
    }
}

/// Permits that are asked for ahead and lapse are no part of a slow client's rate.
#[test]
fn within_its_rate_no_slow_client_is_denied() {
    for (count, seconds, load) in [(1_000, 300, 2.6), (100, 300, 0.25), (20, 60, 0.2)] {
        for window in [false, true] {
            let burst = (!window).then(|| count.try_into().unwrap());
            let rate =
                AccountRate { count: count.try_into().unwrap(), per: at(seconds * 1_000), burst };
            for loads in [vec![load], vec![load / 4.0; 4]] {
                let Seen { begun, denied, .. } = run(11, rate, &loads, true);
                assert!(denied == 0, "{rate}, {loads:?}: {denied} denied, {} began", begun.len());
            }
        }
    }
}
