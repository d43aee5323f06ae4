//! What an answer waits for while the same GPU transcribes a long recording and embeds documents.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::{Part, Run, embeddings, speech};
use crate::cli::bench::mixed::{Bench, Beside, CASES, Figures, Pace};
use crate::cli::bench::rounded;
use crate::model::weights::synthetic_bert::MXBAI_LARGE;
use crate::model::weights::synthetic_whisper::LARGE_V3_TURBO;

/// Seconds of the recording: it goes on for longer than an answer. Texts of a request.
const RECORDING: usize = 1800;
const TEXTS: usize = 64;
/// Eight seconds a case, of which the recording is read in one or two.
const PACE: Pace = Pace { tokens: 1024, most: Duration::from_secs(5), warm_up: Duration::from_secs(1) };
/// When a case that no token ends is given up.
const STUCK: Duration = Duration::from_secs(20);

#[derive(Serialize)]
struct Line<'a> {
    case: &'static str,
    /// The model that answers.
    model: &'a str,
    /// What runs beside the answer.
    beside: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

/// Times the answers of the chat model `spec`.
pub(super) fn time(run: &mut Run, spec: &str) -> anyhow::Result<()> {
    let done = time_all(run, spec);
    run.attempt(Part::Mixed, spec, None, done).map(drop)
}

fn time_all(run: &mut Run, spec: &str) -> anyhow::Result<()> {
    let models = [run.shelf.chat(spec)?, run.shelf.whisper(&LARGE_V3_TURBO)?, run.shelf.bert(&MXBAI_LARGE)?];
    let [chat, asr, embed] = [0, 1, 2].map(|at| models[at].id.clone());
    let file = run.shelf.path("long.wav");
    speech::record(&file, RECORDING)?;
    let beside = Beside {
        asr: Some((speech::request(&asr, speech::TOKENS), file)),
        embed: Some((embed, embeddings::texts(TEXTS))),
    };
    let (runtime, engine) = run.start(models.to_vec())?;
    let bench = runtime.block_on(Bench::new(engine.clone(), &chat, beside, PACE))?;
    let mut alone = None;
    for (name, asr, embed) in CASES {
        let limited = async { tokio::time::timeout(STUCK, bench.case(asr, embed)).await };
        let figures = runtime.block_on(limited).context("no token came in time");
        let figures = figures.and_then(|figures| figures);
        let Some(mut figures) = run.attempt(Part::Mixed, spec, Some(name), figures)? else { continue };
        if (asr, embed) == (false, false) {
            alone = Some(figures.p95_ms);
        }
        // Not a number, and null in JSON, where nothing is known of the answer alone.
        figures.p95_by_alone = alone.map_or(f64::NAN, |alone| rounded(figures.p95_ms / alone, 2));
        let (p95, told) = (figures.p95_ms, format!("{spec}, {name}: {}", figures.told()));
        let line = Line { case: "mixed", model: spec, beside: name, figures };
        run.report.case(&line, &told, p95, "ms at p95")?;
    }
    run.memory(&models.map(|model| model.id).join(", "), (&runtime, &engine))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::gpu::shelf::Shelf;
    use crate::device;
    use crate::engine::{self, Engine};
    use crate::model::weights::{synthetic_bert, synthetic_whisper};

    #[test]
    fn an_answer_goes_on_beside_the_others() {
        let mut shelf = Shelf::new().unwrap();
        let models = vec![
            shelf.chat("tiny:q8_0").unwrap(),
            shelf.whisper(&synthetic_whisper::TINY).unwrap(),
            shelf.bert(&synthetic_bert::TINY).unwrap(),
        ];
        let [chat, asr, embed] = [0, 1, 2].map(|at| models[at].id.clone());
        let file = shelf.path("long.wav");
        speech::record(&file, speech::WINDOW).unwrap();
        let beside = Beside {
            asr: Some((speech::request(&asr, 3), file)),
            embed: Some((embed, embeddings::texts(2))),
        };
        let options = engine::Options {
            device: device::Choice::Cpu,
            cache_bytes: Some(1 << 24),
            ..engine::Options::default()
        };
        let pace = Pace { tokens: 8, most: Duration::from_secs(60), warm_up: Duration::from_millis(1) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let engine = Engine::start(models, options).unwrap();
            let bench = Bench::new(engine, &chat, beside, pace).await.unwrap();
            for (name, asr, embed) in CASES {
                let figures = bench.case(asr, embed).await.unwrap();
                // Tokens of a tiny model may lie there before they are asked for: no wait is sure to take time.
                assert!(figures.tok_s > 0.0 && figures.p50_ms <= figures.p99_ms, "{name}: {figures:?}");
            }
        });
    }
}
