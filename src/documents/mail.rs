//! Mail: who wrote to whom, the text of the body, and attachments as documents of their own.
//!
//! A library reads the headers and one quoted encoding. Parts are taken apart here: each mail in a mail is then
//! counted before it is entered, where a parser that nests freely would run out of stack.

mod parts;

use mail_parser::{HeaderForm, Message, MessageParser};

use super::budget::{Budget, guarded};
use super::writer::{Writer, one_line};
use super::{Document, Error, Kind, Part, What, html, plain, read_within};
use parts::{Attachment, Body, Parts};

const KIND: Kind = Kind::Mail;
/// Headers that a mail has.
const KNOWN: [&str; 12] = [
    "from",
    "to",
    "subject",
    "date",
    "received",
    "message-id",
    "mime-version",
    "return-path",
    "delivered-to",
    "content-type",
    "reply-to",
    "sender",
];

pub(super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    budget.deeper(|| read_one(bytes, budget))
}

fn read_one(bytes: &[u8], budget: &Budget<'_>) -> Result<Document, Error> {
    let bytes = without_envelope(bytes);
    let head = guarded(KIND, "its headers", || MessageParser::default().parse_headers(bytes))?;
    let head = head.ok_or_else(|| Error::broken(KIND, "its headers", "there are none"))?;
    let mut writer = Writer::new(KIND, budget);
    writer.title = guarded(KIND, "its subject", || head.subject().map(str::to_owned))?;
    let people = guarded(KIND, "its headers", || headers(&head))?;
    writer.push(What::Paragraph, &people)?;
    let mut parts = Parts::new(budget);
    guarded(KIND, "its parts", || parts.walk(bytes))??;
    for body in &parts.bodies {
        match body {
            Body::Plain(text) => plain::paragraphs(&mut writer, text)?,
            Body::Html(text) => html::blocks(text, &mut writer)?,
        }
    }
    // A page sets titles, but the mail's is its subject.
    let subject = head.subject().map(one_line).filter(|subject| !subject.is_empty());
    let mut document = writer.finish();
    document.title = subject;
    for attachment in parts.attachments {
        document.parts.push(attached(attachment, budget)?);
    }
    Ok(document)
}

/// Reads an attachment. Only what ends the reading of all is an error.
fn attached(attachment: Attachment, budget: &Budget<'_>) -> Result<Part, Error> {
    let Attachment { name, mime, bytes } = attachment;
    match read_within(&name, Some(&mime), &bytes, budget) {
        Err(late @ Error::TookTooLong { .. }) => Err(late),
        document => Ok(Part { name, document }),
    }
}

/// The headers that a reader of the mail sees, a line each.
fn headers(head: &Message<'_>) -> String {
    let mut lines = String::new();
    let people = [("From", head.from()), ("To", head.to()), ("Cc", head.cc())];
    for (name, address) in people {
        let all: Vec<String> = address
            .into_iter()
            .flat_map(|address| address.iter())
            .filter_map(|one| match (one.name(), one.address()) {
                (Some(name), Some(address)) => Some(format!("{name} <{address}>")),
                (one, other) => one.or(other).map(str::to_owned),
            })
            .collect();
        if !all.is_empty() {
            lines.push_str(&format!("{name}: {}\n", one_line(&all.join(", "))));
        }
    }
    let date = head.header_as("Date", HeaderForm::Raw);
    for (name, text) in [("Date", date.first().and_then(|date| date.as_text())), ("Subject", head.subject())]
    {
        if let Some(text) = text.map(one_line).filter(|text| !text.is_empty()) {
            lines.push_str(&format!("{name}: {text}\n"));
        }
    }
    lines
}

/// Without the line that a mailbox puts before a mail.
fn without_envelope(bytes: &[u8]) -> &[u8] {
    if !bytes.starts_with(b"From ") {
        return bytes;
    }
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    bytes.get(end..).unwrap_or_default()
}

/// Whether a text begins as a mail does: nothing but headers up to an empty line, two or more of them known.
pub(super) fn is_mail(bytes: &[u8]) -> bool {
    let head = bytes.get(..(16 << 10).min(bytes.len())).unwrap_or_default();
    let mut known = 0;
    for line in without_envelope(head).split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            continue;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
        let name = line.get(..colon).unwrap_or_default();
        if name.is_empty()
            || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        {
            return false;
        }
        known += usize::from(KNOWN.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())));
    }
    known >= 2
}
