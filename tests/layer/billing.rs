//! What account holders see: through a real server, as a browser without scripts and as programs.

use std::collections::BTreeMap;

use axum::{Router, routing::post};
use bytes::Bytes;
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt};
use tower_credits::{Account, CreditMeter, Identity, MemoryLedger, Plan, billing};

use crate::{bill::*, support::*};

#[tokio::test]
async fn a_browser_signs_in_reads_its_figures_and_signs_out() {
    let server = Server::start().await;
    for _ in 0..3 {
        assert_eq!(server.run("free", "/models/echo", &[]).await, 200);
    }
    server.settled(&person("free", "free"), 3).await;

    let stranger = server.client.get(server.url("/billing")).send().await.unwrap();
    assert_eq!(
        (stranger.status().as_u16(), &stranger.headers()["www-authenticate"]),
        (401, &http::HeaderValue::from_static("Bearer"))
    );
    assert!(text(stranger).await.contains("action=\"/billing/sign-in\""));

    let wrong = server.form("/billing/sign-in", None, "token=guess").send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), wrong.headers().get("set-cookie")), (401, None));
    assert!(text(wrong).await.contains("role=\"alert\""));

    let origin = format!("http://{}", server.address);
    let right = server
        .form("/billing/sign-in", None, "token=+free+")
        .header("origin", &origin)
        .send()
        .await
        .unwrap();
    assert_eq!(
        (right.status().as_u16(), &right.headers()["location"]),
        (303, &http::HeaderValue::from_static("/billing"))
    );
    assert_eq!(
        right.headers()["set-cookie"],
        "session=free; Path=/; HttpOnly; SameSite=Strict",
        "no TLS is needed on the loopback interface"
    );
    // Behind a proxy that says nothing of the site's own name.
    let outside = server
        .form("/billing/sign-in", None, "token=free")
        .header("origin", "https://credits.example")
        .send()
        .await
        .unwrap();
    assert_eq!(
        outside.headers()["set-cookie"],
        "session=free; Path=/; HttpOnly; SameSite=Strict; Secure"
    );
    let silent = server.form("/billing/sign-in", None, "token=free").send().await.unwrap();
    assert_eq!(
        silent.headers()["set-cookie"],
        "session=free; Path=/; HttpOnly; SameSite=Strict; Secure"
    );
    let plain = server
        .form("/billing/sign-in", None, "token=free")
        .header("origin", "http://credits.example")
        .send()
        .await
        .unwrap();
    assert_eq!((plain.status().as_u16(), plain.headers().get("set-cookie")), (401, None));
    assert!(text(plain).await.contains("Open this page with https"));
    for (body, status, says) in
        [("", 422, "`token`"), ("token=a%3Bb", 401, "not allowed in a cookie")]
    {
        let answer = server.form("/billing/sign-in", None, body).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        let answer = text(answer).await;
        assert!(answer.contains(says), "{answer}");
    }
    let reloaded = server.client.get(server.url("/billing/sign-in")).send().await.unwrap();
    assert_eq!(reloaded.status(), 303);

    let response = server
        .client
        .get(server.url("/billing"))
        .header("cookie", "session=free")
        .header("sec-fetch-site", "none")
        .send()
        .await;
    let response = response.unwrap();
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self';") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(response.headers()["cache-control"], "no-store");
    let page = text(response).await;
    assert!(
        !page.contains("<script") && !page.contains(" style="),
        "nothing that the policy forbids"
    );
    let figures = [
        "account",
        "tier",
        "period",
        "included-used",
        "included",
        "included-left",
        "used",
        "pay-as-you-go",
        "held",
        "requests",
        "compute",
    ];
    let expected = [
        "user:free",
        "free",
        "November 2026",
        "$0.00036",
        "$0.0012",
        "$0.00084",
        "$0.00036",
        "$0.00",
        "$0.00",
        "3",
        "3.000000 s",
    ];
    assert_eq!(figures.map(|id| says(&page, id)), expected);
    assert!(page.contains("datetime=\"2026-12-01T00:00:00Z\">1 December 2026, 00:00 UTC<"));
    assert!(page.contains("max=\"1200000\" value=\"360000\""), "the bar");

    let (_, before) = server.page("free", "?period=2026-10").await;
    assert_eq!(
        (says(&before, "period").as_str(), says(&before, "used").as_str()),
        ("October 2026", "$0.00")
    );
    assert_eq!(server.page("free", "?period=october").await.0, 400);
    let twice = server.page("free", "?organisation=a&organisation=b").await;
    assert!(twice.0 == 400 && twice.1.contains("each at most once"), "{twice:?}");
    // Who reads pages reads a page.
    let page = server
        .client
        .get(server.url("/billing?period=october"))
        .header("cookie", "session=free")
        .header("sec-fetch-site", "none");
    let page = page.header("accept", "text/html,*/*").send().await.unwrap();
    assert_eq!(
        (page.status().as_u16(), page.headers()["content-type"].to_str().unwrap()),
        (400, "text/html; charset=utf-8")
    );
    assert!(text(page).await.contains("period=2026-11"));
    assert!(
        before.contains("No costs in October 2026.") && !before.contains("id=\"held\""),
        "{before}"
    );
    let oldest = server.page("free", "?period=2025-11").await.1;
    assert!(
        oldest.contains("rel=\"next\"") && !oldest.contains("rel=\"prev\""),
        "thirteen months are kept"
    );

    let out = server
        .form("/billing/sign-out", Some("free"), "")
        .header("origin", &origin)
        .send()
        .await
        .unwrap();
    assert_eq!(
        out.headers()["set-cookie"],
        "session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
    );
}

#[tokio::test]
async fn who_has_used_up_everything_reads_why() {
    let server = Server::start().await;
    for _ in 0..10 {
        assert_eq!(server.run("free", "/models/echo", &[]).await, 200);
    }
    assert_eq!(server.run("free", "/models/echo", &[]).await, 402);
    let (status, page) = server.page("free", "").await;
    assert_eq!(status, 200);
    let notice = says(&page, "notice");
    assert_eq!(
        notice,
        "All credits are used up. Requests are denied until credits are added, or until the month \
         ends on 1 December 2026, 00:00 UTC. Upgrade to PRO."
    );
    assert_eq!(says(&page, "included-left"), "$0.00");
}

#[tokio::test]
async fn an_owner_sets_a_spending_limit_hits_it_and_removes_it() {
    let server = Server::start().await;
    let (_, page) = server.page("pro", "").await;
    assert_eq!(says(&page, "spending-limit"), "no limit");
    let set = server
        .form("/billing/spending-limit", Some("pro"), "limit=%240.00024")
        .send()
        .await
        .unwrap();
    assert_eq!(set.status(), 303);
    assert_eq!(says(&server.page("pro", "").await.1, "spending-limit"), "$0.00024");
    // Ten that are included and two on top.
    for _ in 0..12 {
        assert_eq!(server.run("pro", "/models/echo", &[]).await, 200);
    }
    assert_eq!(server.run("pro", "/models/echo", &[]).await, 403);
    let (_, page) = server.page("pro", "").await;
    assert!(says(&page, "notice").starts_with("You have reached your spending limit"), "{page}");
    assert_eq!(says(&page, "pay-as-you-go"), "$0.00024");

    let wrong =
        server.form("/billing/spending-limit", Some("pro"), "limit=a+lot").send().await.unwrap();
    assert_eq!(wrong.status(), 422);
    let page = text(wrong).await;
    assert!(
        page.contains("aria-describedby=\"limit-words limit-error\"")
            && page.contains("value=\"a lot\""),
        "what was typed is not lost: {page}"
    );
    assert_eq!(says(&page, "spending-limit"), "$0.00024");

    // Another site's page can send forms and cookies, and no word of being from here.
    for origin in ["cross-site", "same-site"] {
        let forged = server
            .client
            .post(server.url("/billing/spending-limit"))
            .header("cookie", "session=pro")
            .header("sec-fetch-site", origin);
        let forged = forged
            .header("content-type", "application/x-www-form-urlencoded")
            .body("remove=yes&limit=")
            .send()
            .await
            .unwrap();
        assert_eq!(forged.status(), 403, "{origin}");
    }
    // A password that a browser knows it sends along with other sites' forms.
    let forged = server
        .form("/billing/spending-limit", Some("pro"), "remove=yes&limit=")
        .header("authorization", "Basic cHJvOnBybw==");
    let forged = forged.header("sec-fetch-site", "cross-site").send().await.unwrap();
    assert_eq!(forged.status(), 403);
    let unclear = server
        .form("/billing/spending-limit", Some("pro"), "limit=25&remove=no")
        .send()
        .await
        .unwrap();
    assert_eq!(unclear.status(), 422);
    assert_eq!(says(&server.page("pro", "").await.1, "spending-limit"), "$0.00024");
    let removed = server
        .form("/billing/spending-limit", Some("pro"), "limit=&remove=yes")
        .send()
        .await
        .unwrap();
    assert_eq!(removed.status(), 303);
    assert_eq!(says(&server.page("pro", "").await.1, "spending-limit"), "no limit");
    assert_eq!(server.run("pro", "/models/echo", &[]).await, 200);

    let free =
        server.form("/billing/spending-limit", Some("free"), "limit=1").send().await.unwrap();
    assert_eq!(free.status(), 403, "who pays nothing on top has nothing to limit");
}

#[tokio::test]
async fn an_organisation_pays_for_its_members_where_they_say_so() {
    let server = Server::start().await;
    let acme = Account::org("acme").unwrap();
    server.meter.accounts().set_seats(&acme, 3.try_into().unwrap()).await.unwrap();
    for (token, times) in [("ann", 2), ("ben", 3)] {
        for _ in 0..times {
            assert_eq!(server.run(token, "/models/echo", &[("x-hf-bill-to", "acme")]).await, 200);
        }
    }
    assert_eq!(server.run("ann", "/models/echo", &[]).await, 200, "and for herself without");
    // The same answer whether there is such an organisation or not.
    let denied = async |token: &str, organisation: &str| {
        let request = server
            .client
            .post(server.url("/models/echo"))
            .bearer_auth(token)
            .header("x-hf-bill-to", organisation);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), text(response).await)
    };
    let stranger = denied("pro", "acme").await;
    assert_eq!((stranger.0, &stranger), (403, &denied("pro", "no-such-organisation").await));
    assert_eq!(denied("ann", "").await.0, 403);
    assert_eq!(denied("guess", "acme").await.0, 401, "who is not known is not told more");

    let member = Identity::new("ann".parse().unwrap(), acme, "enterprise".parse().unwrap());
    let statement = server.settled(&member, 5).await;
    assert_eq!(
        (statement.included, statement.used, statement.seats.get()),
        (nanos(3_600_000), nanos(600_000), 3)
    );
    server.settled(&person("ann", "pro"), 1).await;

    let (status, bill) = server.json("ben", "?organisation=acme").await;
    assert_eq!(
        (status.as_u16(), bill["account"].as_str(), bill["used_nano_usd"].as_i64()),
        (200, Some("org:acme"), Some(600_000))
    );
    let members: BTreeMap<_, _> = bill["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["subject"].as_str(), m["cost_nano_usd"].as_i64()))
        .collect();
    assert_eq!(
        members,
        BTreeMap::from([(Some("ann"), Some(240_000)), (Some("ben"), Some(360_000))])
    );

    let (_, page) = server.page("ann", "?organisation=acme").await;
    assert_eq!(
        (
            says(&page, "account").as_str(),
            says(&page, "used").as_str(),
            says(&page, "seats").as_str()
        ),
        ("org:acme", "$0.0006", "3")
    );
    assert!(
        page.contains("id=\"table-member\"")
            && !page.contains("action=\"/billing/spending-limit\""),
        "its limit is not its members' to set"
    );
    assert!(page.contains("href=\"/billing?organisation=acme\" aria-current=\"page\""));
    let set = server
        .form("/billing/spending-limit?organisation=acme", Some("ann"), "limit=1")
        .send()
        .await
        .unwrap();
    assert_eq!(set.status(), 403);
}

/// Which of two payers would count is anybody's guess: neither pays, nor does the caller.
#[tokio::test]
async fn who_names_a_payer_twice_is_denied_and_nobody_pays() {
    let server = Server::start().await;
    let bill_to = |request: reqwest::RequestBuilder, values: &[&str]| {
        values.iter().fold(request.bearer_auth("ann"), |request, value| {
            request.header("x-hf-bill-to", *value)
        })
    };
    let run = || server.client.post(server.url("/models/echo"));
    for values in [["acme", "acme"], ["acme", "others"], ["others", "acme"], ["acme", ""]] {
        assert_eq!(bill_to(run(), &values).send().await.unwrap().status(), 403, "{values:?}");
        for page in ["/billing", "/billing.json", "/billing.csv"] {
            let get = server.client.get(server.url(page));
            assert_eq!(bill_to(get, &values).send().await.unwrap().status(), 403, "{values:?}");
        }
    }
    // One value is one name.
    for value in ["acme, acme", "acme,", "ACME", "org:acme", "acme/"] {
        assert_eq!(bill_to(run(), &[value]).send().await.unwrap().status(), 403, "{value}");
    }
    assert_eq!(bill_to(run(), &["acme"]).send().await.unwrap().status(), 200);
    let acme = Account::org("acme").unwrap();
    let acme = Identity::new("ann".parse().unwrap(), acme, "enterprise".parse().unwrap());
    server.settled(&acme, 1).await;
    assert_eq!(server.settled(&person("ann", "pro"), 0).await.used, nanos(0));
}

#[tokio::test]
async fn nobody_sees_the_bill_of_another() {
    let server = Server::start().await;
    server.run("pro", "/models/echo", &[]).await;
    server.run("ann", "/models/echo", &[("x-hf-bill-to", "acme")]).await;
    for path in ["/billing", "/billing.json", "/billing.csv"] {
        for query in [
            "?organisation=acme",
            "?organisation=nobody",
            "?organisation=",
            "?organisation=user:pro",
            "?organisation=org%3Aacme",
            "?organisation=%00",
        ] {
            let mut answers = Vec::new();
            for token in ["free", "pro"] {
                let response = server
                    .client
                    .get(server.url(&format!("{path}{query}")))
                    .bearer_auth(token)
                    .send()
                    .await
                    .unwrap();
                let status = response.status();
                answers.push((status, text(response).await));
            }
            assert!(
                answers.iter().all(|answer| answer.0 == 403 && *answer == answers[0]),
                "{path}{query}: {answers:?}"
            );
        }
        for query in ["?account=user:pro", "?subject=pro&user=pro"] {
            let response = server
                .client
                .get(server.url(&format!("{path}{query}")))
                .bearer_auth("free")
                .send()
                .await
                .unwrap();
            assert_eq!(response.status(), 200);
            let body = text(response).await;
            assert!(
                !body.contains("user:pro") && !body.contains("echo"),
                "{path}{query}: everybody sees their own"
            );
        }
        let none = server.client.get(server.url(path)).send().await.unwrap();
        assert_eq!(none.status(), 401);
        let header = server
            .client
            .get(server.url(path))
            .bearer_auth("free")
            .header("x-hf-bill-to", "acme")
            .send()
            .await
            .unwrap();
        assert_eq!(header.status(), 403);
        let both = server
            .client
            .get(server.url(path))
            .header("cookie", "session=free; session=pro")
            .header("sec-fetch-site", "none");
        assert_eq!(
            both.send().await.unwrap().status(),
            401,
            "which of two would count is anybody's guess"
        );
    }
}

/// Where the tier's own limit is the lower one, the owner's is not what is reached.
#[tokio::test]
async fn whose_limit_is_reached_is_said_as_it_is() {
    let server = Server::start().await;
    let (capped, accounts) = (person("capped", "capped"), server.meter.accounts());
    for number in 1..=12 {
        assert_eq!(server.run("capped", "/models/echo", &[]).await, 200);
        server.settled(&capped, number).await;
    }
    for (own, status, notice) in [
        (None, 402, "All credits are used up"),
        (Some("500.00"), 402, "All credits are used up"),
        (Some("0.00012"), 403, "You have reached your spending limit"),
    ] {
        accounts
            .set_spending_limit(&capped.account, own.map(|own| own.parse().unwrap()))
            .await
            .unwrap();
        assert_eq!(server.run("capped", "/models/echo", &[]).await, status, "{own:?}");
        let (_, page) = server.page("capped", "").await;
        assert!(says(&page, "notice").starts_with(notice), "{own:?}: {}", says(&page, "notice"));
        assert_eq!(says(&page, "tier-limit"), "$0.00024");
    }
}

#[tokio::test]
async fn features_stand_apart_and_draw_on_the_same_credits() {
    let server = Server::start().await;
    assert_eq!(server.run("pro", "/models/echo", &[]).await, 200);
    assert_eq!(server.run("pro", "/widget/echo", &[]).await, 200);
    assert_eq!(server.run("pro", "/models/echo", &[("x-front-end", "playground")]).await, 200);
    assert_eq!(
        server.run("pro", "/widget/echo", &[("x-front-end", "playground")]).await,
        200,
        "the host's word stands in place of the route's"
    );
    let statement = server.settled(&person("pro", "pro"), 4).await;
    let features: BTreeMap<_, _> =
        statement.lines.iter().map(|line| (line.feature.as_str(), line.usage.requests)).collect();
    assert_eq!(features, BTreeMap::from([("api", 1), ("playground", 2), ("widget", 1)]));
    assert_eq!(statement.used, nanos(4 * SLICE));
    let (_, page) = server.page("pro", "").await;
    assert!(page.contains(
        "<th scope=\"row\">playground</th><td class=\"number\">$0.00024</td><td class=\"number\">2</td><td class=\"number\">2.000000 s</td>"
    ));
}

/// In shadow mode nobody is denied: who names a payer that they may not name pays by themselves.
#[tokio::test]
async fn in_shadow_mode_a_wrong_payer_is_the_callers_own_account() {
    let clock = november();
    let meter = meter(MemoryLedger::with_clock(clock.clone()))
        .clock(clock.clone())
        .shadow(true)
        .build()
        .unwrap();
    let service = ServiceBuilder::new().layer(meter.clone()).service(tower::service_fn(
        move |_: http::Request<Empty<Bytes>>| {
            clock.advance(seconds(1));
            std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(
                Empty::<Bytes>::new(),
            )))
        },
    ));
    let mut request = request("alice", "pro", Empty::new());
    request.headers_mut().insert("x-hf-bill-to", http::HeaderValue::from_static("acme"));
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
    assert_eq!(settled(&meter, "alice", "pro", 1).await.used, nanos(SLICE));
}

/// A session store that hangs.
#[tokio::test(start_paused = true)]
async fn who_is_identified_elsewhere_is_not_waited_for_without_end() {
    let identify = tower_credits::identify::IdentifyWith::new(|_| std::future::pending());
    let meter = CreditMeter::builder(
        Plan::from_toml(crate::bill::PLAN).unwrap(),
        MemoryLedger::new(),
        identify,
    )
    .build()
    .unwrap();
    let app = Router::new()
        .route("/models/{model}", post(async || "ok"))
        .layer(meter.clone())
        .merge(billing::router(&meter));
    for path in ["/models/echo", "/billing", "/billing.json", "/billing.csv"] {
        let request = http::Request::builder()
            .method(if path.starts_with("/m") { "POST" } else { "GET" })
            .uri(path);
        let began = tokio::time::Instant::now();
        let response =
            app.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), began.elapsed().as_secs()), (503, 5), "{path}");
    }
}

/// An organisation's owner sets limits of its groups and members, and nobody else does.
#[tokio::test]
async fn an_owner_sets_limits_of_groups_and_members_and_sees_what_each_used() {
    let server = Server::start().await;
    let acme = [("x-hf-bill-to", "acme")];
    for (token, runs) in [("ann", 3), ("ben", 1), ("cat", 2)] {
        for _ in 0..runs {
            assert_eq!(server.run(token, "/models/echo", &acme).await, 200);
        }
    }
    let owner = tower_credits::Identity::new(
        "owner".parse().unwrap(),
        tower_credits::Account::org("acme").unwrap(),
        "enterprise".parse().unwrap(),
    );
    server.settled(&owner, 6).await;
    let set = |token, body| server.form("/billing/limits", Some(token), body).send();
    for body in [
        "part=research&per_month=0.00060&per_day=",
        "part=research%2Fann&per_month=&per_day=%240.00048",
        "part=ops&per_month=no+limit&per_day=",
        "part=&per_month=&per_day=1.00",
    ] {
        assert_eq!(set("owner", body).await.unwrap().status(), 303, "{body}");
    }
    let (_, page) = server.page("owner", "").await;
    assert_eq!(says(&page, "most-per-day"), "$1.00");
    let cells = |page: &str| -> Vec<Vec<String>> {
        let (_, table) = page.split_once("<table id=\"table-parts\"").unwrap();
        let body =
            table.split_once("<tbody>").unwrap().1.split("</tbody>").next().unwrap().to_owned();
        // The path before a name is only read aloud.
        let body = body.replace("<span class=\"unseen\">", "").replace("</span>", "");
        let text = |cell: &str| cell.rsplit('>').next().unwrap().to_owned();
        let row = |row: &str| row.split("</t").filter(|c| c.contains('>')).map(text).collect();
        body.split("<tr>").skip(1).map(row).collect()
    };
    let names = |page: &str| cells(page).into_iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    let row: Vec<_> = cells(&page).into_iter().find(|row| row[0] == "research/ann").unwrap();
    assert_eq!(row[..5], ["research/ann", "$0.00036", "no limit", "$0.00036", "$0.00048"]);
    assert_eq!(names(&page), ["ops", "research", "research/ann", "research/ben"]);
    let (_, page) = server.page("owner", "?sort=used").await;
    assert_eq!(names(&page), ["research", "research/ann", "ops", "research/ben"]);
    assert!(page.contains("aria-sort=\"descending\""));

    // Ann has one more today, and research one more this month.
    assert_eq!(server.run("ann", "/models/echo", &acme).await, 200);
    server.settled(&owner, 7).await;
    assert_eq!(server.run("ann", "/models/echo", &acme).await, 403);
    assert_eq!(server.run("ben", "/models/echo", &acme).await, 403);
    assert_eq!(server.run("cat", "/models/echo", &acme).await, 200);

    let wrong = set("owner", "part=a%2F%2Fb&per_month=1&per_day=").await.unwrap();
    assert_eq!(wrong.status(), 422);
    let page = text(wrong).await;
    assert!(page.contains("value=\"a//b\"") && page.contains("id=\"limits-error\""), "{page}");
    for body in ["part=&per_month=1&per_day=", "part=ops&per_month=much&per_day="] {
        assert_eq!(set("owner", body).await.unwrap().status(), 422, "{body}");
    }
    // Neither a member nor a key of one, nor another site's page.
    let member =
        server.form("/billing/limits?organisation=acme", Some("ann"), "part=ops&per_day=9");
    assert_eq!(member.send().await.unwrap().status(), 403);
    assert_eq!(set("key", "part=research&per_month=9&per_day=").await.unwrap().status(), 403);
    let limit =
        server.form("/billing/spending-limit", Some("key"), "limit=9").send().await.unwrap();
    assert_eq!(limit.status(), 403, "nor the account's own");
    let forged = server
        .client
        .post(server.url("/billing/limits"))
        .header("cookie", "session=owner")
        .header("sec-fetch-site", "cross-site")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("part=research&per_month=&per_day=");
    assert_eq!(forged.send().await.unwrap().status(), 403);
    let (_, page) = server.page("key", "").await;
    assert!(page.contains("table-parts") && !page.contains("action=\"/billing/limits\""));
    // An empty field takes the limit away.
    assert_eq!(set("owner", "part=research&per_month=&per_day=").await.unwrap().status(), 303);
    assert_eq!(server.run("ben", "/models/echo", &acme).await, 200);
}

/// What each request cost, in the form in which Hugging Face asks providers.
#[tokio::test]
async fn the_costs_of_requests_are_read_by_their_ids() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for user in ["free", "free", "pro"] {
        let response =
            server.client.post(server.url("/models/echo")).bearer_auth(user).send().await.unwrap();
        ids.push(response.headers()["inference-id"].to_str().unwrap().to_owned());
    }
    let ask = async |token: &str, body: String| {
        let url = server.url("/billing/requests");
        let response = server.client.post(url).bearer_auth(token).body(body).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str::<serde_json::Value>(&text(response).await).unwrap())
    };
    let of = |ids: &[String]| serde_json::json!({ "requestIds": ids }).to_string();
    let wanted = [&ids[..], &[ids[0].clone(), "no id".into(), "unknown".into()]].concat();
    let found = eventually(async || {
        let (status, found) = ask("free", of(&wanted)).await;
        assert_eq!(status, 200);
        (found["requests"].as_array().unwrap().len() == 2).then_some(found)
    })
    .await;
    let statement = server.settled(&person("free", "free"), 2).await;
    let mut sum = 0;
    for cost in found["requests"].as_array().unwrap() {
        let id = cost["requestId"].as_str().unwrap();
        assert!(ids[..2].iter().any(|own| own == id), "another account's are not shown");
        sum += cost["costNanoUsd"].as_i64().unwrap();
    }
    assert_eq!(sum, statement.used.as_nano_usd());
    assert_eq!(ask("free", of(&wanted)).await.1, found, "again, the same");
    assert_eq!(ask("free", of(&[])).await.1, serde_json::json!({ "requests": [] }));

    let many: Vec<_> = (0..10_000).map(|at| format!("{at}")).collect();
    assert_eq!(ask("free", of(&many)).await.0, 200);
    let more: Vec<_> = (0..10_001).map(|at| format!("{at}")).collect();
    let (status, problem) = ask("free", of(&more)).await;
    assert!(status == 413 && problem["detail"].as_str().unwrap().contains("at most 10000"));
    for body in ["", "{}", "[]", r#"{"requestIds": [1]}"#] {
        let (status, problem) = ask("free", body.into()).await;
        assert_eq!(status, 400, "{body}");
        assert!(problem["detail"].as_str().unwrap().contains("requestIds"), "{problem}");
    }
    assert_eq!(ask("guess", of(&ids)).await.0, 401);
}
