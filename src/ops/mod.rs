//! Operations that the models are made of, fused where candle's own are slow.
//!
//! Every op is a function on tensors that decides by the device: f32 on the CPU takes a fused kernel of this module, f32 on
//! a GPU one of `kernels/` where there is one ([`agree()`] tells there whether they compute the same), everything else a
//! composition of candle's operations with the same result. Weights, rotations and the
//! key-value cache take the form of their device when they are made. The compositions run on any device, the CPU
//! too, where tests hold them and whole models of them against the kernels: no GPU is needed for that. CPU kernels
//! are written once over [`simd`] and compiled for AVX-512, AVX2 and portable code; the processor is asked at run
//! time. They need contiguous inputs (attention: rows of unit stride) and say so where one is not.

use candle_core::DType;

pub mod agree;
pub(crate) mod amx;
pub mod argmax;
pub mod attended;
pub mod attention;
pub mod codes;
pub mod conv;
pub(crate) mod cpu;
pub mod cross;
pub mod dot;
pub mod elementwise;
pub mod gate;
pub(crate) mod gemm;
#[cfg(any(test, feature = "cuda"))]
pub(crate) mod gpu;
pub mod half_linear;
pub mod layer_norm;
pub mod limits;
pub mod linear;
pub mod lstm;
pub mod mirror;
mod multi;
pub mod paged;
pub(crate) mod par;
pub mod pool;
pub mod qlinear;
mod quant;
pub mod replay;
pub mod rms_norm;
pub mod rope;
pub mod sample;
pub mod simd;
pub mod softmax;
pub mod time;
pub mod unfold;

pub use agree::{Agreement, agree};
pub use argmax::{argmax, argmax_rows};
pub use attended::attended;
pub use attention::{Mask, attention, attention_varlen};
pub use conv::{Conv, Moves, conv, conv_add_relu, conv_relu};
pub use cross::{CrossCache, Span};
pub use elementwise::gelu_erf;
pub use gate::{Activation, gated};
pub use half_linear::{Half, HalfLinear};
pub use layer_norm::{add_layer_norm, add_then_layer_norm, layer_norm};
pub use limits::{Limits, limits};
pub use linear::{Linear, linear, linear_gelu, linear_relu};
pub use lstm::{Lstm, LstmState, lstm};
pub use mirror::mirrored;
pub use paged::{KvCache, KvType, Projection, Rows, Sight, SteadyStep, Step, paged_attention};
pub use pool::{Pooling, pool_rows};
pub use qlinear::{Input, Packer, QEmbedding, QLinear, QWeight};
pub use replay::{Replay, Scratch, turn};
pub use rms_norm::{add_rms_norm, rms_norm, rms_norm_heads};
pub use rope::{Angles, Rope, RopeStyle};
pub use sample::sample_rows;
pub use softmax::softmax;
pub use time::{
    Affine, Variance, affine, instance_norm, joined_relu, max_pool, mean_and_deviation, run_means, scale_runs,
};
pub use unfold::unfold;

/// Makes ready what a device's kernels need before a model is loaded on it: those of a GPU are compiled for it, the first
/// time on a machine for some seconds.
///
/// # Errors
/// A kernel that the compiler or the driver refuses.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables, clippy::unnecessary_wraps))]
pub fn prepare(device: &candle_core::Device) -> candle_core::Result<()> {
    #[cfg(feature = "cuda")]
    if let Some(cuda) = gpu::cuda::of(device) {
        gpu::cuda::prepare(cuda)?;
    }
    Ok(())
}

/// The type that a composition computes sums in: half-precision inputs are widened.
pub(crate) fn wide(dtype: DType) -> DType {
    if matches!(dtype, DType::F16 | DType::BF16) { DType::F32 } else { dtype }
}

#[cfg(test)]
mod tests;

/// Helpers of the ops' tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::cell::Cell;
    use std::thread::LocalKey;

    thread_local! {
        static COMPOSED: Cell<bool> = const { Cell::new(false) };
        static WITHOUT_TILES: Cell<bool> = const { Cell::new(false) };
        static SAMPLING: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether this thread is within [`composed`].
    pub(crate) fn is_composed() -> bool {
        COMPOSED.get()
    }

    /// Runs `f` as if the CPU had no kernels of ours, as a GPU has none: what is made in it and called in it is
    /// composed of candle's operations.
    pub(crate) fn composed<R>(f: impl FnOnce() -> R) -> R {
        within(&COMPOSED, f)
    }

    /// Whether this thread is within [`without_tiles`].
    pub(crate) fn is_without_tiles() -> bool {
        WITHOUT_TILES.get()
    }

    /// Runs `f` as if the processor had no [tile unit](super::amx).
    pub(crate) fn without_tiles<R>(f: impl FnOnce() -> R) -> R {
        within(&WITHOUT_TILES, f)
    }

    /// Whether this thread is within [`sampling`].
    pub(crate) fn is_sampling() -> bool {
        SAMPLING.get()
    }

    /// Runs `f` as if the CPU chose from logits where they lie, as a GPU does, by the kernel of a GPU.
    pub(crate) fn sampling<R>(f: impl FnOnce() -> R) -> R {
        within(&SAMPLING, f)
    }

    /// Runs `f` with `flag` up.
    fn within<R>(flag: &'static LocalKey<Cell<bool>>, f: impl FnOnce() -> R) -> R {
        struct Reset(&'static LocalKey<Cell<bool>>, bool);
        impl Drop for Reset {
            fn drop(&mut self) {
                self.0.set(self.1);
            }
        }
        let _reset = Reset(flag, flag.replace(true));
        f()
    }

    /// Deterministic values within ±1.
    pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// Fails unless all values agree within `tolerance`, absolute below 1 and relative above.
    #[track_caller]
    pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f32) {
        assert_within(got, want, |i| tolerance * want[i].abs().max(1.0));
    }

    /// Fails unless every value lies as near as `limit` of its index allows.
    #[track_caller]
    pub(crate) fn assert_within(got: &[f32], want: &[f32], limit: impl Fn(usize) -> f32) {
        assert_eq!(got.len(), want.len());
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= limit(i), "value {i}: got {g}, want {w} within {}", limit(i));
        }
    }

    /// How far a sum of `terms` products may be from exact in f32, whatever its order: `√terms · ε · size`, where
    /// `size` is the sum of the terms' absolute values.
    ///
    /// Each step rounds by at most `ε/2` of a partial sum. These errors average out (Higham and Mary, "A new
    /// approach to probabilistic rounding error analysis", 2019): for terms of one sign and size, whose partial
    /// sums are the largest, their standard deviation is a sixth of this.
    pub(crate) fn rounding(terms: usize, size: f32) -> f32 {
        (terms as f32).sqrt() * f32::EPSILON * size
    }

    /// As [`rounding`], where the products may be those of split values: each of them is off by up to `3·2⁻¹⁶` of itself,
    /// and these errors average out too.
    pub(crate) fn split_rounding(terms: usize, size: f32) -> f32 {
        rounding(terms, size) + 3.0 * 2f32.powi(-16) * size / (terms as f32).sqrt()
    }
}
