//! Chromium by its driver, and the example's server: processes of this test's own.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use fantoccini::{
    Client, ClientBuilder, Locator,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use http::Method;
use serde_json::{Value, json};
use url::Url;

/// A process and what it says; it ends with this.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    ends: Ends,
}

/// How a process is ended, with what it started.
#[derive(Clone, Copy)]
enum Ends {
    /// Its own child is what is to be ended: `cargo run` passes no signals on.
    ByItsChild,
    /// The driver is asked to, at this port, and ends its browsers first; killed, it would leave
    /// them.
    ByRequest(u16),
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Self { child, lines, ends: Ends::ByItsChild }
    }

    /// What follows `text` in the first line that has it.
    fn says(&self, text: &str, within: Duration) -> String {
        self.may_say(text, within).unwrap_or_else(|error| panic!("it goes on: {error}"))
    }

    fn may_say(&self, text: &str, within: Duration) -> Result<String, RecvTimeoutError> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if let Some((_, after)) = self.lines.recv_timeout(left)?.split_once(text) {
                return Ok(after.to_owned());
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match self.ends {
            Ends::ByItsChild => {
                let script = format!(
                    "kill -TERM $(cat /proc/{0}/task/{0}/children 2>/dev/null || pgrep -P {0}) 2>/dev/null || kill -TERM {0}",
                    self.child.id()
                );
                let _ = Command::new("sh").arg("-c").arg(script).status();
            }
            Ends::ByRequest(port) => drop(shut_down(port)),
        }
        let limit = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shut_down(port: u16) -> std::io::Result<()> {
    let mut driver = TcpStream::connect(("127.0.0.1", port))?;
    driver.set_read_timeout(Some(Duration::from_secs(5)))?;
    driver.write_all(b"GET /shutdown HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
    driver.read_to_end(&mut Vec::new()).map(drop)
}

/// The example's server, with a plan of little money.
pub fn example(plan: &Path) -> (Process, String) {
    serve("axum", &[("PLAN", plan.to_str().expect("UTF-8"))])
}

/// An example's server, with balances in memory.
pub fn serve(example: &str, settings: &[(&str, &str)]) -> (Process, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(root.join("scripts/run-example"));
    command.arg(example).current_dir(root);
    for name in ["REDIS_URL", "TOKENS", "UPSTREAM_KEY", "UPSTREAMS"] {
        command.env_remove(name);
    }
    command.env("ADDR", "127.0.0.1:0").env("LEDGER", "memory").envs(settings.iter().copied());
    // What cargo told this test of its own package would have dependencies built anew.
    for (name, _) in std::env::vars()
        .filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
    {
        command.env_remove(name);
    }
    let process = Process::start(&mut command);
    let url = process.says("listening on ", Duration::from_secs(300));
    (process, url)
}

/// A browser of its own, with no cookies, before the example's server.
pub struct Browser {
    pub client: Client,
    pub url: String,
    /// Where its downloads go.
    pub downloads: PathBuf,
    pictures: PathBuf,
    _driver: Process,
}

/// A command of Chromium's own protocol, or of its driver.
#[derive(Debug)]
struct Chrome(&'static str, Value);

impl WebDriverCompatibleCommand for Chrome {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.1.to_string()))
    }
}

/// Browsers are narrow and wide, their users' eyes used to light and dark.
const LOOKS: [(&str, u32, &str); 4] = [
    ("wide", 1400, "light"),
    ("wide", 1400, "dark"),
    ("narrow", 360, "light"),
    ("narrow", 360, "dark"),
];

/// Starts a driver, and returns its port. It takes one that is free for IPv4, and ends if it is not
/// for IPv6: then another one is started.
fn start_driver() -> (Process, u16) {
    let said = "started successfully on port ";
    for _ in 0..5 {
        let driver =
            Process::start(Command::new("chromedriver").arg("--port=0").stderr(Stdio::null()));
        match driver.may_say(said, Duration::from_secs(30)) {
            Ok(port) => return (driver, port.trim_end_matches('.').parse().expect("a port")),
            Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => panic!("chromedriver does not say its port"),
        }
    }
    panic!("chromedriver and chromium are installed, and start")
}

impl Browser {
    pub async fn open(name: &str, url: &str) -> Self {
        let (mut driver, port) = start_driver();
        driver.ends = Ends::ByRequest(port);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let (downloads, pictures) = (folder.join("downloads"), folder.join("pictures"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&downloads).expect("a folder");
        std::fs::create_dir_all(&pictures).expect("a folder");
        let chrome = json!({
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900",
                "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--autoplay-policy=no-user-gesture-required",
            ],
            "prefs": { "download.default_directory": downloads, "download.prompt_for_download": false },
        });
        let mut wanted = Capabilities::new();
        wanted.insert("goog:chromeOptions".into(), chrome);
        wanted.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(wanted)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromedriver and chromium are installed");
        Self { client, url: url.to_owned(), downloads, pictures, _driver: driver }
    }

    pub async fn goto(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.url)).await.unwrap();
    }

    pub async fn says(&self, css: &str) -> String {
        self.client
            .find(Locator::Css(css))
            .await
            .unwrap_or_else(|error| panic!("{css}: {error}"))
            .text()
            .await
            .unwrap()
    }

    pub async fn has(&self, css: &str) -> bool {
        !self.client.find_all(Locator::Css(css)).await.unwrap().is_empty()
    }

    pub async fn click(&self, css: &str) {
        self.client
            .find(Locator::Css(css))
            .await
            .unwrap_or_else(|error| panic!("{css}: {error}"))
            .click()
            .await
            .unwrap();
    }

    /// Waits until an element says what it is to say.
    pub async fn until(&self, css: &str, says: impl Fn(&str) -> bool) -> String {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let text = match self.client.find(Locator::Css(css)).await {
                Ok(element) => element.text().await.unwrap_or_default(),
                Err(_) => String::new(),
            };
            if says(&text) {
                return text;
            }
            assert!(
                Instant::now() < limit,
                "{css} says {text:?}; the page: {}",
                self.client.source().await.unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Types into a field, in place of what is there.
    pub async fn fill(&self, css: &str, text: &str) {
        let field = self.client.find(Locator::Css(css)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// The bill of who is signed in, as the page's own scripts read it.
    pub async fn bill(&self) -> Value {
        let read = "fetch('/billing.json').then((bill) => bill.json()).then(arguments[0])";
        self.client.execute_async(read, vec![]).await.unwrap()
    }

    /// What a script answers in the page.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, vec![]).await.unwrap()
    }

    pub async fn devtools(&self, command: &str, params: Value) -> Value {
        self.client
            .issue_cmd(Chrome("goog/cdp/execute", json!({ "cmd": command, "params": params })))
            .await
            .unwrap()
    }

    /// Signs in as a person does.
    pub async fn sign_in(&self, token: &str) {
        self.goto("/billing").await;
        self.client.find(Locator::Css("#token")).await.unwrap().send_keys(token).await.unwrap();
        self.click("form button").await;
        self.until("#account", |account| !account.is_empty()).await;
    }

    /// Looks at the page in every look: pictures are kept, nothing is cut off, all text can be
    /// read.
    pub async fn look(&self, state: &str) {
        self.devtools("Emulation.setScrollbarsHidden", json!({ "hidden": true })).await;
        for (width_name, width, scheme) in LOOKS {
            let metrics =
                json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
            self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
            let features =
                json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
            self.devtools("Emulation.setEmulatedMedia", features).await;
            let picture = self
                .devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true }))
                .await;
            let name = self.pictures.join(format!("{state}-{width_name}-{scheme}.png"));
            std::fs::write(
                name,
                BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap(),
            )
            .unwrap();
            let wider = self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
            assert_eq!(wider, 0, "{state}, {width_name}: the page itself does not scroll sideways");
            let faint = self.run(include_str!("contrast.js")).await;
            assert_eq!(
                faint,
                json!([]),
                "{state}, {width_name}, {scheme}: text that is hard to read"
            );
        }
        self.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await;
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [] })).await;
    }

    /// The tree that screen readers are given: role, name, description and value of each node, in
    /// order.
    pub async fn tree(&self) -> Vec<Node> {
        let tree = self.devtools("Accessibility.getFullAXTree", json!({})).await;
        let text = |node: &Value, field: &str| {
            node[field]["value"].as_str().unwrap_or_default().to_owned()
        };
        let nodes =
            tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] == false);
        let nodes = nodes.filter(|node| {
            !["StaticText", "InlineTextBox"]
                .contains(&node["role"]["value"].as_str().unwrap_or_default())
        });
        nodes
            .map(|node| Node {
                role: text(node, "role"),
                name: text(node, "name"),
                description: text(node, "description"),
            })
            .collect()
    }

    /// What the browser complained of, and should not have.
    pub async fn complaints(&self) -> Vec<String> {
        let log =
            self.client.issue_cmd(Chrome("se/log", json!({ "type": "browser" }))).await.unwrap();
        let entries = log
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned());
        // Denials, an upstream that is away, and the answer that ends where credits do.
        let denials = ["400", "401", "402", "403", "422", "429", "502"]
            .map(|status| format!("the server responded with a status of {status}"));
        let expected =
            [&denials[..], &["net::ERR_INCOMPLETE_CHUNKED_ENCODING".to_owned()]].concat();
        entries
            .filter(|message| !expected.iter().any(|expected| message.contains(&**expected)))
            .collect()
    }

    pub async fn close(self) {
        let complaints = self.complaints().await;
        self.client.clone().close().await.unwrap();
        assert_eq!(complaints, Vec::<String>::new(), "nothing was blocked and no script failed");
    }
}

/// A node of the accessibility tree.
#[derive(Debug)]
pub struct Node {
    pub role: String,
    pub name: String,
    pub description: String,
}
