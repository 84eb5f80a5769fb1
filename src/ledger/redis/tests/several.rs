//! Several accounts in one call: each fares as in calls of its own.

use fastrand::Rng;
use redis::{Script, Value};

use super::{
    super::{
        super::histories::{MAX_LINES, Step, by_book, history, plain_history},
        call::{self, ToSend},
        script,
    },
    Player, TEST_CLOCK, connected, histories, moment, said,
};
use crate::{Account, clock::UnixTime, redis_server::tests::redis_server::RedisServer};

/// The accounts of a call.
const TOGETHER: usize = 4;

/// Different histories of accounts at the same moments, whose renewals go together: the answers and
/// the states are those of the book.
#[tokio::test]
async fn renewals_of_one_call_do_not_touch_each_other() {
    let histories = histories();
    let server = RedisServer::start_with(&["--appendonly", "no"]);
    let mut link = connected(&server).await;
    let scripts = [script::several_text(TEST_CLOCK), script::amend_text(TEST_CLOCK)]
        .map(|text| Script::new(&text));
    for script in &scripts {
        script.load_async(&mut link).await.unwrap();
    }
    let (mut calls, mut renewals, mut refused) = (0, 0, 0);
    for seed in 0..histories / TOGETHER as u64 {
        let of = |at: u64| {
            let mut rng = Rng::with_seed(2_000_000 + TOGETHER as u64 * seed + at);
            if rng.bool() { history(&mut rng) } else { plain_history(&mut rng) }
        };
        let mut all: Vec<Vec<Step>> = (0..TOGETHER as u64).map(of).collect();
        let len = all.iter().map(Vec::len).min().unwrap();
        for step in 0..len {
            let now = all.iter().find_map(|steps| moment(&steps[step]));
            all.iter_mut().for_each(|steps| {
                steps.truncate(len);
                now.into_iter().for_each(|now| set_moment(&mut steps[step], now));
            });
        }
        let players: Vec<_> = (0..all.len())
            .map(|at| Player::new(Account::user(&format!("u{seed}-{at}")).unwrap(), &scripts))
            .collect();
        let mut pipe = redis::pipe();
        for step in 0..len {
            let now = all.iter().find_map(|steps| moment(&steps[step]));
            if let Some(now) = now {
                pipe.cmd("SET").arg("test:clock").arg(now.as_millis().to_string());
                let renewals = players.iter().zip(&all).filter_map(|(player, steps)| {
                    let Step::Renew { period, renewal, not_after, .. } = &steps[step] else {
                        return None;
                    };
                    Some(ToSend { keys: player.of(*period), renewal, not_after: *not_after })
                });
                let how = ("EVALSHA", scripts[0].get_hash());
                pipe.add_command(call::several(how, &renewals.collect::<Vec<_>>(), MAX_LINES, now));
            }
            for (player, steps) in players.iter().zip(&all) {
                if !matches!(steps[step], Step::Renew { .. }) {
                    player.make(&steps[step], false, &mut pipe);
                }
                player.look(&mut pipe);
            }
        }
        let answers: Vec<Value> = link.send_packed_commands(&pipe, 0, pipe.len()).await.unwrap();
        let mut answers = answers.into_iter();
        let expected: Vec<_> = all.iter().map(|steps| by_book(steps)).collect();
        for step in 0..len {
            let mut together: Vec<Value> = Vec::new();
            if all.iter().any(|steps| moment(&steps[step]).is_some()) {
                answers.next();
                let Some(Value::Array(answers)) = answers.next() else { panic!("a list") };
                together = answers;
                calls += usize::from(together.len() > 1);
            }
            let mut together = together.into_iter();
            for (account, (player, steps)) in players.iter().zip(&all).enumerate() {
                let step_of = &steps[step];
                let answer = match step_of {
                    Step::Renew { .. } => together.next().unwrap(),
                    Step::Save => {
                        answers.by_ref().take(2 * player.all_keys().count()).last().unwrap()
                    }
                    Step::Lose { restore, .. } => {
                        answers.by_ref().take(1 + usize::from(*restore)).last().unwrap()
                    }
                    _ => answers.next().unwrap(),
                };
                let (expected, record, books) = &expected[account][step];
                if matches!(step_of, Step::Renew { .. }) {
                    renewals += 1;
                    refused += usize::from(expected == "refused");
                }
                let said = said(step_of, answer);
                assert_eq!(&said, expected, "history {seed}, account {account}, {step_of:?}");
                let found = player.looked(&mut answers);
                assert_eq!((&found.0, &found.1), (record, books), "{seed}, {account}, {step_of:?}");
            }
            assert_eq!(together.next(), None);
        }
        if seed % 100 == 99 {
            redis::cmd("FLUSHDB").exec_async(&mut link).await.unwrap();
        }
    }
    eprintln!("{calls} calls of several, {renewals} renewals, {refused} refused");
    assert!((calls > 1_000 && refused > 100) || histories < 1_000);
}

/// Moves a step to a moment.
fn set_moment(step: &mut Step, to: UnixTime) {
    match step {
        Step::Renew { not_after, now, .. } => {
            let left = *not_after - *now;
            (*now, *not_after) = (to, to + left);
        }
        Step::Amend { now, .. } | Step::Claim { now, .. } => *now = to,
        Step::Save | Step::Lose { .. } => {}
    }
}
