//! The real program, started and stopped as a person or a supervisor does it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::Value;

/// Longer than anything here takes on a slow machine under load.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One server at a time: they measure memory and share two cores.
static ALONE: Mutex<()> = Mutex::new(());

/// The home folder with the starter models, where the environment names one.
pub fn models() -> Option<PathBuf> {
    let home = std::env::var_os("STENTOR_TEST_MODELS");
    if home.is_none() {
        println!("skipped: STENTOR_TEST_MODELS is not set, so there is nothing to serve");
    }
    home.map(PathBuf::from)
}

/// A Python that has the official client.
pub fn python() -> Option<std::ffi::OsString> {
    let python = std::env::var_os("STENTOR_TEST_PYTHON");
    if python.is_none() {
        println!("skipped: STENTOR_TEST_PYTHON, a Python with the openai package, is not set");
    }
    python
}

/// The folder of spoken clips.
pub fn clips() -> Option<PathBuf> {
    let folder = std::env::var_os("STENTOR_TEST_AUDIO");
    if folder.is_none() {
        println!("skipped: STENTOR_TEST_AUDIO is not set, so there is no speech");
    }
    folder.map(PathBuf::from)
}

/// A home folder of a test's own that shares the models of `shared`.
pub fn home_like(shared: &Path) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(shared.join("models"), home.path().join("models")).unwrap();
    std::fs::copy(shared.join("manifest.json"), home.path().join("manifest.json")).unwrap();
    home
}

/// A running `stentor serve`; killed when it is dropped.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    started: Instant,
    pub base: String,
    pub http: Client,
    _alone: MutexGuard<'static, ()>,
}

impl Program {
    /// Starts it on a free port; returns once it listens.
    pub fn start(home: &Path, arguments: &[&str]) -> Program {
        Self::start_with(home, arguments, &[])
    }

    pub fn start_with(home: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Program {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_stentor"))
            .args(["--home", home.to_str().unwrap(), "serve", "--addr", "127.0.0.1:0"])
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let http = Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
        let mut program =
            Program { child, lines, said: Vec::new(), started, base: String::new(), http, _alone: alone };
        let line = program.until_line("Listening on ");
        let address = line.split_once("Listening on ").unwrap().1.split(';').next().unwrap();
        program.base = address.to_owned();
        program
    }

    /// Starts it and waits until its models can answer.
    pub fn ready(home: &Path, arguments: &[&str]) -> Program {
        let mut program = Self::start(home, arguments);
        program.until_line("Ready in ");
        program
    }

    /// Reads what it says up to the line that has this text.
    #[track_caller]
    pub fn until_line(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with {text:?}; it said:\n{}", self.said.join("\n")),
            }
        }
    }

    /// Whether it has said a line with this text.
    pub fn has_said(&mut self, text: &str) -> bool {
        self.said.extend(self.lines.try_iter());
        self.said.iter().any(|line| line.contains(text))
    }

    /// Since the process was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn get(&self, path: &str) -> Response {
        self.http.get(format!("{}{path}", self.base)).send().unwrap()
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.posting(path, body.to_string()).send().unwrap()
    }

    pub fn posting(&self, path: &str, body: impl Into<reqwest::blocking::Body>) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.base)).header("content-type", "application/json").body(body)
    }

    /// Uploads a recording as `file` with further form fields.
    pub fn transcribe(&self, name: &str, audio: &[u8], fields: &[(&str, &str)]) -> Response {
        self.send("/v1/audio/transcriptions", name, audio, fields)
    }

    /// Sends a recording and text fields.
    pub fn send(&self, path: &str, name: &str, audio: &[u8], fields: &[(&str, &str)]) -> Response {
        upload(&self.http, &format!("{}{path}", self.base), name, audio, fields)
    }

    /// The value of the metric of this name whose labels contain `labels`; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.get("/metrics").text().unwrap();
        let line = text.lines().find(|l| {
            l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && l.contains(labels)
        });
        line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// Waits until `condition` holds.
    #[track_caller]
    pub fn until(&self, what: &str, within: Duration, condition: impl Fn(&Program) -> bool) {
        let end = Instant::now() + within;
        while !condition(self) {
            assert!(Instant::now() < end, "{what} did not come within {within:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A figure of `/proc/PID/status`, in bytes: `VmRSS`, `VmHWM`.
    pub fn memory(&self, figure: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix(figure)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }

    /// Asks it to stop, as a supervisor does.
    pub fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Its exit status, once it has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// [`Program::transcribe`] from any thread.
pub fn upload(http: &Client, url: &str, name: &str, audio: &[u8], fields: &[(&str, &str)]) -> Response {
    let edge = "----a-border-that-no-recording-has";
    let mut body = Vec::new();
    for (field, value) in fields {
        let part = format!("--{edge}\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n");
        body.extend(part.bytes());
    }
    let head = format!(
        "--{edge}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
    );
    body.extend(head.bytes());
    body.extend(audio);
    body.extend(format!("\r\n--{edge}--\r\n").bytes());
    http.post(url)
        .header("content-type", format!("multipart/form-data; boundary={edge}"))
        .body(body)
        .send()
        .unwrap()
}

/// The answer's status and JSON body.
#[track_caller]
pub fn parts(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let text = answer.text().unwrap();
    match serde_json::from_str(&text) {
        Ok(value) => (status, value),
        Err(_) => panic!("{status} without JSON: {text}"),
    }
}
