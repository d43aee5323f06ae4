//! The parts of a mail: which of them are its text, and which are attached.

use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{ContentType, Message, MessageParser, MimeHeaders};

use super::super::budget::Budget;
use super::super::{Error, Kind, encoding};

/// Parts in parts, which programs nest four or five deep.
const DEEPEST: usize = 30;
/// Parts of a mail, text and pictures included.
const MOST: usize = 10_000;

/// A text of the mail itself.
pub(super) enum Body {
    Plain(String),
    Html(String),
}

pub(super) struct Attachment {
    pub(super) name: String,
    pub(super) mime: String,
    pub(super) bytes: Vec<u8>,
}

/// What was found so far.
pub(super) struct Parts<'a> {
    budget: &'a Budget<'a>,
    pub(super) bodies: Vec<Body>,
    pub(super) attachments: Vec<Attachment>,
    depth: usize,
    count: usize,
}

impl<'a> Parts<'a> {
    pub(super) fn new(budget: &'a Budget<'a>) -> Self {
        Parts { budget, bodies: Vec::new(), attachments: Vec::new(), depth: 0, count: 0 }
    }

    /// Takes a part, or the whole mail, apart.
    pub(super) fn walk(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.count += 1;
        let place = || format!("part {}", self.count);
        self.budget.check(Kind::Mail, place)?;
        if self.depth > DEEPEST || self.count > MOST {
            let detail = format!("parts are nested more than {DEEPEST} deep, or are more than {MOST}");
            return Err(Error::broken(Kind::Mail, place(), detail));
        }
        let head = MessageParser::default().parse_headers(bytes);
        // A part that begins with an empty line has no headers.
        let has_headers = !bytes.starts_with(b"\n") && !bytes.starts_with(b"\r\n");
        let head = head.filter(|_| has_headers).unwrap_or_default();
        let content = bytes.get(body_of(bytes)..).unwrap_or_default();
        let (main, sub) = kind_of(&head);
        match (main.as_str(), sub.as_str()) {
            ("multipart", sub) => {
                match attribute(&head, "boundary").filter(|boundary| !boundary.is_empty()) {
                    Some(boundary) => {
                        self.depth += 1;
                        let done = self.multipart(sub, &boundary, content);
                        self.depth -= 1;
                        done
                    }
                    None => self.leaf(&head, "text", "plain", content),
                }
            }
            (main, sub) => self.leaf(&head, main, sub, content),
        }
    }

    fn multipart(&mut self, sub: &str, boundary: &str, content: &[u8]) -> Result<(), Error> {
        let children = split(content, boundary.as_bytes());
        if sub == "digest" {
            // Mails, without saying so.
            for child in children {
                self.attach(
                    "mail.eml".to_owned(),
                    "message/rfc822".to_owned(),
                    child.trim_ascii_start().to_vec(),
                )?;
            }
            return Ok(());
        }
        if sub != "alternative" {
            return children.into_iter().try_for_each(|child| self.walk(child));
        }
        let outer = std::mem::take(&mut self.bodies);
        let mut choices: Vec<Vec<Body>> = Vec::new();
        for child in children {
            self.walk(child)?;
            choices.push(std::mem::take(&mut self.bodies));
        }
        self.bodies = outer;
        let plain = choices.iter().position(|bodies| {
            bodies.iter().any(|body| matches!(body, Body::Plain(text) if text.trim().len() > 1))
        });
        // The last is the one that the sender liked best.
        let chosen = plain.or_else(|| choices.iter().rposition(|bodies| !bodies.is_empty()));
        self.bodies.extend(chosen.map(|at| choices.swap_remove(at)).into_iter().flatten());
        Ok(())
    }

    fn leaf(&mut self, head: &Message<'_>, main: &str, sub: &str, content: &[u8]) -> Result<(), Error> {
        let part = head.parts.first();
        let disposition = part.and_then(|part| part.content_disposition());
        let name = part.and_then(|part| part.attachment_name()).map(str::to_owned);
        let is_attached = disposition.is_some_and(|disposition| disposition.is_attachment());
        let bytes = decoded(head, content);
        self.budget.unpack(bytes.len(), "an attachment")?;
        if main == "text" && matches!(sub, "plain" | "html") && !is_attached && name.is_none() {
            let text = encoding::decode_as(&bytes, attribute(head, "charset").as_deref()).into_owned();
            self.bodies.push(if sub == "html" { Body::Html(text) } else { Body::Plain(text) });
            return Ok(());
        }
        // Logos and the like, which stand in the html, and other forms of the same text.
        let is_inline = main == "image" && !is_attached;
        if is_inline
            || matches!(
                (main, sub),
                ("text", "x-amp-html") | ("application", "pkcs7-signature" | "pgp-signature")
            )
        {
            return Ok(());
        }
        let mime = format!("{main}/{sub}");
        let number = self.attachments.len() + 1;
        let name = name.unwrap_or_else(|| {
            let extension = Kind::of_mime(&mime).map_or("bin", Kind::extension);
            format!("attachment {number}.{extension}")
        });
        self.attach(name, mime, bytes)
    }

    fn attach(&mut self, name: String, mime: String, bytes: Vec<u8>) -> Result<(), Error> {
        self.budget.attachment()?;
        self.attachments.push(Attachment { name, mime, bytes });
        Ok(())
    }
}

/// The type of a part; without one it is text.
fn kind_of(head: &Message<'_>) -> (String, String) {
    let found = content_type(head).map(|found| {
        let sub = found.subtype().unwrap_or_default();
        (found.ctype().to_ascii_lowercase(), sub.to_ascii_lowercase())
    });
    found.unwrap_or_else(|| ("text".to_owned(), "plain".to_owned()))
}

fn content_type<'m>(head: &'m Message<'_>) -> Option<&'m ContentType<'m>> {
    head.parts.first()?.content_type()
}

fn attribute(head: &Message<'_>, name: &str) -> Option<String> {
    content_type(head)?.attribute(name).map(str::to_owned)
}

/// Content without the encoding that lets it pass through mail.
fn decoded(head: &Message<'_>, content: &[u8]) -> Vec<u8> {
    // Not `head.header`, which takes for granted that there is a part.
    let encoding = head.parts.first().and_then(|part| part.content_transfer_encoding());
    let encoding = encoding.unwrap_or_default().trim().to_ascii_lowercase();
    match encoding.as_str() {
        "base64" => base64(content),
        "quoted-printable" => quoted_printable_decode(content).unwrap_or_else(|| content.to_vec()),
        _ => content.to_vec(),
    }
}

/// Base64 with whatever is between its letters left out; at damage the rest is still read.
fn base64(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in content {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'=' => {
                (bits, count) = (0, 0);
                continue;
            }
            _ => continue,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// Where the body begins: after the first empty line.
fn body_of(bytes: &[u8]) -> usize {
    let mut start = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        start += line.len();
        if line.trim_ascii().is_empty() {
            return start;
        }
    }
    bytes.len()
}

/// The parts between lines of `--boundary`. A mail that was cut ends its last part.
fn split<'c>(content: &'c [u8], boundary: &[u8]) -> Vec<&'c [u8]> {
    let mut children = Vec::new();
    let (mut begin, mut at) = (None, 0);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let rest =
            line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary)).map(<[u8]>::trim_ascii);
        if let Some(rest @ (b"" | b"--")) = rest {
            children.extend(begin.map(|begin| without_end(content.get(begin..at).unwrap_or_default())));
            begin = rest.is_empty().then_some(at + line.len());
            if !rest.is_empty() {
                return children;
            }
        }
        at += line.len();
    }
    children.extend(begin.map(|begin| content.get(begin..).unwrap_or_default()));
    children
}

/// The line break before a boundary belongs to it.
fn without_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}
