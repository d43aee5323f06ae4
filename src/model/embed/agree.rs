//! Whether two devices compute the same vectors of texts.

use candle_core::Device;

use crate::model::Error;
use crate::types::model::Installed;

/// How far apart they were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// The least cosine of a text's two vectors.
    pub cosine: f64,
    /// The largest distance of a text's two vectors, as a share of how far those of different texts are apart, typically.
    /// A cosine says little where a model makes all texts alike, as one with random weights may.
    pub worst: f64,
}

/// Tokens of the texts: one alone, and others in company.
const LENGTHS: [usize; 8] = [1, 2, 7, 16, 33, 64, 100, 126];

/// Computes the vectors of the same texts on both devices.
///
/// # Errors
/// A model that cannot be loaded; a device that fails.
pub fn agree(installed: &Installed, one: &Device, other: &Device) -> Result<Agreement, Error> {
    let (mut one, mut other) = (super::load(installed, one)?, super::load(installed, other)?);
    let vocabulary = one.front.tokenizer.tokenizer().get_vocab_size(true).max(1);
    let row = |(r, len): (usize, usize)| {
        let ids: Vec<u32> = (0..len).map(|p| ((p * 7919 + r * 104_729 + 11) % vocabulary) as u32).collect();
        one.front.tokenizer.frame(&ids)
    };
    let rows: Vec<Vec<u32>> = LENGTHS.into_iter().enumerate().map(row).collect::<Result<_, _>>()?;
    Ok(compare(&one.model.step(&rows)?, &other.model.step(&rows)?))
}

fn compare(one: &[Vec<f32>], other: &[Vec<f32>]) -> Agreement {
    let (mut cosine, mut worst) = (1.0f64, 0.0f64);
    for (a, b) in one.iter().zip(other) {
        let apart = distance(a, b);
        // What is no number is as far apart as can be. Of vectors of length 1 the distance gives the cosine, to more
        // digits than their product.
        worst = if apart.is_nan() { f64::INFINITY } else { worst.max(apart) };
        cosine = cosine.min(1.0 - worst.min(2.0).powi(2) / 2.0);
    }
    let pairs = one.iter().enumerate().flat_map(|(i, a)| one.iter().take(i).map(move |b| distance(a, b)));
    let (sum, count) = pairs.fold((0.0, 0.0), |(sum, count), apart| (sum + apart, count + 1.0));
    Agreement { cosine, worst: worst / f64::max(sum / f64::max(count, 1.0), 1e-12) }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::embed::testing::installed;
    use crate::model::weights::synthetic_bert::{self, TINY, TINY_NARROW};
    use crate::ops::testing::composed;
    use crate::types::model::{Format, Kind};

    #[test]
    fn a_device_agrees_with_itself_and_nearly_with_compositions() {
        let dir = tempfile::tempdir().unwrap();
        for shape in [TINY, TINY_NARROW] {
            synthetic_bert::write(&shape, dir.path(), 1).unwrap();
            let model = installed(dir.path(), Format::Safetensors, Kind::Embed);
            let found = agree(&model, &Device::Cpu, &Device::Cpu).unwrap();
            assert_eq!(found, Agreement { cosine: 1.0, worst: 0.0 }, "{}", shape.name);
            let rows: Vec<Vec<u32>> = LENGTHS.iter().map(|&len| (200..200 + len as u32).collect()).collect();
            let run = || super::super::load(&model, &Device::Cpu).unwrap().model.step(&rows).unwrap();
            let found = compare(&run(), &composed(run));
            assert!(found.worst > 0.0 && found.worst < 1e-3 && found.cosine > 0.999_999, "{found:?}");
        }
    }

    #[test]
    fn what_differs_is_seen() {
        let (a, b) = (vec![1.0, 0.0], vec![0.0, 1.0]);
        let found = compare(&[a.clone(), b.clone()], &[a.clone(), a.clone()]);
        assert!((found.worst - 1.0).abs() < 1e-6 && found.cosine.abs() < 1e-6, "{found:?}");
        assert_eq!(compare(&[a.clone(), b.clone()], &[a, vec![f32::NAN; 2]]).worst, f64::INFINITY);
    }
}
