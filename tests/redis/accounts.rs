//! The operator's handle on accounts, the same on every ledger.

use std::{collections::BTreeSet, num::NonZeroUsize, time::Instant};

use futures_util::stream::{StreamExt, iter};
use tower_credits::{
    Account, Accounts, Credits, MemoryLedger, Period, RedisLedger,
    clock::UnixTime,
    ledger::{Cursor, LeaseId, Ledger, LedgerError, LineKey, Renewal, Terms, Usage, UsageLine},
};

use crate::support::{redis_server::RedisServer, *};

const PRO: Terms = Terms {
    included: Credits::ZERO,
    included_per_day: Credits::ZERO,
    per_seat: false,
    pay_as_you_go: Credits::MAX,
};

fn this_month() -> Period {
    Period::containing(UnixTime::now())
}

/// Settles some usage under a lease of its own.
fn settles(lease: u128, cost: i64) -> Renewal {
    let key = LineKey::Of {
        day: 28,
        model: "echo".parse().unwrap(),
        hardware: "gpu".parse().unwrap(),
        feature: "api".parse().unwrap(),
        subject: "alice".parse().unwrap(),
    };
    let usage = Usage { requests: 1, compute_micros: 10, cost: nanos(cost) };
    Renewal {
        lease: LeaseId::from_bits(lease),
        seq: 1,
        batch: 1,
        settled: nanos(cost),
        reported: Credits::ZERO,
        lines: [UsageLine { key, usage }].into(),
        keep: Credits::ZERO,
        refill: Credits::ZERO,
        need: Credits::ZERO,
        extra: Credits::ZERO,
        terms: PRO,
        terms_at: UnixTime::EPOCH,
        ttl: seconds(600),
        forget: false,
        most_per_day: None,
        parts: std::sync::Arc::default(),
        permits: None,
        concurrency: None,
    }
}

/// A copy of a renewal may lie in the server's socket long after its node gave it up.
#[tokio::test]
async fn a_renewal_that_was_given_up_does_not_act_later() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let (alice, month) = (Account::user("alice").unwrap(), this_month());
    ledger.renew(&alice, month, &settles(1, 100), seconds(5)).await.unwrap();
    let within = std::time::Duration::from_millis(60);
    for lease in 2..5 {
        let calls = server.calls("evalsha");
        server.stop();
        ledger.renew(&alice, month, &settles(lease, 100), within).await.unwrap_err();
        // 100 ms after its deadline it may not act any more.
        let (given_up_at, late) = (Instant::now(), std::time::Duration::from_millis(100));
        eventually(async || (given_up_at.elapsed() > late).then_some(())).await;
        server.go_on();
        eventually(async || (server.calls("evalsha") > calls).then_some(())).await;
        let statement = eventually(async || ledger.statement(&alice, month, None).await.ok()).await;
        assert_eq!(statement.used, nanos(100), "lease {lease}");
    }
    // Who comes in time acts, and so does the one that was given up if it is sent again.
    ledger.renew(&alice, month, &settles(2, 100), seconds(5)).await.unwrap();
    assert_eq!(ledger.statement(&alice, month, None).await.unwrap().used, nanos(200));
}

async fn accounts_are_kept(ledger: impl Ledger + Clone) {
    let accounts = Accounts::new(ledger.clone());
    let (alice, month) = (Account::user("alice").unwrap(), this_month());
    let before = month.previous();
    let use_up = async |period, lease, cost| {
        ledger.renew(&alice, period, &settles(lease, cost), seconds(2)).await.unwrap();
    };

    use_up(before, 1, 100).await;
    use_up(month, 2, 50).await;
    let refund = |period, id: &str, amount| {
        accounts.refund(
            &alice,
            period,
            id.parse().unwrap(),
            nanos(amount),
            "said\tno: it  failed".replace('\t', " ").parse().unwrap(),
        )
    };
    assert!(
        refund(before, "case 1", 30).await.unwrap() && !refund(before, "case 1", 30).await.unwrap()
    );
    let too_much = refund(before, "case 2", 71).await.unwrap_err();
    assert!(
        matches!(&too_much, LedgerError::Refused(why) if why.contains("is more than")),
        "{too_much}"
    );

    let not_ended = accounts.close(&alice, month).await.unwrap_err();
    assert!(
        matches!(&not_ended, LedgerError::Refused(why) if why.contains("has not ended")),
        "{not_ended}"
    );
    assert!(
        accounts.close(&alice, before).await.unwrap()
            && !accounts.close(&alice, before).await.unwrap()
    );
    let closed = refund(before, "case 3", 1).await.unwrap_err();
    assert!(matches!(&closed, LedgerError::Refused(why) if why.contains("is closed")), "{closed}");

    // A node that was away reports.
    use_up(before, 3, 7).await;
    let (old, new) = (
        accounts.statement(&alice, before).await.unwrap(),
        accounts.statement(&alice, month).await.unwrap(),
    );
    assert_eq!(
        (old.used, old.refunded, old.pay_as_you_go, old.closed),
        (nanos(100), nanos(30), nanos(70), true)
    );
    assert_eq!((old.refunds.len(), old.refunds[0].reason.as_str()), (1, "said no: it  failed"));
    assert_eq!((new.used, new.requests(), new.closed), (nanos(57), 2, false));
    let late: Vec<_> = new
        .lines
        .iter()
        .filter(|line| line.model.as_str() == "late")
        .map(|line| line.usage.cost)
        .collect();
    assert_eq!(late, [nanos(7)]);
    use_up(month, 4, 1).await;
    assert_eq!(accounts.statement(&alice, month).await.unwrap().used, nanos(58));

    accounts.set_seats(&alice, 3.try_into().unwrap()).await.unwrap();
    accounts.set_spending_limit(&alice, Some(nanos(60))).await.unwrap();
    assert!(accounts.grant(&alice, "order 1".parse().unwrap(), nanos(5), None).await.unwrap());
    assert!(!accounts.grant(&alice, "order 1".parse().unwrap(), nanos(5), None).await.unwrap());
    use_up(month, 5, 1).await;
    let statement = accounts.statement(&alice, month).await.unwrap();
    assert_eq!(
        (statement.seats.get(), statement.spending_limit, statement.purchased_used),
        (3, Some(nanos(60)), nanos(1))
    );
    assert_eq!((statement.limit, statement.pay_as_you_go), (nanos(65), nanos(58)));

    let claim =
        |by| ledger.claim(&alice, month, "included 80 %".parse().unwrap(), LeaseId::from_bits(by));
    assert_eq!(
        (claim(1).await.unwrap(), claim(2).await.unwrap(), claim(1).await.unwrap()),
        (true, false, true)
    );

    let page = accounts.list(before, None, NonZeroUsize::MIN).await.unwrap();
    let listed: Vec<_> = page
        .accounts
        .iter()
        .map(|listed| (listed.account.clone(), listed.used, listed.refunded))
        .collect();
    assert_eq!(listed, [(alice.clone(), nanos(100), nanos(30))]);
    assert!(
        ledger
            .claim(&alice, month.next(), "limit 1 %".parse().unwrap(), LeaseId::from_bits(1))
            .await
            .unwrap()
    );
    assert!(
        accounts.list(month.next(), None, NonZeroUsize::MIN).await.unwrap().accounts.is_empty(),
        "nobody used anything there"
    );
}

#[tokio::test]
async fn in_memory() {
    accounts_are_kept(MemoryLedger::new()).await;
}

#[tokio::test]
async fn in_redis() {
    let server = RedisServer::start();
    accounts_are_kept(RedisLedger::connect(server.url()).await.unwrap()).await;
    let lasts = server.command(&["PTTL", &format!("tc:{{user:alice}}:{}:n", this_month())]);
    assert!(lasts.starts_with(':') && !lasts.starts_with(":-"), "it expires: {lasts}");
}

const MANY: u128 = 10_000;
const PAGE: usize = 100;

/// All accounts are on some page, and no page is much larger than was asked for.
async fn ten_thousand_are_listed(ledger: impl Ledger + Clone) {
    let (month, ledger) = (this_month(), &ledger);
    let renewals = iter(0..MANY).for_each_concurrent(100, |number| async move {
        let account = if number % 2 == 0 {
            Account::user(&format!("u {number}"))
        } else {
            Account::org(&format!("*[{number}]?"))
        };
        // Most used something this month, and some the month before.
        let period = if number % 10 == 0 { month.previous() } else { month };
        ledger
            .renew(&account.unwrap(), period, &settles(1, 1 + number as i64), seconds(5))
            .await
            .unwrap();
    });
    renewals.await;
    let accounts = Accounts::new(ledger.clone());
    let (mut found, mut times, mut from) = (BTreeSet::new(), 0, None::<Cursor>);
    let mut used = 0;
    let began = Instant::now();
    loop {
        let page = accounts.list(month, from.as_ref(), PAGE.try_into().unwrap()).await.unwrap();
        assert!(page.accounts.len() <= 3 * PAGE, "{}", page.accounts.len());
        for listed in page.accounts {
            times += 1;
            if found.insert(listed.account) {
                used += listed.used.as_nano_usd();
            }
        }
        // As it goes through the query of a back office.
        from = page.next.map(|next| next.to_string().parse().unwrap());
        if from.is_none() {
            break;
        }
    }
    let expected = (0..MANY as i64).filter(|number| number % 10 > 0);
    assert_eq!(
        (found.len(), used),
        (MANY as usize * 9 / 10, expected.map(|number| 1 + number).sum::<i64>())
    );
    eprintln!(
        "{} accounts on pages of {PAGE}, {times} with those that came twice, in {:?}",
        found.len(),
        began.elapsed()
    );
}

#[tokio::test]
async fn ten_thousand_accounts_are_listed_in_memory() {
    ten_thousand_are_listed(MemoryLedger::new()).await;
}

#[tokio::test]
async fn ten_thousand_accounts_are_listed_in_redis() {
    let server = RedisServer::start();
    // Keys of another prefix that the pattern of this one would match were it not escaped.
    let other = RedisLedger::builder(server.url()).prefix("t1").connect().await.unwrap();
    other
        .renew(&Account::user("other").unwrap(), this_month(), &settles(1, 1), seconds(2))
        .await
        .unwrap();
    ten_thousand_are_listed(
        RedisLedger::builder(server.url()).prefix("t[0-9]").connect().await.unwrap(),
    )
    .await;
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let wrong = Accounts::new(ledger)
        .list(this_month(), Some(&Cursor::new("user:alice")), NonZeroUsize::MIN)
        .await
        .unwrap_err();
    assert!(matches!(&wrong, LedgerError::Refused(why) if why.contains("begin again")), "{wrong}");
}

#[tokio::test]
async fn an_audit_names_what_does_not_add_up_and_changes_nothing() {
    let server = RedisServer::start();
    let ledger = RedisLedger::connect(server.url()).await.unwrap();
    let meter = tower_credits::CreditMeter::new(
        plan(),
        ledger.clone(),
        tower_credits::identify::IdentityFromExtensions,
    );
    // While leases are live.
    let while_they_run = Accounts::new(ledger.clone());
    let period = tower_credits::Period::containing(tower_credits::clock::UnixTime::now());
    crate::outages::under_load(&meter, async |_| {
        let page = while_they_run.audit_page(period, None, 100.try_into().unwrap()).await.unwrap();
        assert_eq!(page.audits.len(), 8);
        for audit in page.audits {
            assert!(audit.is_sound() && audit.leases > 0, "{audit}");
        }
    })
    .await;
    let accounts = Accounts::new(ledger);
    let all = async || accounts.audit_page(period, None, 100.try_into().unwrap()).await.unwrap();
    let page = all().await;
    assert_eq!((page.audits.len(), page.next), (8, None));
    assert!(page.audits.iter().all(tower_credits::ledger::Audit::is_sound), "{:?}", page.audits);
    // A line is lost.
    let key = format!("tc:{{user:alice-3}}:{period}");
    let fields = server.command(&["HKEYS", &key]);
    let line = fields.lines().find(|line| line.contains("echo")).unwrap();
    server.command(&["HDEL", &key, line]);
    let before = server.command(&["HGETALL", &key]);
    for audit in all().await.audits {
        if audit.account.as_str() != "user:alice-3" {
            assert!(audit.is_sound(), "{audit}");
            continue;
        }
        let [finding] = &audit.findings[..] else { panic!("{audit}") };
        assert_eq!((finding.expected, finding.found), (nanos(0), audit.used), "{audit}");
        assert!(audit.to_string().contains("usage lines and what was recovered"), "{audit}");
    }
    assert_eq!(server.command(&["HGETALL", &key]), before);
}
