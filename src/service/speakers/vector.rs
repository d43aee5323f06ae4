//! Vectors of voices: of length 1, written as base64, averaged.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A vector, in JSON the base64 of its values as little-endian f32.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Vector(pub Vec<f32>);

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|value| value.to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vector, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        let (values, rest) = bytes.as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        match rest.is_empty() && values.iter().all(|value| value.is_finite()) {
            true => Ok(Vector(values)),
            false => Err(D::Error::custom("a vector that is none")),
        }
    }
}

/// The vector of length 1 of the same direction; `None`: it has none.
pub(super) fn unit(values: &[f32]) -> Option<Vec<f32>> {
    let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let usable = length.is_finite() && length > 1e-9;
    usable.then(|| values.iter().map(|value| (f64::from(*value) / length) as f32).collect())
}

/// The direction of the mean of vectors of length 1, each as heavy as its weight; of those that cancel each other out,
/// the first.
pub(super) fn centroid<'a>(vectors: impl Iterator<Item = (&'a [f32], f64)>) -> Vec<f32> {
    let (mut sum, mut first): (Vec<f32>, Option<&[f32]>) = (Vec::new(), None);
    for (vector, weight) in vectors {
        first = first.or(Some(vector));
        sum.resize(vector.len().max(sum.len()), 0.0);
        for (sum, value) in sum.iter_mut().zip(vector) {
            *sum += *value * weight as f32;
        }
    }
    unit(&sum).or_else(|| first.map(<[f32]>::to_vec)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_written_and_read() {
        let vector = Vector(vec![1.0, -0.5, f32::MIN_POSITIVE]);
        let text = serde_json::to_string(&vector).unwrap();
        assert_eq!(serde_json::from_str::<Vector>(&text).unwrap(), vector);
        assert_eq!(serde_json::to_string(&Vector(vec![1.0])).unwrap(), "\"AACAPw==\"");
        for wrong in ["\"AAA=\"", "\"!\"", "\"AADAfw==\"", "3"] {
            assert!(serde_json::from_str::<Vector>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_centroid_leans_to_what_is_heavier() {
        let (x, y) = ([1.0, 0.0], [0.0, 1.0]);
        let of = |weights: [f64; 2]| centroid([(&x[..], weights[0]), (&y[..], weights[1])].into_iter());
        let even = of([2.0, 2.0]);
        assert!((even[0] - even[1]).abs() < 1e-6 && (even[0] - 0.5f32.sqrt()).abs() < 1e-6);
        assert!(of([3.0, 1.0])[0] > 0.9);
        assert_eq!(centroid([(&x[..], 1.0), (&[-1.0, 0.0][..], 1.0)].into_iter()), x);
        assert_eq!(unit(&[0.0, 0.0]), None);
        assert_eq!(unit(&[f32::NAN]), None);
    }
}
