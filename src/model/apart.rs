//! How far apart what two devices computed is.

/// How far apart values are, in standard deviations of the first device's or as shares of the largest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Apart {
    /// The largest difference.
    pub worst: f64,
    /// The root of the mean square of all differences.
    pub typical: f64,
}

/// Sums over values that were compared.
#[derive(Debug, Default)]
pub struct Compared {
    worst: f64,
    /// Of differences, of values and of their squares.
    differences: f64,
    sum: f64,
    squares: f64,
    largest: f64,
    count: usize,
}

impl Compared {
    /// Compares what one device gave with what the other did, in the same order.
    pub fn add(&mut self, one: &[f32], other: &[f32]) {
        for (x, y) in one.iter().zip(other).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
            let apart = (x - y).abs();
            // What is no number is as far apart as can be.
            self.worst = if apart.is_nan() { f64::INFINITY } else { self.worst.max(apart) };
            self.differences += apart * apart;
            self.sum += x;
            self.squares += x * x;
            self.largest = self.largest.max(x.abs());
        }
        self.count += one.len();
        if one.len() != other.len() || one.is_empty() {
            self.worst = f64::INFINITY;
        }
    }

    /// Values that were compared.
    pub fn count(&self) -> f64 {
        self.count as f64
    }

    /// The standard deviation of the first device's values; never 0, as it is divided by.
    pub fn deviation(&self) -> f64 {
        let count = self.count.max(1) as f64;
        (self.squares / count - (self.sum / count).powi(2)).max(0.0).sqrt().max(1e-12)
    }

    /// How far apart they are, in these.
    pub fn deviations(&self) -> Apart {
        self.by(self.deviation())
    }

    /// How far apart they are, as shares of the first device's largest.
    pub fn shares(&self) -> Apart {
        self.by(self.largest.max(1e-12))
    }

    fn by(&self, unit: f64) -> Apart {
        let typical = (self.differences / self.count.max(1) as f64).sqrt();
        Apart { worst: self.worst / unit, typical: typical / unit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_not_the_same() {
        let mut compared = Compared::default();
        compared.add(&[1.0, 2.0], &[1.0, f32::NAN]);
        assert_eq!(compared.shares().worst, f64::INFINITY);
        let mut compared = Compared::default();
        compared.add(&[1.0, 3.0], &[1.0, 3.5]);
        assert_eq!(compared.deviations(), Apart { worst: 0.5, typical: 0.125f64.sqrt() });
        assert!((compared.shares().worst - 0.5 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_missing_is_not_the_same() {
        for (one, other) in [(&[1.0, 2.0][..], &[1.0][..]), (&[], &[])] {
            let mut compared = Compared::default();
            compared.add(one, other);
            assert_eq!(compared.deviations().worst, f64::INFINITY);
        }
    }
}
