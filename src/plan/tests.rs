use std::time::Duration;

use http::HeaderValue;

use http::HeaderMap;

use super::*;
use crate::Credits;

const GOOD: &str = r#"
[hardware.gpu-small]
price_per_second = "0.00012"

[models.rnnoise]
hardware = "gpu-small"

[models."acme/whisper"]
hardware = "gpu-small"

[routes]
"/models/{model}" = { model = "{model}" }
"/hub/{org}/{name}" = { model = "{org}/{name}", feature = "widget" }
"/denoise.v1.Denoise/{*method}" = { model = "rnnoise" }
"/health" = "free"

[tiers.free]
included = "0.10"
when_used_up = "block"
requests = { count = 600, per = "1m", burst = 100 }

[tiers.pro]
included = "2.00"
when_used_up = { pay_as_you_go_up_to = "100" }
during_outage = { allow = "0.05" }
hold = "500ms"
most_per_request = "10m"
most_running = 8
"#;

fn refused(change: impl FnOnce(&str) -> String) -> (Option<usize>, String) {
    let error = Plan::from_toml(&change(GOOD)).unwrap_err();
    (error.line(), error.to_string())
}

#[test]
fn a_plan_says_what_its_file_says() {
    let plan = Plan::from_toml(GOOD).unwrap();
    let (free, pro) = (plan.tier("free").unwrap(), plan.tier("pro").unwrap());
    assert_eq!(free.included.to_string(), "$0.10");
    assert_eq!(
        (free.when_used_up, free.midway, free.during_outage),
        (WhenUsedUp::Block, Midway::Stop, DuringOutage::Deny)
    );
    assert_eq!((free.hold, pro.hold), (Duration::from_secs(1), Duration::from_millis(500)));
    assert_eq!(free.requests.unwrap().per, Duration::from_secs(60));
    assert_eq!(pro.when_used_up, WhenUsedUp::PayAsYouGo("100".parse().unwrap()));
    assert_eq!(pro.midway, Midway::Finish);
    assert_eq!(pro.during_outage, DuringOutage::Allow("0.05".parse().unwrap()));
    assert_eq!((free.most_per_request, free.most_running), (None, None));
    assert_eq!(
        (pro.most_per_request, pro.most_running.unwrap().get()),
        (Some(RequestCap::Compute(Duration::from_secs(600))), 8)
    );
    assert_eq!(free.terms().pay_as_you_go, Credits::ZERO);
}

#[test]
fn what_is_the_default_may_be_said_too() {
    let said = GOOD.replacen(
        "when_used_up = \"block\"",
        "when_used_up = \"block\"\nmidway = \"stop\"\nduring_outage = \"deny\"",
        1,
    );
    let said =
        Plan::from_toml(&said.replace("[routes]", "[routes]\notherwise = \"refuse\"")).unwrap();
    assert_eq!(said.tier("free"), Plan::from_toml(GOOD).unwrap().tier("free"));
    assert_eq!(said.classify("/elsewhere", &HeaderMap::new()), Classification::Unknown);
    let finish = GOOD.replacen(
        "when_used_up = \"block\"",
        "when_used_up = \"block\"\nmidway = \"finish\"",
        1,
    );
    assert_eq!(Plan::from_toml(&finish).unwrap().tier("free").unwrap().midway, Midway::Finish);
}

#[test]
fn a_quota_goes_to_its_bounds_and_no_further() {
    let quota =
        |text: &str| Plan::from_toml(&GOOD.replace("count = 600, per = \"1m\", burst = 100", text));
    assert!(quota("count = 1000000, per = \"1s\"").is_ok(), "one in a microsecond");
    assert!(quota("count = 1000001, per = \"1s\"").is_err());
    assert!(quota("count = 1, per = \"24h\", burst = 31").is_ok(), "full again in 31 days");
    assert!(quota("count = 1, per = \"24h\", burst = 32").is_err());
}

#[test]
fn routes_lead_to_models() {
    let plan = Plan::from_toml(GOOD).unwrap();
    let model = |path: &str| match plan.classify(path, &HeaderMap::new()) {
        Classification::Workload(workload) => {
            format!("{} {} {}", workload.model, workload.hardware, workload.feature)
        }
        other => format!("{other:?}"),
    };
    assert_eq!(model("/models/rnnoise"), "rnnoise gpu-small api");
    assert_eq!(model("/models/acme%2Fwhisper"), "acme/whisper gpu-small api");
    assert_eq!(model("/hub/acme/whisper"), "acme/whisper gpu-small widget");
    assert_eq!(model("/denoise.v1.Denoise/Stream"), "rnnoise gpu-small api");
    assert_eq!(model("/health"), "Free");
    assert_eq!(model("/models/unheard-of"), "Unknown");
    assert_eq!(model("/models/%FF"), "Unknown");
    assert_eq!(model("/elsewhere"), "Unknown");
    // A route that takes whatever follows takes no dots, which the service behind may resolve.
    for dots in [
        "..",
        ".",
        "%2E%2e",
        ".%2e",
        "../../models/rnnoise",
        "a/../b",
        "a/%2e",
        "..;",
        "%252e.",
        "a%5cb",
    ] {
        assert_eq!(model(&format!("/denoise.v1.Denoise/{dots}")), "Unknown", "{dots}");
    }
    for others in ["...", "a.b", ".hidden", "%2e%2e%2e", "a%2e", "a;v=1", "a//b"] {
        assert_eq!(
            model(&format!("/denoise.v1.Denoise/{others}")),
            "rnnoise gpu-small api",
            "{others}"
        );
    }

    let by_header = |values: &[&'static [u8]]| {
        let text = GOOD
            .replace("[routes]", "[routes]\n\"/v1/chat\" = { model = \"acme/{header:x-model}\" }");
        let headers = values
            .iter()
            .map(|value| ("x-model".parse().unwrap(), HeaderValue::from_bytes(value).unwrap()));
        Plan::from_toml(&text).unwrap().classify("/v1/chat", &headers.collect())
    };
    assert!(
        matches!(by_header(&[b"whisper"]), Classification::Workload(workload) if workload.model.as_str() == "acme/whisper")
    );
    for values in [&[] as &[&'static [u8]], &[b"unheard-of"], &[b"whisper", b"whisper"], &[b"\xff"]]
    {
        assert_eq!(by_header(values), Classification::Unknown, "{values:?}");
    }

    let priced = Plan::from_toml(
        &GOOD.replace("[routes]", "[routes]\notherwise = { hardware = \"gpu-small\" }"),
    )
    .unwrap();
    assert!(matches!(
        priced.classify("/elsewhere", &HeaderMap::new()),
        Classification::Workload(_)
    ));
}

#[test]
fn what_nearly_is_a_metered_route_is_not_free() {
    let plan = Plan::from_toml(&GOOD.replace(
        "[routes]",
        "[routes]\notherwise = \"free\"\n\"/files/{*path}\" = \"free\"\n\"/Models\" = \"free\"",
    ))
    .unwrap();
    let classify = |path: &str| plan.classify(path, &HeaderMap::new());
    for path in [
        "//models/rnnoise",
        "/MODELS/rnnoise",
        "/models/rnnoise/",
        "/%6dodels/rnnoise",
        "/models;x/rnnoise",
        "/models/none",
        "/Health/../models/x",
    ] {
        assert_eq!(classify(path), Classification::Unknown, "{path}");
    }
    for path in [
        "/files/models/rnnoise",
        "/files/a%2Fb",
        "/",
        "/modelsx/rnnoise",
        "/health",
        "/health/",
        "/Models",
        "/models",
        "/models/",
        "/a;b//c",
    ] {
        assert_eq!(classify(path), Classification::Free, "{path}");
    }
    // What the plan refuses stays refused, however it is spelled, and a cheap wildcard leads to no
    // dear route.
    let text = GOOD.replace(
        "[routes]",
        "[hardware.dear]\nprice_per_second = \"1\"\n[models.dear]\nhardware = \"dear\"\n[routes]\notherwise = \"free\"",
    );
    let text = text.replace("\"/health\" = \"free\"", "\"/health\" = \"free\"\n\"/admin/{*x}\" = \"refuse\"\n\"/v1/{*rest}\" = { model = \"rnnoise\" }\n\"/v1/dear\" = { model = \"dear\" }");
    let strict = Plan::from_toml(&text).unwrap();
    for path in [
        "//admin/x",
        "/%61dmin/x",
        "/admin;v/x",
        "/ADMIN/x",
        "/%6dodels;%2fz/rnnoise",
        "/v1/DEAR",
        "/v1/dear/",
        "/v1/%64ear",
        "/v1/d%2565ar",
    ] {
        assert_eq!(strict.classify(path, &HeaderMap::new()), Classification::Unknown, "{path}");
    }
    for path in ["/v1/cheap", "/v1/Cheap/", "/v1/dear", "/models/rnnoise"] {
        assert!(
            matches!(strict.classify(path, &HeaderMap::new()), Classification::Workload(_)),
            "{path}"
        );
    }
    let advice = |path: &str| plan.advice(path, &HeaderMap::new());
    assert!(
        advice("/models/none").contains("[models.\"none\"]")
            && !advice("/models/none").contains("free"),
        "{}",
        advice("/models/none")
    );
    assert!(
        advice("/MODELS/rnnoise").contains("metered route \"/models/{model}\"")
            && !advice("/MODELS/rnnoise").contains("free")
    );
    assert!(
        Plan::from_toml(GOOD)
            .unwrap()
            .advice("/elsewhere", &HeaderMap::new())
            .contains("\"/elsewhere\" = \"free\"")
    );
}

#[test]
fn what_is_wrong_is_refused_with_its_line_and_remedy() {
    let cases = [
        (
            "included = \"0.10\"",
            "included = \"-0.10\"",
            18,
            "tier `free`, included: the amount is negative",
        ),
        (
            "included = \"0.10\"",
            "included = \"0.1000000001\"",
            18,
            "at most nine digits after the point",
        ),
        ("included = \"0.10\"", "included = 0.10", 18, "write dollars as a string"),
        ("included = \"0.10\"", "", 17, "tier `free` does not say what is included"),
        (
            "when_used_up = \"block\"",
            "",
            17,
            "tier `free` has no rule for used-up credits: write when_used_up",
        ),
        (
            "when_used_up = \"block\"",
            "when_used_up = \"stop\"",
            19,
            "write when_used_up = \"block\"",
        ),
        (
            "pay_as_you_go_up_to = \"100\"",
            "pay_as_you_go_up_to = \"9007199.3\"",
            24,
            "$9007199.254740991, the maximum",
        ),
        (
            "hardware = \"gpu-small\"",
            "hardware = \"gpu-large\"",
            6,
            "model `rnnoise` runs on hardware `gpu-large`, which has no price: add [hardware.gpu-large]",
        ),
        ("hardware = \"gpu-small\"", "", 5, "model `rnnoise` has no hardware"),
        (
            "price_per_second = \"0.00012\"",
            "",
            2,
            "hardware `gpu-small` has no price: write price_per_second",
        ),
        ("price_per_second = \"0.00012\"", "price = \"0.00012\"", 3, "unknown field `price`"),
        (
            "{ model = \"rnnoise\" }",
            "{ model = \"gone\" }",
            14,
            "leads to model `gone`, which the plan does not have: add [models.gone]",
        ),
        ("{ model = \"{model}\" }", "{ model = \"{modle}\" }", 12, "its path has no `{modle}`"),
        (
            "{ model = \"{model}\" }",
            "{ model = \"{model\" }",
            12,
            "write a name, or in braces a part of the path",
        ),
        (
            "{ model = \"{model}\" }",
            "{ model = \"{query:model}\" }",
            12,
            "or a header field, `{header:x-model}`: there is nothing else",
        ),
        ("{ model = \"{model}\" }", "{ model = \"{body:model}\" }", 12, "there is nothing else"),
        ("\"/models/{model}\"", "\"/models/:model\"", 12, "write `{model}` in place of `:model`"),
        (
            "\"/denoise.v1.Denoise/{*method}\"",
            "\"/denoise.v1.Denoise/*method\"",
            14,
            "write `{*method}` in place of `*method`",
        ),
        ("\"/health\"", "\"//health\"", 15, "an empty part: write the path plainly"),
        ("\"/health\"", "\"/a/../health\"", 15, "no path that is let through has `..` in it"),
        (
            "[routes]\n",
            "[routes]\npreflight = \"yes\"\n",
            12,
            "route `preflight`: write \"refuse\", or \"free\"",
        ),
        ("\"free\"\n", "\"gratis\"\n", 15, "route `/health` leads nowhere: write \"free\""),
        ("\"/health\"", "\"health\"", 15, "write a path that begins with `/`"),
        ("\"/health\"", "\"/models/{other}\"", 0, "route `/models/{"),
        ("feature = \"widget\"", "features = \"widget\"", 13, "unknown key `features`"),
        (
            "feature = \"widget\"",
            "feature = \"{model}\"",
            13,
            "feature `{model}`: write a name without braces",
        ),
        ("hold = \"500ms\"", "hold = \"soon\"", 26, "tier `pro`, hold: write a time"),
        ("count = 600", "count = 0", 20, "tier `free`, requests.count: write a whole number"),
        ("{ allow = \"0.05\" }", "\"perhaps\"", 25, "during_outage: write \"deny\""),
        ("{ model = \"{model}\" }", "{ model = \"\" }", 12, "write a name"),
        ("{ model = \"{model}\" }", "{ model = \"{}\" }", 12, "write a name"),
        ("{ model = \"{model}\" }", "{ model = \"{a{model}\" }", 12, "write a name"),
        ("{ model = \"{model}\" }", "{ model = \"a}b{model}\" }", 12, "write a name"),
        ("\"/models/{model}\"", "\"/models/{{model}}\"", 12, "its path has no `{model}`"),
        (
            "count = 600, per = \"1m\", burst = 100",
            "count = 1, per = \"24h\", burst = 300000",
            20,
            "more than 31 days to fill again",
        ),
        (
            "count = 600, per = \"1m\"",
            "count = 2000000, per = \"1ms\"",
            20,
            "more than one in a microsecond",
        ),
        (
            "count = 600, per = \"1m\", burst = 100",
            "count = 600, per = \"48h\"",
            20,
            "write a time from",
        ),
        (
            "most_per_request = \"10m\"",
            "most_per_request = { price = \"1\" }",
            27,
            "most_per_request: write a time like",
        ),
        (
            "most_per_request = \"10m\"",
            "most_per_request = { cost = \"0\" }",
            27,
            "write more than 0",
        ),
        ("most_running = 8", "most_running = -1", 28, "most_running: write a whole number"),
        ("[tiers.free]", "[tears.free]", 17, "unknown field `tears`"),
    ];
    for (from, to, line, reason) in cases {
        assert!(GOOD.contains(from), "{from}");
        let (found, message) = refused(|plan| plan.replacen(from, to, 1));
        assert!(message.contains(reason), "{to}: {message}");
        if line > 0 {
            assert_eq!(found, Some(line), "{to}: {message}");
        }
    }
}

#[test]
fn a_plan_without_tiers_is_none() {
    for text in ["", "[hardware.cpu]\nprice_per_second = \"1\""] {
        assert!(
            Plan::from_toml(text)
                .unwrap_err()
                .to_string()
                .starts_with("no tiers: add [tiers.<name>]")
        );
    }
}

#[test]
fn a_file_that_is_wrong_is_named() {
    let folder = std::env::temp_dir().join(format!("tower-credits-plan-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("plan.toml");
    std::fs::write(&path, "[tiers.free]\nincluded = 1").unwrap();
    let error = Plan::from_file(&path).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:", path.display())), "{error}");
    std::fs::write(&path, vec![b'#'; 10 << 20]).unwrap();
    assert!(Plan::from_file(&path).unwrap_err().to_string().contains("larger than 4 MiB"));
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(Plan::from_file(&path).unwrap_err().to_string().contains("cannot be read"));
}

/// The plan that the docs explain is one.
#[test]
fn the_plan_in_the_docs_can_be_read() {
    let text = include_str!("../../docs/plan.md");
    let blocks: Vec<_> = text.split("```toml\n").skip(1).collect();
    let plan = Plan::from_toml(blocks[0].split("```").next().unwrap()).unwrap();
    assert!(plan.tier("free").is_some() && plan.tier("pro").is_some());
    assert_eq!(plan.classify("/health", &HeaderMap::new()), Classification::Free);
}
