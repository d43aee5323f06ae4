//! Where a decoder's tensors come from, whatever the file calls them.

use candle_core::{Device, Tensor};

use crate::model::Error;
use crate::model::weights::gguf::Gguf;
use crate::ops::{QLinear, QWeight};

/// Tensors by the names that GGUF files have for them.
pub(super) trait Tensors {
    /// Whether the decoder has this part. One that the architecture cannot do without is there even where the file
    /// lacks it, so that reading it says what is missing.
    fn has(&self, name: &str) -> bool;

    /// A vector of `len` values as f32: norms, biases.
    fn vector(&self, name: &str, len: usize, device: &Device) -> Result<Tensor, Error>;

    /// A matrix (outputs, inputs).
    fn matrix(&self, name: &str, shape: [usize; 2], device: &Device) -> Result<QWeight, Error>;

    /// The matrix of expert `at`, of so many that each have (outputs, inputs).
    fn expert(
        &self,
        name: &str,
        at: usize,
        count: usize,
        shape: [usize; 2],
        device: &Device,
    ) -> Result<QWeight, Error>;

    /// One linear layer over matrices that share their input: `(name, outputs)` of each.
    fn linear(&self, parts: &[(String, usize)], inputs: usize, device: &Device) -> Result<QLinear, Error> {
        let weights = parts
            .iter()
            .map(|(name, outputs)| self.matrix(name, [*outputs, inputs], device))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(QLinear::new(weights)?)
    }
}

impl Tensors for Gguf {
    fn has(&self, name: &str) -> bool {
        self.tensor(name).is_some()
    }

    fn vector(&self, name: &str, len: usize, device: &Device) -> Result<Tensor, Error> {
        Ok(self.tensor_f32(name, &[len], device)?)
    }

    fn matrix(&self, name: &str, shape: [usize; 2], device: &Device) -> Result<QWeight, Error> {
        Ok(self.qweight_shaped(name, shape, device)?)
    }

    fn expert(
        &self,
        name: &str,
        at: usize,
        count: usize,
        [outputs, inputs]: [usize; 2],
        device: &Device,
    ) -> Result<QWeight, Error> {
        Ok(self.qweight_slice(name, at, [count, outputs, inputs], device)?)
    }
}
