//! How long work reports itself, without saying where that is shown.

/// Told what a pull, a verification or an extraction is doing. One file is in work at a time.
pub trait Progress: Sync {
    /// Work on `label` begins: `done` of `total` bytes are there already. `None`: the size is not known.
    fn start(&self, label: &str, total: Option<u64>, done: u64);
    /// So many bytes more.
    fn advance(&self, bytes: u64);
    /// The work begun last has ended, well or not.
    fn finish(&self);
    /// A line for the reader: a source passed over, a wait, a file that is there already.
    fn note(&self, line: &str);
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _label: &str, _total: Option<u64>, _done: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn note(&self, _line: &str) {}
}

/// A size as people read it: three digits and a decimal unit.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    let places = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.places$} {}", UNITS.get(unit).copied().unwrap_or("TB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (9_999, "10.0 kB"),
            (98_362_432, "98.4 MB"),
            (999_950_000, "1.00 GB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }
}
