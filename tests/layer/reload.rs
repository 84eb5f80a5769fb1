//! Plans and tokens change while requests run.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_credits::{
    BearerTokens, ComputeTime, CreditMeter, MemoryLedger, PlanFile,
    identify::IdentityFromExtensions,
};

use crate::support::{folder::Folder, logs::Log, *};

/// Waits until so many refusals of a file were logged, and answers the last one.
async fn refusals(log: &Log, file: &std::path::Path, count: usize) -> String {
    let file = file.display().to_string();
    eventually(async || {
        let lines = log.lines(&["not reloaded", &file]);
        (lines.len() == count).then(|| lines[count - 1].clone())
    })
    .await
}

fn priced(price: &str) -> String {
    PLAN.replace("\"0.00012\"", &format!("\"{price}\""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_each_request_is_billed_wholly_by_one_plan() {
    let (folder, log) = (Folder::new("reload"), Log::of_all());
    let path = folder.write("plan.toml", &priced("0.000001"));
    // However busy the machine is, this is not about deadlines.
    let builder = CreditMeter::builder(
        PlanFile::watch(&path).unwrap(),
        MemoryLedger::new(),
        IdentityFromExtensions,
    );
    let meter = builder.ledger_timeout(seconds(5)).build().unwrap();
    // Every request takes a second by its own word, so its cost names the plan that billed it.
    let called = Arc::new(AtomicU64::new(0));
    let count = called.clone();
    let service = ServiceBuilder::new().layer(meter.clone()).service(service_fn(
        move |_: Request<Empty<Bytes>>| {
            count.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(
                    Response::builder()
                        .extension(ComputeTime(seconds(1)))
                        .body(Empty::<Bytes>::new())
                        .unwrap(),
                )
            }
        },
    ));
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|number| {
            let (service, stop) = (service.clone(), stop.clone());
            tokio::spawn(async move {
                // 250 a second each: two thousand in all.
                let mut ticks = tokio::time::interval(Duration::from_millis(4));
                let mut sent = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    ticks.tick().await;
                    let response = service
                        .clone()
                        .oneshot(request(&format!("alice-{number}"), "pro", Empty::new()))
                        .await
                        .unwrap();
                    assert_eq!(response.status(), 200);
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    // Prices that no sum of others can be mistaken for, as long as there are fewer than a thousand
    // of each with each account.
    let billed_at = async |nanos: i64| {
        let account = identity("alice-0", "pro");
        eventually(async || {
            let used = meter.statement(&account, None).await.ok()?.used.as_nano_usd();
            (used / nanos > 0).then_some(())
        })
        .await;
    };
    billed_at(1_000).await;
    for (round, price, nanos) in [(1, "0.01", 10_000_000), (2, "100", 100_000_000_000)] {
        std::fs::write(&path, priced(price)).unwrap();
        billed_at(nanos).await;
        std::fs::write(&path, PLAN.replace("when_used_up = \"block\"", "")).unwrap();
        let refusal = refusals(&log, &path, round).await;
        assert!(
            refusal.contains(
                "plan.toml:12: tier `free` has no rule for used-up credits: write when_used_up"
            ),
            "{refusal}"
        );
    }
    stop.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for task in load {
        sent += task.await.unwrap();
    }
    assert_eq!(called.load(Ordering::SeqCst), sent);
    let mut billed = 0;
    for number in 0..8 {
        let account = identity(&format!("alice-{number}"), "pro");
        let statement = eventually(async || {
            let statement = meter.statement(&account, None).await.ok()?;
            statement.held.is_zero().then_some(statement)
        })
        .await;
        billed += statement.requests();
        let used = statement.used.as_nano_usd();
        let by_plan = [
            used % 10_000_000 / 1_000,
            used % 100_000_000_000 / 10_000_000,
            used / 100_000_000_000,
        ];
        assert_eq!(used % 1_000, 0, "no request was billed by two plans");
        assert_eq!(by_plan.iter().sum::<i64>().unsigned_abs(), statement.requests(), "{by_plan:?}");
        assert!(by_plan.iter().all(|requests| *requests > 0), "{by_plan:?}");
    }
    assert_eq!(billed, sent, "nothing lost, nothing billed twice");
    eprintln!("{sent} requests over five files, all billed by one plan each");
}

#[cfg(unix)]
#[tokio::test]
async fn a_mounted_configuration_that_is_swapped_through_a_link_is_seen() {
    use std::os::unix::fs::symlink;

    let (folder, log) = (Folder::new("links"), Log::of_all());
    for (version, price) in [("v1", "0.1"), ("v2", "0.2")] {
        std::fs::create_dir_all(folder.0.join(version)).unwrap();
        folder.write(&format!("{version}/plan.toml"), &priced(price));
    }
    symlink("v1", folder.0.join("data")).unwrap();
    let plan = PlanFile::watch(folder.0.join("data/plan.toml")).unwrap();
    let price = || {
        plan.current()
            .workload("echo", &"api".parse().unwrap())
            .unwrap()
            .price
            .a_second()
            .to_string()
    };
    assert_eq!(price(), "$0.10");
    symlink("v2", folder.0.join("next")).unwrap();
    std::fs::rename(folder.0.join("next"), folder.0.join("data")).unwrap();
    eventually(async || (price() == "$0.20").then_some(())).await;
    // A file that is gone changes nothing; when it is back it counts.
    std::fs::remove_file(folder.0.join("v2/plan.toml")).unwrap();
    assert!(refusals(&log, &folder.0.join("data/plan.toml"), 1).await.contains("cannot be read"));
    assert_eq!(price(), "$0.20");
    folder.write("v2/plan.toml", &priced("0.3"));
    eventually(async || (price() == "$0.30").then_some(())).await;
}

#[tokio::test]
async fn tokens_are_followed_and_revoked() {
    // printf %s one | sha256sum, and so on
    let entry = |digest: &str, user: &str| {
        format!("[[tokens]]\nsha256 = \"{digest}\"\naccount = \"user:{user}\"\ntier = \"pro\"\n")
    };
    let one = entry("7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed", "one");
    let two = entry("3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3", "two");
    let (folder, log) = (Folder::new("tokens"), Log::of_all());
    let path = folder.write("tokens.toml", &one);
    let tokens = BearerTokens::watch(&path).unwrap();
    let meter = CreditMeter::new(plan(), MemoryLedger::new(), tokens.clone());
    let knows = async |token: &str| {
        let request =
            Request::get("/").header("authorization", format!("Bearer {token}")).body(()).unwrap();
        meter.identify((&request).into()).await.is_ok()
    };
    assert!(knows("one").await && !knows("two").await);
    folder.write("tokens.toml", &format!("{one}{two}"));
    eventually(async || knows("two").await.then_some(())).await;
    folder.write("tokens.toml", &format!("{two}[[tokens]]\nsha256 = \"one\"\n"));
    let refusal = refusals(&log, &path, 1).await;
    assert!(
        refusal.contains("tokens.toml: line 5: not a list of tokens: each [[tokens]] has sha256"),
        "{refusal}"
    );
    assert!(knows("one").await && knows("two").await, "a wrong file changes nothing");
    folder.write("tokens.toml", &two);
    eventually(async || (!knows("one").await).then_some(())).await;

    assert!(tokens.revoke("two") && !tokens.revoke("three"));
    assert!(!knows("two").await, "at once");
    folder.write("tokens.toml", &format!("{one}{two}"));
    eventually(async || knows("one").await.then_some(())).await;
    assert!(!knows("two").await, "and it stays revoked while the process runs");
}

/// A file of which each time that it is read is the test's to say what is in it: a pipe, and for
/// the next time another one in its place.
#[cfg(unix)]
struct ScriptedFile {
    path: std::path::PathBuf,
}

#[cfg(unix)]
impl ScriptedFile {
    fn new(folder: &Folder, name: &str) -> Self {
        let read = Self { path: folder.0.join(name) };
        read.put_pipe();
        read
    }

    fn put_pipe(&self) {
        let next = self.path.with_extension("next");
        let made = std::process::Command::new("mkfifo").arg(&next).status().unwrap();
        assert!(made.success());
        std::fs::rename(next, &self.path).unwrap();
    }

    /// Waits until the file is read, and answers that with this text. What was read before that is
    /// dealt with by then.
    fn answer(&self, text: &str) {
        use std::io::Write;
        let mut pipe = std::fs::OpenOptions::new().write(true).open(&self.path).unwrap();
        self.put_pipe();
        pipe.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the file is read once more, and leaves a file in its place.
    fn end(self, text: &str) {
        let pipe = std::fs::OpenOptions::new().write(true).open(&self.path).unwrap();
        std::fs::write(self.path.with_extension("next"), text).unwrap();
        std::fs::rename(self.path.with_extension("next"), &self.path).unwrap();
        drop(pipe);
    }
}

/// The texts that a file has while it is written: the beginnings of it, each of which may be a
/// whole file.
fn beginnings(text: &str, mark: &str) -> Vec<String> {
    text.match_indices(mark).map(|(at, _)| text[..at].to_owned()).skip(1).collect()
}

/// A plan that ends before a tier is a plan without that tier.
#[cfg(unix)]
#[test]
fn a_plan_that_is_being_written_is_not_in_force_before_it_is_read_twice_alike() {
    let folder = Folder::new("half-a-plan");
    let file = ScriptedFile::new(&folder, "plan.toml");
    let old = priced("0.1");
    let plan = std::thread::scope(|scope| {
        scope.spawn(|| file.answer(&old));
        PlanFile::watch(&file.path).unwrap()
    });
    let tiers = || plan.current().tiers().len();
    let price = || {
        let workload = plan.current().workload("echo", &"api".parse().unwrap());
        workload.map(|workload| workload.price.a_second().to_string())
    };
    let (old_tiers, old_price) = (tiers(), price());
    let new = format!("{}[models.last]\nhardware = \"gpu-small\"\n", priced("0.2"));
    let halves = beginnings(&new, "\n[tiers.");
    assert!(halves.iter().filter(|half| tower_credits::Plan::from_toml(half).is_ok()).count() > 2);
    for half in halves.iter().take(4).chain([&new]) {
        file.answer(half);
        assert_eq!((tiers(), price()), (old_tiers, old_price.clone()), "{half}");
    }
    file.answer(&new);
    file.end(&new);
    assert_eq!(price().as_deref(), Some("$0.20"));
}

#[cfg(unix)]
#[test]
fn tokens_that_are_being_written_are_not_in_force_before_they_are_read_twice_alike() {
    let entry = |digest: &str| {
        format!("[[tokens]]\nsha256 = \"{digest}\"\naccount = \"user:a\"\ntier = \"pro\"\n")
    };
    // printf %s one | sha256sum, and so on
    let one = entry("7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed");
    let two = entry("3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3");
    let folder = Folder::new("half-the-tokens");
    let file = ScriptedFile::new(&folder, "tokens.toml");
    let both = format!("{one}{two}");
    let tokens = std::thread::scope(|scope| {
        scope.spawn(|| file.answer(&both));
        BearerTokens::watch(&file.path).unwrap()
    });
    let knows = |token: &str| {
        use tower_credits::identify::{Identify, Identifying};
        let request = Request::get("/").header("authorization", format!("Bearer {token}"));
        let answer = tokens.identify((&request.body(()).unwrap()).into());
        matches!(answer, Identifying::Ready(Ok(_)))
    };
    assert!(knows("one") && knows("two"));
    for half in ["", &one, "[[tok", &one, &both] {
        file.answer(half);
        assert!(knows("one") && knows("two"), "{half}");
    }
    file.answer(&one);
    file.answer(&one);
    file.end(&one);
    assert!(knows("one") && !knows("two"));
}

/// A secret that was written where its digest goes, and lines that are no TOML.
#[tokio::test]
async fn the_log_of_a_wrong_tokens_file_shows_no_secret() {
    let (folder, log) = (Folder::new("wrong-tokens"), Log::of_all());
    let path = folder.write("tokens.toml", "tokens = []");
    let _tokens = BearerTokens::watch(&path).unwrap();
    let wrong = [
        "[[tokens]]\nsha256 = \"hush-hush\"\naccount = \"user:a\"\ntier = \"pro\"\n",
        "[[tokens]]\nhush-hush = \"hush-hush\"\n",
        "[[tokens]]\nsha256 = hush-hush\n",
    ];
    for (at, text) in wrong.into_iter().enumerate() {
        folder.write("tokens.toml", text);
        let refusal = refusals(&log, &path, at + 1).await;
        assert!(refusal.contains("tokens.toml: line "), "{refusal}");
    }
    assert!(log.lines(&["hush"]).is_empty(), "{:?}", log.lines(&["hush"]));
}
