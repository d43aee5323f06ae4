//! Embedding models: whether a GPU computes what the CPU does, and how many texts it embeds.

use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;

use super::{Checked, Part, Run, best_of, on_its_thread};
use crate::cli::bench::{embed, rounded};
use crate::device;
use crate::model::embed::agree::{Agreement, agree};
use crate::model::weights::synthetic_bert::{
    self as synthetic, MINI_LM, MXBAI_LARGE, Shape, TINY, TINY_NARROW,
};
use crate::service::{Options, Service};

/// Tokens of a text, the two around it included.
pub(super) const TOKENS: usize = 128;
/// Texts of a request, and how many requests in a row are timed.
const TEXTS: [(usize, usize); 3] = [(1, 20), (32, 4), (256, 1)];

/// How far a text's vector on a GPU may be from that on the CPU, as a share of how far those of different texts are apart.
/// A GPU rounds what products and attention are given to halves, by 4.9e-4 at most, and all else is of f32 on both:
/// rounding so on a CPU moves vectors of such models by 0.0008. Six times that.
const WORST: f64 = 0.005;
/// The least cosine of the two: what the share above comes to for texts that are as far apart as can be.
const COSINE: f64 = 0.999_97;

#[derive(Serialize)]
struct Compared {
    #[serde(flatten)]
    checked: Checked,
    cosine: f64,
}

#[derive(Serialize)]
struct Speed {
    case: &'static str,
    model: &'static str,
    /// Texts of a request.
    size: usize,
    /// Of a text.
    tokens: usize,
    texts_s: f64,
    tok_s: f64,
}

/// Compares tiny models: with heads of 64 and of 32, and both kinds of pooling.
pub(super) fn check(run: &mut Run) -> anyhow::Result<()> {
    for shape in [&TINY, &TINY_NARROW] {
        let found = compared(run, shape);
        let Some(found) = run.attempt(Part::Embeddings, shape.name, None, found)? else { continue };
        let Agreement { cosine, worst } = found;
        let ok = worst <= WORST && cosine >= COSINE;
        let checked = Checked::new(shape.name.to_owned(), (worst, WORST), (worst, WORST), ok);
        let line = Compared { checked, cosine: rounded(cosine, 7) };
        run.checked(&line.checked, &line, "of the distance of texts")?;
    }
    Ok(())
}

fn compared(run: &mut Run, shape: &Shape) -> anyhow::Result<Agreement> {
    let model = run.shelf.bert(shape)?;
    on_its_thread(&run.info, |gpu| Ok(agree(&model, &device::open(&device::cpu())?, gpu)?))
}

/// Times models of real sizes; the largest stays on the shelf.
pub(super) fn time(run: &mut Run) -> anyhow::Result<()> {
    for shape in [&MINI_LM, &MXBAI_LARGE] {
        let done = time_one(run, shape);
        run.attempt(Part::Embeddings, shape.name, None, done)?;
    }
    run.shelf.forget(MINI_LM.name);
    Ok(())
}

fn time_one(run: &mut Run, shape: &'static Shape) -> anyhow::Result<()> {
    let model = run.shelf.bert(shape)?;
    let (runtime, engine) = run.start(vec![model.clone()])?;
    let bench = embed::Bench { service: Service::new(engine.clone(), Options::default()), model: model.id };
    for (size, requests) in TEXTS {
        let texts = texts(size);
        let timed = runtime.block_on(async {
            embed(&bench, &texts, 1).await?;
            best_of(|_| embed(&bench, &texts, requests)).await
        });
        let told = format!("{size} texts");
        let Some(time) = run.attempt(Part::Embeddings, shape.name, Some(&told), timed)? else { continue };
        let texts_s = (size * requests) as f64 / time.as_secs_f64();
        let tok_s = rounded(texts_s * TOKENS as f64, 0);
        let line = Speed {
            case: "embeddings",
            model: shape.name,
            size,
            tokens: TOKENS,
            texts_s: rounded(texts_s, 1),
            tok_s,
        };
        let name = format!("{}: {told} of {TOKENS} tokens, {tok_s} tokens/s", shape.name);
        run.report.case(&line, &name, texts_s, "texts/s")?;
    }
    run.memory(shape.name, (&runtime, &engine))
}

/// So many texts of [`TOKENS`] tokens, each a stretch of another place.
pub(super) fn texts(count: usize) -> Vec<String> {
    let words: Vec<String> = synthetic::words().collect();
    let text = |at: usize| {
        let stretch = words.iter().cycle().skip(at * 37 % words.len()).take(TOKENS - 2);
        stretch.map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(text).collect()
}

/// So many requests of the same texts, one after the other.
async fn embed(bench: &embed::Bench, texts: &[String], requests: usize) -> anyhow::Result<Duration> {
    let mut all = Duration::ZERO;
    for _ in 0..requests {
        let (time, tokens) = bench.counted(texts).await?;
        ensure!(tokens == texts.len() * TOKENS, "{} texts are {tokens} tokens", texts.len());
        all += time;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::gpu::shelf::Shelf;
    use crate::engine::{self, Engine};

    #[test]
    fn every_text_is_of_its_tokens() {
        let mut shelf = Shelf::new().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for shape in [&TINY, &TINY_NARROW] {
            let model = shelf.bert(shape).unwrap();
            let options = engine::Options { device: device::Choice::Cpu, ..engine::Options::default() };
            let engine = Engine::start(vec![model.clone()], options).unwrap();
            let bench = embed::Bench { service: Service::new(engine, Options::default()), model: model.id };
            let all = texts(3);
            assert_ne!(all[0], all[1]);
            assert!(runtime.block_on(embed(&bench, &all, 2)).unwrap() > Duration::ZERO);
        }
    }
}
