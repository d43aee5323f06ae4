//! What a file is: by its content where that tells, else by its name, else by its MIME type.

use std::fmt;
use std::str::FromStr;

use super::archive::{self, Container};
use super::encoding;
use super::{Error, mail};

/// A format that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Text,
    Markdown,
    Html,
    Pdf,
    Docx,
    Odt,
    Xlsx,
    /// With any separator.
    Csv,
    Mail,
}

/// Kind, MIME type, extensions, other MIME types. The first extension is the usual one.
const KINDS: [(Kind, &str, &[&str], &[&str]); 9] = [
    (Kind::Text, "text/plain", &["txt", "text", "log"], &[]),
    (Kind::Markdown, "text/markdown", &["md", "markdown", "mdown", "mkd"], &["text/x-markdown"]),
    (Kind::Html, "text/html", &["html", "htm", "xhtml"], &["application/xhtml+xml"]),
    (Kind::Pdf, "application/pdf", &["pdf"], &["application/x-pdf"]),
    (
        Kind::Docx,
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        &["docx", "docm", "dotx", "dotm"],
        &["application/vnd.ms-word.document.macroenabled.12"],
    ),
    (Kind::Odt, "application/vnd.oasis.opendocument.text", &["odt", "ott"], &[]),
    (
        Kind::Xlsx,
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        &["xlsx", "xlsm", "xltx", "xltm"],
        &["application/vnd.ms-excel.sheet.macroenabled.12"],
    ),
    (Kind::Csv, "text/csv", &["csv", "tsv", "tab"], &["text/tab-separated-values", "application/csv"]),
    (Kind::Mail, "message/rfc822", &["eml", "mht", "mhtml"], &["message/global"]),
];

/// First bytes and what has them: pictures.
const PICTURES: [(&[u8], &str); 9] = [
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"8BPS", "psd"),
    (b"\0\0\x01\0", "ico"),
    (b"\0\0\0\x0cjP  ", "jpeg 2000"),
];

/// First bytes and what has them: files whose bytes could be taken for text, or that are sent by mistake.
const OTHERS: [(&[u8], &str); 14] = [
    (b"{\\rtf", "an rtf file"),
    (b"%!PS", "a PostScript file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\0", "a program"),
    (b"ID3", "a sound file"),
    (b"OggS", "a sound file"),
    (b"fLaC", "a sound file"),
    (b"SQLite format 3\0", "a database"),
];

impl Kind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Kind> {
        KINDS.iter().map(|row| row.0)
    }

    /// The usual MIME type.
    pub fn mime(self) -> &'static str {
        self.row().1
    }

    /// All its extensions, without dots.
    pub fn extensions(self) -> &'static [&'static str] {
        self.row().2
    }

    /// The usual extension, without a dot.
    pub fn extension(self) -> &'static str {
        self.row().2.first().copied().unwrap_or_default()
    }

    fn row(self) -> &'static (Kind, &'static str, &'static [&'static str], &'static [&'static str]) {
        KINDS.iter().find(|row| row.0 == self).unwrap_or(&KINDS[0])
    }

    /// By the extension of a name.
    pub fn of_name(name: &str) -> Option<Kind> {
        let (_, extension) = name.rsplit_once('.')?;
        let extension = extension.trim().to_ascii_lowercase();
        KINDS.iter().find(|row| row.2.contains(&extension.as_str())).map(|row| row.0)
    }

    /// By a MIME type, with or without parameters.
    pub fn of_mime(mime: &str) -> Option<Kind> {
        let mime = mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        KINDS.iter().find(|row| row.1 == mime || row.3.contains(&mime.as_str())).map(|row| row.0)
    }

    /// The kind of a file.
    ///
    /// # Errors
    /// It is none that is read, or one that is but for a password.
    pub fn detect(name: &str, mime: Option<&str>, bytes: &[u8]) -> Result<Kind, Error> {
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        if let Some(what) = picture(bytes) {
            return Err(Error::Picture { what });
        }
        let named = Kind::of_name(name).or_else(|| mime.and_then(Kind::of_mime));
        // Some programs put up to a kilobyte before a pdf file's magic; an earlier one is what mail may quote.
        let head = bytes.get(..1024.min(bytes.len())).unwrap_or_default();
        if bytes.starts_with(b"%PDF-") || (named == Some(Kind::Pdf) && find(head, b"%PDF-").is_some()) {
            return Ok(Kind::Pdf);
        }
        match archive::container(bytes) {
            Some(Container::Kind(kind)) => return Ok(kind),
            Some(Container::Old(what, instead)) => return Err(Error::OldOffice { what, instead }),
            Some(Container::Password(what)) => return Err(Error::Password { what }),
            Some(Container::Damaged) if matches!(named, Some(Kind::Docx | Kind::Odt | Kind::Xlsx)) => {
                return Err(Error::broken(
                    named.unwrap_or(Kind::Docx),
                    "its table of contents",
                    "no zip archive",
                ));
            }
            Some(Container::Damaged) => return Err(unknown("a damaged zip archive")),
            Some(Container::Other(what)) => return Err(unknown(what)),
            None => {}
        }
        if let Some((_, what)) = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            return Err(unknown(what));
        }
        Kind::of_text(named, name, bytes)
    }

    /// Of a file that holds nothing that only a binary file has in front.
    fn of_text(named: Option<Kind>, name: &str, bytes: &[u8]) -> Result<Kind, Error> {
        match named {
            Some(kind @ (Kind::Pdf | Kind::Docx | Kind::Odt | Kind::Xlsx)) => {
                let detail = format!("its content is not that of a {kind} file");
                Err(Error::broken(kind, "its beginning", detail))
            }
            // Its attachments may be anything.
            None | Some(Kind::Mail) if mail::is_mail(bytes) => Ok(Kind::Mail),
            _ if !encoding::is_text(bytes) => Err(unknown("binary data of a kind that is not known")),
            // Senders call any text plain.
            Some(Kind::Text) if Kind::of_name(name).is_some() => Ok(Kind::Text),
            Some(kind) if kind != Kind::Text => Ok(kind),
            _ if is_html(bytes) => Ok(Kind::Html),
            _ if mail::is_mail(bytes) => Ok(Kind::Mail),
            _ => Ok(Kind::Text),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

impl FromStr for Kind {
    type Err = Error;

    /// Of a MIME type, an extension or a name with one.
    fn from_str(text: &str) -> Result<Self, Error> {
        Kind::of_mime(text)
            .or_else(|| Kind::of_name(text))
            .or_else(|| Kind::of_name(&format!(".{text}")))
            .ok_or_else(|| unknown("of a kind that is not known"))
    }
}

fn unknown(what: &str) -> Error {
    Error::Unknown { what: what.to_owned() }
}

fn picture(bytes: &[u8]) -> Option<&'static str> {
    if let Some((_, what)) = PICTURES.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(what);
    }
    match (bytes.get(..4)?, bytes.get(4..12)?) {
        (b"RIFF", [_, _, _, _, b'W', b'E', b'B', b'P']) => Some("webp"),
        (_, [b'f', b't', b'y', b'p', b'h', b'e', ..] | [b'f', b't', b'y', b'p', b'm', b'i', b'f', b'1']) => {
            Some("heic")
        }
        (_, [b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f']) => Some("avif"),
        // The length in the header tells a bitmap from a text that begins with these letters.
        ([b'B', b'M', ..], [_, _, 0, 0, 0, 0, ..]) => Some("bmp"),
        _ => None,
    }
}

fn is_html(bytes: &[u8]) -> bool {
    let head = encoding::decode(bytes.get(..1024.min(bytes.len())).unwrap_or_default());
    let head = head.trim_start().to_ascii_lowercase();
    let head = head
        .strip_prefix("<?xml")
        .and_then(|rest| rest.split_once("?>"))
        .map_or(head.as_str(), |(_, rest)| rest.trim_start());
    ["<!doctype html", "<html", "<head", "<body"].iter().any(|start| head.starts_with(start))
}

/// Where `needle` is first.
pub(super) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}
