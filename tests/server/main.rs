//! The real program on real models, spoken to over real connections.
//!
//! Needs what `scripts/check fixtures` fetches; without it each test says so and returns.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests fail their test.

mod clients;
mod documents;
mod input;
mod life;
mod load;
mod program;
mod schemas;
mod speakers;
mod speech;
mod structured;

use std::process::Command;
use std::time::Duration;

use program::{Program, clips, home_like, models, python};

/// Weights on disk of what is loaded: the bound on memory is theirs plus this. After its work 280 to 285 MB are seen where
/// the test runs alone, 302 beside others on two cores.
const OVERHEAD: u64 = 330_000_000 + LIBRARIES;
/// Of a build for GPUs, where the CPU computes too: NVIDIA's libraries, 90 MB of their files and 100 MB that they put their
/// addresses into as they are loaded.
const LIBRARIES: u64 = if cfg!(feature = "cuda") { 200_000_000 } else { 0 };

fn weights(server: &Program) -> u64 {
    let text = server.get("/metrics").text().unwrap();
    let loaded = text.lines().filter(|l| l.starts_with("stentor_model_loaded{") && l.ends_with(" 1"));
    let models = program::models().unwrap().join("models");
    let id = |line: &str| line.split("model_name=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let size = |id: String| -> u64 {
        let files = std::fs::read_dir(models.join(id)).unwrap().map(|e| e.unwrap());
        let is_weights = |name: &str| ["gguf", "safetensors", "bin"].iter().any(|e| name.ends_with(e));
        files
            .filter(|e| is_weights(&e.file_name().to_string_lossy()))
            .map(|e| e.metadata().unwrap().len())
            .sum()
    };
    loaded.map(id).map(size).sum()
}

fn assert_memory(server: &Program, when: &str) {
    let Some(resident) = server.memory("VmRSS") else {
        println!("skipped: this system does not tell how much memory a process has");
        return;
    };
    let (weights, peak) = (weights(server), server.memory("VmHWM").unwrap_or(0));
    println!(
        "{when}: {} MB of {} MB weights, {} MB at most",
        resident / 1_000_000,
        weights / 1_000_000,
        peak / 1_000_000
    );
    assert!(weights > 300_000_000, "the starter models are loaded");
    assert!(resident < weights + OVERHEAD, "{when}: {resident} bytes for {weights} bytes of weights");
}

#[test]
fn the_official_client_is_served_and_memory_stays_bounded() {
    let (Some(shared), Some(clips)) = (models(), clips()) else { return };
    let Some(python) = python() else { return };
    let home = home_like(&shared);
    let server = Program::ready(home.path(), &[]);
    println!("ready {:.2} s after the start", server.age().as_secs_f64());
    assert_memory(&server, "when ready");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/openai_test.py");
    let output = Command::new(python)
        .args([script, &format!("{}/v1", server.base)])
        .arg(&clips)
        .env_remove("OPENAI_API_KEY")
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What work took is given back soon after.
    std::thread::sleep(Duration::from_secs(4));
    assert_memory(&server, "at rest after its work");
}
