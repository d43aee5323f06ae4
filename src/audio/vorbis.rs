//! A Vorbis setup header weighed before it is unpacked.
//!
//! A codebook of forty bytes may unpack to 16 MB, and a header may hold 256 of them: 4 GB from a file of
//! 10 kB. Files made by encoders unpack to less than 1 MB. So the header is read once without unpacking
//! (Vorbis I specification, section 3.2.1), and refused if its codebooks claim too much.

/// Most values in all codebooks of a stream together, four bytes each.
const MAX_VALUES: u64 = 4 << 20;
/// Bytes of the identification header that precedes the setup header in a track's private data.
const IDENT_LEN: usize = 30;

/// Whether the codebooks in a track's private data (identification and setup header) are of a believable
/// size. Data that is not understood passes: the decoder will refuse it.
pub(super) fn is_believable(private_data: &[u8]) -> bool {
    let Some(setup) = private_data.get(IDENT_LEN..).and_then(|s| s.strip_prefix(b"\x05vorbis")) else {
        return true;
    };
    let mut bits = Bits { bytes: setup, at: 0 };
    let Some(count) = bits.take(8) else { return true };
    let mut values = 0u64;
    for _ in 0..=count {
        match codebook_values(&mut bits) {
            Some(more) => values = values.saturating_add(more),
            None => break,
        }
        if values > MAX_VALUES {
            return false;
        }
    }
    true
}

/// Reads over one codebook: values it unpacks to, or `None` at its first contradiction.
fn codebook_values(bits: &mut Bits<'_>) -> Option<u64> {
    if bits.take(24)? != 0x56_43_42 {
        return None;
    }
    let dimensions = u64::from(bits.take(16)?);
    let entries = u64::from(bits.take(24)?);
    if bits.take(1)? == 1 {
        ordered_lengths(bits, entries)?;
    } else if bits.take(1)? == 1 {
        for _ in 0..entries {
            if bits.take(1)? == 1 {
                bits.skip(5)?;
            }
        }
    } else {
        bits.skip(entries.checked_mul(5)?)?;
    }
    let lookup = bits.take(4)?;
    if lookup == 0 {
        // Codewords only.
        return Some(entries);
    }
    bits.skip(64)?;
    let value_bits = u64::from(bits.take(4)?) + 1;
    bits.skip(1)?;
    let unpacked = entries.checked_mul(dimensions)?;
    let stored = match lookup {
        1 => largest_root(entries, dimensions),
        2 => unpacked,
        _ => return None,
    };
    bits.skip(stored.checked_mul(value_bits)?)?;
    Some(unpacked.max(entries))
}

fn ordered_lengths(bits: &mut Bits<'_>, entries: u64) -> Option<()> {
    bits.skip(5)?;
    let mut done = 0u64;
    while done < entries {
        let left = entries - done;
        let number = u64::from(bits.take(u64::BITS - left.leading_zeros())?);
        done += number;
    }
    (done == entries).then_some(())
}

/// The largest `n` with `n` to the power of `dimensions` at most `entries`.
fn largest_root(entries: u64, dimensions: u64) -> u64 {
    let exponent = u32::try_from(dimensions).unwrap_or(u32::MAX);
    let fits = |n: u64| n.checked_pow(exponent).is_some_and(|p| p <= entries);
    if exponent == 0 || entries == 0 {
        return 0;
    }
    let (mut low, mut high) = (1, entries);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

/// Bits from the lowest of each byte on, as Vorbis packs them.
struct Bits<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl Bits<'_> {
    /// The next `n` bits, at most 32.
    fn take(&mut self, n: u32) -> Option<u32> {
        let mut value = 0u64;
        for i in 0..u64::from(n.min(32)) {
            let at = self.at + i;
            let byte = self.bytes.get(usize::try_from(at / 8).ok()?)?;
            value |= u64::from(byte >> (at % 8) & 1) << i;
        }
        self.at += u64::from(n);
        u32::try_from(value).ok()
    }

    fn skip(&mut self, n: u64) -> Option<()> {
        self.at = self.at.checked_add(n)?;
        (self.at <= self.bytes.len() as u64 * 8).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(out: &mut Vec<bool>, value: u64, n: u32) {
        out.extend((0..n).map(|i| value >> i & 1 == 1));
    }

    /// `books` codebooks of 2^17 entries in 32 dimensions, each in under 50 bytes.
    fn bomb(books: u64) -> Vec<u8> {
        let mut bits = Vec::new();
        put(&mut bits, books - 1, 8);
        for _ in 0..books {
            put(&mut bits, 0x564342, 24);
            put(&mut bits, 32, 16);
            put(&mut bits, 1 << 17, 24);
            put(&mut bits, 1, 1); // ordered
            put(&mut bits, 16, 5); // length 17
            put(&mut bits, 1 << 17, 18);
            put(&mut bits, 1, 4); // lookup type 1
            put(&mut bits, 0, 64);
            put(&mut bits, 0, 4);
            put(&mut bits, 0, 1);
            put(&mut bits, 0, 1); // one value
        }
        let mut out = vec![0; IDENT_LEN];
        out.extend(b"\x05vorbis");
        out.extend(bits.chunks(8).map(|b| b.iter().rev().fold(0u8, |v, &bit| v << 1 | u8::from(bit))));
        out
    }

    #[test]
    fn weighs_codebooks_before_they_are_unpacked() {
        assert!(is_believable(&bomb(1)));
        assert!(!is_believable(&bomb(2)));
        assert!(!is_believable(&bomb(256)));
        for n in 0..200 {
            is_believable(&bomb(4)[..n]);
        }
    }

    #[test]
    fn roots() {
        assert_eq!(largest_root(1 << 17, 32), 1);
        assert_eq!(largest_root(6561, 8), 3);
        assert_eq!(largest_root(6560, 8), 2);
        assert_eq!(largest_root(5, 0), 0);
    }
}
