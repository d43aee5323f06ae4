//! From an installed model to a lane on the device's thread.

use std::sync::Arc;

use candle_core::Device;

use super::lane::asr::{AsrLane, ENCODED};
use super::lane::draft::Drafter;
use super::lane::embed::{ByRow, RowLane};
use super::lane::llm::LlmLane;
use super::lane::vad::VadLane;
use super::sched;
use super::sched::llm::Guesses;
use super::worker::{AnyFront, Opened};
use crate::model::embed::Embed;
use crate::model::rerank::Rerank;
use crate::model::segment::Segment;
use crate::model::speaker::Speaker;
use crate::model::{Error, Model, Size, asr, embed, llm, rerank, segment, speaker, vad};
use crate::obs::ModelMetrics;
use crate::ops::{KvCache, KvType};
use crate::types::model::{Footprint, Format, Installed, Kind, Precision, Quantise};

/// Tokens of prompts that one step computes when nothing decodes, on a CPU and on a GPU: enough to fill the matrix units,
/// few enough that a cancelled prompt stops soon.
const PREFILL_TOKENS: [usize; 2] = [512, 2048];
/// Beside decoding rows: what a prompt adds to the others' next token must stay small.
const MIXED_TOKENS: [usize; 2] = [128, 256];
/// Chat sequences that hold blocks at once.
const MAX_RUNNING: usize = 64;
/// Tokens of a batch of texts. More does not make a CPU faster, and delays other models.
const EMBED_TOKENS: usize = 4_096;
/// Frames of 10 ms of a batch of voices, and of a batch of windows of sound: half a minute and two minutes. Twelve windows
/// are six for each of two cores, as many as its registers take of a recurrence.
const SPEAKER_FRAMES: usize = 3_000;
const SEGMENT_FRAMES: usize = 12_000;
/// Windows of 30 s that a speech model decodes side by side, and what their keys and values may take.
const ASR_WINDOWS: usize = 8;
const ASR_WINDOW_BYTES: u64 = 512 << 20;

/// What the device grants a chat model.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub context: usize,
    pub cache_bytes: u64,
    /// Bytes that it may take in all, where that is less.
    pub room: u64,
    /// How its key-value cache keeps them.
    pub cache: KvType,
    /// Whether what it says next is guessed from what was said.
    pub guesses: bool,
    /// What matrices are rounded to that are floats in their files.
    pub quantise: Quantise,
    /// How decoders of speech models are kept.
    pub precision: Precision,
}

/// Loads the model, and for a chat model the one that guesses for it, and builds its lane. Runs on the device's
/// thread; `site` is the device's place among the engine's.
pub fn open(
    installed: &Installed,
    draft: Option<&Installed>,
    device: &Device,
    site: usize,
    limits: Limits,
) -> Result<Opened, Error> {
    let metrics = ModelMetrics::new(&installed.id, site);
    let largest = largest(installed.kind, !device.is_cpu());
    match installed.kind {
        Kind::Chat => open_llm(installed, draft, device, limits, metrics, largest),
        Kind::Embed => {
            let loaded = embed::load(installed, device)?;
            let front = AnyFront::Embed(Arc::new(loaded.front));
            Ok(open_rows::<Embed>(metrics, loaded.model, largest, front))
        }
        Kind::Rerank => {
            let loaded = rerank::load(installed, device)?;
            let front = AnyFront::Rerank(Arc::new(loaded.front));
            Ok(open_rows::<Rerank>(metrics, loaded.model, largest, front))
        }
        Kind::Speaker => {
            let loaded = speaker::load(installed, device)?;
            let front = AnyFront::Speaker(Arc::new(loaded.front));
            Ok(open_rows::<Speaker>(metrics, loaded.model, largest, front))
        }
        Kind::Segment => {
            let loaded = segment::load(installed, device)?;
            let front = AnyFront::Segment(Arc::new(loaded.front));
            Ok(open_rows::<Segment>(metrics, loaded.model, largest, front))
        }
        Kind::Asr => {
            let loaded = asr::load(installed, device, asr_limits(limits))?;
            let takes = loaded.model.footprint(largest);
            let front = Arc::new(loaded.front);
            metrics.set_cache_config(KvCache::BLOCK, front.blocks);
            let scheduler =
                sched::asr::Scheduler::new(front.windows, front.rows, front.blocks, KvCache::BLOCK);
            let lane = AsrLane::new(metrics, loaded.model, front.clone(), scheduler);
            Ok(Opened { lane: Box::new(lane), front: AnyFront::Asr(front), takes })
        }
        Kind::Vad => {
            // Beside a GPU too: its recurrence is small products one after the other, each of which a GPU takes longer
            // to begin than a core to compute.
            let model = vad::load(installed, &Device::Cpu)?;
            let takes = if device.is_cpu() { model.footprint(largest) } else { Footprint::default() };
            Ok(Opened { lane: Box::new(VadLane::new(metrics, model)), front: AnyFront::Vad, takes })
        }
    }
}

/// A lane of a model that finishes rows in one step each.
fn open_rows<M: ByRow>(
    metrics: ModelMetrics,
    model: Box<dyn Model<M>>,
    largest: Size,
    front: AnyFront,
) -> Opened {
    let takes = model.footprint(largest);
    let lane = RowLane::new(metrics, model, sched::embed::Scheduler::new(largest.units));
    Opened { lane: Box::new(lane), front, takes }
}

fn open_llm(
    installed: &Installed,
    draft: Option<&Installed>,
    device: &Device,
    limits: Limits,
    metrics: ModelMetrics,
    largest: Size,
) -> Result<Opened, Error> {
    let (guesses, grant) = (limits.guesses, llm_grant(limits));
    // As many blocks as were reckoned with when a place was found for it.
    let (_, blocks) = grant.reckon(installed, draft, largest)?;
    let limits = grant.limits(blocks);
    let llm::Loaded { model, front } = llm::load(installed, device, limits)?;
    metrics.set_cache_config(KvCache::BLOCK, blocks);
    let draft = match draft {
        Some(draft) => {
            let small = llm::load(draft, device, limits)?;
            same_vocabulary(&front, &small.front)
                .map_err(|problem| Error::config(format!("models.drafts.{}", installed.id), problem))?;
            Some(small)
        }
        None => None,
    };
    let guesses = match (&draft, guesses) {
        (Some(_), _) => Guesses::Model,
        (None, true) => Guesses::Lookup,
        (None, false) => Guesses::Nobody,
    };
    let scheduler = sched::llm::Scheduler::new(sched::llm::Limits {
        max_running: MAX_RUNNING,
        prefill_tokens: largest.units,
        mixed_tokens: MIXED_TOKENS[usize::from(largest.gpu)],
        context: front.context,
        blocks,
        block_size: KvCache::BLOCK,
        guesses,
    });
    let takes = model.footprint(largest);
    let takes = draft.as_ref().map_or(takes, |small| takes.with(small.model.footprint(largest)));
    let drafter = draft.map(|small| Drafter::new(small.model, small.front.context));
    let lane = LlmLane::new(metrics, model, scheduler, drafter, front.stop.clone());
    Ok(Opened { lane: Box::new(lane), front: AnyFront::Llm(Arc::new(front)), takes })
}

/// A guess is a token's number: it has to mean the same to both models.
fn same_vocabulary(large: &llm::Front, small: &llm::Front) -> Result<(), String> {
    let (large, small) = (&large.tokenizer, &small.tokenizer);
    if large.vocab_size() != small.vocab_size() {
        let (large, small) = (large.vocab_size(), small.vocab_size());
        return Err(format!("the model that guesses has {small} tokens and not {large}"));
    }
    match (0..large.vocab_size() as u32).find(|&id| large.piece(id) != small.piece(id)) {
        Some(id) => Err(format!("token {id} is another one in the model that guesses")),
        None => Ok(()),
    }
}

/// What a model, with the one that guesses for it, is reckoned to take before it is loaded, by the heads of its files;
/// what it really takes replaces this afterwards.
pub fn estimate(installed: &Installed, draft: Option<&Installed>, gpu: bool, limits: Limits) -> Footprint {
    let largest = largest(installed.kind, gpu);
    let read = match installed.kind {
        Kind::Chat => llm_grant(limits).reckon(installed, draft, largest).map(|(takes, _)| takes),
        Kind::Embed => embed::footprint(installed, largest).map_err(Error::from),
        Kind::Rerank => rerank::footprint(installed, largest).map_err(Error::from),
        Kind::Asr => asr::footprint(installed, asr_limits(limits), largest).map_err(Error::from),
        Kind::Speaker => speaker::footprint(installed, largest).map_err(Error::from),
        Kind::Segment => segment::footprint(installed, largest).map_err(Error::from),
        Kind::Vad if gpu => Ok(Footprint::default()),
        Kind::Vad => Ok(Footprint { weights: installed.bytes, cache: 0, step: installed.bytes }),
    };
    // Of a file that cannot be read only its size is known. Why it cannot, loading it tells.
    let unread = || Footprint {
        weights: match installed.format {
            Format::Gguf | Format::Safetensors => installed.bytes,
            Format::CTranslate2 | Format::Torch | Format::Ggml => installed.bytes.saturating_mul(2),
        },
        cache: if installed.kind == Kind::Chat { limits.cache_bytes } else { 0 },
        step: installed.bytes / 8,
    };
    read.unwrap_or_else(|_| unread())
}

/// The largest step of a model.
fn largest(kind: Kind, gpu: bool) -> Size {
    let units = match kind {
        Kind::Chat => PREFILL_TOKENS[usize::from(gpu)],
        Kind::Embed | Kind::Rerank => EMBED_TOKENS,
        Kind::Asr => ENCODED,
        Kind::Speaker => SPEAKER_FRAMES,
        Kind::Segment => SEGMENT_FRAMES,
        Kind::Vad => 1,
    };
    Size { units, logits: MAX_RUNNING, gpu }
}

/// What a chat model is granted.
pub fn llm_grant(limits: Limits) -> llm::Grant {
    let Limits { context, cache_bytes, room, cache, quantise, .. } = limits;
    llm::Grant { context, cache_bytes, room, cache, quantise }
}

fn asr_limits(limits: Limits) -> asr::Limits {
    asr::Limits { windows: ASR_WINDOWS, window_bytes: ASR_WINDOW_BYTES, precision: limits.precision }
}
