//! Operations on candle tensors that the models' forward passes are made of. CPU or device is decided here and
//! nowhere above: on the CPU each is one fused pass over slices, elsewhere a composition of candle's own
//! operations or a kernel of `kernels/`.

mod cpu;
pub mod paged;
pub mod qlinear;
pub mod rms_norm;
pub mod rope;
pub mod silu_mul;

pub use paged::{KvCache, Rows, paged_attention};
pub use qlinear::{QEmbedding, QLinear};
pub use rms_norm::{add_rms_norm, rms_norm};
pub use rope::{Rope, RopeStyle};
pub use silu_mul::silu_mul;
