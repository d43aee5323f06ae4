//! What was answered is there after the process was killed, and no half of anything.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use super::*;

/// Tells the child process its folder.
const FOLDER: &str = "STENTOR_TEST_STORE";
/// So many times it is killed.
const KILLS: usize = 300;
/// Points of one write.
const PART: u64 = 3;

fn vector(number: u64) -> Vec<f32> {
    let mut state = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..16).map(|_| next()).collect()
}

/// Write `number`: three points in one collection and one in another; every fourth takes an earlier write out.
fn change(number: u64) -> Vec<Change> {
    let points = (0..PART).map(|part| {
        let at = number * PART + part;
        point(&at.to_string(), &vector(at), &format!("n{number} p{part}"), json!({"write": number}))
    });
    let log = Point { record: Record { id: number.to_string(), ..Record::default() }, vector: None };
    let mut changes = vec![put("docs", points.collect()), put("log", vec![log])];
    if number % 4 == 3 {
        let gone = number - 3;
        let filter = Filter::In(Field::Payload("write".into()), vec![Scalar::Number(gone as f64)]);
        changes.insert(0, Change::RemoveWhere { collection: "docs".into(), filter });
    }
    changes
}

/// The child: goes on writing and says so until it is killed, or until the disk is full, after which what is there can be
/// read.
#[test]
#[ignore = "is run by the tests that kill it"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let store = Store::open(Path::new(&folder)).unwrap();
    let from = store.count("log", None).unwrap();
    println!("from {from}");
    for number in from.. {
        match store.write(change(number)) {
            Ok(_) => println!("done {number}"),
            Err(error) => {
                println!("failed {error}");
                println!("read {}", store.count("log", None).unwrap());
                let last = number * PART - 1;
                let found = store.search("docs", &near(&vector(last), 1)).unwrap();
                assert_eq!(ids(&found), [last.to_string().as_str()]);
                println!("found");
                return;
            }
        }
    }
}

fn spawn(program: &mut Process, folder: &Path) -> Child {
    let name = "store::tests::crash::child";
    program.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    program.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn begin(folder: &Path) {
    let store = Store::open(folder).unwrap();
    store.create("docs", vectors(16)).unwrap();
    store.create("log", Spec::default()).unwrap();
}

/// Looks whether all writes before `done` are there, none of it in part, and the next as a whole or not at all; how many
/// there are.
fn look(store: &Store, done: u64) -> u64 {
    let logged = store.count("log", None).unwrap();
    assert!(logged == done || logged == done + 1, "{logged} writes are there, {done} were answered");
    let gone = |write: u64| write.is_multiple_of(4) && write + 3 < logged;
    let want = (0..logged).filter(|write| !gone(*write)).count() as u64 * PART;
    assert_eq!(store.count("docs", None).unwrap(), want);
    // The last ones as a whole; the others are counted.
    for write in logged.saturating_sub(8)..logged {
        let names: Vec<String> = (0..PART).map(|part| (write * PART + part).to_string()).collect();
        let found = store.get("docs", &names).unwrap();
        assert!(found.iter().all(|point| point.is_some() != gone(write)), "write {write} of {logged}");
        for name in names.iter().filter(|_| !gone(write)) {
            let hits = store.search("docs", &near(&vector(name.parse().unwrap()), 1)).unwrap();
            assert_eq!(ids(&hits), [name.as_str()]);
        }
        let words = Search { text: Some(format!("n{write}")), k: 9, ..Search::default() };
        let found = store.search("docs", &words).unwrap().len() as u64;
        assert_eq!(found, if gone(write) { 0 } else { PART });
    }
    logged
}

/// Lets a child write and kills it after so many answers and a while; how many writes are answered for.
fn round(folder: &Path, mut done: u64, answers: u64, wait: Duration) -> u64 {
    let mut child = spawn(&mut Process::new(std::env::current_exe().unwrap()), folder);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut killed = answers == 0;
    if killed {
        // While it starts and opens.
        std::thread::sleep(wait * 4);
        child.kill().unwrap();
    }
    let until = done + answers;
    for line in lines.map_while(Result::ok) {
        // The first line begins with the test's name.
        if let Some((_, from)) = line.split_once("from ") {
            // What it found: all that was answered, and perhaps what was not any more.
            let from = from.parse().unwrap();
            assert!((done..=done + 1).contains(&from), "{from} writes are there, {done} were answered");
            done = from;
        } else if let Some(number) = line.strip_prefix("done ") {
            done = number.parse::<u64>().unwrap() + 1;
        }
        if !killed && done >= until {
            killed = true;
            std::thread::sleep(wait);
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    done
}

#[test]
fn what_was_answered_outlives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let mut done = 0;
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for kill in 1..=KILLS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        done = round(folder.path(), done, random % 6, Duration::from_micros(random / 64 % 5_000));
        // Between, processes begin with what the one before left.
        if kill % 6 == 0 {
            done = look(&Store::open(folder.path()).unwrap(), done);
        }
    }
    assert!(done as usize > KILLS / 2, "{done} writes");
    assert!(verify(folder.path()).unwrap().iter().all(|checked| checked.faults == 0));
}

/// A limit on the size of files stands for a disk that is full.
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    begin(folder.path());
    let mut done = 0;
    for blocks in [1200, 2400, 4800] {
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut child = spawn(
            Process::new("bash").arg("-c").arg(limited).arg(std::env::current_exe().unwrap()),
            folder.path(),
        );
        let lines: Vec<String> =
            BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
        assert!(child.wait().unwrap().success(), "{:?}", lines.iter().rev().take(5).collect::<Vec<_>>());
        let answered = lines.iter().filter(|line| line.starts_with("done ")).count() as u64;
        done += answered;
        assert!(answered > 0 && lines.iter().any(|line| line.starts_with("failed ")));
        assert!(lines.contains(&format!("read {done}")) && lines.iter().any(|line| line == "found"));
        let store = Store::open(folder.path()).unwrap();
        done = look(&store, done);
        // With room again it goes on.
        store.write(change(done)).unwrap();
        done += 1;
    }
}
