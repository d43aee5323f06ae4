//! From an installed model to a lane on the device's thread.

use std::sync::Arc;

use candle_core::Device;

use super::lane::asr::AsrLane;
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
use crate::model::{Error, Model, asr, embed, llm, rerank, segment, speaker, vad};
use crate::obs::ModelMetrics;
use crate::ops::{KvCache, KvType};
use crate::types::model::{Format, Installed, Kind, Precision, Quantise};

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
    match installed.kind {
        Kind::Chat => open_llm(installed, draft, device, limits, metrics),
        Kind::Embed => {
            let loaded = embed::load(installed, device)?;
            let front = AnyFront::Embed(Arc::new(loaded.front));
            Ok(open_rows::<Embed>(metrics, loaded.model, EMBED_TOKENS, front))
        }
        Kind::Rerank => {
            let loaded = rerank::load(installed, device)?;
            let front = AnyFront::Rerank(Arc::new(loaded.front));
            Ok(open_rows::<Rerank>(metrics, loaded.model, EMBED_TOKENS, front))
        }
        Kind::Speaker => {
            let loaded = speaker::load(installed, device)?;
            let front = AnyFront::Speaker(Arc::new(loaded.front));
            Ok(open_rows::<Speaker>(metrics, loaded.model, SPEAKER_FRAMES, front))
        }
        Kind::Segment => {
            let loaded = segment::load(installed, device)?;
            let front = AnyFront::Segment(Arc::new(loaded.front));
            Ok(open_rows::<Segment>(metrics, loaded.model, SEGMENT_FRAMES, front))
        }
        Kind::Asr => {
            let limits = asr::Limits {
                windows: ASR_WINDOWS,
                window_bytes: ASR_WINDOW_BYTES,
                precision: limits.precision,
            };
            let loaded = asr::load(installed, device, limits)?;
            let bytes = loaded.model.bytes();
            let front = Arc::new(loaded.front);
            metrics.set_cache_config(KvCache::BLOCK, front.blocks);
            let scheduler =
                sched::asr::Scheduler::new(front.windows, front.rows, front.blocks, KvCache::BLOCK);
            let lane = AsrLane::new(metrics, loaded.model, front.clone(), scheduler);
            Ok(Opened { lane: Box::new(lane), front: AnyFront::Asr(front), bytes })
        }
        Kind::Vad => {
            // Beside a GPU too: its recurrence is small products one after the other, each of which a GPU takes longer
            // to begin than a core to compute.
            let model = vad::load(installed, &Device::Cpu)?;
            let bytes = model.bytes();
            Ok(Opened { lane: Box::new(VadLane::new(metrics, model)), front: AnyFront::Vad, bytes })
        }
    }
}

/// A lane of a model that finishes rows in one step each, `tokens` of them at a time.
fn open_rows<M: ByRow>(
    metrics: ModelMetrics,
    model: Box<dyn Model<M>>,
    tokens: usize,
    front: AnyFront,
) -> Opened {
    let bytes = model.bytes();
    let lane = RowLane::new(metrics, model, sched::embed::Scheduler::new(tokens));
    Opened { lane: Box::new(lane), front, bytes }
}

fn open_llm(
    installed: &Installed,
    draft: Option<&Installed>,
    device: &Device,
    limits: Limits,
    metrics: ModelMetrics,
) -> Result<Opened, Error> {
    let Limits { context, cache_bytes, cache, guesses, quantise, .. } = limits;
    let limits = llm::Limits { context, cache_bytes, cache, quantise, blocks: None };
    let llm::Loaded { model, front, blocks } = llm::load(installed, device, limits)?;
    metrics.set_cache_config(KvCache::BLOCK, blocks);
    let draft = match draft {
        Some(draft) => {
            let limits = llm::Limits { blocks: Some(blocks), ..limits };
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
    let gpu = usize::from(!device.is_cpu());
    let scheduler = sched::llm::Scheduler::new(sched::llm::Limits {
        max_running: MAX_RUNNING,
        prefill_tokens: PREFILL_TOKENS[gpu],
        mixed_tokens: MIXED_TOKENS[gpu],
        context: front.context,
        blocks,
        block_size: KvCache::BLOCK,
        guesses,
    });
    let bytes = model.bytes() + draft.as_ref().map_or(0, |small| small.model.bytes());
    let drafter = draft.map(|small| Drafter::new(small.model, small.front.context));
    let lane = LlmLane::new(metrics, model, scheduler, drafter, front.stop.clone());
    Ok(Opened { lane: Box::new(lane), front: AnyFront::Llm(Arc::new(front)), bytes })
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

/// Bytes to make room for before a model is loaded; what it really took replaces this afterwards. Quantised
/// weights keep their size and a little; halves are widened to single precision where a CPU is faster on that, and
/// those of chat models rounded as `quantise` says: by the shapes in their files, or as if those were halves.
pub fn estimate(installed: &Installed, quantise: Quantise, cache_bytes: u64) -> u64 {
    let rounded = || match quantise {
        Quantise::Q8_0 => installed.bytes / 32 * 17,
        Quantise::None => installed.bytes,
    };
    let weights = match installed.format {
        Format::Safetensors if installed.kind == Kind::Chat => {
            let weights = llm::folder_bytes(&installed.path, quantise).unwrap_or_else(rounded);
            weights.saturating_add(weights / 16)
        }
        // Embedding models and rerankers are computed in f32, whatever their files hold.
        Format::Safetensors | Format::Torch if matches!(installed.kind, Kind::Embed | Kind::Rerank) => {
            let weights = embed::f32_bytes(installed).unwrap_or(installed.bytes.saturating_mul(2));
            weights.saturating_add(weights / 16)
        }
        Format::Gguf => installed.bytes.saturating_add(installed.bytes / 16),
        Format::CTranslate2 | Format::Torch => installed.bytes.saturating_mul(2),
        // Quantised matrices are widened.
        Format::Ggml => {
            asr::whisper::ggml_bytes(&installed.path).unwrap_or(installed.bytes.saturating_mul(6))
        }
        Format::Safetensors => installed.bytes,
    };
    let cache = if installed.kind == Kind::Chat { cache_bytes } else { 0 };
    weights.saturating_add(cache)
}
