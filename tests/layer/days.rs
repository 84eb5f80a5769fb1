//! Credits that a tier includes each day.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::Value;
use tower_credits::{Credits, clock::Clock};

use crate::{
    parts::{World, of},
    support::*,
};

fn slices(credits: Credits) -> i64 {
    assert_eq!(credits.as_nano_usd() % SLICE, 0);
    credits.as_nano_usd() / SLICE
}

fn next_day(world: &World) {
    world.clock.set_unix_time(world.clock.unix_time() + seconds(86_400));
}

#[tokio::test]
async fn they_are_used_before_the_months_and_lapse_at_midnight() {
    let world = World::new();
    let alice = identity("alice", "each-day");
    let statement = async || {
        let statement = world.statement(&alice).await;
        assert_eq!(slices(statement.included_per_day), 2);
        [
            statement.used,
            statement.included,
            statement.included_left_today,
            statement.included_used(),
        ]
        .map(slices)
    };
    // Two of the day, and one of the month.
    assert_eq!(statement().await, [0, 3, 2, 0]);
    assert_eq!(world.runs(&alice, "echo").await, 200);
    assert_eq!(statement().await, [1, 3, 1, 1]);
    // Of the day's two, one is left: it lapses.
    next_day(&world);
    assert_eq!(statement().await, [1, 4, 2, 1]);
    for status in [200, 200, 200, 402] {
        assert_eq!(world.runs(&alice, "echo").await, status);
    }
    assert_eq!(statement().await, [4, 4, 0, 4]);
    let response = world.call(of(&alice, "echo")).await;
    assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
    let body: Bytes = Box::pin(response.into_body()).collect().await.unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["reason"], "CREDITS_USED_UP");
    assert_eq!(problem["resets_at"], "2026-11-03T00:00:00Z");
    assert_eq!(
        problem["detail"],
        "Your credits for today are used up. New ones are included from 2026-11-03T00:00:00Z."
    );
    // The month's is used up now.
    next_day(&world);
    for status in [200, 200, 402] {
        assert_eq!(world.runs(&alice, "echo").await, status);
    }
    let audit = world.accounts.audit(&alice.account, world.statement(&alice).await.period).await;
    assert!(audit.unwrap().is_sound());
}

#[tokio::test]
async fn what_is_charged_on_one_day_is_no_debt_of_the_next() {
    let world = World::new();
    let alice = identity("alice", "charged");
    for (day, charged) in [(1, 3), (2, 6), (3, 9)] {
        for _ in 0..5 {
            assert_eq!(world.runs(&alice, "echo").await, 200);
        }
        let statement = world.statement(&alice).await;
        assert_eq!(slices(statement.pay_as_you_go), charged, "day {day}");
        assert_eq!(slices(statement.included_used()), 2 * day);
        assert!(statement.beyond().is_zero());
        next_day(&world);
        assert_eq!(slices(world.statement(&alice).await.pay_as_you_go), charged, "a new day");
    }
}

#[tokio::test]
async fn a_debt_is_paid_once_by_the_days_that_follow() {
    for idles in [false, true] {
        let world = World::new();
        let alice = identity("alice", "in-debt");
        // Of five that are used, the day pays two.
        let response = world.call_for(of(&alice, "echo"), 5).await;
        assert_eq!(response.status(), 200);
        drop(response);
        eventually(async || {
            let statement = world.statement(&alice).await;
            (slices(statement.used) == 5 && statement.held.is_zero()).then_some(())
        })
        .await;
        assert_eq!(slices(world.statement(&alice).await.beyond()), 3);
        next_day(&world);
        if !idles {
            for _ in 0..3 {
                assert_eq!(world.runs(&alice, "echo").await, 402, "the second day pays two");
            }
            assert_eq!(slices(world.statement(&alice).await.beyond()), 1);
        }
        next_day(&world);
        for status in [200, 402, 402] {
            assert_eq!(world.runs(&alice, "echo").await, status, "the third day has one left");
        }
        next_day(&world);
        for status in [200, 200, 402] {
            assert_eq!(world.runs(&alice, "echo").await, status, "all is paid");
        }
        let statement = world.statement(&alice).await;
        assert_eq!((slices(statement.used), slices(statement.beyond())), (8, 0));
    }
}

/// The account had no credits of a day before, so no day is known from which on days pay.
#[tokio::test]
async fn a_debt_from_another_tier_is_paid_by_the_days_that_follow_too() {
    let world = World::new();
    let response = world.call_for(of(&identity("alice", "monthly"), "echo"), 5).await;
    assert_eq!(response.status(), 200);
    drop(response);
    let alice = identity("alice", "in-debt");
    eventually(async || {
        let statement = world.statement(&alice).await;
        (slices(statement.used) == 5 && statement.held.is_zero()).then_some(())
    })
    .await;
    // Each of the first two days pays two, and the third one.
    for statuses in [[402, 402], [402, 402], [200, 402]] {
        for status in statuses {
            assert_eq!(world.runs(&alice, "echo").await, status);
        }
        next_day(&world);
    }
}

#[tokio::test]
async fn a_clock_that_was_ahead_takes_no_day_away() {
    let world = World::new();
    let alice = identity("alice", "each-day");
    let real = world.clock.unix_time();
    world.clock.set_unix_time(real + seconds(8 * 86_400));
    assert_eq!(world.runs(&alice, "echo").await, 200);
    world.clock.set_unix_time(real);
    for day in 0..3 {
        world.clock.set_unix_time(real + seconds(day * 86_400));
        for _ in 0..2 {
            assert_eq!(world.runs(&alice, "echo").await, 200, "day {day}");
        }
    }
    assert_eq!(world.statement(&alice).await.included_used(), world.statement(&alice).await.used);
}

#[tokio::test]
async fn what_the_last_day_left_is_not_on_the_statement_of_a_month_that_has_ended() {
    let world = World::new();
    let alice = identity("alice", "each-day");
    assert_eq!(world.runs(&alice, "echo").await, 200);
    let november = world.statement(&alice).await.period;
    world.clock.set_unix_time(november.ends() + seconds(3_600));
    let statement = world.accounts.statement(&alice.account, november).await.unwrap();
    assert_eq!((slices(statement.included), slices(statement.limit)), (2, 2));
    assert!(statement.included_left_today.is_zero());
}
