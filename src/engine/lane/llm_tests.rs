//! What a chat lane tells the metrics, step by step.

use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use crate::engine::job::Outbox;
use crate::engine::lane::{AnyLane, Turn};
use crate::engine::sched::llm::{Guesses, Limits};
use crate::model::fake::{FAIL, FakeLlm, SAY_STOP, STOP};
use crate::model::{Error, Size};
use crate::obs::{Exposition, install_metrics};
use crate::ops::sample_rows;
use crate::ops::testing::sampling;
use crate::types::key::Owner;
use crate::types::model::Footprint;

fn input(prompt: &[u32], max_new: usize) -> Input {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Input { prompt: prompt.to_vec(), max_new, sampling, ..Input::default() }
}

/// A lane whose cache has so many blocks of four tokens.
struct Measured {
    lane: LlmLane,
    model: &'static str,
    exposition: Exposition,
}

impl Measured {
    fn new(model: &'static str, blocks: usize) -> Measured {
        Measured::guessing(model, blocks, Guesses::Lookup)
    }

    fn guessing(model: &'static str, blocks: usize, guesses: Guesses) -> Measured {
        let fake = Box::new(FakeLlm { step: Duration::from_millis(1) });
        Measured::of(fake, model, blocks, guesses)
    }

    fn of(fake: Box<dyn Model<Llm>>, model: &'static str, blocks: usize, guesses: Guesses) -> Measured {
        let exposition = install_metrics().unwrap();
        let limits = Limits {
            max_running: 4,
            prefill_tokens: 64,
            mixed_tokens: 32,
            context: 64,
            blocks,
            block_size: 4,
            guesses,
        };
        let small = Box::new(FakeLlm { step: Duration::ZERO });
        let drafter = (guesses == Guesses::Model).then(|| Drafter::new(small, 30));
        let lane = LlmLane::new(
            ModelMetrics::new(model, 0),
            fake,
            Scheduler::new(limits),
            drafter,
            Arc::from([STOP]),
        );
        Measured { lane, model, exposition }
    }

    fn submit(&mut self, input: Input) -> mpsc::Receiver<Event<Llm>> {
        self.submit_of(Owner::default(), input)
    }

    fn submit_of(&mut self, owner: Owner, input: Input) -> mpsc::Receiver<Event<Llm>> {
        let (sender, receiver) = mpsc::channel(64);
        let job = Job {
            input,
            owner,
            deadline: None,
            queued: Instant::now(),
            span: tracing::Span::none(),
            events: Outbox::new(sender),
            ticket: None,
        };
        AnyLane::submit(&mut self.lane, job.into());
        receiver
    }

    fn step(&mut self) {
        assert_eq!(AnyLane::step(&mut self.lane, Instant::now(), None), Turn::Worked);
    }

    fn finish(&mut self) {
        while AnyLane::step(&mut self.lane, Instant::now(), None) == Turn::Worked {}
        assert_eq!(self.lane.num_jobs(), 0);
    }

    /// The value of vLLM's metric of this name, with more labels behind the model's.
    fn value(&self, name: &str, labels: &str) -> f64 {
        self.exposition.upkeep();
        let text = self.exposition.render();
        let series = format!("vllm:{name}{{model_name=\"{}\",engine=\"0\"{labels}}}", self.model);
        let found = text.lines().find_map(|line| line.strip_prefix(&series));
        found.unwrap_or_else(|| panic!("{series} is not there")).trim().parse().unwrap()
    }

    fn values(&self, names: &[&str]) -> Vec<f64> {
        names.iter().map(|name| self.value(name, "")).collect()
    }

    fn ended(&self) -> [f64; 4] {
        ["stop", "length", "abort", "error"]
            .map(|reason| self.value("request_success_total", &format!(",finished_reason=\"{reason}\"")))
    }
}

const LOAD: [&str; 3] = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"];
const COUNTERS: [&str; 4] = [
    "prompt_tokens_total",
    "generation_tokens_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
];

#[test]
fn each_metric_moves_when_what_it_counts_happens() {
    let mut m = Measured::new("measured", 16);
    assert_eq!((m.values(&LOAD), m.values(&COUNTERS), m.ended()), (vec![0.0; 3], vec![0.0; 4], [0.0; 4]));
    // Six tokens of prompt take two of the sixteen blocks.
    let one = m.submit(input(&[10; 6], 3));
    m.step();
    assert_eq!(m.values(&LOAD), [1.0, 0.0, 2.0 / 16.0]);
    assert_eq!(m.values(&COUNTERS), [6.0, 1.0, 6.0, 0.0]);
    let steps = ["iteration_tokens_total_count", "iteration_tokens_total_sum"];
    assert_eq!(m.values(&steps), [1.0, 6.0]);
    let begun = ["request_queue_time_seconds_count", "time_to_first_token_seconds_count"];
    assert_eq!(m.values(&begun), [1.0, 1.0]);
    m.step();
    assert_eq!(m.values(&["inter_token_latency_seconds_count"]), [1.0]);
    assert_eq!(m.ended(), [0.0; 4]);
    m.finish();
    assert_eq!((m.values(&LOAD), m.ended()), (vec![0.0; 3], [0.0, 1.0, 0.0, 0.0]));
    let whole =
        ["e2e_request_latency", "request_prefill_time", "request_decode_time", "request_inference_time"];
    for name in whole {
        assert_eq!(m.value(&format!("{name}_seconds_count"), ""), 1.0, "{name}");
        assert!(m.value(&format!("{name}_seconds_sum"), "") >= 0.001, "{name}");
    }
    let tokens = ["request_prompt_tokens_sum", "request_generation_tokens_sum"];
    assert_eq!(m.values(&tokens), [6.0, 3.0]);
    // The same beginning is found again: one whole block of it. The end token is counted as generated.
    let two = m.submit(input(&[10, 10, 10, 10, 10, SAY_STOP], 3));
    m.finish();
    assert_eq!(m.values(&COUNTERS), [12.0, 4.0, 12.0, 4.0]);
    assert_eq!(m.ended(), [1.0, 1.0, 0.0, 0.0]);
    // One that leaves, computed or not, and one that fails.
    drop(m.submit(input(&[20; 5], 3)));
    let left = m.submit(input(&[30; 5], 9));
    m.step();
    drop(left);
    m.finish();
    assert_eq!(m.ended(), [1.0, 1.0, 2.0, 0.0]);
    assert_eq!(m.values(&COUNTERS)[..2], [17.0, 5.0], "what was computed counts");
    let failed = m.submit(input(&[FAIL], 3));
    m.finish();
    assert_eq!(m.ended(), [1.0, 1.0, 2.0, 1.0]);
    // One that leaves with all that it wanted.
    let satisfied = Satisfied::default();
    let enough = m.submit(Input { satisfied: satisfied.clone(), ..input(&[20; 5], 9) });
    m.step();
    satisfied.say();
    drop(enough);
    m.finish();
    assert_eq!(m.ended(), [2.0, 1.0, 2.0, 1.0]);
    drop((one, two, failed));
}

#[test]
fn sequences_that_take_turns_with_the_cache_are_counted() {
    let mut m = Measured::new("crowded", 6);
    let jobs = [10, 20, 30].map(|token| m.submit(input(&[token; 5], 12)));
    m.step();
    // Two blocks each, and one more for each that runs: the third has to wait.
    assert_eq!(m.values(&LOAD), [2.0, 1.0, 4.0 / 6.0]);
    assert_eq!(m.values(&["num_preemptions_total"]), [0.0]);
    m.finish();
    let preempted = m.value("num_preemptions_total", "");
    assert!(preempted >= 1.0, "each of two has 16 tokens in four blocks in the end");
    assert_eq!(m.ended(), [0.0, 3.0, 0.0, 0.0]);
    assert_eq!(m.values(&COUNTERS)[..2], [15.0, 36.0], "what is computed again is not counted again");
    drop(jobs);
}

#[test]
fn turns_are_those_of_owners_and_priorities() {
    // Room for one at a time.
    let mut m = Measured::new("turns", 4);
    let (flood, other) = (Owner::key("flood"), Owner::key("other"));
    let mut jobs = Vec::new();
    for (token, (name, owner, priority)) in (10..).zip([
        ("flood 1", &flood, 0),
        ("flood 2", &flood, 0),
        ("late", &other, 3),
        ("other", &other, 0),
        ("urgent", &flood, -1),
    ]) {
        let job = Input { priority, ..input(&[token; 8], 1) };
        jobs.push((name, m.submit_of(owner.clone(), job)));
    }
    let mut order = Vec::new();
    while order.len() < 5 {
        m.step();
        jobs.retain(|(name, events)| {
            let waits = events.is_empty();
            if !waits {
                order.push(*name);
            }
            waits
        });
    }
    assert_eq!(order, ["urgent", "flood 1", "other", "flood 2", "late"]);
}

/// A model that draws as a GPU does, by its kernel.
struct Draws(FakeLlm);

impl Model<Llm> for Draws {
    fn step(&mut self, batch: &Batch) -> Result<Logits, Error> {
        let Logits { mut chosen, data, vocabulary } = self.0.step(batch)?;
        let mut given = data.chunks_exact(vocabulary);
        let (mut left, mut first) = (Vec::new(), 0);
        for row in &batch.rows {
            for (place, chosen) in chosen[first..first + row.logits].iter_mut().enumerate() {
                let Some(logits) = chosen.is_none().then(|| given.next()).flatten() else { continue };
                match &row.choice {
                    Choice::Drawn(drawing) => {
                        let logits =
                            candle_core::Tensor::new(logits, &candle_core::Device::Cpu)?.unsqueeze(0)?;
                        let draw = [(0, drawing.at(place, vocabulary))];
                        *chosen = Some(sampling(|| sample_rows(&logits, &draw))?[0]);
                    }
                    _ => left.extend_from_slice(logits),
                }
            }
            first += row.logits;
        }
        Ok(Logits { chosen, data: left, vocabulary })
    }

    fn footprint(&self, largest: Size) -> Footprint {
        self.0.footprint(largest)
    }
}

/// The tokens that readers were told of.
fn said(events: &mut mpsc::Receiver<Event<Llm>>) -> Vec<u32> {
    let mut said = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::Delta(Delta::Token(token, _)) = event {
            said.push(token);
        }
    }
    said
}

#[test]
fn what_a_device_draws_is_what_is_drawn_here() {
    let fake = || FakeLlm { step: Duration::ZERO };
    let warm = Sampling { temperature: 1.5, ..Sampling::default() };
    let jobs = || {
        let penalised = Sampling {
            repetition_penalty: 1.4,
            presence_penalty: 0.5,
            frequency_penalty: 0.3,
            logit_bias: vec![(20, 7.0), (STOP, 9.0)],
            ..warm.clone()
        };
        let cold = Sampling { temperature: 0.0, ..penalised.clone() };
        let narrow = Sampling { top_k: Some(9), top_p: 0.99, min_p: 1e-3, ..warm.clone() };
        let list = [warm.clone(), penalised, cold, narrow, Sampling { typical_p: 0.9, ..warm.clone() }];
        let mut jobs: Vec<Input> = (1..)
            .zip(list)
            .map(|(seed, sampling)| Input { sampling, seed, min_new: 9, ..input(&[10; 6], 20) })
            .collect();
        // Greedy at first only where no end is forbidden; logits are looked at.
        jobs.push(Input { min_new: 5, ..input(&[10, 11, 10, 11, 10], 20) });
        jobs.push(Input { logprobs: Some(2), ..jobs[0].clone() });
        jobs
    };
    let answers = |fake: Box<dyn Model<Llm>>, model, guesses| {
        let mut m = Measured::of(fake, model, 128, guesses);
        let mut readers: Vec<_> = jobs().into_iter().map(|job| m.submit(job)).collect();
        m.finish();
        readers.iter_mut().map(said).collect::<Vec<_>>()
    };
    let here = answers(Box::new(fake()), "here", Guesses::Nobody);
    assert!(here.iter().all(|said| said.len() >= 9), "{here:?}");
    assert_eq!(answers(Box::new(Draws(fake())), "there", Guesses::Nobody), here);
    assert_eq!(answers(Box::new(Draws(fake())), "guessing there", Guesses::Model), here);
}

#[test]
fn a_small_model_guesses_and_the_answers_stay_what_they_are() {
    let answers = |model, guesses| {
        let mut m = Measured::guessing(model, 64, guesses);
        let mut readers = [10, 30].map(|token| m.submit(input(&[token; 6], 40)));
        let mut steps = 0;
        while AnyLane::step(&mut m.lane, Instant::now(), None) == Turn::Worked {
            steps += 1;
            m.lane.scheduler.check_integrity().unwrap();
        }
        let said = readers.each_mut().map(said);
        let names = ["drafts", "draft_tokens", "accepted_tokens"];
        (said, steps, names.map(|name| m.value(&format!("spec_decode_num_{name}_total"), "")))
    };
    let (alone, steps, counts) = answers("alone", Guesses::Nobody);
    assert_eq!((steps, counts, alone[0].len()), (40, [0.0; 3], 40));
    let (said, steps, [drafts, guesses, accepted]) = answers("helped", Guesses::Model);
    assert_eq!(said, alone);
    // It knows the next token always, up to position 30 of what it was trained for.
    assert!(steps < 30, "{steps} steps");
    assert!(drafts > 0.0 && guesses >= accepted && accepted > 20.0, "{drafts} {guesses} {accepted}");
}
