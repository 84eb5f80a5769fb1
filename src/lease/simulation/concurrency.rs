//! Concurrent requests over all nodes, with the crate's own leases and record: never more than may
//! run, whatever is lost and whichever node dies, and nearly as many where there is load.

use std::rc::Rc;

use fastrand::Rng;

use super::{HOLD, LEAST, at, nanos, request::Request};
use crate::{
    HoldAhead,
    lease::{
        RunId, SliceRequest,
        lease::{Lease, Next},
        rules::LeaseRules,
    },
    ledger::{Answer, Book, LeaseId, Record, Renewal, Terms},
};

/// In milliseconds.
const FLUSH: u64 = 100;
const DEADLINE: u64 = 250;
const END: u64 = 60_000;

struct Node {
    lease: Lease<(), Rc<Request>>,
    /// The requests that run, and when they end.
    running: Vec<(RunId, u64)>,
    /// Renewals that are not answered: their numbers, and when they were sent.
    awaited: Vec<(u64, u64)>,
    /// Requests a second.
    load: f64,
}

struct Scene {
    most: u32,
    loads: &'static [f64],
    /// Milliseconds that a request takes, at most.
    longest: u64,
    ahead: bool,
    loss: f64,
    /// `true` if nodes die now and then.
    kills: bool,
}

#[derive(Debug, Default)]
struct Seen {
    most_running: usize,
    /// The mean of those that run.
    mean: f64,
    begun: u64,
    asked: u64,
    /// Requests that were denied, and of these those beside which fewer ran than may.
    denied: u64,
    denied_early: u64,
}

fn run(seed: u64, scene: &Scene) -> Seen {
    let mut rng = Rng::with_seed(seed);
    let rules = LeaseRules {
        report_soon: at(FLUSH),
        report_within: at(10 * FLUSH),
        deadline: at(DEADLINE),
        ahead: scene.ahead.then(HoldAhead::default),
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
    let mut names = 0;
    let mut new_lease = |tick| {
        names += 1;
        Lease::new(LeaseId::from_bits(names), at(tick))
    };
    let mut nodes: Vec<_> = scene
        .loads
        .iter()
        .map(|load| Node {
            lease: new_lease(0),
            running: Vec::new(),
            awaited: Vec::new(),
            load: *load,
        })
        .collect();
    let want = SliceRequest {
        hold: nanos(HOLD),
        min_slice: nanos(LEAST),
        first_refill_after: at(HOLD.unsigned_abs() / 2),
        max_concurrent: None,
        rate: None,
        most_running: Some(scene.most.try_into().unwrap()),
    };
    let mut sent: Vec<(u64, usize, Renewal)> = Vec::new();
    let mut answers: Vec<(u64, usize, LeaseId, u64, Answer)> = Vec::new();
    let mut seen = Seen::default();
    let mut sum = 0;
    for tick in 0..END {
        let now = at(tick);
        let all = |nodes: &[Node]| nodes.iter().map(|node| node.running.len()).sum::<usize>();
        for (_, node, renewal) in sent.extract_if(.., |(arrives, ..)| *arrives <= tick) {
            let moment = clock(tick);
            let not_after = moment + at(DEADLINE);
            let answer = book.renew(&mut record, &renewal, None, not_after, moment).unwrap();
            if rng.f64() >= scene.loss {
                let arrives = tick + rng.u64(0..2);
                answers.push((arrives, node, renewal.lease, renewal.seq, answer));
            }
        }
        for (_, at, lease, seq, answer) in answers.extract_if(.., |(at, ..)| *at <= tick) {
            let before = all(&nodes);
            let node = &mut nodes[at];
            if node.lease.id() != lease {
                continue;
            }
            node.awaited.retain(|(other, _)| *other != seq);
            let served = node.lease.answered(&rules, seq, &answer, |()| false, now);
            assert!(served.refused.is_empty(), "there are credits");
            seen.denied += served.too_many.len() as u64;
            if before + served.admitted.len() < scene.most as usize {
                seen.denied_early += served.too_many.len() as u64;
            }
            for ((), id) in served.admitted {
                node.running.push((id, tick + rng.u64(1..=scene.longest)));
                seen.begun += 1;
            }
        }
        for (number, node) in nodes.iter_mut().enumerate() {
            if scene.kills && rng.f64() < 0.000_1 {
                *node = Node {
                    lease: new_lease(tick),
                    running: Vec::new(),
                    awaited: Vec::new(),
                    load: node.load,
                };
            }
            for (id, _) in node.running.extract_if(.., |(_, ends)| *ends <= tick) {
                node.lease.end(id, false, now);
            }
            for ((), id) in node.lease.grant_spare(|()| false, now).admitted {
                node.running.push((id, tick + rng.u64(1..=scene.longest)));
                seen.begun += 1;
            }
            if rng.f64() < node.load / 1_000.0 {
                if node.lease.is_leaving() {
                    node.lease = new_lease(tick);
                    node.awaited.clear();
                }
                let request = Rc::new(Request::new(true, 2, true));
                match node.lease.admit(want, request, now) {
                    Ok(id) => {
                        node.running.push((id, tick + rng.u64(1..=scene.longest)));
                        seen.begun += 1;
                    }
                    Err(request) => {
                        seen.asked += 1;
                        node.lease.enqueue(want, request, ());
                    }
                }
            }
            for (seq, _) in node
                .awaited
                .extract_if(.., |(_, sent)| tick - *sent >= DEADLINE)
                .collect::<Vec<_>>()
            {
                node.lease.unanswered(&rules, seq, now);
                // Those that wait are denied at their deadline.
                drop(node.lease.drain_queue());
            }
            if node.lease.next(&rules, false, now) == Next::Renew {
                let renewal = node.lease.renew(&rules, terms, false, now);
                node.awaited.push((renewal.seq, tick));
                if rng.f64() >= scene.loss {
                    sent.push((tick + rng.u64(1..3), number, renewal));
                }
            }
        }
        let running = all(&nodes);
        seen.most_running = seen.most_running.max(running);
        sum += running as u64;
    }
    seen.mean = sum as f64 / END as f64;
    seen
}

/// The mean of those that run if one place had all requests before it (Erlang's loss formula).
fn possible(scene: &Scene) -> f64 {
    let offered = scene.loads.iter().sum::<f64>() * (scene.longest + 1) as f64 / 2_000.0;
    let denied = (1..=scene.most)
        .fold(1.0, |denied, running| offered * denied / (f64::from(running) + offered * denied));
    offered * (1.0 - denied)
}

#[test]
fn never_more_run_over_all_nodes_than_may() {
    let scene = Scene {
        most: 8,
        loads: &[40.0, 20.0, 10.0, 2.0, 0.5],
        longest: 400,
        ahead: false,
        loss: 0.0,
        kills: false,
    };
    let scenes = [
        ("far beyond", Scene { ..scene }),
        ("one node", Scene { loads: &[100.0, 0.0, 0.0], ..scene }),
        ("long requests", Scene { longest: 5_000, loads: &[2.0, 1.0, 0.5], ..scene }),
        ("many at once", Scene { most: 200, loads: &[300.0, 300.0, 300.0], ..scene }),
        ("lost messages", Scene { loss: 0.05, ..scene }),
        ("nodes that die", Scene { kills: true, ..scene }),
        ("both", Scene { kills: true, loss: 0.05, ..scene }),
    ];
    for (name, scene) in scenes {
        for ahead in [false, true] {
            let mut worst = 1.0_f64;
            for seed in 0..2 {
                let seen = run(seed, &Scene { ahead, ..scene });
                let most = scene.most as usize;
                assert!(seen.most_running <= most, "{name}, ahead {ahead}, {seed}: {seen:?}");
                assert!(seen.begun > 50, "{name}: {seen:?}");
                worst = worst.min(seen.mean / possible(&scene));
                eprintln!("{name}, ahead {ahead}: {seen:?}");
            }
            eprintln!("{name}, ahead {ahead}: {:.1} % of what can run does", worst * 100.0);
            // A node that dies keeps its share for 30 s; for a lost message one waits its deadline.
            let least = if scene.kills || scene.loss > 0.0 { 0.1 } else { 0.9 };
            assert!(worst >= least, "{name}, ahead {ahead}: {worst}");
        }
    }
}

/// Far from the limit, hardly anybody is denied, and with a share ahead few have to ask.
#[test]
fn far_from_the_limit_requests_run_at_once() {
    for loads in [&[100.0][..], &[50.0, 50.0, 50.0]] {
        let scene = Scene {
            most: 100,
            loads: if loads.len() == 1 { &[100.0] } else { &[50.0, 50.0, 50.0] },
            longest: 100,
            ahead: true,
            loss: 0.0,
            kills: false,
        };
        let seen = run(5, &scene);
        eprintln!("{seen:?}");
        assert_eq!(seen.denied, 0, "{seen:?}");
        assert!((seen.asked as f64) < 0.1 * seen.begun as f64, "{seen:?}");
    }
}
