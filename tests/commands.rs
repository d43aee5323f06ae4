//! The real program's commands, as a person or a script meets them: readers that go, colours, wrong input, and
//! what `doctor` finds.
#![allow(clippy::unwrap_used)] // Helpers of tests fail their test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn at(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stentor"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STENTOR_")) {
            command.env_remove(name);
        }
        // Port 0 is always free, and nobody answers there.
        command.args(args).env("STENTOR_HOME", self.0.path()).env("STENTOR_ADDR", "127.0.0.1:0");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What the program says on stderr when it ends with this status.
    fn fails(&self, args: &[&str], code: i32) -> String {
        let out = self.run(args);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    /// Registers a GGUF file that has a header and no tensors.
    fn import(&self, name: &str) -> PathBuf {
        let text = |t: &str| [&(t.len() as u64).to_le_bytes()[..], t.as_bytes()].concat();
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend([&0u64.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
        out.extend([text("general.architecture"), 8u32.to_le_bytes().to_vec(), text("llama")].concat());
        let path = self.at(name);
        fs::write(&path, out).unwrap();
        assert!(self.run(&["import", path.to_str().unwrap()]).status.success());
        path
    }

    /// The report, and whether the program found everything well.
    fn doctor(&self, settings: &[(&str, &str)]) -> (Value, bool) {
        let out = self.command(&["doctor", "--json"]).envs(settings.iter().copied()).output().unwrap();
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        let well = out.status.success();
        assert!(well || out.status.code() == Some(8), "{:?}", out.status);
        assert_eq!(report["problems"].as_array().unwrap().is_empty(), well, "{report}");
        (report, well)
    }

    fn problems(&self, settings: &[(&str, &str)]) -> String {
        let (report, well) = self.doctor(settings);
        assert!(!well, "{report}");
        report["problems"].to_string()
    }
}

#[test]
fn readers_may_go_before_the_end() {
    let home = Home::new();
    home.import("a.gguf");
    let a = home.at("a.gguf");
    for args in [
        &["models"][..],
        &["models", "--json"],
        &["config"],
        &["doctor"],
        &["doctor", "--json"],
        &["verify"],
        &["import", a.to_str().unwrap()],
        &["key", "someone"],
        &["rm", "a"],
        &["--help"],
    ] {
        // Both ends of pipes whose readers are gone before the program begins.
        let closed = || std::io::pipe().unwrap().1;
        let status = home.command(args).stdout(closed()).stderr(closed()).status().unwrap();
        assert!(status.success(), "{args:?}: {status}");
    }
    // What went wrong is told by the status all the same.
    let status = home.command(&["rm", "a"]).stderr(std::io::pipe().unwrap().1).status().unwrap();
    assert_eq!(status.code(), Some(3));
}

#[test]
fn logs_have_no_colours_in_a_file() {
    let home = Home::new();
    home.import("a.gguf");
    let mut server = home.command(&["serve"]).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    // A model without tensors cannot be loaded, which is logged.
    let line = lines.into_iter().find(|line| line.contains("could not be loaded")).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(line.contains("ERROR") && !line.contains('\x1b'), "{line:?}");
}

#[test]
fn a_fresh_machine_is_well() {
    let home = Home::new();
    let (report, well) = home.doctor(&[]);
    assert!(well, "{report}");
    let device = &report["devices"][0];
    assert!(device["memory_bytes"].as_u64().unwrap() >= device["available_bytes"].as_u64().unwrap());
    assert!(report["budget_bytes"].as_u64().unwrap() > 0);
    assert_eq!(report["memory"]["of"], "starter");
    assert_eq!(report["address"]["state"], "free");
    assert!(report["profiles"].as_array().unwrap().iter().any(|p| p["id"] == "starter"));
    let text = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(text.contains("No models are installed; `stentor up`") && text.contains("No problems"), "{text}");
    let gpu = report["devices"].as_array().unwrap().iter().any(|device| device["id"] != "cpu");
    assert!(gpu || !text.to_lowercase().contains("cuda"), "nothing is said of what is not there: {text}");
    // Nothing was written.
    assert_eq!(fs::read_dir(home.0.path()).unwrap().count(), 0);
}

#[test]
fn what_is_asked_for_must_fit() {
    let home = Home::new();
    let budget = ("STENTOR_DEVICE_MEMORY_BUDGET_BYTES", "4000000000");
    let ask = |name: &str| {
        let mut command = home.command(&["doctor", "--profile", name]);
        command.env(budget.0, budget.1).output().unwrap()
    };
    assert_eq!(ask("starter").status.code(), Some(0));
    let out = ask("gpu-4x24gb");
    assert_eq!(out.status.code(), Some(8));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("gpu-4x24gb needs") && text.contains("may take 4.00 GB"), "{text}");
    assert_eq!(ask("gpu-4x24").status.code(), Some(3));
}

#[test]
fn what_is_broken_is_named_with_its_remedy() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    // It neither is a server nor speaks: asking it must end by itself.
    let said = home.problems(&[("STENTOR_ADDR", &addr)]);
    assert!(said.contains(&addr) && said.contains("another program") && said.contains("--addr"), "{said}");
    let said = home.problems(&[("STENTOR_ADDR", "0.0.0.0:0")]);
    assert!(said.contains("stentor key NAME"), "{said}");
    fs::write(home.at("api-keys"), "nonsense\n").unwrap();
    let said = home.problems(&[]);
    assert!(said.contains("api-keys:1") && said.contains("stentor key NAME"), "{said}");
    fs::remove_file(home.at("api-keys")).unwrap();

    let file = home.import("mine.gguf");
    assert!(home.doctor(&[]).1);
    let said = home.problems(&[("STENTOR_MODELS_CHAT", "whisper-base")]);
    assert!(said.contains("models.chat") && said.contains("stentor pull whisper-base"), "{said}");
    let said = home.problems(&[("STENTOR_MODELS_ALIASES", "gpt=mind")]);
    assert!(said.contains("`gpt`") && said.contains("`mind`"), "{said}");
    fs::write(&file, "shorter").unwrap();
    let said = home.problems(&[]);
    assert!(said.contains("mine is damaged") && said.contains("stentor rm mine"), "{said}");
    fs::write(home.at("manifest.json"), "{").unwrap();
    let said = home.problems(&[]);
    assert!(said.contains("manifest.json") && said.contains("stentor pull"), "{said}");
}

#[test]
fn wrong_input_is_answered_with_a_remedy() {
    let home = Home::new();
    let folder = home.at("empty");
    fs::create_dir_all(&folder).unwrap();
    fs::write(home.at("words.txt"), "hello").unwrap();
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    let (words, missing) = (path(&home.at("words.txt")), path(&home.at("no.gguf")));
    let whole = home.import("whole.gguf");
    let mut cut = fs::read(&whole).unwrap();
    // One tensor is promised, and nothing follows the header.
    cut[8] = 1;
    fs::write(home.at("cut.gguf"), cut).unwrap();
    let cut = path(&home.at("cut.gguf"));
    for (args, code, says) in [
        (
            &["pull", "whisper-bas"][..],
            3,
            &["\"whisper-bas\"", "did you mean \"whisper-base\"? `stentor models`"][..],
        ),
        (&["rm", "whisper-base"], 3, &["whisper-base is not installed", "stentor models --installed"]),
        (&["serve", "--preload", "whisper-bas"], 3, &["did you mean \"whisper-base\"?"]),
        (&["serve", "--preload", "whisper-base"], 1, &["stentor pull whisper-base"]),
        (&["import", &words], 1, &["words.txt", "GGUF file"]),
        (&["import", &path(&folder)], 1, &["empty", "GGUF file"]),
        (&["import", &missing], 1, &["no.gguf", "No such file"]),
        (&["import", &cut], 1, &["cut.gguf", "cut short"]),
        (&["--home", &words, "models"], 1, &["words.txt", "is a file", "--home"]),
        (&["--home", "/proc/none", "--offline", "pull", "starter"], 1, &["/proc/none", "--home"]),
    ] {
        let said = home.fails(args, code);
        for says in says {
            assert!(said.contains(says), "no {says:?} in {said}");
        }
        let halves: Vec<&str> = said.split("No such file").collect();
        assert!(halves.len() <= 2, "told twice: {said}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let said = home.fails(&["serve", "--addr", &addr], 1);
    assert!(said.contains(&addr) && said.contains("--addr") && said.matches("in use").count() == 1, "{said}");
}

#[test]
fn transcribing_says_what_is_wrong_before_it_loads_a_model() {
    let home = Home::new();
    for name in ["talks/a.wav", "talks/b.wav", "talks/b.mp3", "empty/notes.txt"] {
        let path = home.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "no audio").unwrap();
    }
    let path = |name: &str| home.at(name).to_str().unwrap().to_owned();
    let (talks, a, empty) = (path("talks"), path("talks/a.wav"), path("empty"));
    for (args, code, says) in [
        (&["transcribe"][..], 2, &["FILE"][..]),
        (&["transcribe", &a, "--format", "pdf"], 2, &["--format", "verbose_json"]),
        (&["transcribe", &a, "--beam-size", "17"], 2, &["--beam-size", "1..=16"]),
        (&["transcribe", &a, "--stdout", "--output-dir", &talks], 2, &["--stdout", "--output-dir"]),
        (&["transcribe", &a, "--words"], 1, &["--words", "verbose_json"]),
        (&["transcribe", &empty], 1, &["empty: no audio or video files", "--recursive", "one of the files"]),
        (&["transcribe", &path("no.wav")], 1, &["no.wav: No such file"]),
        (&["transcribe", &path("talks/*.ogg")], 1, &["*.ogg: no file has such a name"]),
        (&["transcribe", &a], 1, &["no speech model is installed", "stentor pull whisper-base"]),
        (&["transcribe", &a, "--model", "whisper-base"], 1, &["stentor pull whisper-base"]),
        (&["transcribe", &talks], 1, &["b.wav: it would be written to", "as ", "b.mp3 is"]),
    ] {
        let said = home.fails(args, code);
        for says in says {
            assert!(said.contains(says), "no {says:?} in {said}");
        }
    }
    let before = fs::read_dir(home.at("talks")).unwrap().count();
    fs::write(home.at("talks/a.srt"), "mine").unwrap();
    let out = home.run(&["transcribe", &a, "--format", "srt"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "what is there is no failure: {said}");
    assert!(
        said.contains("a.srt is there and stays; --overwrite") && said.contains("1 there already"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(home.at("talks/a.srt")).unwrap(), "mine");
    assert_eq!(fs::read_dir(home.at("talks")).unwrap().count(), before + 1);
    let said = home.fails(&["transcribe", &a, "--format", "srt", "--overwrite"], 1);
    assert!(said.contains("no speech model"), "{said}");
}

#[test]
fn the_store_is_looked_after() {
    let home = Home::new();
    let said = |args: &[&str]| {
        let out = home.run(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let none = "the store has no collections\n";
    assert_eq!(said(&["store", "stats"]), none);
    assert_eq!(said(&["store", "verify"]), none);
    let copy = home.at("copy.snapshot");
    let copy = copy.to_str().unwrap();
    assert!(said(&["store", "snapshot", copy]).starts_with(copy));
    assert!(home.fails(&["store", "snapshot", copy], 1).contains("copy.snapshot"), "it is not overwritten");
    assert_eq!(said(&["store", "restore", copy]), none);
    assert_eq!(said(&["store", "rebuild"]), none);
    // As a server has it.
    let held = fs::File::create(home.at("store/lock")).unwrap();
    held.lock().unwrap();
    for args in
        [&["store", "stats"][..], &["store", "verify"], &["store", "restore", copy], &["store", "rebuild"]]
    {
        assert!(home.fails(args, 6).contains("another process has this store open"));
    }
    drop(held);
    fs::write(home.at("store/store.redb"), vec![7; 100_000]).unwrap();
    assert!(home.fails(&["store", "stats"], 7).contains("store.redb"));
    assert_eq!(said(&["store", "restore", copy]), none);
}

#[test]
fn speakers_are_kept_without_a_server() {
    let home = Home::new();
    let out = home.run(&["speakers", "list"]);
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("nobody is known"));
    let listed: Value = serde_json::from_slice(&home.run(&["speakers", "list", "--json"]).stdout).unwrap();
    assert_eq!(listed, serde_json::json!([]));
    let recording = home.at("a.wav");
    fs::write(&recording, "RIFF").unwrap();
    let recording = recording.to_str().unwrap();
    assert!(home.fails(&["speakers", "rm", "Anna"], 1).contains("no speaker has the id or name `Anna`"));
    for args in [&["speakers", "enroll", "Anna", recording][..], &["speakers", "identify", recording]] {
        assert!(home.fails(args, 1).contains("no speaker model is installed"));
    }
    let said = home.fails(&["speakers", "enroll", "Anna", "nowhere.wav"], 1);
    assert!(said.contains("nowhere.wav"), "{said}");
    home.fails(&["speakers", "identify", recording, "--threshold", "1.5"], 2);
}

#[test]
fn speakers_are_asked_of_the_server_that_runs() {
    let home = Home::new();
    home.import("a.gguf");
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let recording = home.at("a.wav");
    fs::write(&recording, "RIFF").unwrap();
    let mut server =
        home.command(&["serve"]).env("STENTOR_ADDR", &addr).stderr(Stdio::null()).spawn().unwrap();
    while std::net::TcpStream::connect(&addr).is_err() {
        assert!(server.try_wait().unwrap().is_none(), "the server has ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let ask = |args: &[&str]| home.command(args).env("STENTOR_ADDR", &addr).output().unwrap();
    let listed = ask(&["speakers", "list", "--json"]);
    let gone = ask(&["speakers", "rm", "Anna"]);
    let enrolled = ask(&["speakers", "enroll", "Anna", recording.to_str().unwrap()]);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&listed.stdout).unwrap(), serde_json::json!([]));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no speaker has the id or name `Anna`"));
    // The server that has the store open was asked, and has no model either.
    let said = String::from_utf8(enrolled.stderr).unwrap();
    assert!(enrolled.status.code() == Some(1) && said.contains("speaker model"), "{said}");
}
