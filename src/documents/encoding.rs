//! Bytes to characters where nothing but the bytes tells the encoding.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

/// UTF-8, UTF-16 with a byte order mark, else windows-1252: a text of the West from before UTF-8 is read right, and
/// any other is not lost.
pub(super) fn decode(bytes: &[u8]) -> Cow<'_, str> {
    decode_as(bytes, None)
}

/// [`decode`] where the file, or who sent it, names an encoding: that is believed after a byte order mark, and where
/// the bytes are no UTF-8.
pub(super) fn decode_as<'a>(bytes: &'a [u8], label: Option<&str>) -> Cow<'a, str> {
    if let Some((encoding, mark)) = Encoding::for_bom(bytes) {
        return encoding.decode_without_bom_handling(bytes.get(mark..).unwrap_or_default()).0;
    }
    let named = label.and_then(|label| Encoding::for_label(label.trim().as_bytes()));
    if let Some(encoding) = named.filter(|encoding| *encoding != UTF_8) {
        // ISO-2022-JP is bytes below 128 too.
        if !encoding.is_single_byte() || !is_utf8(bytes) {
            return encoding.decode_without_bom_handling(bytes).0;
        }
    }
    if is_utf8(bytes) {
        return String::from_utf8_lossy(bytes);
    }
    WINDOWS_1252.decode_without_bom_handling(bytes).0
}

/// UTF-8 but for a few faults: a file that a program cut in a character, or that was mixed up, is still that.
fn is_utf8(bytes: &[u8]) -> bool {
    let (mut good, mut bad) = (0_usize, 0_usize);
    for chunk in bytes.utf8_chunks() {
        good += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    bad == 0 || good > 10 * bad
}

/// Whether the bytes may be text: with a byte order mark, or hardly any that text has not.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    /// Enough to tell.
    const HEAD: usize = 64 << 10;
    if Encoding::for_bom(bytes).is_some() {
        return true;
    }
    let head = bytes.get(..HEAD.min(bytes.len())).unwrap_or_default();
    let odd = head.iter().filter(|byte| matches!(byte, 0..=8 | 14..=26 | 28..=31 | 127)).count();
    odd * 100 <= head.len()
}
