//! What a node says of its health: to load balancers, and in its first line of the log.

use std::time::Duration;

use tower::{Layer, ServiceExt, service_fn};
use tower_credits::{
    BearerTokens, CreditMeter, MemoryLedger, PlanFile,
    identify::{Identify, Identifying, IdentityFromExtensions, RequestHead},
    ledger::{Ledger, LedgerError, LedgerFuture},
    meter::Condition,
};

use crate::support::{folder::Folder, logs::Log, *};

/// A ledger whose check does what a test wants.
#[derive(Debug)]
struct Checked(MemoryLedger, fn() -> LedgerFuture<'static, ()>);

impl Ledger for Checked {
    fn check(&self, _: Duration) -> LedgerFuture<'_, ()> {
        (self.1)()
    }

    fn renew<'a>(
        &'a self,
        account: &'a tower_credits::Account,
        period: tower_credits::Period,
        renewal: &'a tower_credits::ledger::Renewal,
        within: Duration,
    ) -> LedgerFuture<'a, tower_credits::ledger::Answer> {
        self.0.renew(account, period, renewal, within)
    }

    fn statement<'a>(
        &'a self,
        account: &'a tower_credits::Account,
        period: tower_credits::Period,
        terms: Option<tower_credits::ledger::Terms>,
    ) -> LedgerFuture<'a, tower_credits::ledger::Statement> {
        self.0.statement(account, period, terms)
    }

    fn amend<'a>(
        &'a self,
        account: &'a tower_credits::Account,
        amendment: tower_credits::ledger::Amendment,
    ) -> LedgerFuture<'a, bool> {
        self.0.amend(account, amendment)
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_is_ready_if_its_ledger_answers_in_time_and_says_why_if_not() {
    let health = async |check| {
        let ledger = Checked(MemoryLedger::new(), check);
        CreditMeter::new(plan(), ledger, IdentityFromExtensions).health().await
    };
    let well = health(|| Box::pin(std::future::ready(Ok(())))).await;
    assert!(well.is_ready() && well.last_answer.is_none() && well.unsettled.is_zero());
    assert!(well.to_string().starts_with("ready\nledger: well\n"), "{well}");
    let refused =
        health(|| Box::pin(std::future::ready(Err(LedgerError::Unfit("it evicts".to_owned())))));
    let refused = refused.await;
    assert!(!refused.is_ready() && refused.to_string().starts_with("not ready\n"), "{refused}");
    assert!(matches!(&refused.ledger, Condition::Away(why) if why.contains("it evicts")));
    let silent = health(|| Box::pin(std::future::pending())).await;
    assert!(matches!(&silent.ledger, Condition::Away(why) if why.contains("within 250ms")));
    let broken = health(|| panic!("the host's code")).await;
    assert!(!broken.is_ready(), "{broken}");
    let broken = health(|| Box::pin(async { panic!("the host's code") })).await;
    assert!(!broken.is_ready(), "{broken}");
}

#[tokio::test]
async fn files_that_are_not_in_force_are_named_and_do_not_make_a_node_unready() {
    let folder = Folder::new("health");
    let plan = folder.write("plan.toml", PLAN);
    let tokens = folder.write("tokens.toml", "tokens = []\n");
    let meter = CreditMeter::new(
        PlanFile::watch(&plan).unwrap(),
        MemoryLedger::new(),
        BearerTokens::watch(&tokens).unwrap(),
    );
    assert_eq!(meter.health().await.plan, Condition::Well);
    folder.write("plan.toml", "[tiers");
    folder.write("tokens.toml", "tokens = 7\n");
    let outdated = eventually(async || {
        let health = meter.health().await;
        let both = [&health.plan, &health.identify];
        let outdated = both.map(|part| matches!(part, Condition::Outdated(_)));
        (outdated == [true, true]).then_some(health)
    })
    .await;
    assert!(outdated.is_ready() && outdated.to_string().contains("plan: outdated: "), "{outdated}");
    let json: serde_json::Value = serde_json::to_value(&outdated).unwrap();
    assert_eq!((&json["ready"], &json["plan"]["is"]), (&true.into(), &"outdated".into()));
    folder.write("plan.toml", PLAN);
    eventually(async || (meter.health().await.plan == Condition::Well).then_some(())).await;
}

#[derive(Debug)]
struct Away;

impl Identify for Away {
    fn identify(&self, _: RequestHead<'_>) -> Identifying {
        Identifying::Later(Box::pin(std::future::pending()))
    }

    fn check(&self) -> std::pin::Pin<Box<dyn Future<Output = Condition> + Send + '_>> {
        Box::pin(std::future::ready(Condition::Away("the directory is down".to_owned())))
    }
}

#[tokio::test]
async fn the_log_says_what_a_node_runs_on_and_health_what_it_has_settled() {
    let (log, _guard) = Log::from(tracing::Level::INFO);
    let meter = CreditMeter::new(plan(), MemoryLedger::new(), IdentityFromExtensions);
    let lines = log.lines(&["INFO", "starts", "this process's memory", "code of the host"]);
    assert_eq!(lines.len(), 1);
    let service = meter.layer(service_fn(async |_| {
        let body = http_body_util::Empty::<bytes::Bytes>::new();
        Ok::<_, std::convert::Infallible>(http::Response::new(body))
    }));
    service
        .oneshot(request("alice", "free", http_body_util::Empty::<bytes::Bytes>::new()))
        .await
        .unwrap();
    settled(&meter, "alice", "free", 1).await;
    let health = meter.health().await;
    assert!(health.last_answer.is_some() && health.unsettled.is_zero(), "{health}");
    let away = CreditMeter::new(plan(), MemoryLedger::new(), Away).health().await;
    assert!(!away.is_ready() && away.to_string().contains("identify: away: the directory is down"));
}
