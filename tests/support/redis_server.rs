//! A real `redis-server` of a test's own, on a free port of the loopback interface, ended with the
//! test.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub struct RedisServer {
    child: Child,
    pub port: u16,
    folder: PathBuf,
    options: Vec<String>,
    /// Environment variables.
    variables: Vec<(&'static str, String)>,
}

impl RedisServer {
    /// Starts a server. There is no skipping: without `redis-server` the test fails, and says what
    /// to install.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Self {
        let port = Self::free_port();
        let folder =
            std::env::temp_dir().join(format!("tower-credits-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the server");
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        Self::start_in(folder, port, options, Vec::new())
    }

    /// Starts a server whose clock can be [moved](Self::move_clock), by libfaketime.
    pub fn start_with_movable_clock() -> Self {
        let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|target| format!("/usr/lib/{target}/faketime/libfaketime.so.1"))
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .expect("libfaketime is installed: apt-get install libfaketime");
        let port = Self::free_port();
        let folder =
            std::env::temp_dir().join(format!("tower-credits-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the server");
        let file = folder.join("clock");
        std::fs::write(&file, "+0").expect("its clock is written");
        let variables = vec![
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", file.to_string_lossy().into_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        Self::start_in(folder, port, Vec::new(), variables)
    }

    /// Returns `true` if libfaketime can move the clock of the server's program: it cannot under
    /// jemalloc, which most builds of Redis have.
    pub fn has_movable_clock() -> bool {
        let version = Command::new(program()).arg("--version").output();
        version
            .is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains("malloc=libc"))
    }

    /// Sets how many seconds its clock is ahead, or behind.
    pub fn move_clock(&self, by: i64) {
        std::fs::write(self.folder.join("clock"), format!("{by:+}")).expect("its clock is moved");
    }

    fn start_in(
        folder: PathBuf,
        port: u16,
        options: Vec<String>,
        variables: Vec<(&'static str, String)>,
    ) -> Self {
        let child = spawn(port, &folder, &options, &variables);
        let mut server = Self { child, port, folder, options, variables };
        server.wait_until_ready();
        server
    }

    /// Starts a sentinel that watches nothing.
    pub fn start_sentinel() -> Self {
        Self::start_sentinel_of(&[])
    }

    /// Starts a sentinel with these lines in its file.
    pub fn start_sentinel_of(lines: &[String]) -> Self {
        let port = Self::free_port();
        let folder =
            std::env::temp_dir().join(format!("tower-credits-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the server");
        let file = format!("port {port}\nbind 127.0.0.1\n{}\n", lines.join("\n"));
        std::fs::write(folder.join("sentinel.conf"), file).expect("its file is written");
        let child = Command::new(program())
            .args(["sentinel.conf", "--sentinel"])
            .current_dir(&folder)
            .stdout(Stdio::null())
            .spawn();
        let server = Self {
            child: child.expect("redis-server is installed: apt-get install redis-server"),
            port,
            folder,
            options: Vec::new(),
            variables: Vec::new(),
        };
        // It knows no QUIT, which ends a test's own commands.
        let limit = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < limit, "the sentinel did not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Returns a port that is free, below those that the system gives to clients: one of these
    /// could take it while the server is down.
    pub fn free_port() -> u16 {
        let random = || 10_000 + (RandomState::new().build_hasher().finish() % 22_000) as u16;
        std::iter::repeat_with(random)
            .take(1_000)
            .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
            .expect("a free port")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Sends one command on a connection of its own, and returns the raw answer.
    pub fn command(&self, words: &[&str]) -> String {
        self.try_command(words).expect("the server answers")
    }

    /// As [`command`](Self::command), logged in with a password.
    pub fn command_as(&self, password: &str, words: &[&str]) -> String {
        self.try_command_as(password, words).expect("the server answers")
    }

    /// As [`command_as`](Self::command_as), on a server that may close connections, as one does
    /// whose role changes.
    pub fn try_command_as(&self, password: &str, words: &[&str]) -> std::io::Result<String> {
        self.exchange(&[&["AUTH", password], words])
    }

    fn try_command(&self, words: &[&str]) -> std::io::Result<String> {
        self.exchange(&[words])
    }

    fn exchange(&self, commands: &[&[&str]]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        for words in commands {
            let head = format!("*{}\r\n", words.len());
            let command = words
                .iter()
                .fold(head, |command, word| format!("{command}${}\r\n{word}\r\n", word.len()));
            stream.write_all(command.as_bytes())?;
        }
        // The server closes the connection after QUIT, which ends the answer.
        stream.write_all(b"*1\r\n$4\r\nQUIT\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// How often a command was called, by the server's own count.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.command(&["INFO", "commandstats"]);
        let line =
            stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    pub fn stop(&self) {
        self.signal("STOP");
    }

    pub fn go_on(&self) {
        self.signal("CONT");
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server is killed");
        self.child.wait().expect("the server ends");
    }

    /// Starts it again on its port, with what it had written.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.options, &self.variables);
        self.wait_until_ready();
    }

    /// Starts it again on its port, with nothing.
    pub fn restart_empty(&mut self) {
        let _ = std::fs::remove_dir_all(self.folder.join("appendonlydir"));
        self.restart();
    }

    /// Takes the last commands off what a killed server had written, as a crash of the machine
    /// does. Answers if a transaction is torn by that.
    pub fn tear_log(&self, commands: usize) -> bool {
        let folder = std::fs::read_dir(self.folder.join("appendonlydir"))
            .expect("the server keeps a log")
            .flatten();
        let log = folder
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .max()
            .expect("a log");
        let text = std::fs::read(&log).expect("the log can be read");
        // Each command begins with the number of its words.
        let begins: Vec<_> = (0..text.len())
            .filter(|at| text[*at] == b'*' && (*at == 0 || text[at - 1] == b'\n'))
            .collect();
        let at = begins.len().saturating_sub(commands);
        let names = |word: &str| {
            begins[..at]
                .iter()
                .filter(|begin| {
                    text[**begin..].starts_with(format!("*1\r\n$5\r\n{word}").as_bytes())
                })
                .count()
        };
        let is_torn = names("MULTI")
            > begins[..at]
                .iter()
                .filter(|begin| text[**begin..].starts_with(b"*1\r\n$4\r\nEXEC"))
                .count();
        std::fs::write(&log, &text[..begins.get(at).copied().unwrap_or(text.len())])
            .expect("it is shortened");
        is_torn
    }

    fn signal(&self, name: &str) {
        let sent =
            Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
    }

    fn wait_until_ready(&mut self) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !self
            .try_command(&["PING"])
            .is_ok_and(|answer| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"))
        {
            let ended = self.child.try_wait().expect("the server's state is known");
            assert!(
                ended.is_none() && Instant::now() < limit,
                "redis-server did not come up: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The server's program: `REDIS_SERVER`, or what the system has installed.
fn program() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

fn spawn(
    port: u16,
    folder: &std::path::Path,
    options: &[String],
    variables: &[(&'static str, String)],
) -> Child {
    Command::new(program())
        .envs(variables.iter().cloned())
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "no"])
        .args(options)
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server starts: install it (Debian: apt-get install redis-server; macOS: brew install redis)")
}
