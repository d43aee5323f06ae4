//! From a file to its text and passages.

use std::io::Read as _;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Rag, Ruler};
use crate::documents::{self, Chunk, Document, Limits, What};
use crate::service::resolve::joined;
use crate::service::{Error, Upload};
use crate::types::rag::{Content, NewDocument, Parsed, PassageSize, Section};

/// Passages of a document at most.
pub(super) const PASSAGES: usize = 100_000;
/// A file is read no longer.
const READ_TIME: Duration = Duration::from_secs(120);

/// The extensions of files that are read, without dots.
pub fn extensions() -> Vec<&'static str> {
    documents::Kind::all().flat_map(|kind| kind.extensions().iter().copied()).collect()
}

/// A document as it was read.
pub(super) struct Read {
    pub document: Document,
    pub chunks: Vec<Chunk>,
    pub bytes: u64,
    pub chars: u64,
}

impl Rag {
    /// An uploaded file as a document of its name.
    ///
    /// # Errors
    /// It is larger than documents may be.
    pub async fn take(&self, upload: Upload) -> Result<NewDocument, Error> {
        let limit = self.options.limits.bytes;
        let work = move || -> Result<NewDocument, Error> {
            let Upload { mut file, name, mime } = upload;
            let io = |error: std::io::Error| Error::Internal { detail: format!("an upload: {error}") };
            let bytes = usize::try_from(file.metadata().map_err(io)?.len()).unwrap_or(usize::MAX);
            if bytes > limit {
                return Err(unread(documents::Error::TooLarge { bytes, limit }));
            }
            let mut content = Vec::with_capacity(bytes);
            file.read_to_end(&mut content).map_err(io)?;
            // Folders are the client's business.
            let name = name.unwrap_or_default();
            let name = name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
            Ok(NewDocument { name, mime, content: Content::File(content), ..NewDocument::default() })
        };
        joined(tokio::task::spawn_blocking(work).await)?
    }

    /// A document's text by itself.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn parse(&self, new: NewDocument) -> Result<Parsed, Error> {
        let limits = self.options.limits.clone();
        let turn = self.reading.clone().acquire_owned().await;
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let (document, _) = open(&new, &limits)?;
            Ok(Parsed {
                text: document.text(),
                sections: sections(&document),
                mime: document.kind.mime(),
                extension: document.kind.extension(),
                attachments: document.parts.iter().map(|part| part.name.clone()).collect(),
                left_out: left_out(&document),
                title: document.title,
                pages: document.pages,
            })
        });
        joined(read.await)?
    }

    /// The text of a document and its passages.
    pub(super) async fn read_and_cut(
        &self,
        new: NewDocument,
        size: PassageSize,
        ruler: &Ruler,
    ) -> Result<Read, Error> {
        let (limits, measure) = (self.options.limits.clone(), ruler.measure.clone());
        let turn = self.reading.clone().acquire_owned().await;
        let work = move || -> Result<Read, Error> {
            let _turn = turn;
            let (document, bytes) = open(&new, &limits)?;
            let size = documents::Size { tokens: size.tokens, overlap: size.overlap };
            let chunks = documents::chunk(&document, &size, &*measure);
            if chunks.len() > PASSAGES {
                let message = format!(
                    "the document has {} passages and the limit is {PASSAGES}; split it",
                    chunks.len()
                );
                return Err(Error::Invalid { param: "file", message });
            }
            let chars = document.text().chars().count() as u64;
            Ok(Read { document, chunks, bytes: bytes as u64, chars })
        };
        joined(tokio::task::spawn_blocking(work).await)?
    }
}

/// A document's text, and the bytes that it was read from. A text without a file is its paragraphs.
fn open(new: &NewDocument, limits: &Limits) -> Result<(Document, usize), Error> {
    let limits = Limits { until: Some(Instant::now() + READ_TIME), ..limits.clone() };
    let (name, mime, bytes) = match &new.content {
        Content::File(bytes) => (new.name.as_str(), new.mime.as_deref(), bytes.as_slice()),
        Content::Text(text) => ("text.txt", Some("text/plain; charset=utf-8"), text.as_bytes()),
    };
    Ok((documents::read(name, mime, bytes, &limits).map_err(unread)?, bytes.len()))
}

/// The text by its headings; attachments follow, each after its name.
fn sections(document: &Document) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for block in &document.blocks {
        if let What::Heading(level) = block.what {
            let title = Some(block.text.clone());
            sections.push(Section { title, level, page: block.page, text: String::new() });
            continue;
        }
        if sections.is_empty() {
            sections.push(Section { page: block.page, ..Section::default() });
        }
        if let Some(section) = sections.last_mut() {
            if !section.text.is_empty() {
                section.text.push_str("\n\n");
            }
            section.text.push_str(&block.text);
        }
    }
    for part in &document.parts {
        if let Ok(inner) = &part.document {
            let title = Some(part.name.clone());
            sections.push(Section { title, level: 1, ..Section::default() });
            sections.extend(self::sections(inner));
        }
    }
    sections
}

fn unread(error: documents::Error) -> Error {
    Error::Invalid { param: "file", message: error.to_string() }
}

/// Attachments that could not be read, and why.
pub(super) fn left_out(document: &Document) -> Vec<(String, String)> {
    let part = |part: &documents::Part| match &part.document {
        Ok(inner) => left_out(inner),
        Err(error) => vec![(part.name.clone(), error.to_string())],
    };
    document.parts.iter().flat_map(part).collect()
}

/// A content, and its SHA-256 in hexadecimal digits.
pub(super) async fn hashed(content: Content) -> Result<(Content, String), Error> {
    let work = move || {
        let bytes = match &content {
            Content::File(bytes) => bytes.as_slice(),
            Content::Text(text) => text.as_bytes(),
        };
        let digits = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        (content, digits)
    };
    joined(tokio::task::spawn_blocking(work).await)
}
