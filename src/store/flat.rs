//! Vectors as they were given, a row each: what exact scores are computed from.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::ops::dot;

/// The product of two vectors; of two of length 1 the cosine of their angle.
pub use crate::ops::dot::dot;

/// Rows of one length.
#[derive(Debug)]
pub struct Flat {
    dim: usize,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Flat {
    /// No rows yet, kept in f32.
    pub fn f32(dim: usize) -> Flat {
        Flat { dim, rows: Rows::F32(Vec::new()) }
    }

    /// No rows yet, kept in halves.
    pub fn f16(dim: usize) -> Flat {
        Flat { dim, rows: Rows::F16(Vec::new()) }
    }

    /// Makes a row this, which is as long as the others: false where it is not. Rows before it that were not set are
    /// zeros.
    pub fn set(&mut self, row: u32, values: &[f32]) -> bool {
        if values.len() != self.dim {
            return false;
        }
        let at = row as usize * self.dim..(row as usize + 1) * self.dim;
        match &mut self.rows {
            Rows::F32(rows) => {
                rows.resize(rows.len().max(at.end), 0.0);
                rows[at].copy_from_slice(values);
            }
            Rows::F16(rows) => {
                rows.resize(rows.len().max(at.end), f16::ZERO);
                rows[at].convert_from_f32_slice(values);
            }
        }
        true
    }

    /// The distance of a vector and a row, squared; `None` where it is not there.
    pub fn distance(&self, vector: &[f32], row: u32) -> Option<f32> {
        let at = row as usize * self.dim..(row as usize + 1) * self.dim;
        match &self.rows {
            Rows::F32(rows) => rows.get(at).map(|row| squares(vector, row)),
            Rows::F16(rows) => {
                let mut wide = vec![0.0; self.dim];
                rows.get(at)?.convert_to_f32_slice(&mut wide);
                Some(squares(vector, &wide))
            }
        }
    }

    /// The product of a vector and a row; `None` where it is not there.
    pub fn dot(&self, vector: &[f32], row: u32) -> Option<f32> {
        let at = row as usize * self.dim..(row as usize + 1) * self.dim;
        match &self.rows {
            Rows::F32(rows) => rows.get(at).map(|row| dot::dot(vector, row)),
            Rows::F16(rows) => rows.get(at).map(|row| dot::dot_f16(vector, row)),
        }
    }

    /// Bytes that the rows take.
    pub fn bytes(&self) -> usize {
        match &self.rows {
            Rows::F32(rows) => size_of_val(rows.as_slice()),
            Rows::F16(rows) => size_of_val(rows.as_slice()),
        }
    }
}

/// The distance of two vectors, squared, in sums that the compiler makes whole vectors of.
pub fn squares(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += (a - b) * (a - b);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_both_forms() {
        for mut flat in [Flat::f32(3), Flat::f16(3)] {
            assert!(flat.set(1, &[0.5, 0.0, -1.0]) && flat.set(0, &[1.0, 2.0, 3.0]) && !flat.set(0, &[1.0]));
            assert_eq!((flat.distance(&[1.0; 3], 0), flat.distance(&[0.0; 3], 2)), (Some(5.0), None));
            assert_eq!(
                (flat.dot(&[1.0; 3], 0), flat.dot(&[2.0; 3], 1), flat.dot(&[1.0; 3], 2)),
                (Some(6.0), Some(-1.0), None)
            );
            assert!(flat.bytes() == 24 || flat.bytes() == 12);
        }
    }
}
