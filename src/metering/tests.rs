//! A request while it runs: when it ends, what it is billed, and what is said of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use http::{HeaderMap, StatusCode, Uri};

use super::{
    BillingContext, End, FinishedRequest, Instruments, Origin, Passed, PlanContexts,
    ReadAheadBudget, ReadAheadLimits, RemainingTime, ReportHistories, RunningRequest, SharedClocks,
    running::spare_memory,
};
use crate::{
    Account, Credits, Identity, Period, Plan, RequestId,
    clock::Now,
    lease::{Lease, RefillDenial, Run},
    ledger::LeaseId,
    plan::Classification,
};

/// A second costs a thousand nano-dollars.
const PLAN: &str = r#"
[hardware.gpu]
price_per_second = "0.000001"

[models.echo]
hardware = "gpu"

[models.said]
hardware = "gpu"
compute_time = { header = "x-inference-time", unit = "ms" }

[routes]
"/models/{model}" = { model = "{model}" }

[tiers.stop]
included = "1"
when_used_up = "block"

[tiers.finish]
included = "1"
when_used_up = "block"
midway = "finish"

[tiers.capped]                 # two seconds
included = "1"
when_used_up = "block"
midway = "finish"
most_per_request = { cost = "0.000002" }
"#;

const PERIOD: &str = "2026-11";

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn nanos(nanos: i64) -> Credits {
    Credits::from_nano_usd(nanos).unwrap()
}

fn at(now: Duration) -> Now {
    Now { compute: now, lease: now }
}

/// A request of this tier for this model, with these fields.
fn asked(
    model: &str,
    tier: &str,
    fields: &[(&'static str, &str)],
    is_shadow: bool,
) -> RunningRequest {
    let plan = Plan::from_toml(PLAN).unwrap();
    let path = format!("/models/{model}");
    let Classification::Workload(workload) = plan.classify(&path, &HeaderMap::new()) else {
        panic!("{model} is in the plan");
    };
    let instruments = Instruments {
        clock: None,
        histories: ReportHistories::default(),
        shared_clocks: SharedClocks::default(),
        read_ahead: Arc::new(ReadAheadBudget::new(ReadAheadLimits::default())),
        min_hold: Duration::ZERO,
        plan_contexts: PlanContexts::default(),
    };
    let alice = Account::user("alice").unwrap();
    let identity = Identity::new("alice".parse().unwrap(), alice, tier.parse().unwrap());
    let period: Period = PERIOD.parse().unwrap();
    let context = BillingContext::new(&instruments, &plan, &identity, workload, period).unwrap();
    let headers: HeaderMap = fields
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    let origin = Origin::new(RequestId::known("a"), &Uri::from_static("/"), &headers, false);
    RunningRequest::new(Arc::new(context), origin, (period, 1), is_shadow, false)
}

/// One that began at 100 s, with a slice for ten seconds.
fn running(tier: &str) -> RunningRequest {
    begun(asked("echo", tier, &[], false))
}

fn begun(mut request: RunningRequest) -> RunningRequest {
    request.begin(s(100));
    request.granted(nanos(10_000), s(100));
    request
}

fn remaining(request: &mut RunningRequest, now: Duration) -> &'static str {
    match request.remaining(at(now), s(60), Waker::noop()) {
        RemainingTime::Unlimited => "unlimited",
        RemainingTime::Frozen => "frozen",
        RemainingTime::For(_) => "for",
        RemainingTime::Ask => "ask",
        RemainingTime::Wait => "wait",
        RemainingTime::None => "none",
    }
}

fn denied(requested_at: Duration) -> RefillDenial {
    RefillDenial { requested_at: requested_at.into(), answered: true }
}

fn finished(end: End) -> FinishedRequest {
    FinishedRequest { status: Some(StatusCode::OK), grpc_status: None, end }
}

#[test]
fn it_counts_once_among_others_and_until_it_ends() {
    let number = Arc::new(AtomicUsize::new(0));
    let mut request = running("stop");
    request.count_in(&number);
    request.count_in(&number);
    assert_eq!(number.load(Ordering::Relaxed), 1);
    request.end(s(101));
    assert_eq!(number.load(Ordering::Relaxed), 0);
}

#[test]
fn its_age_counts_from_the_call_of_its_service() {
    assert_eq!(asked("echo", "stop", &[], false).age(s(100)), None);
    assert_eq!(running("stop").age(s(107)), Some(s(7)));
}

#[test]
fn what_its_answer_may_still_say_is_not_settled_before() {
    let mut request = begun(asked("said", "stop", &[], false));
    request.set_streaming();
    assert_eq!(request.settleable(s(102)), None);
    request.await_no_report();
    assert_eq!(request.settleable(s(102)).unwrap().cost, nanos(2_000));
}

/// As long as something may still report compute time, nothing is certain of a stream.
#[test]
fn what_a_clock_may_still_report_is_not_settled_before_it_is_gone() {
    let mut request = running("stop");
    request.set_streaming();
    let clock: Arc<dyn std::any::Any + Send + Sync> = Arc::new(());
    request.set_clock(Arc::downgrade(&clock));
    assert_eq!(request.settleable(s(102)), None);
    drop(clock);
    assert_eq!(request.settleable(s(102)).unwrap().cost, nanos(2_000));
}

#[test]
fn what_is_billed_of_the_time_in_which_it_was_held_back_counts() {
    let mut request = running("stop");
    request.hold_back(s(101));
    assert_eq!(request.resume(s(107)), s(6));
    assert_eq!(request.used(s(107)).unwrap().cost, nanos(1_000));
    request.bill_held_back(s(2));
    assert_eq!(request.used(s(107)).unwrap().cost, nanos(3_000));
}

/// A report, or an amount, that uses the slice up makes older denials worthless. One that comes
/// when it is used up already does not.
#[test]
fn a_need_that_arises_at_once_is_asked_for_once() {
    type Grow = fn(&mut RunningRequest, Now);
    // A little beyond the slice: one that is far beyond it is asked for again in any case.
    let ms = Duration::from_millis;
    let report: [Grow; 2] = [
        |request, now| assert!(request.report(Duration::from_millis(10_020), now)),
        |request, now| assert!(request.report(Duration::from_millis(10_030), now)),
    ];
    let add: [Grow; 2] =
        [|request, now| request.add(nanos(8_020), now), |request, now| request.add(nanos(10), now)];
    for [grow, grow_more] in [report, add] {
        let mut request = running("stop");
        request.denied(denied(s(101)));
        grow(&mut request, at(s(102)));
        assert_eq!(remaining(&mut request, s(102)), "ask", "the denial is older than the need");
        request.denied(denied(s(102)));
        grow_more(&mut request, at(s(102) + ms(1)));
        let what = remaining(&mut request, s(102) + ms(1));
        assert_eq!(what, "none", "it was denied what it needs");
    }
    // One that has enough after it needs nothing.
    let mut request = running("stop");
    request.denied(denied(s(101)));
    request.report(s(5), at(s(102)));
    assert_eq!(remaining(&mut request, s(102)), "for");
    request.report(s(20), at(s(103)));
    assert_eq!(remaining(&mut request, s(103)), "ask");
}

#[test]
fn a_shutdown_is_noted_once() {
    let mut request = running("stop");
    assert!(!request.is_shut_down());
    assert!(request.shut_down());
    assert!(!request.shut_down() && request.is_shut_down());
}

#[test]
fn it_is_short_if_it_used_more_than_its_slice() {
    let request = running("stop");
    assert!(!request.is_short(s(110)) && request.is_short(s(110) + Duration::from_millis(1)));
    assert!(!running("finish").is_short(s(200)));
}

#[test]
fn once_its_service_has_ended_only_an_amount_beyond_its_cap_ends_it() {
    for (added, left) in [(0, "unlimited"), (1_000, "unlimited"), (1_001, "none")] {
        let mut request = running("capped");
        request.end_compute(s(101));
        request.add(nanos(added), at(s(101)));
        assert_eq!(remaining(&mut request, s(200)), left, "{added}");
    }
}

#[test]
fn a_capped_request_has_no_end_while_its_compute_time_stands_still() {
    let mut request = running("capped");
    assert_eq!(remaining(&mut request, s(101)), "for");
    request.hold_back(s(101));
    assert_eq!(remaining(&mut request, s(200)), "frozen");
    request.resume(s(200));
    assert_eq!(remaining(&mut request, s(200)), "for");
    assert_eq!(remaining(&mut request, s(201)), "none");
    assert_eq!(remaining(&mut running("finish"), s(900)), "unlimited");
}

#[test]
fn a_cap_bounds_what_can_be_stopped_and_is_billed() {
    assert_eq!(running("capped").accrued(s(105)), nanos(2_000));
    assert_eq!(running("capped").used(s(105)).unwrap().cost, nanos(2_000));
    let mut unstoppable = running("capped");
    unstoppable.set_unstoppable();
    assert_eq!(unstoppable.accrued(s(105)), nanos(5_000));
    assert_eq!(unstoppable.used(s(105)).unwrap().cost, nanos(5_000));
    let mut forgiven = running("capped");
    forgiven.decide_at_head(false);
    assert_eq!((forgiven.accrued(s(105)), forgiven.used(s(105))), (Credits::ZERO, None));
    assert_eq!(remaining(&mut forgiven, s(105)), "unlimited");
}

#[test]
fn shadow_mode_says_what_it_let_pass_and_no_more() {
    let shadow = |tier: &str, fields: &[(&'static str, &str)]| {
        let mut request = begun(asked("echo", tier, fields, true));
        request.denied(denied(s(101)));
        request
    };
    let ms = Duration::from_millis;
    let capped = shadow("capped", &[]);
    assert_eq!(capped.passed_in_shadow(s(102)), None, "exactly at its cap");
    assert_eq!(capped.passed_in_shadow(s(102) + ms(1)), Some(Passed::RequestCap));
    let client = shadow("stop", &[("x-max-compute", "3")]);
    assert_eq!(client.passed_in_shadow(s(103)), None);
    assert_eq!(client.passed_in_shadow(s(103) + ms(1)), Some(Passed::ClientCap));
    let refused = shadow("stop", &[]);
    assert_eq!(refused.passed_in_shadow(s(109)), None, "its slice pays for that");
    assert_eq!(refused.passed_in_shadow(s(110)), None);
    assert_eq!(refused.passed_in_shadow(s(110) + ms(1)), Some(Passed::Credits));
    let mut in_debt = shadow("stop", &[]);
    in_debt.in_debt(nanos(20_000));
    assert_eq!(in_debt.passed_in_shadow(s(105)), Some(Passed::Credits), "nobody pays for it");
    let mut served = shadow("stop", &[]);
    served.granted(nanos(10_000), s(102));
    assert_eq!(served.passed_in_shadow(s(120)), None, "nothing was refused");
    assert_eq!(shadow("finish", &[]).passed_in_shadow(s(120)), None, "it may finish");
    let mut forgiven = shadow("stop", &[]);
    forgiven.decide_at_head(false);
    assert_eq!(forgiven.passed_in_shadow(s(120)), None);
    let mut metered = running("stop");
    metered.denied(denied(s(101)));
    assert_eq!(metered.passed_in_shadow(s(120)), None, "it is not in shadow mode");
}

#[test]
fn of_two_caps_the_lower_one_is_named() {
    for (seconds, is_clients) in [("1.9", true), ("2", false), ("2.1", false)] {
        let request = begun(asked("echo", "capped", &[("x-max-compute", seconds)], false));
        assert_eq!(request.is_capped_by_client(), is_clients, "{seconds}");
    }
    let same = [("x-max-cost", "0.000002")];
    assert!(!begun(asked("echo", "capped", &same, false)).is_capped_by_client(), "they are one");
    let request = begun(asked("echo", "stop", &[("x-max-cost", "0.000003")], false));
    assert!(request.is_capped_by_client());
    assert!(!request.is_beyond_client_caps(s(103)));
    assert!(request.is_beyond_client_caps(s(103) + Duration::from_millis(1)));
}

#[test]
fn what_was_delivered_beyond_its_clients_cap_is_billed() {
    for (end, cost) in [(End::Complete, 5_000), (End::CutOff, 3_000)] {
        let mut request = begun(asked("echo", "stop", &[("x-max-cost", "0.000003")], false));
        assert_eq!(request.accrued(s(105)), nanos(3_000), "as long as it runs");
        request.finish(finished(end), true, s(105));
        assert_eq!(request.used(s(110)).unwrap().cost, nanos(cost), "{end:?}");
    }
}

/// With a lease for each of many accounts, requests run in the memory that the one before left.
#[test]
fn a_request_runs_in_memory_that_another_left() {
    let leases = [1, 2].map(|id| Lease::<(), _>::new(LeaseId::from_bits(id), s(0)));
    let want = |request: &RunningRequest| request.context.plan.want;
    let begin = |lease: &mut Lease<(), RunningRequest>| {
        let request = asked("echo", "finish", &[], false);
        let want = want(&request);
        lease.grant_unbacked(want, request, Credits::MAX, s(1)).expect("there is an allowance")
    };
    let end = |lease: &mut Lease<(), RunningRequest>, id| {
        assert!(lease.close(id, false, s(2)).is_some() && lease.take(id).is_some());
    };
    let [mut first, mut second] = leases;
    assert_eq!(spare_memory(), 0);
    let (one, other) = (begin(&mut first), begin(&mut first));
    end(&mut first, one);
    assert_eq!(spare_memory(), 0, "another one runs in it");
    end(&mut first, other);
    assert_eq!(spare_memory(), 1);
    let one = begin(&mut second);
    assert_eq!(spare_memory(), 0);
    // Of another account, on memory of its own.
    let other = begin(&mut first);
    end(&mut second, one);
    end(&mut first, other);
    assert_eq!(spare_memory(), 2);
    // So much at a time keeps its memory for itself.
    let many: Vec<_> = (0..20).map(|_| begin(&mut first)).collect();
    many.into_iter().for_each(|id| end(&mut first, id));
    assert_eq!(spare_memory(), 1);
}
