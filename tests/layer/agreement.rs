//! One statement, shown in four ways.

use std::collections::BTreeMap;

use tower_credits::{
    Account, Identity, Period,
    ledger::{Statement, StatementLine},
};

use crate::{
    bill::{PLAN, *},
    support::*,
};

/// The server's own plan with two more models, and credits for some hundred requests.
fn plan() -> String {
    let models = "[models.whisper]\nhardware = \"gpu-small\"\n[models.llama]\nhardware = \"gpu-large\"\n[routes]";
    let included = |plan: String, amount| plan.replacen("\"0.0012\"", amount, 1);
    ["\"0.10\"", "\"0.50\"", "\"0.25\""]
        .into_iter()
        .fold(PLAN.replace("[routes]", models), included)
}

const REQUESTS: u64 = 10_000;

/// The members of a request, and how it pays: three tiers, one of them an organisation's with three
/// members.
const CALLERS: [(&str, bool); 6] =
    [("free", false), ("pro", false), ("ann", true), ("ben", true), ("cat", true), ("ann", false)];

#[tokio::test]
async fn page_json_csv_and_statement_agree_to_the_nano_dollar() {
    let server = Server::with(&plan()).await;
    let accounts = server.meter.accounts();
    let acme = Account::org("acme").unwrap();
    accounts.set_seats(&acme, 3.try_into().unwrap()).await.unwrap();
    accounts
        .grant(
            &Account::user("pro").unwrap(),
            "order-1".parse().unwrap(),
            "0.10".parse().unwrap(),
            None,
        )
        .await
        .unwrap();
    let mut rng = fastrand::Rng::with_seed(6);
    let months: [Period; 2] = ["2026-11".parse().unwrap(), "2026-12".parse().unwrap()];
    let mut billed = BTreeMap::<(Period, Account), u64>::new();
    let mut denied = 0;
    for number in 0..REQUESTS {
        if number == REQUESTS / 2 {
            server.clock.set_unix_time(months[1].begins());
        }
        let (token, org) = CALLERS[rng.usize(0..CALLERS.len())];
        let model = ["echo", "whisper", "large", "llama", "=cmd,1"][rng.usize(0..5)];
        let (path, feature) = [
            ("models", None),
            ("widget", None),
            ("models", Some("playground")),
            ("models", Some("data-studio")),
        ][rng.usize(0..4)];
        let micros = rng.u64(1..2_000_000).to_string();
        // A month of days goes by.
        server.clock.advance(std::time::Duration::from_secs(rng.u64(0..900)));
        let mut fields = vec![("x-runs-for", micros.as_str())];
        fields.extend(org.then_some(("x-hf-bill-to", "acme")));
        fields.extend(feature.map(|feature| ("x-front-end", feature)));
        match server.run(token, &format!("/{path}/{model}"), &fields).await.as_u16() {
            200 => {
                let account = if org { acme.clone() } else { Account::user(token).unwrap() };
                *billed
                    .entry((months[usize::from(number >= REQUESTS / 2)], account))
                    .or_default() += 1;
            }
            // The free tier's ran out, or what is left is on hold until its last request has been
            // reported.
            402 | 429 if token == "free" => denied += 1,
            status => panic!("{status}"),
        }
        if number % 2_000 == 1_999 {
            let period = months[usize::from(number >= REQUESTS / 2)];
            let id = format!("case-{number}").parse().unwrap();
            assert!(
                accounts
                    .refund(
                        &acme,
                        period,
                        id,
                        "0.000000123".parse().unwrap(),
                        "=it, \"failed\"".parse().unwrap()
                    )
                    .await
                    .unwrap()
            );
        }
    }
    assert_eq!(billed.values().sum::<u64>() + denied, REQUESTS);
    assert!(denied > 0 && billed.len() == 8, "{billed:?}");
    for ((period, account), requests) in billed {
        let org = account.organisation().is_some();
        let tier = if org {
            "enterprise"
        } else if account.as_str() == "user:free" {
            "free"
        } else {
            "pro"
        };
        let payer =
            Identity::new("anybody".parse().unwrap(), account.clone(), tier.parse().unwrap());
        let statement = eventually(async || {
            let statement = server.meter.statement(&payer, Some(period)).await.ok()?;
            (statement.held.is_zero() && statement.requests() == requests).then_some(statement)
        })
        .await;
        let token = if org { "ben" } else { account.as_str().strip_prefix("user:").unwrap() };
        agree(&server, token, &statement).await;
    }
}

/// What a table of the page puts lines together by.
type Kind = fn(&StatementLine, Period) -> String;

/// A month's bill, as whoever has this token sees it.
async fn agree(server: &Server, token: &str, statement: &Statement) {
    let (used, requests) = (statement.used.as_nano_usd(), statement.requests());
    let org = statement.account.organisation().is_some();
    let query =
        format!("?period={}{}", statement.period, if org { "&organisation=acme" } else { "" });
    let included = statement.included_used();
    let parts = [
        included,
        statement.purchased_used,
        statement.pay_as_you_go,
        statement.beyond(),
        statement.refunded,
    ];
    assert_eq!(
        parts.map(tower_credits::Credits::as_nano_usd).iter().sum::<i64>(),
        used,
        "{statement:?}"
    );
    assert_eq!(statement.lines.iter().map(|line| line.usage.cost.as_nano_usd()).sum::<i64>(), used);

    let (_, json) = server.json(token, &query).await;
    let sum = |of: &str, field: &str| {
        json[of].as_array().unwrap().iter().map(|line| line[field].as_i64().unwrap()).sum::<i64>()
    };
    let said = |field: &str| json[field].as_i64().unwrap();
    assert_eq!(
        (said("used_nano_usd"), sum("lines", "cost_nano_usd"), said("requests")),
        (used, used, requests as i64)
    );
    assert_eq!(
        (said("pay_as_you_go_nano_usd"), said("purchased_used_nano_usd")),
        (parts[2].as_nano_usd(), parts[1].as_nano_usd())
    );
    let others = [
        ("included_nano_usd", statement.included),
        ("included_used_nano_usd", included),
        ("held_nano_usd", statement.held),
        ("beyond_nano_usd", statement.beyond()),
        ("purchased_left_nano_usd", statement.purchased_left),
    ];
    for (field, amount) in others {
        assert_eq!(said(field), amount.as_nano_usd(), "{field}");
    }
    assert_eq!(json["compute_seconds"].as_f64(), Some(statement.compute().as_secs_f64()));
    let refunded = statement.refunded.as_nano_usd();
    assert_eq!(
        (said("refunded_nano_usd"), sum("refunds", "amount_nano_usd")),
        (refunded, refunded)
    );
    parts_agree(server, token, &query, statement, &json).await;
    if org {
        assert_eq!((sum("members", "cost_nano_usd"), refunded > 0), (used, true));
    }

    let (_, page) = server.page(token, &query).await;
    assert_eq!(
        (says(&page, "used"), says(&page, "requests")),
        (statement.used.to_string(), requests.to_string())
    );
    assert_eq!(
        (says(&page, "included-used"), says(&page, "pay-as-you-go")),
        (included.to_string(), statement.pay_as_you_go.to_string())
    );
    assert_eq!(says(&page, "compute"), format!("{:.6} s", statement.compute().as_secs_f64()));
    if refunded > 0 {
        assert_eq!(says(&page, "refunded"), statement.refunded.to_string());
    }
    let kinds: [(&str, Kind); 5] = [
        ("day", |line, month| format!("{month}-{:02}", line.day.unwrap())),
        ("model", |line, _| line.model.to_string()),
        ("hardware", |line, _| line.hardware.to_string()),
        ("feature", |line, _| line.feature.to_string()),
        ("member", |line, _| line.subject.as_ref().unwrap().to_string()),
    ];
    for (table, of) in kinds.into_iter().filter(|(table, _)| org || *table != "member") {
        let mut expected = BTreeMap::<String, i64>::new();
        for line in &statement.lines {
            *expected.entry(of(line, statement.period)).or_default() +=
                line.usage.cost.as_nano_usd();
        }
        assert_eq!(rows(&page, table), expected, "by {table}");
    }
    let csv = server
        .client
        .get(server.url(&format!("/billing.csv{query}")))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    assert_eq!(
        csv.headers()["content-disposition"],
        format!("attachment; filename=\"billing-{}.csv\"", statement.period)
    );
    let csv = text(csv).await;
    assert!(csv.contains(",\"'=cmd,1\","), "no formula: {csv}");
    let lines: Vec<_> =
        csv.split("\r\n").skip(1).filter(|line| !line.is_empty()).map(csv_numbers).collect();
    let total =
        lines.iter().fold((0, 0, 0), |sum, line| (sum.0 + line.0, sum.1 + line.1, sum.2 + line.2));
    assert_eq!(
        total,
        (requests, i64::try_from(statement.compute().as_micros()).unwrap(), used - refunded)
    );
    assert_eq!(lines.len(), statement.lines.len() + statement.refunds.len());
}

/// What each part used, in four ways, and as it adds up.
async fn parts_agree(
    server: &Server,
    token: &str,
    query: &str,
    statement: &Statement,
    json: &serde_json::Value,
) {
    let used = |path: &str| {
        let part = statement.parts.iter().find(|part| part.part.as_str() == path);
        part.map(|part| part.used.as_nano_usd())
    };
    let Some(research) = used("research") else {
        assert!(statement.parts.is_empty() && json["parts"].is_null());
        return;
    };
    let (ann, ben, ops) = (used("research/ann"), used("research/ben"), used("ops"));
    assert_eq!(research, ann.unwrap() + ben.unwrap());
    assert_eq!(statement.used.as_nano_usd(), research + ops.unwrap());
    let expected: BTreeMap<String, i64> = statement
        .parts
        .iter()
        .map(|part| (part.part.to_string(), part.used.as_nano_usd()))
        .collect();
    let of_json = json["parts"].as_array().unwrap().iter().map(|part| {
        (part["part"].as_str().unwrap().to_owned(), part["used_nano_usd"].as_i64().unwrap())
    });
    assert_eq!(of_json.collect::<BTreeMap<_, _>>(), expected);
    let csv = server.client.get(server.url(&format!("/billing/parts.csv{query}")));
    let csv = text(csv.bearer_auth(token).send().await.unwrap()).await;
    let of_csv = csv.split("\r\n").skip(1).filter(|line| !line.is_empty()).map(|line| {
        let fields: Vec<_> = line.split(',').collect();
        let used: i64 = fields[3].replace('.', "").parse().unwrap();
        (fields[2].trim_matches('"').to_owned(), used)
    });
    assert_eq!(of_csv.collect::<BTreeMap<_, _>>(), expected);
    let audit = server.meter.accounts().audit(&statement.account, statement.period).await.unwrap();
    assert!(audit.is_sound(), "{audit}");
    let (_, page) = server.page(token, query).await;
    if page.contains("table-parts") {
        assert_eq!(rows(&page, "parts"), expected);
    }
}

/// The rows of a table of the page: what each is called, and what it cost.
fn rows(page: &str, table: &str) -> BTreeMap<String, i64> {
    let (_, table) = page.split_once(&format!("<table id=\"table-{table}\"")).unwrap();
    let (_, body) = table.split_once("<tbody>").unwrap();
    let body = body.split("</tbody>").next().unwrap();
    // The path before a part's name is only read aloud.
    let body = body.replace("<span class=\"unseen\">", "").replace("</span>", "");
    let row = |row: &str| {
        let name = row.split("</th>").next().unwrap().rsplit('>').next().unwrap();
        let cost = row.split("<td class=\"number\">").nth(1).unwrap().split('<').next().unwrap();
        (
            name.to_owned(),
            cost.strip_prefix('$')
                .unwrap()
                .parse::<tower_credits::Credits>()
                .unwrap()
                .as_nano_usd(),
        )
    };
    body.split("<tr>").skip(1).map(row).collect()
}

/// The numbers of a line of CSV, of which none is quoted; behind them is a note.
fn csv_numbers(line: &str) -> (u64, i64, i64) {
    let (line, _) =
        line.strip_suffix("\"").unwrap().rsplit_once(",\"").unwrap_or_else(|| panic!("{line}"));
    // A note may hold what ends a field.
    let line = line.split(",\"case-").next().unwrap();
    let mut fields = line.rsplit(',');
    let mut exact = |digits: usize| -> i64 {
        let (whole, part) = fields.next().unwrap().split_once('.').unwrap();
        assert_eq!(part.len(), digits);
        format!("{whole}{part}").parse().unwrap()
    };
    let (cost, micros) = (exact(9), exact(6));
    (fields.next().unwrap().parse().unwrap(), micros, cost)
}
