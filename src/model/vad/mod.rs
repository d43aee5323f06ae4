//! Voice activity detection: samples in, the probability of speech in each frame out.
//!
//! A network keeps nothing between two steps: what the next frame needs of the ones before travels with the stream, as
//! [`VadState`]. So any number of streams share a step, and one that nobody goes on with leaves nothing behind. What
//! the probabilities come to is [`segments`]' part, which holds no tensors.

pub mod segments;
pub mod silero;

use candle_core::Device;

use super::weights;
use super::{Model, Network};
use crate::types::model::Installed;

/// Samples of a frame, at 16 kHz: 32 ms.
pub const FRAME: usize = 512;
/// Samples before a frame that it is heard with.
pub const CONTEXT: usize = 64;
/// Units of the network's memory.
pub const HIDDEN: usize = 128;
/// No sum of the network overflows on such a sample; recordings are within 1.
const LOUDEST: f32 = 1e6;

/// Why a detector cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error("no voice activity detector named {name}: {} are known", known.join(", "))]
    Architecture { name: String, known: Vec<&'static str> },
    #[error("{samples} samples are no whole frames: give multiples of {FRAME}, zeros behind the last")]
    Frames { samples: usize },
    #[error("sample {at} is {value}: samples are numbers, within 1 of 0 where nothing is clipped")]
    Sample { at: usize, value: f32 },
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

/// The network kind of this module.
#[derive(Debug)]
pub struct Vad;

impl Network for Vad {
    /// Pieces of different streams.
    type Batch = Vec<Row>;
    /// A row each, in order: the probability of speech in every frame, and what the stream goes on with.
    type Output = Vec<(Vec<f32>, VadState)>;
}

/// What a stream of frames leaves to the next frame. The default is a stream's beginning.
#[derive(Debug, Clone, PartialEq)]
pub struct VadState {
    /// The last samples.
    pub context: [f32; CONTEXT],
    /// The network's output.
    pub h: [f32; HIDDEN],
    /// The network's memory.
    pub c: [f32; HIDDEN],
}

impl Default for VadState {
    fn default() -> VadState {
        VadState { context: [0.0; CONTEXT], h: [0.0; HIDDEN], c: [0.0; HIDDEN] }
    }
}

/// The next piece of a stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub state: VadState,
    /// Whole frames at 16 kHz, at least one; whoever gives a recording's last piece fills it up with zeros.
    pub samples: Vec<f32>,
}

impl Row {
    /// Frames that it has.
    pub fn frames(&self) -> usize {
        self.samples.len() / FRAME
    }

    /// Whether a network can hear it.
    ///
    /// # Errors
    /// No samples or no whole frames of them, or one that is no number.
    pub fn check(&self) -> Result<(), Error> {
        let samples = self.samples.len();
        if samples == 0 || !samples.is_multiple_of(FRAME) {
            return Err(Error::Frames { samples });
        }
        // NaN is within nothing.
        match self.samples.iter().position(|s| !(-LOUDEST..=LOUDEST).contains(s)) {
            Some(at) => Err(Error::Sample { at, value: self.samples[at] }),
            None => Ok(()),
        }
    }
}

/// Loads a folder onto a device.
pub type Load = fn(&std::path::Path, &Device) -> Result<Box<dyn Model<Vad>>, Error>;

/// The architectures, a row each.
pub const REGISTRY: &[(&str, Load)] = &[("silero", silero::load)];

/// Loads a model with the architecture that it was installed as.
///
/// # Errors
/// An architecture that no row of [`REGISTRY`] has, or files that are missing or broken.
pub fn load(installed: &Installed, device: &Device) -> Result<Box<dyn Model<Vad>>, Error> {
    match REGISTRY.iter().find(|(name, _)| *name == installed.architecture) {
        Some((_, load)) => load(&installed.path, device),
        None => Err(Error::Architecture {
            name: installed.architecture.clone(),
            known: REGISTRY.iter().map(|(name, _)| *name).collect(),
        }),
    }
}
