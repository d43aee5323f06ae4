//! How contexts are stretched beyond those a model was trained on: changes to the angles of its rotary embedding.

use std::f64::consts::TAU;

use crate::ops::Angles;

/// What stretches a context.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    None,
    /// Every angle divided (Chen et al. 2023).
    Linear {
        factor: f64,
    },
    /// Slow pairs divided, fast ones kept, between them a ramp (Peng et al. 2023, YaRN).
    Yarn(Yarn),
    /// A divisor for each pair, from the model's file, and the magnitude: LongRoPE (Ding et al. 2024), and the models
    /// from Llama 3.1 on, whose divisors ramp over wavelengths.
    Factors {
        factors: Vec<f32>,
        magnitude: f64,
    },
}

/// The constants of YaRN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    /// Positions of the training.
    pub original: f64,
    /// Turns over `original` from which on a pair keeps its angle, and to which it is divided.
    pub fast: f64,
    pub slow: f64,
    /// What attention is to be multiplied with; `None` is the paper's `0.1 ln(factor) + 1`.
    pub magnitude: Option<f64>,
}

impl Scaling {
    /// The angles of `dims` dimensions of a head, from the base of their wavelengths.
    pub fn angles(&self, base: f64, dims: usize) -> Angles {
        let Angles { mut steps, mut magnitude } = Angles::plain(base, dims);
        match self {
            Scaling::None => {}
            Scaling::Linear { factor } => steps.iter_mut().for_each(|s| *s /= factor),
            Scaling::Yarn(yarn) => {
                magnitude = yarn.magnitude.unwrap_or_else(|| 0.1 * yarn.factor.max(1.0).ln() + 1.0);
                let ramp = yarn.ramp(base, dims);
                for (i, step) in steps.iter_mut().enumerate() {
                    let kept = 1.0 - ramp(i);
                    *step *= kept + (1.0 - kept) / yarn.factor;
                }
            }
            Scaling::Factors { factors, magnitude: m } => {
                magnitude = *m;
                steps.iter_mut().zip(factors).for_each(|(s, f)| *s /= f64::from(*f));
            }
        }
        Angles { steps, magnitude }
    }
}

impl Yarn {
    /// From 0 (keeps its angle) to 1 (divided) by pair.
    fn ramp(self, base: f64, dims: usize) -> impl Fn(usize) -> f64 {
        // The dimension whose pair turns so many times over the training's context.
        let dimension = |turns: f64| dims as f64 * (self.original / (turns * TAU)).ln() / (2.0 * base.ln());
        let low = dimension(self.fast).floor().max(0.0);
        let high = dimension(self.slow).ceil().min(dims as f64 - 1.0);
        move |i| ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0)
    }
}
