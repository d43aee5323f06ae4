//! What decoders are reckoned to take before they are loaded, and how many blocks their caches have by that.

use super::{Limits, decoder, unsupported};
use crate::model::weights::gguf::Gguf;
use crate::model::weights::safetensors::SafetensorsFolder;
use crate::model::{Error, Size};
use crate::ops::{KvCache, KvType};
use crate::types::model::{Footprint, Format, Installed, Quantise};

/// Positions that a sequence has on the smallest device: fewer are no use.
const LEAST_CONTEXT: usize = 2_048;

/// What a device grants a decoder.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// Cap on the context, whatever the model was trained for.
    pub context: usize,
    /// Bytes that the key-value cache may take.
    pub cache_bytes: u64,
    /// Bytes that weights, cache and a step may take together: where the cache would be too large for that, it is smaller,
    /// and with it the context.
    pub room: u64,
    /// How keys and values are kept.
    pub cache: KvType,
    /// What matrices are rounded to that are floats in a folder's files.
    pub quantise: Quantise,
}

/// One decoder, by the heads of its files.
struct Head {
    weights: u64,
    step: u64,
    /// Bytes of a block of its cache.
    block: u64,
    /// Positions that a sequence may have.
    positions: usize,
}

impl Grant {
    /// What a decoder is loaded with that has so many blocks.
    pub fn limits(&self, blocks: usize) -> Limits {
        let Grant { context, cache, quantise, .. } = *self;
        Limits { context, blocks, cache, quantise }
    }

    /// What a model will take once it is loaded, with the one that guesses for it, and the blocks that the cache of each
    /// of them has.
    ///
    /// # Errors
    /// Files that cannot be read, or that nothing here can load.
    pub fn reckon(
        &self,
        installed: &Installed,
        draft: Option<&Installed>,
        largest: Size,
    ) -> Result<(Footprint, usize), Error> {
        let large = self.head(installed, largest)?;
        let small = draft.map(|draft| self.head(draft, largest)).transpose()?;
        let both = || std::iter::once(&large).chain(&small);
        let sum = |of: fn(&Head) -> u64| both().map(of).fold(0, u64::saturating_add);
        let (weights, block) = (sum(|h| h.weights), sum(|h| h.block));
        let step = both().map(|h| h.step).max().unwrap_or(0);
        let blocks = self.blocks(block, large.positions, weights.saturating_add(step));
        Ok((Footprint { weights, cache: (blocks as u64).saturating_mul(block), step }, blocks))
    }

    fn head(&self, installed: &Installed, largest: Size) -> Result<Head, Error> {
        let (config, bytes) = match installed.format {
            Format::Gguf => (decoder::config(&Gguf::open(&installed.path)?, self.context)?, installed.bytes),
            Format::Safetensors => {
                let folder = SafetensorsFolder::open(&installed.path)?;
                (decoder::folder_config(&folder, self.context)?, folder_bytes(&folder, self.quantise))
            }
            format => return Err(unsupported(&installed.architecture, format)),
        };
        // On a GPU weights keep their size to the byte; a CPU reads some in an order that takes a little more.
        let weights = if largest.gpu { bytes } else { bytes.saturating_add(bytes / 16) };
        let kept = if largest.gpu { KvType::F16 } else { self.cache };
        Ok(Head {
            weights: weights.saturating_add(config.recorded_bytes(largest)),
            step: config.step_bytes(largest),
            block: config.block_bytes(kept),
            positions: config.positions(self.context),
        })
    }

    /// Bytes of the cache of a model of which is known what a token leaves there as halves, the tokens that it takes, and
    /// what it takes besides.
    pub fn cache_bytes(&self, token_bytes: u64, tokens: u64, gpu: bool, others: u64) -> u64 {
        let halves = token_bytes.saturating_mul(KvCache::BLOCK as u64);
        let block = match self.cache {
            KvType::F32 if !gpu => halves.saturating_mul(2),
            // A scale for each head's values beside them.
            KvType::Q8 if !gpu => halves / 2 + halves / 32,
            _ => halves,
        };
        let positions = usize::try_from(tokens).unwrap_or(usize::MAX).min(self.context.max(1));
        (self.blocks(block, positions, others) as u64).saturating_mul(block)
    }

    /// Blocks of a cache, of so many bytes each, beside the `others` that the model takes: what is granted, if there is
    /// room for it. One sequence of all `positions` fits, whatever is granted, unless it took more than half of the room,
    /// which other models may need; one of [`LEAST_CONTEXT`] in any case.
    fn blocks(&self, block: u64, positions: usize, others: u64) -> usize {
        let of = |bytes: u64| usize::try_from(bytes / block.max(1)).unwrap_or(usize::MAX);
        let left = self.room.saturating_sub(others);
        let one = positions.div_ceil(KvCache::BLOCK);
        let least = one.min(LEAST_CONTEXT / KvCache::BLOCK);
        of(self.cache_bytes).min(of(left)).max(one.min(of(left / 2))).max(least)
    }
}

/// Bytes that the weights of a folder take once they are loaded.
fn folder_bytes(folder: &SafetensorsFolder, quantise: Quantise) -> u64 {
    let bytes = |shape: &[usize]| {
        let count = shape.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64));
        match (shape, quantise) {
            ([_], _) => count.saturating_mul(4),
            ([.., inputs], Quantise::Q8_0) if inputs.is_multiple_of(32) => count.saturating_mul(34) / 32,
            _ => count.saturating_mul(2),
        }
    };
    let shapes = folder.names().filter_map(|name| folder.shape(name));
    shapes.map(bytes).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::synthetic;

    fn grant(cache_bytes: u64, room: u64) -> Grant {
        Grant { context: 8_192, cache_bytes, room, cache: KvType::F16, quantise: Quantise::None }
    }

    #[test]
    fn a_cache_takes_what_is_granted_and_one_context_at_least_where_there_is_room() {
        let blocks = |cache_bytes, room, positions| grant(cache_bytes, room).blocks(10, positions, 300);
        assert_eq!(blocks(5_000, u64::MAX, 6_400), 500);
        assert_eq!(blocks(100, u64::MAX, 6_400), 200, "one sequence");
        assert_eq!(blocks(5_000, 1_500, 6_400), 120, "what is left");
        assert_eq!(blocks(100, 2_300, 6_400), 100, "half of it");
        assert_eq!(blocks(100, 300, 6_400), LEAST_CONTEXT / KvCache::BLOCK);
        assert_eq!(blocks(100, 0, 320), 10, "a context that is shorter than that");
    }

    /// A model that guesses takes its part of what is granted and of what is left, and its cache has as many blocks.
    #[test]
    fn two_models_share_what_one_is_granted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tiny.gguf");
        synthetic::write(&synthetic::spec("tiny-qwen2:q4_k_m").unwrap(), &file, 0).unwrap();
        let model = crate::fetch::probe::model_at(&file).unwrap();
        let largest = Size { units: 64, logits: 8, gpu: true };
        let block = grant(0, 0).head(&model, largest).unwrap().block;
        let granted = 1_000 * block;
        let (alone, blocks) = grant(granted, u64::MAX).reckon(&model, None, largest).unwrap();
        assert_eq!((alone.cache, blocks), (granted, 1_000));
        let (both, blocks) = grant(granted, u64::MAX).reckon(&model, Some(&model), largest).unwrap();
        assert_eq!((both.cache, blocks), (granted, 500));
        assert_eq!((both.weights, both.step), (2 * alone.weights, alone.step));
        let room = both.most() - 100 * block;
        let (both, blocks) = grant(granted, room).reckon(&model, Some(&model), largest).unwrap();
        assert_eq!((both.most(), blocks), (room, 450));
    }
}
