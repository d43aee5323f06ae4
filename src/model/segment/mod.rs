//! Segmentation models: a window of sound in, who of a few speakers is heard in each of its frames out.
//!
//! Speakers of a window have no names: the first of one window need not be that of the next. What becomes of many windows
//! is the caller's part, which holds no tensors.

pub mod pyannet;

use std::sync::Arc;

use candle_core::Device;

use super::weights::{self, Checkpoint};
use super::{Model, Network, Size};
use crate::ops::par;
use crate::types::model::{Footprint, Installed};

/// No sum of a network overflows on such a sample; recordings are within 1.
const LOUDEST: f32 = 1e6;

/// Why a segmentation model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error("no segmentation model named {name}: {} are known", known.join(", "))]
    Architecture { name: String, known: Vec<&'static str> },
    #[error("a window has {wanted} samples, not {samples}")]
    Samples { samples: usize, wanted: usize },
    #[error("sample {at} is {value}: samples are numbers, within 1 of 0 where nothing is clipped")]
    Sample { at: usize, value: f32 },
    #[error("the device failed: {0}")]
    Device(#[from] candle_core::Error),
}

/// The network kind of this module.
#[derive(Debug)]
pub struct Segment;

impl Network for Segment {
    /// Windows of [`Front::samples`] at 16 kHz.
    type Batch = Vec<Arc<[f32]>>;
    /// For every frame of a window the log-probability of each of [`Front::classes`], `(frames, classes)` in a row.
    type Output = Vec<Vec<f32>>;
}

/// What callers need of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    /// Of a window.
    pub samples: usize,
    /// Of a window.
    pub frames: usize,
    /// Samples from one frame to the next.
    pub hop: usize,
    /// Samples from the beginning of a window to the middle of its first frame.
    pub first: usize,
    /// Speakers that a window tells apart.
    pub speakers: usize,
    /// Who is heard, a class each: bit `i` is speaker `i`.
    pub classes: &'static [u8],
}

/// A model and what its callers must know.
pub struct Loaded {
    pub model: Box<dyn Model<Segment>>,
    pub front: Front,
}

/// A network of one architecture.
pub trait Listener: Send + Sync {
    /// The log-probabilities of windows of the right length.
    ///
    /// # Errors
    /// A device that fails.
    fn hear(&self, windows: &[Arc<[f32]>]) -> candle_core::Result<Vec<Vec<f32>>>;

    /// Bytes that it holds.
    fn bytes(&self) -> usize;
}

/// Loads an open checkpoint onto a device.
pub type Load = fn(&Checkpoint, &Device) -> Result<Box<dyn Listener>, Error>;

/// One architecture.
pub struct Architecture {
    pub name: &'static str,
    pub load: Load,
    pub front: Front,
    /// Bytes that a step takes besides weights for each 10 ms, on a CPU and on a GPU.
    pub frame_bytes: [u64; 2],
}

/// Every architecture, a row each.
pub const REGISTRY: &[Architecture] = &[Architecture {
    name: "pyannet",
    load: pyannet::load,
    front: pyannet::FRONT,
    frame_bytes: pyannet::FRAME_BYTES,
}];

/// Whether there is such an architecture.
pub fn runs(architecture: &str) -> bool {
    REGISTRY.iter().any(|row| row.name == architecture)
}

/// What a model will take once it is loaded.
///
/// # Errors
/// An architecture that no row of [`REGISTRY`] has.
pub fn footprint(installed: &Installed, largest: Size) -> Result<Footprint, Error> {
    let step = largest.bytes(architecture(installed)?.frame_bytes);
    Ok(Footprint { weights: installed.bytes, cache: 0, step })
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
    let listener = (row.load)(&Checkpoint::open(installed)?, device)?;
    let model = Windows { listener, samples: row.front.samples, frame_bytes: row.frame_bytes };
    Ok(Loaded { model: Box::new(model), front: row.front.clone() })
}

/// A loaded model.
struct Windows {
    listener: Box<dyn Listener>,
    samples: usize,
    frame_bytes: [u64; 2],
}

impl Windows {
    fn check(&self, window: &[f32]) -> Result<(), Error> {
        if window.len() != self.samples {
            return Err(Error::Samples { samples: window.len(), wanted: self.samples });
        }
        // NaN is within nothing.
        match window.iter().position(|s| !(-LOUDEST..=LOUDEST).contains(s)) {
            Some(at) => Err(Error::Sample { at, value: window[at] }),
            None => Ok(()),
        }
    }
}

impl Model<Segment> for Windows {
    fn step(&mut self, batch: &Vec<Arc<[f32]>>) -> Result<Vec<Vec<f32>>, super::Error> {
        batch.iter().try_for_each(|window| self.check(window))?;
        // A part a core: each goes through all layers while it is in that core's cache.
        let parts: Vec<&[Arc<[f32]>]> = batch.chunks(batch.len().div_ceil(par::threads()).max(1)).collect();
        let listener = &*self.listener;
        let mut all = Vec::with_capacity(batch.len());
        for part in par::map(parts, |part| listener.hear(part)) {
            all.extend(part.map_err(Error::from)?);
        }
        Ok(all)
    }

    fn footprint(&self, largest: Size) -> Footprint {
        Footprint { weights: self.listener.bytes() as u64, cache: 0, step: largest.bytes(self.frame_bytes) }
    }
}
