//! What a linear layer takes.

use candle_core::Tensor;

/// Activations (rows, inputs), and on a GPU what few rows of them were rounded to by the kernel that made them, which
/// saves a launch for each product.
#[derive(Debug, Clone)]
pub struct Input {
    values: Tensor,
    #[cfg(feature = "cuda")]
    rounded: Option<Tensor>,
}

impl From<Tensor> for Input {
    fn from(values: Tensor) -> Self {
        Input {
            values,
            #[cfg(feature = "cuda")]
            rounded: None,
        }
    }
}

impl Input {
    /// The activations as they are.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn rounded(&self) -> Option<&Tensor> {
        self.rounded.as_ref()
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn with(values: Tensor, rounded: Option<Tensor>) -> Self {
        Input { values, rounded }
    }
}

/// Room for the rounded form of (rows, width) on a GPU, and where its codes and scales lie; zeros where none is wanted.
#[cfg(feature = "cuda")]
pub(crate) fn room(
    device: &candle_core::cuda_backend::CudaDevice,
    rows: usize,
    width: usize,
) -> candle_core::Result<(Option<Tensor>, (u64, u64))> {
    use super::launch::{rounded_bytes, rounded_parts, rounds};
    use crate::ops::gpu::cuda::{address, unset};
    if !rounds(rows, width) {
        return Ok((None, (0, 0)));
    }
    let room = unset::<u8>(device, rounded_bytes(rows, width))?;
    let parts = rounded_parts(address(&room)?, rows, width);
    Ok((Some(room), parts))
}
