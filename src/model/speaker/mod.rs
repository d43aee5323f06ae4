//! Speaker models: frames of a voice in, one vector of length 1 out, near those of the same voice.
//!
//! | file | does |
//! |---|---|
//! | `layers` | what the architectures have in common: trained normalisations, folded into what is before them |
//! | `residual` | ResNet's block, of which two of them are made |
//! | `campplus` | CAM++ of 3D-Speaker |
//! | `ecapa` | ECAPA-TDNN of SpeechBrain |
//! | `resnet` | ResNet34 of WeSpeaker |
//!
//! Rows are of any lengths and computed side by side, each by itself: a row's vector does not depend on the rows that it
//! is computed with.

pub mod campplus;
pub mod ecapa;
mod layers;
mod residual;
pub mod resnet;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

use super::weights::{self, Checkpoint};
use super::{Model, Network, Size};
use crate::ops::par;
use crate::ops::pool::unit;
use crate::types::model::{Footprint, Installed};
use crate::types::speaker::{Features, Window};

/// Mel bins of a frame.
pub const BINS: usize = 80;
/// The longest row, in frames of 10 ms: a minute. What is longer is cut by whoever asks.
pub const MAX_FRAMES: usize = 6000;
/// No sum of the networks overflows on such an energy; logarithms of sounds are within 30.
const LARGEST: f32 = 1e4;

/// Why a speaker model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error("no speaker model named {name}: {} are known", known.join(", "))]
    Architecture { name: String, known: Vec<&'static str> },
    #[error("{values} values are no whole frames of {BINS} bins, at least {least} and at most {MAX_FRAMES}")]
    Frames { values: usize, least: usize },
    #[error("frame {frame} has the value {value}: energies are numbers")]
    Value { frame: usize, value: f32 },
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

/// The network kind of this module.
#[derive(Debug)]
pub struct Speaker;

impl Network for Speaker {
    /// Log energies of a voice each: whole frames of [`BINS`], as [`Front::features`] says, without anything taken
    /// from them.
    type Batch = Vec<Arc<[f32]>>;
    /// One vector of length 1 a row, in order.
    type Output = Vec<Vec<f32>>;
}

/// What callers need of a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct Front {
    /// What its frames are.
    pub features: Features,
    /// The fewest frames of a row.
    pub least_frames: usize,
    /// Length of a vector.
    pub dimensions: usize,
    /// Of its last layer: other weights are another model, whose vectors are of another space.
    pub version: String,
    /// How its vectors are judged.
    pub scale: Scale,
}

/// What cosines between a model's vectors mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Two voices at least as alike are held for one person's.
    pub threshold: f32,
    /// Mean and standard deviation of the cosines of different people's voices.
    pub strangers: (f32, f32),
    /// Voices within one recording at least as alike are one speaker's.
    pub merge: f32,
}

/// A model and what its callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Speaker>>,
    pub front: Front,
}

/// A network of one architecture: a voice's frames to its vector, of any length.
pub trait Encoder: Send + Sync {
    /// Computes `(frames, BINS)`, without their mean, to `(1, dimensions)`.
    ///
    /// # Errors
    /// A device that fails.
    fn encode(&self, frames: &Tensor) -> candle_core::Result<Tensor>;

    /// Bytes that it holds.
    fn bytes(&self) -> usize;
}

/// What an architecture makes of a model's files.
pub struct Built {
    pub encoder: Box<dyn Encoder>,
    /// Its last weights, for [`Front::version`].
    pub last: Tensor,
}

/// One architecture.
pub struct Architecture {
    pub name: &'static str,
    pub load: fn(&Checkpoint, &Device) -> Result<Built, Error>,
    pub features: Features,
    pub least_frames: usize,
    pub scale: Scale,
    /// Bytes that a step takes besides weights for each frame, on a CPU and on a GPU.
    pub frame_bytes: [u64; 2],
}

/// Every architecture, a row each.
pub const REGISTRY: &[Architecture] = &[
    Architecture {
        name: "campplus",
        load: campplus::load,
        features: Features::Kaldi { window: Window::Povey, scale: 1.0 },
        least_frames: 10,
        // Measured on people who read aloud (benches/README.md): cosines of one person are 0.61 and up, of two 0.39 and
        // down; and on made conversations, where `merge` is right from 0.46 to 0.56.
        scale: Scale { threshold: 0.50, strangers: (0.12, 0.11), merge: 0.50 },
        frame_bytes: campplus::FRAME_BYTES,
    },
    // Not measured here. SpeechBrain holds two voices for one from 0.25 on (`SpeakerRecognition`), which is asked of one
    // pair; a voice among many must be surer. The rest is supposed to lie as it does for CAM++: all are trained by an
    // additive angular margin.
    Architecture {
        name: "ecapa-tdnn",
        load: ecapa::load,
        features: Features::SpeechBrain,
        least_frames: ecapa::LEAST_FRAMES,
        scale: Scale { threshold: 0.35, strangers: (0.06, 0.1), merge: 0.50 },
        frame_bytes: ecapa::FRAME_BYTES,
    },
    // Not measured here either, and supposed as for ECAPA.
    Architecture {
        name: "resnet34",
        load: resnet::load,
        features: Features::Kaldi { window: Window::Hamming, scale: 32_768.0 },
        // Of which two are left after three halvings: one has no deviation.
        least_frames: 10,
        scale: Scale { threshold: 0.45, strangers: (0.06, 0.1), merge: 0.50 },
        frame_bytes: resnet::FRAME_BYTES,
    },
];

/// Whether there is such an architecture.
pub fn runs(architecture: &str) -> bool {
    REGISTRY.iter().any(|row| row.name == architecture)
}

/// What a model will take once it is loaded.
///
/// # Errors
/// An architecture that no row of [`REGISTRY`] has.
pub fn footprint(installed: &Installed, largest: Size) -> Result<Footprint, Error> {
    let step = step_bytes(architecture(installed)?.frame_bytes, largest);
    Ok(Footprint { weights: installed.bytes, cache: 0, step })
}

/// A step may be of one voice that is longer than its scheduler would have it.
fn step_bytes(a_frame: [u64; 2], largest: Size) -> u64 {
    Size { units: largest.units.max(MAX_FRAMES), ..largest }.bytes(a_frame)
}

fn architecture(installed: &Installed) -> Result<&'static Architecture, Error> {
    REGISTRY.iter().find(|row| row.name == installed.architecture).ok_or_else(|| {
        let known = REGISTRY.iter().map(|row| row.name).collect();
        Error::Architecture { name: installed.architecture.clone(), known }
    })
}

/// Loads a model with the architecture that it was installed as.
///
/// # Errors
/// An architecture that no row of [`REGISTRY`] has, or files that are missing or broken.
pub fn load(installed: &Installed, device: &Device) -> Result<Loaded, Error> {
    let row = architecture(installed)?;
    let Built { encoder, last } = (row.load)(&Checkpoint::open(installed)?, device)?;
    let front = Front {
        features: row.features,
        least_frames: row.least_frames,
        dimensions: last.dim(0)?,
        version: version(&last)?,
        scale: row.scale,
    };
    let model = Voices {
        encoder,
        least_frames: row.least_frames,
        frame_bytes: row.frame_bytes,
        device: device.clone(),
    };
    Ok(Loaded { model: Box::new(model), front })
}

fn version(weights: &Tensor) -> Result<String, Error> {
    let mut hash = Sha256::new();
    for value in weights.flatten_all()?.to_vec1::<f32>()? {
        hash.update(value.to_le_bytes());
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// A row's vector.
type Embedded = Result<Vec<f32>, Error>;

/// A loaded model.
struct Voices {
    encoder: Box<dyn Encoder>,
    least_frames: usize,
    frame_bytes: [u64; 2],
    device: Device,
}

impl Voices {
    fn check(&self, row: &[f32]) -> Result<(), Error> {
        let frames = row.len() / BINS;
        if !row.len().is_multiple_of(BINS) || frames < self.least_frames || frames > MAX_FRAMES {
            return Err(Error::Frames { values: row.len(), least: self.least_frames });
        }
        // NaN is within nothing.
        match row.iter().position(|v| !(-LARGEST..=LARGEST).contains(v)) {
            Some(at) => Err(Error::Value { frame: at / BINS, value: row[at] }),
            None => Ok(()),
        }
    }

    fn embed(&self, row: &[f32]) -> Embedded {
        let frames = Tensor::from_slice(&centred(row), (row.len() / BINS, BINS), &self.device)?;
        Ok(unit(self.encoder.encode(&frames)?.flatten_all()?.to_vec1::<f32>()?))
    }
}

impl Model<Speaker> for Voices {
    fn step(&mut self, batch: &Vec<Arc<[f32]>>) -> Result<Vec<Vec<f32>>, super::Error> {
        batch.iter().try_for_each(|row| self.check(row))?;
        let this = &*self;
        // The longest first, so that no core is left alone with one at the end.
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(batch[at].len()));
        let found = par::map(order.clone(), |at| this.embed(&batch[at]));
        let mut vectors = vec![Vec::new(); batch.len()];
        for (at, vector) in order.into_iter().zip(found) {
            vectors[at] = vector?;
        }
        Ok(vectors)
    }

    fn footprint(&self, largest: Size) -> Footprint {
        Footprint {
            weights: self.encoder.bytes() as u64,
            cache: 0,
            step: step_bytes(self.frame_bytes, largest),
        }
    }
}

/// Frames without the mean of each bin.
fn centred(row: &[f32]) -> Vec<f32> {
    let mut means = [0f64; BINS];
    for frame in row.chunks_exact(BINS) {
        means.iter_mut().zip(frame).for_each(|(mean, value)| *mean += f64::from(*value));
    }
    let frames = (row.len() / BINS).max(1) as f64;
    let means = means.map(|sum| (sum / frames) as f32);
    row.chunks_exact(BINS).flat_map(|frame| frame.iter().zip(&means).map(|(v, m)| v - m)).collect()
}
