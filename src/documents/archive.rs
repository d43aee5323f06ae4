//! Files that hold files: zip archives, and Microsoft's compound files as far as to say what they are.

use std::io::{Cursor, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use super::budget::{Budget, guarded};
use super::{Error, Kind, encoding};

/// What a container holds.
pub(super) enum Container {
    Kind(Kind),
    /// An old format, and what to save it as.
    Old(&'static str, &'static str),
    /// Nobody reads it without a password.
    Password(&'static str),
    Other(&'static str),
    Damaged,
}

/// Names of streams of a compound file, and what has them.
const STREAMS: [(&str, Container); 7] = [
    ("EncryptedPackage", Container::Password("Office")),
    ("WordDocument", Container::Old("doc", "docx")),
    ("Workbook", Container::Old("xls", "xlsx")),
    ("Book", Container::Old("xls", "xlsx")),
    ("PowerPoint Document", Container::Old("ppt", "pdf")),
    ("VisioDocument", Container::Old("vsd", "pdf")),
    ("__properties_version1.0", Container::Other("an Outlook message (msg; save it as eml)")),
];

/// What OpenDocument and EPUB write into their member `mimetype`.
const MIMETYPES: [(&str, Container); 5] = [
    ("application/vnd.oasis.opendocument.text", Container::Kind(Kind::Odt)),
    (
        "application/vnd.oasis.opendocument.spreadsheet",
        Container::Other("an ods spreadsheet (save it as xlsx)"),
    ),
    (
        "application/vnd.oasis.opendocument.presentation",
        Container::Other("an odp presentation (save it as pdf)"),
    ),
    (
        "application/vnd.oasis.opendocument",
        Container::Other("an OpenDocument file that holds no text document"),
    ),
    ("application/epub+zip", Container::Other("an epub book")),
];

/// Says what a zip archive or compound file is; nothing if it is neither.
pub(super) fn container(bytes: &[u8]) -> Option<Container> {
    if bytes.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        return Some(compound(bytes));
    }
    if !bytes.starts_with(b"PK\x03\x04") && !bytes.starts_with(b"PK\x05\x06") {
        return None;
    }
    let container = guarded(Kind::Docx, "its table of contents", || zipped(bytes));
    Some(container.ok().flatten().unwrap_or(Container::Damaged))
}

/// Entries of the directory are 128 bytes each, and begin at a multiple of that with the name in UTF-16.
fn compound(bytes: &[u8]) -> Container {
    let is_there = |name: &str| {
        let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        bytes.chunks(128).any(|entry| entry.starts_with(&name))
    };
    let found = STREAMS.into_iter().find(|(name, _)| is_there(name));
    found.map_or(Container::Other("a compound file of an old program"), |(_, container)| container)
}

fn zipped(bytes: &[u8]) -> Option<Container> {
    let mut zip = ZipArchive::new(Cursor::new(bytes)).ok()?;
    if let Some(at) = zip.index_for_name("mimetype") {
        let mut mimetype = String::new();
        zip.by_index(at).ok()?.take(100).read_to_string(&mut mimetype).ok()?;
        let found = MIMETYPES.into_iter().find(|(start, _)| mimetype.starts_with(start));
        if let Some((_, container)) = found {
            return Some(container);
        }
    }
    let folders: [(&[u8], Container); 3] = [
        (b"word/", Container::Kind(Kind::Docx)),
        (b"xl/", Container::Kind(Kind::Xlsx)),
        (b"ppt/", Container::Other("a pptx presentation (save it as pdf)")),
    ];
    if zip.index_for_name("[Content_Types].xml").is_some() {
        for (folder, container) in folders {
            if zip.file_names_raw().any(|name| name.starts_with(folder)) {
                return Some(container);
            }
        }
    }
    Some(Container::Other("a zip archive"))
}

/// A zip archive whose members are read within a budget.
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    kind: Kind,
    budget: &'a Budget<'a>,
}

impl<'a> Archive<'a> {
    pub(super) fn new(kind: Kind, bytes: &'a [u8], budget: &'a Budget<'a>) -> Result<Self, Error> {
        let place = "its table of contents";
        let zip = guarded(kind, place, || ZipArchive::new(Cursor::new(bytes)))?
            .map_err(|source| Error::broken(kind, place, source))?;
        Ok(Archive { zip, kind, budget })
    }

    /// A member of xml as text, if there is one of this name.
    pub(super) fn xml(&mut self, name: &str) -> Result<Option<String>, Error> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        let head = String::from_utf8_lossy(bytes.get(..100.min(bytes.len())).unwrap_or_default());
        let label = head.split_once("encoding=").and_then(|(_, rest)| rest.split(['"', '\'']).nth(1));
        Ok(Some(encoding::decode_as(&bytes, label).into_owned()))
    }

    /// A member that the format cannot do without.
    pub(super) fn required(&mut self, name: &str) -> Result<String, Error> {
        self.xml(name)?.ok_or_else(|| Error::broken(self.kind, name, "it is missing"))
    }

    /// Reads what is there, not what the archive says that there is.
    fn bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(at) = self.zip.index_for_name(name) else { return Ok(None) };
        let (kind, budget) = (self.kind, self.budget);
        let raw = guarded(kind, name, || self.zip.by_index_raw(at).map(|file| file.encrypted()))?;
        if matches!(raw, Ok(true)) {
            return Err(Error::Password { what: kind.extension() });
        }
        guarded(kind, name, || {
            let mut file = self.zip.by_index(at).map_err(|source| fault(kind, name, &source))?;
            let mut bytes = Vec::new();
            loop {
                budget.check(kind, || name.to_owned())?;
                let got = (&mut file)
                    .take(1 << 20)
                    .read_to_end(&mut bytes)
                    .map_err(|source| Error::broken(kind, name, source))?;
                if got == 0 {
                    return Ok(Some(bytes));
                }
                budget.unpack(got, name)?;
            }
        })?
    }
}

fn fault(kind: Kind, name: &str, source: &ZipError) -> Error {
    match source {
        ZipError::InvalidPassword => Error::Password { what: kind.extension() },
        source => Error::broken(kind, name, source),
    }
}
