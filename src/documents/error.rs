//! Why a file gives no text, in terms whoever sent it can act on.

use super::Kind;

/// What is read, as it is named to someone whose file is none of it.
pub(super) const READ: &str = "txt, md, html, pdf, docx, odt, xlsx, csv, tsv and eml";

/// A file that yields no text, or that may not be read to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not one byte.
    #[error("the file is empty (0 bytes); send one with content")]
    Empty,
    /// More bytes than [`Limits::bytes`](super::Limits::bytes).
    #[error("the file has {bytes} bytes and the limit is {limit}; split it or send a smaller one")]
    TooLarge { bytes: usize, limit: usize },
    /// A small file that becomes a large one: [`Limits::unpacked`](super::Limits::unpacked).
    #[error("{place} unpacks to more than {limit} bytes, as a zip bomb does; split the file or save it anew")]
    Bomb { place: String, limit: usize },
    /// More than [`Limits::pages`](super::Limits::pages).
    #[error("the pdf file has {pages} pages and the limit is {limit}; split it")]
    TooManyPages { pages: usize, limit: usize },
    /// More than [`Limits::text`](super::Limits::text).
    #[error("the file holds more than {limit} characters of text; split it")]
    TooMuchText { limit: usize },
    /// Mail in mail beyond [`Limits::nesting`](super::Limits::nesting).
    #[error("mail is nested more than {limit} deep; send the inner mail as a file of its own")]
    TooDeep { limit: usize },
    /// Attachments, those of attached mail among them, beyond [`Limits::attachments`](super::Limits::attachments).
    #[error("the mail has more than {limit} attachments; send the others as files of their own")]
    TooManyAttachments { limit: usize },
    /// [`Limits::until`](super::Limits::until) has passed.
    #[error("reading the {kind} file took too long and was stopped at {place}; split it or try again later")]
    TookTooLong { kind: Kind, place: String },
    /// It opens with a password only.
    #[error("the {what} file is protected by a password; save it without one and send it again")]
    Password { what: &'static str },
    /// A format of Office before 2007.
    #[error(
        "the file is in an old binary format of Office ({what}), which is not read; save it as {instead}"
    )]
    OldOffice { what: &'static str, instead: &'static str },
    /// A picture alone.
    #[error("the file is a picture ({what}), and text in pictures is not read; send the text itself")]
    Picture { what: &'static str },
    /// Well formed, and without a letter.
    #[error("no text was found in the {kind} file{why}")]
    NoText { kind: Kind, why: &'static str },
    /// Damaged, or made by a program that does not keep to the format.
    #[error(
        "the {kind} file is damaged at {place}: {detail}; open it in the program that made it and save it anew"
    )]
    Broken { kind: Kind, place: String, detail: String },
    /// Content of another kind.
    #[error("the file is {what}, which is not read; send one of {READ}", READ = READ)]
    Unknown { what: String },
}

impl Error {
    pub(super) fn broken(kind: Kind, place: impl Into<String>, detail: impl ToString) -> Error {
        Error::Broken { kind, place: place.into(), detail: short(&detail.to_string()) }
    }
}

/// A third party's message: one line, and not of a length that the file chooses.
fn short(detail: &str) -> String {
    const LONGEST: usize = 200;
    let line: String = detail.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if detail.chars().nth(LONGEST).is_some() { line + "…" } else { line }
}
