//! Chat models: whether a GPU computes what the CPU does, and how near its limits they come.

use serde::Serialize;

use super::{Checked, Part, RUNS, Run, best_of, on_its_thread};
use crate::cli::bench::llm::{decode, prefill};
use crate::cli::bench::rounded;
use crate::device;
use crate::model::llm::Llm;
use crate::model::llm::agree::{Agreement, agree};
use crate::model::weights::synthetic::{self, Spec};

/// Shapes that are checked, in each of the precisions.
const SHAPES: [&str; 5] = ["tiny", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3", "tiny-phi3"];
const PRECISIONS: [&str; 7] = ["f16", "q8_0", "q4_0", "q4_1", "q4_k_m", "q5_k_m", "q6_k"];
/// Standard deviations of the logits that a GPU may be away from the CPU: both round activations to 8 bits for some
/// products, and not to the same. An H200 was 0.11 away at worst and 0.021 typically; 0.009 and 0.002 with weights of
/// halves, for which neither rounds.
pub(super) const WORST: f64 = 0.25;
pub(super) const TYPICAL: f64 = 0.04;

/// Rows decoded together, and steps timed.
const DECODE: [(usize, usize); 8] =
    [(1, 128), (2, 64), (4, 64), (8, 64), (9, 64), (16, 64), (32, 64), (64, 64)];
const PROMPTS: [usize; 2] = [512, 2048];
/// Positions of the models' contexts.
pub(super) const CONTEXT: usize = 4096;

/// What a check of choices says beside how far logits are apart.
#[derive(Serialize)]
struct Choices {
    #[serde(flatten)]
    checked: Checked,
    choices: usize,
    wrong: usize,
    drawn: usize,
    misdrawn: usize,
}

#[derive(Serialize)]
struct Speed {
    case: &'static str,
    model: String,
    /// Tokens of the prompt, or rows decoded together.
    size: usize,
    tok_s: f64,
    /// Of a prompt: operations by the rate of a large product. Of decoding: bytes of weights by the copy's bandwidth.
    share: f64,
}

/// Compares every tiny model in every precision.
pub(super) fn check(run: &mut Run) -> anyhow::Result<()> {
    for (shape, precision) in SHAPES.iter().flat_map(|s| PRECISIONS.map(|p| (s, p))) {
        let name = format!("{shape}:{precision}");
        let found = compared(run, &name);
        let Some(found) = run.attempt(Part::Chat, &name, None, found)? else { continue };
        let chosen = found.wrong == 0 && found.drawn > 0 && found.misdrawn == 0;
        let ok = found.worst <= WORST && found.typical <= TYPICAL && chosen;
        let checked = Checked::new(name, (found.worst, WORST), (found.typical, TYPICAL), ok);
        let line = Choices {
            checked,
            choices: found.choices,
            wrong: found.wrong,
            drawn: found.drawn,
            misdrawn: found.misdrawn,
        };
        run.checked(&line.checked, &line, "standard deviations")?;
    }
    Ok(())
}

fn compared(run: &Run, name: &str) -> anyhow::Result<Agreement> {
    let file = run.shelf.path("checked.gguf");
    synthetic::write(&synthetic::spec(name)?, &file, 1)?;
    on_its_thread(&run.info, |gpu| Ok(agree(&file, &device::open(&device::cpu())?, gpu)?))
}

/// Times a model, which stays on the shelf.
///
/// # Errors
/// A model that cannot be loaded; of the cases each fails by itself.
pub(super) fn time(run: &mut Run, spec: &str) -> anyhow::Result<()> {
    let shape = synthetic::spec(spec)?;
    let model = run.shelf.chat(spec)?;
    let (runtime, engine) = run.start(vec![model.clone()])?;
    let handle = runtime.block_on(engine.get::<Llm>(&model.id))?;
    let (bytes, weights) = read_by_a_step(&shape);
    for (i, tokens) in PROMPTS.into_iter().enumerate() {
        let best = runtime.block_on(best_of(|at| prefill(&handle, tokens, (RUNS * i + at) * 4 * CONTEXT)));
        let Some(best) = run.attempt(Part::Chat, spec, Some(&format!("prompt of {tokens}")), best)? else {
            continue;
        };
        let tok_s = tokens as f64 / best.as_secs_f64();
        let share = rounded(2.0 * weights * tok_s / run.limits.product, 3);
        let line =
            Speed { case: "prefill", model: spec.to_owned(), size: tokens, tok_s: rounded(tok_s, 0), share };
        let name = format!("{spec}: prompt of {tokens}, {share} of the limit");
        run.report.case(&line, &name, tok_s, "tokens/s")?;
    }
    for (rows, steps) in DECODE {
        let best = runtime.block_on(best_of(|_| decode(&handle, rows, steps, 0.0)));
        let Some(best) = run.attempt(Part::Chat, spec, Some(&format!("{rows} rows")), best)? else {
            continue;
        };
        let tok_s = (rows * steps) as f64 / best.as_secs_f64();
        let share = rounded(bytes * tok_s / rows as f64 / run.limits.copy, 3);
        let line =
            Speed { case: "decode", model: spec.to_owned(), size: rows, tok_s: rounded(tok_s, 1), share };
        let name = format!("{spec}: {rows} rows, {share} of the limit");
        run.report.case(&line, &name, tok_s, "tokens/s")?;
    }
    run.memory(spec, (&runtime, &engine))
}

/// Bytes of weights that a step of decoding reads, and weights that a token is multiplied with in a prompt, which wants
/// the logits of its last alone.
fn read_by_a_step(spec: &Spec) -> (f64, f64) {
    let tensors = spec.tensors();
    let tied = !tensors.iter().any(|t| t.name == "output.weight");
    let mut read = (0.0, 0.0);
    for tensor in &tensors {
        let table = tensor.name == "token_embd.weight";
        if !table || tied {
            read.0 += tensor.bytes().unwrap_or(0) as f64;
        }
        if !table && tensor.name != "output.weight" && tensor.shape.len() == 2 {
            read.1 += tensor.shape.iter().product::<usize>() as f64;
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_the_weights_without_the_table() {
        let (bytes, weights) = read_by_a_step(&synthetic::spec("qwen2.5-7b:q4_k_m").unwrap());
        assert!((4.0e9..4.6e9).contains(&bytes), "{bytes}");
        assert!((6.4e9..6.7e9).contains(&weights), "{weights}");
        // The output layer is the table: it is read and not left out.
        let (bytes, _) = read_by_a_step(&synthetic::spec("smollm2-135m:q8_0").unwrap());
        assert!((1.3e8..1.5e8).contains(&bytes), "{bytes}");
    }
}
