//! What sequences say: what is asked of a step's logits, and the tokens that come of it.

use super::Input;
use crate::engine::sched::llm::Sequence;
use crate::model::llm::Choice;
use crate::model::llm::draw::{Drawing, Tokens};
use crate::model::llm::guide::Guide;
use crate::model::llm::logprobs::Logprobs;
use crate::model::llm::output::{forbid, sample, takes_largest};

/// A token that was chosen.
pub struct Sampled {
    pub token: u32,
    pub logprobs: Option<Box<Logprobs>>,
}

/// What the sequence's next logits are wanted for, with those behind each guess. Forms of answers and log-probabilities are
/// worked out here, from the logits.
pub(super) fn choice(seq: &Sequence, guesses: &[u32], input: &Input) -> Choice {
    if input.guide.is_some() || input.logprobs.is_some() {
        return Choice::Logits;
    }
    let least = seq.prompt_len + input.min_new;
    if seq.tokens.len() >= least && takes_largest(&seq.sampling) {
        return Choice::Largest;
    }
    Choice::Drawn(Box::new(Drawing {
        sampling: seq.sampling.clone(),
        seed: seq.seed,
        prompt_len: seq.prompt_len,
        tokens: Tokens::new(&seq.sampling, &seq.tokens, guesses),
        ends: seq.stop().clone(),
        least,
    }))
}

/// What was chosen at each place as long as it is what was guessed, and one that is not, or is behind all guesses.
pub(super) fn keep_while_true(chosen: Vec<u32>, guesses: &[u32]) -> Vec<Sampled> {
    let true_ones = chosen.iter().zip(guesses).take_while(|(token, guess)| token == guess).count();
    chosen.into_iter().take(1 + true_ones).map(|token| Sampled { token, logprobs: None }).collect()
}

/// One token for each logits as long as it is what was guessed, and one that is not, or is behind all guesses.
pub(super) fn choose_while_true<'l>(
    logits: impl Iterator<Item = &'l mut [f32]>,
    seq: &Sequence,
    guesses: &[u32],
    input: &Input,
) -> Vec<Sampled> {
    let mut said: Vec<Sampled> = Vec::with_capacity(1 + guesses.len());
    let mut tokens = std::borrow::Cow::Borrowed(&seq.tokens[..]);
    // Those that no longer follow what was said are passed over, so that the next row finds its own.
    for (i, logits) in logits.enumerate() {
        if said.len() < i || said.last().is_some_and(|last| last.token != guesses[i - 1]) {
            continue;
        }
        if let Some(last) = said.last() {
            tokens.to_mut().push(last.token);
        }
        said.push(choose(logits, seq, &tokens, input));
    }
    said
}

/// What follows `tokens`, the sequence's and perhaps more, from the model's logits; they are scratch afterwards.
fn choose(logits: &mut [f32], seq: &Sequence, tokens: &[u32], input: &Input) -> Sampled {
    let raw = input.logprobs.map(|top| (logits.to_vec(), top as usize));
    if let Some(mask) = input.guide.as_ref().and_then(Guide::mask) {
        mask.apply(logits);
    }
    if tokens.len() - seq.prompt_len < input.min_new {
        forbid(logits, seq.stop());
    }
    let token = sample(logits, &seq.sampling, seq.seed, tokens, seq.prompt_len);
    let logprobs = raw.map(|(logits, top)| Box::new(Logprobs::new(&logits, token, top)));
    Sampled { token, logprobs }
}
