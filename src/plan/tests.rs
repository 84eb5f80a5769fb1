use std::{num::NonZeroU32, time::Duration};

use http::{HeaderMap, HeaderValue};

use super::*;
use crate::{Credits, DenialFormat, Price};

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

fn tier<'a>(plan: &'a Plan, name: &str) -> &'a Tier {
    plan.tier(&name.parse().unwrap()).unwrap()
}

fn refused(change: impl FnOnce(&str) -> String) -> (Option<usize>, String) {
    let error = Plan::from_toml(&change(GOOD)).unwrap_err();
    (error.line(), error.to_string())
}

#[test]
fn a_plan_says_what_its_file_says() {
    let plan = Plan::from_toml(GOOD).unwrap();
    let (free, pro) = (tier(&plan, "free"), tier(&plan, "pro"));
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
fn defaults_may_be_written_out() {
    let said = GOOD.replacen(
        "when_used_up = \"block\"",
        "when_used_up = \"block\"\nmidway = \"stop\"\nduring_outage = \"deny\"",
        1,
    );
    let said =
        Plan::from_toml(&said.replace("[routes]", "[routes]\notherwise = \"refuse\"")).unwrap();
    assert_eq!(tier(&said, "free"), tier(&Plan::from_toml(GOOD).unwrap(), "free"));
    assert_eq!(said.classify("/elsewhere", &HeaderMap::new()), Classification::Unknown);
    let finish = GOOD.replacen(
        "when_used_up = \"block\"",
        "when_used_up = \"block\"\nmidway = \"finish\"",
        1,
    );
    assert_eq!(tier(&Plan::from_toml(&finish).unwrap(), "free").midway, Midway::Finish);
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
    assert_eq!(model("/models/unheard-of"), "UnknownModel(Some(\"unheard-of\"))");
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
    assert!(matches!(by_header(&[b"whisper"]), Classification::Workload(workload)
            if workload.model.as_str() == "acme/whisper"));
    let unheard_of = Some("acme/unheard-of".into());
    assert_eq!(by_header(&[b"unheard-of"]), Classification::UnknownModel(unheard_of));
    for values in [&[] as &[&'static [u8]], &[b"whisper", b"whisper"], &[b"\xff"]] {
        assert_eq!(by_header(values), Classification::UnknownModel(None), "{values:?}");
    }

    let elsewhere = GOOD.replace(
        "[routes]",
        "[routes]\n\"/v1/query\" = { model = \"{query:model}\" }\n\
         \"/v1/body\" = { model = \"acme/{body:model}\", denials = \"openai\" }\n\
         \"/v1/models\" = \"authenticated\"",
    );
    let plan = Plan::from_toml(&elsewhere).unwrap();
    let classify = |target: &str| plan.classify(target, &HeaderMap::new());
    assert!(matches!(classify("/v1/query?a=b&model=rnnoise"), Classification::Workload(_)));
    assert!(matches!(classify("/v1/query"), Classification::UnknownModel(None)));
    assert!(matches!(classify("/v1/query?model=a&model=b"), Classification::UnknownModel(None)));
    assert_eq!(classify("/v1/models"), Classification::Authenticated);
    let Classification::InBody(model) = classify("/v1/body?model=rnnoise") else { panic!() };
    let by_body = |body: &str| plan.classify_body(&model, &HeaderMap::new(), body.as_bytes());
    assert!(matches!(by_body(r#"{"model":"whisper"}"#), Ok(Classification::Workload(_))));
    let unheard_of = Some("acme/rnnoise".into());
    assert_eq!(by_body(r#"{"model":"rnnoise"}"#), Ok(Classification::UnknownModel(unheard_of)));
    assert_eq!(by_body("{}"), Err(BodyProblem::Missing("model".to_owned())));
    assert_eq!(plan.denial_format("/v1/body"), Some(DenialFormat::OpenAi));
    assert_eq!(plan.denial_format("/v1/query"), None);
    // A path that another reading makes the body's is neither free nor another model's.
    for path in ["/v1//body", "/V1/body", "/v1/%62ody", "/v1/models;x/../body", "/v1/MODELS/"] {
        assert_eq!(classify(path), Classification::Unknown, "{path}");
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
        "/Health/../models/x",
    ] {
        assert_eq!(classify(path), Classification::Unknown, "{path}");
    }
    assert_eq!(classify("/models/none"), Classification::UnknownModel(Some("none".into())));
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
        "[hardware.dear]\nprice_per_second = \"1\"\n[models.dear]\nhardware = \"dear\"\n\
         [routes]\notherwise = \"free\"",
    );
    let text = text.replace(
        "\"/health\" = \"free\"",
        "\"/health\" = \"free\"\n\"/admin/{*x}\" = \"refuse\"\n\
         \"/v1/{*rest}\" = { model = \"rnnoise\" }\n\"/v1/dear\" = { model = \"dear\" }",
    );
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
    let explain = |path: &str| plan.explain_unknown(path, None, &HeaderMap::new());
    assert!(
        explain("/models/none").contains("[models.\"none\"]")
            && !explain("/models/none").contains("free"),
        "{}",
        explain("/models/none")
    );
    assert!(
        explain("/MODELS/rnnoise").contains("metered route \"/models/{model}\"")
            && !explain("/MODELS/rnnoise").contains("free")
    );
    assert!(
        Plan::from_toml(GOOD)
            .unwrap()
            .explain_unknown("/elsewhere", None, &HeaderMap::new())
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
            "model `rnnoise` runs on hardware `gpu-large`, which has no price: \
             add [hardware.gpu-large]",
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
        ("{ model = \"{model}\" }", "{ model = \"{model\" }", 12, "a brace without its partner"),
        (
            "{ model = \"{model}\" }",
            "{ model = \"{cookie:model}\" }",
            12,
            "`{cookie:model}` is unknown: write `{name}` for a part of the path",
        ),
        (
            "{ model = \"{model}\" }",
            "{ model = \"{form:model}\" }",
            12,
            "`{form:model}` is unknown",
        ),
        ("\"/models/{model}\"", "\"/models/:model\"", 12, "write `{model}` in place of `:model`"),
        (
            "\"/denoise.v1.Denoise/{*method}\"",
            "\"/denoise.v1.Denoise/*method\"",
            14,
            "write `{*method}` in place of `*method`",
        ),
        ("\"/health\"", "\"//health\"", 15, "an empty part, `//`, in its path is refused"),
        ("\"/health\"", "\"/a/../health\"", 15, "every request with `..` in its path is refused"),
        (
            "[routes]\n",
            "[routes]\npreflight = \"yes\"\n",
            12,
            "route `preflight`: write \"refuse\", or \"free\"",
        ),
        (
            "\"free\"\n",
            "\"gratis\"\n",
            15,
            "route `/health`: \"gratis\" is not a route: write \"free\"",
        ),
        (
            "\"/health\"",
            "\"health\"",
            15,
            "route `health`: the path does not begin with `/`: write one that does, or `otherwise`",
        ),
        ("\"/health\"", "\"/models/{other}\"", 0, "it takes the same paths as route `/models/{"),
        ("feature = \"widget\"", "features = \"widget\"", 13, "unknown key `features`"),
        (
            "feature = \"widget\"",
            "feature = \"{model}\"",
            13,
            "feature `{model}`: a feature is not taken from the request: write a name",
        ),
        (
            "hold = \"500ms\"",
            "hold = \"soon\"",
            26,
            "tier `pro`, hold: \"soon\" is not a time: write one",
        ),
        ("count = 600", "count = 0", 20, "tier `free`, requests.count: write a whole number"),
        ("{ allow = \"0.05\" }", "\"perhaps\"", 25, "during_outage: write \"deny\""),
        (
            "{ model = \"{model}\" }",
            "{ model = \"\" }",
            12,
            "model ``: empty: write a model's name",
        ),
        ("{ model = \"{model}\" }", "{ model = \"{}\" }", 12, "`{}` names nothing"),
        ("{ model = \"{model}\" }", "{ model = \"{a{model}\" }", 12, "a brace without its partner"),
        (
            "{ model = \"{model}\" }",
            "{ model = \"a}b{model}\" }",
            12,
            "a brace without its partner",
        ),
        ("\"/models/{model}\"", "\"/models/{{model}}\"", 12, "its path has no `{model}`"),
        (
            "count = 600, per = \"1m\", burst = 100",
            "count = 1, per = \"24h\", burst = 300000",
            20,
            "more than 31 days to be full again",
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
            "tier `free`, requests.per: longer than 24 hours: write a shorter time",
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
fn a_problem_of_a_route_is_named_by_its_cause() {
    for (route, reason) in [
        ("{ model = \"rnnoise\", hardware = \"gpu-small\" }", "has a model and hardware"),
        ("{ feature = \"api\" }", "has no model and no hardware: write \"free\""),
        ("{ model = 1 }", "route `/x`, model: 1 is not a text: write it in quotes"),
        ("{ model = \"{header:x y}\" }", "`x y` is no header field's name"),
        (
            "{ hardware = \"gone\" }",
            "runs on hardware `gone`, which has no price: add [hardware.gone]",
        ),
        ("{ hardware = \"\" }", "route `/x`, hardware ``: empty: write at least one character"),
    ] {
        let (line, message) =
            refused(|plan| plan.replace("[routes]", &format!("[routes]\n\"/x\" = {route}")));
        assert!(message.contains(reason), "{route}: {message}");
        assert_eq!(line, Some(12), "{route}: {message}");
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
    assert_eq!(
        (tier(&plan, "free").midway, tier(&plan, "pro").midway),
        (Midway::Stop, Midway::Finish)
    );
    assert_eq!(plan.classify("/health", &HeaderMap::new()), Classification::Free);
}

/// The plan of `GOOD`, in code.
fn good() -> PlanBuilder {
    let name = |text: &str| text.parse().unwrap();
    let (free, pro) = ("free".parse().unwrap(), "pro".parse().unwrap());
    let quota = RequestQuota::new(number(600), Duration::from_secs(60)).burst(number(100));
    Plan::builder()
        .tier(Tier::new(free, dollars("0.10"), WhenUsedUp::Block).requests(quota))
        .tier(
            Tier::new(pro, dollars("2.00"), WhenUsedUp::PayAsYouGo(dollars("100")))
                .during_outage(DuringOutage::Allow(dollars("0.05")))
                .hold(Duration::from_millis(500))
                .most_per_request(RequestCap::Compute(Duration::from_secs(600)))
                .most_running(number(8)),
        )
        .route("/models/{model}", Route::model("{model}"))
        .route("/hub/{org}/{name}", Route::model("{org}/{name}").feature(name("widget")))
        .route("/denoise.v1.Denoise/{*method}", Route::model("rnnoise"))
        .route("/health", Route::free())
        .model(name("rnnoise"), name("gpu-small"))
        .model(name("acme/whisper"), name("gpu-small"))
        .hardware(name("gpu-small"), Price::per_second(dollars("0.00012")))
}

fn number(n: u32) -> NonZeroU32 {
    n.try_into().unwrap()
}

fn dollars(text: &str) -> Credits {
    text.parse().unwrap()
}

#[test]
fn a_plan_built_in_code_is_the_plan_of_the_file() {
    let (built, read) = (good().build().unwrap(), Plan::from_toml(GOOD).unwrap());
    for name in ["free", "pro"] {
        assert_eq!(tier(&built, name), tier(&read, name));
    }
    let unknown = "other".parse().unwrap();
    assert!(built.tier(&unknown).is_none() && read.tier(&unknown).is_none());
    for path in [
        "/models/rnnoise",
        "/models/acme%2Fwhisper",
        "/models/none",
        "/MODELS/rnnoise",
        "/hub/acme/whisper",
        "/denoise.v1.Denoise/Stream",
        "/denoise.v1.Denoise/..",
        "/health",
        "/elsewhere",
    ] {
        let headers = HeaderMap::new();
        assert_eq!(built.classify(path, &headers), read.classify(path, &headers), "{path}");
        assert_eq!(
            built.explain_unknown(path, None, &headers),
            read.explain_unknown(path, None, &headers),
            "{path}"
        );
    }
    let feature = "playground".parse().unwrap();
    assert_eq!(built.workload("rnnoise", &feature), read.workload("rnnoise", &feature));

    let otherwise = "[routes]\notherwise = { hardware = \"gpu-small\", feature = \"rest\" }\n\
         preflight = \"free\"";
    let read = Plan::from_toml(&GOOD.replace("[routes]", otherwise)).unwrap();
    let route = Route::hardware("gpu-small".parse().unwrap()).feature("rest".parse().unwrap());
    let built = good().otherwise(route).free_preflights(true).build().unwrap();
    let elsewhere = |plan: &Plan| plan.classify("/elsewhere", &HeaderMap::new());
    assert!(matches!(elsewhere(&built), Classification::Workload(_)));
    assert_eq!(elsewhere(&built), elsewhere(&read));
    assert!(built.has_free_preflights() && read.has_free_preflights());
}

#[test]
fn routes_in_any_order_are_the_same_plan() {
    let plan = |routes: [(&str, Route); 3]| {
        let plan = routes
            .into_iter()
            .fold(good().otherwise(Route::free()), |plan, (path, route)| plan.route(path, route));
        plan.build().unwrap()
    };
    let metered = || Route::hardware("gpu-small".parse().unwrap());
    let routes =
        || [("/A/{x}", Route::free()), ("/a/{x}", metered()), ("/b/{x}", Route::model("{x}"))];
    let mut reversed = routes();
    reversed.reverse();
    let (one, other) = (plan(routes()), plan(reversed));
    for path in ["/A/x", "/a/x", "/a/x/", "/b/rnnoise", "/B/rnnoise", "/c"] {
        let headers = HeaderMap::new();
        assert_eq!(one.classify(path, &headers), other.classify(path, &headers), "{path}");
    }
}

#[test]
fn a_plan_that_is_wrong_cannot_be_built_and_the_remedy_is_code() {
    let name = |text: &str| text.parse().unwrap();
    let tier = |name: &str| Tier::new(name.parse().unwrap(), dollars("1"), WhenUsedUp::Block);
    let free = || Price::per_second(Credits::ZERO);
    let cases: [(PlanBuilder, &str); 18] = [
        (Plan::builder(), "no tiers: add one with PlanBuilder::tier"),
        (good().hardware(name("gpu-small"), free()), "hardware `gpu-small` is in the plan twice"),
        (good().model(name("rnnoise"), name("gpu-small")), "model `rnnoise` is in the plan twice"),
        (good().tier(tier("free")), "tier `free` is in the plan twice: remove one of the two"),
        (
            good().model(name("large"), name("gpu-large")),
            "model `large` runs on hardware `gpu-large`, which has no price: add hardware \
             `gpu-large` with PlanBuilder::hardware, or name another",
        ),
        (
            good().route("/x", Route::hardware(name("gpu-large"))),
            "route `/x` runs on hardware `gpu-large`, which has no price",
        ),
        (
            good().route("/x", Route::model("gone")),
            "route `/x` leads to model `gone`, which the plan does not have: add model `gone` \
             with PlanBuilder::model, or name another",
        ),
        (good().otherwise(Route::model("{x}")), "route `otherwise`: its path has no `{x}`"),
        (good().route("/health", Route::free()), "it takes the same paths as route `/health`"),
        (
            good().route("otherwise", Route::free()),
            "the path does not begin with `/`: write one that does, or call PlanBuilder::otherwise",
        ),
        (
            good().route("/x", Route::free().feature(name("api"))),
            "route `/x`: feature `api` is set, and the route is not metered: leave the feature out",
        ),
        (
            good().route("/x", Route::model("rnnoise").feature(name("{x}"))),
            "route `/x`, feature `{x}`: a feature is not taken from the request",
        ),
        (
            good().tier(tier("x").hold(Duration::ZERO)),
            "tier `x`, hold: shorter than 1 ms: write a longer time",
        ),
        (
            good().tier(tier("x").most_per_request(RequestCap::Compute(Duration::MAX))),
            "tier `x`, most_per_request: longer than 24 hours: write a shorter time",
        ),
        (
            good().tier(tier("x").most_per_request(RequestCap::Cost(Credits::ZERO))),
            "tier `x`, most_per_request: no request runs for nothing: write more than 0",
        ),
        (
            good().tier(tier("x").requests(RequestQuota::new(number(1), Duration::ZERO))),
            "tier `x`, requests.per: shorter than 1 ms",
        ),
        (
            good().tier(
                tier("x").requests(RequestQuota::new(NonZeroU32::MAX, Duration::from_secs(1))),
            ),
            "tier `x`, requests.count: more than one in a microsecond",
        ),
        (
            good().tier(tier("x").requests(
                RequestQuota::new(number(1), Duration::from_secs(24 * 60 * 60)).burst(number(32)),
            )),
            "tier `x`, requests.burst: a used-up burst takes more than 31 days",
        ),
    ];
    for (plan, reason) in cases {
        let error = plan.build().unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(error.line(), None);
    }
}
