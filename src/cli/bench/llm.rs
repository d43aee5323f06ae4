//! `stentor bench llm`.
//!
//! Prompts and positions are those of the other engines' script. What differs: tokens are sampled, greedily, as
//! a server samples them, where the script feeds given ones and leaves the logits alone; and every step goes
//! over the scheduler and a channel.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::sync::mpsc::Receiver;

use super::{Common, Report, find, rounded, start};
use crate::cli::out;
use crate::config::Config;
use crate::engine::handle::Handle;
use crate::engine::job::Event;
use crate::engine::lane::llm::{Delta, Input};
use crate::fetch::probe;
use crate::model::llm::Llm;
use crate::model::weights::synthetic;
use crate::types::llm::Sampling;
use crate::types::model::{Installed, Kind};

/// Tokens of the prompt that is timed.
const PROMPT: usize = 512;
/// Tokens of a conversation's first turn, and those that its second turn adds.
const TURN: usize = 1000;
const SAID: usize = 24;
/// Tokens of the prompts before decoding.
const SHORT_PROMPT: usize = 16;
/// Sequences decoded together, and the steps timed.
const DECODE: [(usize, usize); 4] = [(1, 128), (4, 48), (8, 48), (16, 48)];
/// Steps a sequence may be ahead of another that was admitted later, and more.
const LEAD: usize = 8;

#[derive(Debug, clap::Args)]
#[group(id = "which", required = true, multiple = false, args = ["model", "synthetic"])]
pub struct Args {
    /// An installed model, or a GGUF file
    #[arg(long, value_name = "ID|PATH")]
    pub model: Option<String>,
    /// Random weights in a real model's shape, for example qwen2.5-7b:q4_k_m
    #[arg(long, value_name = "SHAPE:QUANT")]
    pub synthetic: Option<String>,
    /// Keep the synthetic weights as this GGUF file; else they are written to the temporary folder
    #[arg(long, value_name = "FILE", requires = "synthetic")]
    pub write: Option<PathBuf>,
    /// Let the model guess what it says next, as the server does; other engines are timed without
    #[arg(long)]
    pub speculate: bool,
    /// Draw what is decoded at this temperature; 0 takes the likeliest, which small models soon repeat
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    #[command(flatten)]
    pub common: Common,
}

/// Runs the command.
pub fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    // Deleted when it is dropped.
    let mut temporary = None;
    let model = match (&args.model, &args.synthetic) {
        (Some(name), _) => find(config, name, Kind::Chat)?,
        (None, Some(spec)) => synthesize(spec, args.write.as_deref(), &mut temporary)?,
        (None, None) => bail!("--model or --synthetic is needed"),
    };
    let mut config = config.clone();
    config.models.speculate = args.speculate;
    // Models that guess for others are not loaded here.
    config.models.drafts.clear();
    let (runtime, engine) = start(&config, &args.common, vec![model.clone()])?;
    let runs = usize::from(args.common.runs.unwrap_or(1));
    runtime.block_on(async {
        let handle = engine.get::<Llm>(&model.id).await?;
        measure(&handle, runs, args.temperature.clamp(0.0, 2.0), &Report::begin(&args.common, &model)?).await
    })
}

/// Writes random weights.
pub(super) fn synthesize(
    spec: &str,
    keep: Option<&Path>,
    temporary: &mut Option<NamedTempFile>,
) -> anyhow::Result<Installed> {
    let spec = synthetic::spec(spec)?;
    // Renamed when it is whole, so that a file of that name never is half a model.
    let folder = match keep.and_then(Path::parent) {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        Some(_) => PathBuf::from("."),
        None => std::env::temp_dir(),
    };
    let file = tempfile::Builder::new()
        .prefix(".stentor-bench-")
        .suffix(".gguf")
        .permissions(readable())
        .tempfile_in(folder)?;
    out::note(&format!("Writing {} MB of random weights ...", spec.bytes() / 1_000_000));
    synthetic::write(&spec, file.path(), 0)?;
    let path = match keep {
        Some(path) => {
            file.persist(path)?;
            out::note(&format!("Wrote {}", path.display()));
            path.to_path_buf()
        }
        None => temporary.insert(file).path().to_path_buf(),
    };
    Ok(Installed { id: spec.shape.name.to_owned(), ..probe::model_at(&path)? })
}

/// What a new file gets, less the user's mask.
fn readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

#[derive(Serialize)]
struct Prefill {
    case: &'static str,
    tokens: usize,
    tok_s: f64,
}

#[derive(Serialize)]
struct SecondTurn {
    case: &'static str,
    tokens: usize,
    first_ms: f64,
    second_ms: f64,
}

#[derive(Serialize)]
struct Decode {
    case: &'static str,
    sequences: usize,
    tok_s: f64,
}

async fn measure(handle: &Handle<Llm>, runs: usize, temperature: f32, report: &Report) -> anyhow::Result<()> {
    let tokens = PROMPT.min(handle.front().context.saturating_sub(1));
    // Faults in the weights and starts the threads.
    prefill(handle, SHORT_PROMPT, usize::MAX / 2).await?;
    let mut best = Duration::MAX;
    for run in 0..runs {
        best = best.min(prefill(handle, tokens, run * PROMPT).await?);
    }
    let tok_s = tokens as f64 / best.as_secs_f64();
    let line = Prefill { case: "prefill", tokens, tok_s: rounded(tok_s, 1) };
    report.case(&line, &format!("prefill, {tokens} tokens"), tok_s, "tokens/s")?;
    second_turn(handle, runs, report).await?;
    for (sequences, steps) in DECODE {
        let mut best = Duration::MAX;
        for _ in 0..runs {
            best = best.min(decode(handle, sequences, steps, temperature).await?);
        }
        let tok_s = (steps * sequences) as f64 / best.as_secs_f64();
        let line = Decode { case: "decode", sequences, tok_s: rounded(tok_s, 1) };
        report.case(&line, &format!("decode, {sequences} together"), tok_s, "tokens/s")?;
    }
    Ok(())
}

/// The first token after a long prompt, then after the same prompt and some more words.
async fn second_turn(handle: &Handle<Llm>, runs: usize, report: &Report) -> anyhow::Result<()> {
    let tokens = TURN.min(handle.front().context.saturating_sub(1 + SAID));
    let (mut first, mut second) = (Duration::MAX, Duration::MAX);
    for run in 0..runs {
        let numbers = (runs + run) * (TURN + SAID) * 2;
        first = first.min(prefill(handle, tokens, numbers).await?);
        second = second.min(prefill(handle, tokens + SAID, numbers).await?);
    }
    let ms = |d: Duration| rounded(d.as_secs_f64() * 1e3, 1);
    let line = SecondTurn { case: "second_turn", tokens, first_ms: ms(first), second_ms: ms(second) };
    let name = format!("second turn on {tokens} tokens, first in {} ms", line.first_ms);
    report.case(&line, &name, line.second_ms, "ms")
}

/// From submission to the first token. `first` numbers the prompt's tokens, so that no prompt repeats the
/// beginning of another, which an engine could remember.
pub(super) async fn prefill(handle: &Handle<Llm>, tokens: usize, first: usize) -> anyhow::Result<Duration> {
    let vocabulary = handle.front().tokenizer.vocab_size().max(1);
    let token = |i: usize| ((first.wrapping_add(i).wrapping_mul(7919) % 30_000 + 100) % vocabulary) as u32;
    let input = input((0..tokens).map(token).collect(), 1, 0.0);
    let start = Instant::now();
    let mut events = handle.submit(input, None)?;
    next(&mut events).await?;
    Ok(start.elapsed())
}

/// `steps` decoding steps of all sequences together.
///
/// The clock starts when the last sequence gives its first token, and stops when it has given `steps` more.
/// Those admitted before it are some tokens ahead and go on to the end, so every step timed has all rows.
pub(super) async fn decode(
    handle: &Handle<Llm>,
    sequences: usize,
    steps: usize,
    temperature: f32,
) -> anyhow::Result<Duration> {
    let vocabulary = handle.front().tokenizer.vocab_size().max(1);
    let prompt = |s: usize| (0..SHORT_PROMPT).map(|i| ((100 + s + i) % vocabulary) as u32).collect();
    let mut streams = Vec::with_capacity(sequences);
    for s in 0..sequences {
        streams.push(handle.submit(input(prompt(s), 1 + steps + LEAD, temperature), None)?);
    }
    for events in &mut streams {
        next(events).await?;
    }
    let start = Instant::now();
    for _ in 0..steps {
        for events in &mut streams {
            next(events).await?;
        }
    }
    Ok(start.elapsed())
}

/// From each token of an answer of so many to the next, in order of length; fewer where the answer takes longer than
/// `most`.
pub(super) async fn waits(
    handle: &Handle<Llm>,
    tokens: usize,
    most: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let vocabulary = handle.front().tokenizer.vocab_size().max(1);
    let prompt = (0..SHORT_PROMPT).map(|i| ((100 + i) % vocabulary) as u32).collect();
    let mut events = handle.submit(input(prompt, tokens + 2, 0.0), None)?;
    next(&mut events).await?;
    let begun = Instant::now();
    let (mut waits, mut last) = (Vec::with_capacity(tokens), begun);
    while waits.len() < tokens && (waits.is_empty() || begun.elapsed() < most) {
        next(&mut events).await?;
        waits.push(last.elapsed());
        last = Instant::now();
    }
    waits.sort_unstable();
    Ok(waits)
}

fn input(prompt: Vec<u32>, max_new: usize, temperature: f32) -> Input {
    let sampling = Sampling { temperature, ..Sampling::default() };
    Input { prompt, max_new, sampling, ignore_stop: true, ..Input::default() }
}

async fn next(events: &mut Receiver<Event<Llm>>) -> anyhow::Result<u32> {
    loop {
        match events.recv().await {
            Some(Event::Delta(Delta::Prompt { .. })) => {}
            Some(Event::Delta(Delta::Token(token, _))) => return Ok(token),
            Some(Event::Done(done)) => {
                bail!("a sequence ended after {} tokens", done.usage.completion_tokens)
            }
            Some(Event::Failed(failure)) => return Err(failure.into()),
            None => bail!("the worker dropped the job"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, Options};

    #[test]
    fn every_case_runs_to_its_end() {
        let mut file = None;
        let model = synthesize("tiny:q8_0", None, &mut file).unwrap();
        let path = model.path.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let options = Options { cache_bytes: Some(1 << 24), ..Options::default() };
        let engine = Engine::start(vec![model.clone()], options).unwrap();
        runtime.block_on(async {
            let handle = engine.get::<Llm>("tiny").await.unwrap();
            measure(&handle, 2, 0.0, &Report { json: true }).await.unwrap();
            // Cancelled sequences leave nothing behind: as many again find room.
            decode(&handle, 16, 48, 0.0).await.unwrap();
        });
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn every_architecture_runs_and_leaves_only_the_file_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for shape in ["tiny-qwen2", "tiny-qwen3", "tiny-gemma3", "tiny-phi3"] {
            let file = dir.path().join(format!("{shape}.gguf"));
            let model = synthesize(&format!("{shape}:q4_0"), Some(&file), &mut None).unwrap();
            let options = Options { cache_bytes: Some(1 << 24), ..Options::default() };
            let engine = Engine::start(vec![model], options).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let handle = engine.get::<Llm>(shape).await.unwrap();
                decode(&handle, 2, 4, 0.0).await.unwrap();
            });
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
