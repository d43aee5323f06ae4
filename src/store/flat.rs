//! Vectors as they were given, a row each: what exact scores are computed from.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::ops::dot;

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

    /// Adds a row, as long as the others; false where it is not.
    pub fn push(&mut self, row: &[f32]) -> bool {
        if row.len() != self.dim {
            return false;
        }
        match &mut self.rows {
            Rows::F32(rows) => rows.extend_from_slice(row),
            Rows::F16(rows) => {
                let from = rows.len();
                rows.resize(from + row.len(), f16::ZERO);
                rows[from..].convert_from_f32_slice(row);
            }
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_both_forms() {
        for mut flat in [Flat::f32(3), Flat::f16(3)] {
            assert!(flat.push(&[1.0, 2.0, 3.0]) && flat.push(&[0.5, 0.0, -1.0]) && !flat.push(&[1.0]));
            assert_eq!(
                (flat.dot(&[1.0; 3], 0), flat.dot(&[2.0; 3], 1), flat.dot(&[1.0; 3], 2)),
                (Some(6.0), Some(-1.0), None)
            );
            assert!(flat.bytes() == 24 || flat.bytes() == 12);
        }
    }
}
