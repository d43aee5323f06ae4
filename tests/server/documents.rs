//! Documents by the commands, with a server and without; jobs that a killed server goes on with.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::program::{PATIENCE, Program, clips, home_like, models, parts};

/// What a command says: on standard output, and on standard error.
#[track_caller]
fn stentor(home: &Path, addr: &str, arguments: &[&str]) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_stentor"))
        .args(["--home", home.to_str().unwrap()])
        .args(arguments)
        .env("STENTOR_ADDR", addr)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

/// The name of the best source of an answer.
fn source(home: &Path, addr: &str, question: &str) -> String {
    let (answer, _) = stentor(home, addr, &["ask", question, "--json", "--collection", "notes"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(answer["answer"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    answer["sources"][0]["source"].as_str().unwrap().to_owned()
}

#[test]
fn documents_are_taken_in_with_a_server_and_without() {
    let Some(shared) = models() else { return };
    let home = home_like(&shared);
    let notes = home.path().join("notes");
    std::fs::create_dir(&notes).unwrap();
    std::fs::write(notes.join("bees.md"), "# Bees\n\nWorker bees build the combs from wax.").unwrap();
    std::fs::write(notes.join("tides.txt"), "The moon pulls the water of the oceans.").unwrap();
    let folder = notes.to_str().unwrap();
    let index = |addr: &str| stentor(home.path(), addr, &["index", folder, "--collection", "notes"]).1;
    let asleep = "127.0.0.1:9";
    let said = index(asleep);
    assert!(said.contains("2 documents: 2 new; 2 passages in"), "{said}");
    let said = index(asleep);
    assert!(said.contains("2 documents: 2 there already\n"), "{said}");
    assert!(source(home.path(), asleep, "What are combs made of?").ends_with("bees.md"));

    let server = Program::ready(home.path(), &[]);
    let addr = server.base.trim_start_matches("http://").to_owned();
    std::fs::write(notes.join("tides.txt"), "Spring tides come at new moon.").unwrap();
    std::fs::write(notes.join("bread.txt"), "Yeast makes the dough rise.").unwrap();
    let said = index(&addr);
    assert!(said.contains("3 documents: 1 new, 1 changed, 1 there already; 2 passages in"), "{said}");
    assert!(source(home.path(), &addr, "When do spring tides come?").ends_with("tides.txt"));
    let tags = || server.get("/tags?collection=notes").text().unwrap();
    assert_eq!(tags(), "[]");
    std::fs::write(notes.join("wine.txt"), "Red wine is made from dark grapes.").unwrap();
    stentor(
        home.path(),
        &addr,
        &["index", folder, "--collection", "notes", "--auto-tags", "--tags", "drinks"],
    );
    let tagged: Vec<Value> = serde_json::from_str(&tags()).unwrap();
    assert_eq!(tagged[0], json!({"tag": "drinks", "count": 4}));
    assert!((2..=9).contains(&tagged.len()), "the new one has some of the model's making: {tagged:?}");

    // What the server holds, in a home of its own.
    let snapshot = home.path().join("notes.snapshot");
    stentor(home.path(), &addr, &["store", "snapshot", snapshot.to_str().unwrap()]);
    let other = home_like(&shared);
    let (said, _) = stentor(other.path(), asleep, &["store", "restore", snapshot.to_str().unwrap()]);
    assert!(said.contains("notes: 4 points, whole"), "{said}");
    assert!(source(other.path(), asleep, "What is red wine made from?").ends_with("wine.txt"));
}

#[test]
fn a_job_outlives_a_server_that_is_killed_or_stopped() {
    let (Some(shared), Some(clips)) = (models(), clips()) else { return };
    let home = home_like(&shared);
    let clip = std::fs::read_dir(clips.join("en")).unwrap().map(|entry| entry.unwrap().path());
    let clip = clip.filter(|path| path.extension().is_some_and(|e| e == "wav")).min().unwrap();
    let audio = std::fs::read(&clip).unwrap();
    let server = Program::ready(home.path(), &["--preload", "whisper-base"]);
    let mut jobs = Vec::new();
    for _ in 0..4 {
        let (status, queued) = parts(server.send("/transcribe/async", "clip.wav", &audio, &[]));
        assert_eq!(status, 200, "{queued}");
        jobs.push(queued["job_id"].as_str().unwrap().to_owned());
    }
    // Right after the last answer, with jobs under way and waiting.
    drop(server);
    let mut server = Program::ready(home.path(), &["--preload", "whisper-base"]);
    // And as it is told to stop: what that ends has not failed.
    server.terminate();
    assert!(server.ended().success());
    drop(server);
    let server = Program::ready(home.path(), &["--preload", "whisper-base"]);
    let end = Instant::now() + PATIENCE;
    for id in jobs {
        let job = loop {
            let (status, job) = parts(server.get(&format!("/transcribe/jobs/{id}")));
            assert_eq!(status, 200, "{job}");
            if job["status"] != "queued" {
                break job;
            }
            assert!(Instant::now() < end, "{job}");
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(job["status"], "done", "{job}");
        assert!(job["result"]["text"].as_str().is_some_and(|text| text.len() > 5), "{job}");
    }
}
