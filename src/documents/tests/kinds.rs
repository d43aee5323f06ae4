//! What a file is taken for, and what is said of those that are not read.

use super::super::{Error, Kind, Limits, read};
use super::fixture;

#[test]
fn content_comes_before_names() {
    for (file, name, kind) in [
        ("report.pdf", "letter.docx", Kind::Pdf),
        ("manual.docx", "file.zip", Kind::Docx),
        ("stock.xlsx", "stock", Kind::Xlsx),
        ("rules.odt", "rules.docx", Kind::Odt),
        ("page.html", "page", Kind::Html),
        ("mail.eml", "message", Kind::Mail),
        ("mail.eml", "message.txt", Kind::Text),
        ("notes.md", "notes.md", Kind::Markdown),
        ("notes.md", "notes", Kind::Text),
    ] {
        assert_eq!(Kind::detect(name, None, &fixture(file)), Ok(kind), "{file} as {name}");
    }
    let detect = |name: &str, mime: &str, text: &str| Kind::detect(name, Some(mime), text.as_bytes());
    assert_eq!(detect("x", "text/csv; charset=utf-8", "a,b"), Ok(Kind::Csv));
    assert_eq!(detect("x.md", "application/octet-stream", "# a"), Ok(Kind::Markdown));
    assert_eq!(detect("x", "text/plain", "<!DOCTYPE html><p>a"), Ok(Kind::Html));
    assert_eq!(detect("x", "text/plain", "BMW and other makes"), Ok(Kind::Text));
    assert_eq!(detect("x", "text/plain", "Subject: no\nmail, this\n"), Ok(Kind::Text));
}

#[test]
fn names_of_kinds_are_read_back() {
    for kind in Kind::all() {
        assert_eq!(kind.mime().parse(), Ok(kind));
        assert_eq!(kind.extension().parse(), Ok(kind));
        assert_eq!(Kind::of_name(&format!("a.b.{}", kind.extension().to_uppercase())), Some(kind));
    }
}

/// A compound file of which the directory has an entry of this name.
fn compound(name: &str) -> Vec<u8> {
    let mut bytes = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec();
    bytes.resize(1024, 0);
    bytes.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
    bytes.resize(2048, 0);
    bytes
}

#[test]
fn what_is_not_read_is_named_with_its_remedy() {
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "a.doc",
            compound("WordDocument"),
            "old binary format of Office (doc), which is not read; save it as docx",
        ),
        ("a.xls", compound("Workbook"), "save it as xlsx"),
        ("a.ppt", compound("PowerPoint Document"), "save it as pdf"),
        ("a.docx", compound("EncryptedPackage"), "protected by a password"),
        ("a.msg", compound("__properties_version1.0"), "save it as eml"),
        ("a.pdf", b"\x89PNG\r\n\x1a\n".to_vec(), "a picture (png), and text in pictures is not read"),
        ("a.jpg", b"\xff\xd8\xff\xe0".to_vec(), "picture (jpeg)"),
        ("a.docx", b"PK\x03\x04nothing".to_vec(), "damaged"),
        ("a.pdf", b"just text".to_vec(), "the pdf file is damaged at its beginning"),
        ("a.rtf", b"{\\rtf1 text}".to_vec(), "send one of txt, md, html, pdf, docx"),
        ("a.bin", (0..=255).collect(), "which is not read"),
        ("a.txt", b" \n ".to_vec(), "no text was found in the txt file"),
        ("a.txt", Vec::new(), "empty (0 bytes)"),
    ];
    for (name, bytes, part) in cases {
        let error = read(name, None, &bytes, &Limits::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
}

#[test]
fn each_limit_is_kept() {
    use std::time::Instant;
    let limits = Limits::default();
    let fails = |name: &str, limits: Limits| read(name, None, &fixture(name), &limits).unwrap_err();
    let error = fails("report.pdf", Limits { bytes: 100, ..limits.clone() });
    assert!(matches!(error, Error::TooLarge { limit: 100, .. }), "{error}");
    let error = fails("report.pdf", Limits { pages: 2, ..limits.clone() });
    assert_eq!(error, Error::TooManyPages { pages: 3, limit: 2 });
    let error = fails("mail.eml", Limits { attachments: 3, ..limits.clone() });
    assert_eq!(error, Error::TooManyAttachments { limit: 3 });
    for name in [
        "report.pdf",
        "manual.docx",
        "rules.odt",
        "stock.xlsx",
        "page.html",
        "notes.md",
        "utf8.txt",
        "mail.eml",
    ] {
        let error = fails(name, Limits { text: 30, ..limits.clone() });
        assert_eq!(error, Error::TooMuchText { limit: 30 }, "{name}");
        let error = fails(name, Limits { until: Some(Instant::now()), ..limits.clone() });
        assert!(matches!(error, Error::TookTooLong { .. }), "{name}: {error}");
    }
}
