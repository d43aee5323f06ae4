//! Files that were made to do harm, or that were damaged, end in an error or in some text: soon, and in little memory.

use std::fmt::Write as _;
use std::io::{Cursor, Write as _};
use std::time::{Duration, Instant};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::{Document, Error, Limits, read};
use super::{fixture, read_text};

/// What one read may take, in a build that is not optimised, beside other tests.
const SOON: Duration = Duration::from_secs(20);
const FILES: [&str; 15] = [
    "report.pdf",
    "owner.pdf",
    "odd.pdf",
    "locked.pdf",
    "manual.docx",
    "rules.odt",
    "stock.xlsx",
    "page.html",
    "notes.md",
    "mail.eml",
    "html-only.eml",
    "semicolon.csv",
    "tabs.tsv",
    "utf8.txt",
    "utf16.txt",
];

/// Reads what may be anything, and checks that it did not take long.
fn soon(name: &str, bytes: &[u8], limits: &Limits) -> Result<Document, Error> {
    let start = Instant::now();
    let outcome = read(name, None, bytes, limits);
    let took = start.elapsed();
    assert!(
        took < SOON,
        "{name}: {} bytes took {took:?}: {:?}",
        bytes.len(),
        outcome.map(|document| document.kind)
    );
    if let Ok(document) = &outcome {
        assert!(document.blocks.iter().all(|block| !block.text.trim().is_empty()), "{name}");
    }
    outcome
}

fn small() -> Limits {
    Limits { unpacked: 8 << 20, text: 1_000_000, ..Limits::default() }
}

/// Numbers that are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize % end
    }
}

/// The most memory that the process has had.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) << 10
}

#[test]
fn files_that_were_cut() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 + 1);
    for name in FILES {
        let bytes = fixture(name);
        for _ in 0..200 {
            let end = random.below(bytes.len());
            let _ = soon(name, &bytes[..end], &small());
        }
    }
    assert!(peak() < 2 << 30, "{} bytes", peak());
}

#[test]
fn files_with_other_bytes() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 + 2);
    for name in FILES {
        let bytes = fixture(name);
        for at in 0..300 {
            let mut bytes = bytes.clone();
            for _ in 0..=at % 8 {
                let place = random.below(bytes.len());
                bytes[place] = random.below(256) as u8;
            }
            let _ = soon(name, &bytes, &small());
        }
    }
    assert!(peak() < 2 << 30, "{} bytes", peak());
}

#[test]
fn members_with_other_bytes() {
    // In a zip archive the checksum would find nearly all damage, so what is in it is damaged before it is packed.
    let mut random = Random(0x9e37_79b9_7f4a_7c15 + 3);
    for (name, member) in [
        ("manual.docx", "word/document.xml"),
        ("manual.docx", "word/styles.xml"),
        ("rules.odt", "content.xml"),
        ("stock.xlsx", "xl/worksheets/sheet1.xml"),
        ("stock.xlsx", "xl/styles.xml"),
        ("stock.xlsx", "xl/workbook.xml"),
    ] {
        for at in 0..100 {
            let bytes = with_member(name, member, |text| {
                for _ in 0..=at % 5 {
                    let place = random.below(text.len());
                    text[place] = b"<>&\"/09az= "[random.below(11)];
                }
            });
            let _ = soon(name, &bytes, &small());
        }
    }
}

/// A fixture with one member changed.
fn with_member(name: &str, member: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut zip = zip::ZipArchive::new(Cursor::new(fixture(name))).unwrap();
    let mut out = ZipWriter::new(Cursor::new(Vec::new()));
    let mut change = Some(change);
    for at in 0..zip.len() {
        let mut file = zip.by_index(at).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        let file_name = file.name().unwrap().into_owned();
        if file_name == member {
            change.take().unwrap()(&mut bytes);
        }
        out.start_file(file_name, SimpleFileOptions::default()).unwrap();
        out.write_all(&bytes).unwrap();
    }
    assert!(change.is_none(), "{name} has no {member}");
    out.finish().unwrap().into_inner()
}

/// The manual with this as its body.
fn manual(body: &str) -> Vec<u8> {
    with_member("manual.docx", "word/document.xml", |text| {
        *text = format!("<w:document xmlns:w='w'><w:body>{body}</w:body></w:document>").into_bytes();
    })
}

#[test]
fn bombs_do_not_go_off() {
    for (name, place) in [("bomb.docx", "word/document.xml"), ("bomb.pdf", "the stream at byte")] {
        let error = soon(name, &fixture(name), &small()).unwrap_err();
        assert!(matches!(&error, Error::Bomb { place: at, .. } if at.starts_with(place)), "{name}: {error}");
    }
    // What the archive declares is not believed.
    let mut bytes = fixture("bomb.docx");
    let real = ((40 << 20) as u32).to_le_bytes();
    let places: Vec<usize> = bytes
        .windows(3)
        .enumerate()
        .filter(|(_, w)| w[1..] == real[2..] || w[..] == real[1..])
        .map(|(at, _)| at)
        .collect();
    for at in places {
        bytes[at + 1] = 0;
    }
    let _ = soon("bomb.docx", &bytes, &small());
    // As an attachment, it fails alone.
    let mail = mail_with("bomb.docx", &fixture("bomb.docx"));
    let mail = soon("bomb.eml", &mail, &small()).unwrap();
    assert!(matches!(mail.parts[0].document, Err(Error::Bomb { .. })), "{:?}", mail.parts[0].document);
}

fn mail_with(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut mail =
        b"From: a@b\nSubject: x\nContent-Type: multipart/mixed; boundary=zz\n\n--zz\n\ntext\n--zz\n".to_vec();
    write!(
        mail,
        "Content-Type: application/octet-stream\nContent-Disposition: attachment; filename={name}\n\n"
    )
    .unwrap();
    mail.extend_from_slice(bytes);
    mail.extend_from_slice(b"\n--zz--\n");
    mail
}

#[test]
fn entities_do_not_grow() {
    let mut xml = "<!DOCTYPE x [<!ENTITY a0 \"ha\">".to_owned();
    for at in 1..30 {
        write!(xml, "<!ENTITY a{at} \"&a{0};&a{0};\">", at - 1).unwrap();
    }
    xml.push_str("]><w:document xmlns:w='w'><w:body><w:p><w:r><w:t>one &a29; two</w:t></w:r></w:p></w:body></w:document>");
    let bytes = with_member("manual.docx", "word/document.xml", |text| *text = xml.into_bytes());
    assert_eq!(soon("a.docx", &bytes, &small()).unwrap().blocks[0].text, "one two");
}

#[test]
fn mail_in_mail_in_mail() {
    let nested = |depth: usize| {
        let mut mail = String::new();
        for at in 0..depth {
            write!(mail, "From: a@b\nSubject: level {at}\nContent-Type: message/rfc822\n\n").unwrap();
        }
        mail + "From: a@b\nSubject: last\n\ntext"
    };
    let depth = |document: &Document| {
        let (mut depth, mut at) = (1, document.clone());
        while let Some(part) = at.parts.pop() {
            match part.document {
                Ok(inner) => (depth, at) = (depth + 1, inner),
                Err(error) => return (depth, Some(error)),
            }
        }
        (depth, None)
    };
    assert_eq!(depth(&soon("a.eml", nested(5).as_bytes(), &small()).unwrap()), (6, None));
    let deep = soon("a.eml", nested(100_000).as_bytes(), &Limits::default()).unwrap();
    assert_eq!(depth(&deep), (8, Some(Error::TooDeep { limit: 8 })));

    let mut parts = "From: a@b\nSubject: parts\n".to_owned();
    for at in 0..5000 {
        write!(parts, "Content-Type: multipart/mixed; boundary=b{at}\n\n--b{at}\n").unwrap();
    }
    assert!(matches!(soon("a.eml", parts.as_bytes(), &small()), Err(Error::Broken { .. })));
    let many = "From: a@b\nSubject: x\nContent-Type: multipart/digest; boundary=z\n\n".to_owned()
        + &"--z\n\nSubject: y\n".repeat(100_000);
    assert_eq!(
        soon("a.eml", many.as_bytes(), &small()).unwrap_err(),
        Error::TooManyAttachments { limit: 200 }
    );
}

#[test]
fn pages_that_are_deep_or_wide() {
    let deep = "<div><table><tr><td><ul><li>".repeat(100_000) + "text";
    assert_eq!(soon("a.html", deep.as_bytes(), &small()).unwrap().blocks.len(), 1);
    let mut wide = "<p ".to_owned();
    for at in 0..500_000 {
        write!(wide, "a{at}=1 ").unwrap();
    }
    assert!(matches!(soon("a.html", wide.as_bytes(), &small()), Err(Error::Broken { .. })));
    // Long comments, values and scripts are no attributes.
    let long = format!(
        "<!-- {0} --><svg><path d='{0}'/></svg><script>a<b {0}</script><p title='{0}'>text",
        "M 0 0 L 1 1 ".repeat(100_000)
    );
    assert_eq!(soon("a.html", long.as_bytes(), &small()).unwrap().blocks[0].text, "text");
    for marks in ["<", "&", "<!--", "<a ", "</", "<![CDATA[", "&#x", "<table>", "<td>"] {
        let _ = soon("a.html", marks.repeat(200_000).as_bytes(), &small());
    }
    for marks in [
        "* ", "> ", "[", "![", "`", "**a", "_a", "<", "|", "- a\n  ", "1. ", "[a](", "\\", "#", "~~~\n",
        "[^1]: ",
    ] {
        let _ = soon("a.md", marks.repeat(20_000).as_bytes(), &small());
    }
}

#[test]
fn office_files_that_are_deep_or_wide() {
    let tables = "<w:tbl><w:tr><w:tc>".repeat(500)
        + "<w:p><w:r><w:t>in</w:t></w:r></w:p>"
        + &"</w:tc></w:tr></w:tbl>".repeat(500);
    assert_eq!(soon("a.docx", &manual(&tables), &small()).unwrap().blocks[0].text, "in");
    let deep = "<w:p>".repeat(3000) + &"</w:p>".repeat(3000);
    let error = soon("a.docx", &manual(&deep), &small()).unwrap_err();
    assert!(error.to_string().contains("nested more than"), "{error}");
    let many = "<w:p/>".repeat(500_000);
    assert!(matches!(soon("a.docx", &manual(&many), &small()), Err(Error::NoText { .. })));

    let sheet = |rows: String| {
        let bytes = with_member("stock.xlsx", "xl/worksheets/sheet1.xml", |text| {
            *text = format!("<worksheet><sheetData>{rows}</sheetData></worksheet>").into_bytes();
        });
        soon("a.xlsx", &bytes, &small())
    };
    let far = sheet(
        "<row r='1'><c r='A1'><v>1</v></c></row><row r='1048576'><c r='XFD1048576'><v>2</v></c></row>"
            .to_owned(),
    );
    assert_eq!(far.unwrap().blocks[1].text, "1\n| 2");
    let mut rows = String::new();
    for at in 0..2000 {
        write!(rows, "<row><c r='A1'><v>{at}</v></c><c r='ZZZZZZ1'><v>1</v></c></row>").unwrap();
    }
    assert!(sheet(rows).is_ok());
    let wide = "<row>".to_owned()
        + &"<c><v>1</v></c>".repeat(16_000)
        + "</row>"
        + &"<row><c r='XFC1'><v>1</v></c></row>".repeat(5000);
    assert_eq!(sheet(wide).unwrap_err(), Error::TooMuchText { limit: 1_000_000 });
}

#[test]
fn csv_of_nothing_but_separators() {
    let commas = ",".repeat(4 << 20);
    assert!(matches!(soon("a.csv", commas.as_bytes(), &small()), Err(Error::NoText { .. })));
    let quotes = "\"".repeat(4 << 20) + ",a";
    let _ = soon("a.csv", quotes.as_bytes(), &small());
}

/// A pdf file of these objects, the first of which is its catalog; there is no table of them.
fn pdf(objects: &[String]) -> Vec<u8> {
    let mut out = "%PDF-1.4\n".to_owned();
    for (at, object) in objects.iter().enumerate() {
        write!(out, "{} 0 obj\n{object}\nendobj\n", at + 1).unwrap();
    }
    (out + "trailer <</Root 1 0 R>>\n%%EOF").into_bytes()
}

fn stream(dict: &str, data: &str) -> String {
    format!("<<{dict} /Length {}>>\nstream\n{data}\nendstream", data.len())
}

#[test]
fn pdf_that_draws_itself_ever_again_is_stopped() {
    let mut objects = vec![
        "<</Type/Catalog /Pages 2 0 R>>".to_owned(),
        "<</Type/Pages /Kids [3 0 R] /Count 1>>".to_owned(),
        "<</Type/Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents 4 0 R /Resources <</XObject <</A 5 0 R>>>>>>".to_owned(),
        stream("", "/A Do"),
    ];
    for at in 5..12 {
        let inner = format!(
            "/Type/XObject /Subtype/Form /BBox [0 0 9 9] /Resources <</XObject <</A {} 0 R>>>>",
            at + 1
        );
        objects.push(stream(&inner, &"/A Do ".repeat(40)));
    }
    objects.push(stream("/Type/XObject /Subtype/Form /BBox [0 0 9 9]", "0 0 1 1 re f"));
    let limits = Limits { until: Some(Instant::now() + Duration::from_millis(300)), ..small() };
    let error = soon("a.pdf", &pdf(&objects), &limits).unwrap_err();
    assert!(matches!(&error, Error::TookTooLong { place, .. } if place == "page 1"), "{error}");
}

#[test]
fn pdf_with_a_content_that_is_named_often() {
    let objects = [
        "<</Type/Catalog /Pages 2 0 R>>".to_owned(),
        "<</Type/Pages /Kids [3 0 R] /Count 1>>".to_owned(),
        format!("<</Type/Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents [{}]>>", "4 0 R ".repeat(100_000)),
        stream("", &"0 0 m ".repeat(1000)),
    ];
    let error = soon("a.pdf", &pdf(&objects), &small()).unwrap_err();
    assert!(matches!(error, Error::Bomb { .. }), "{error}");
}

#[test]
fn pdf_of_nothing_but_streams() {
    for part in ["stream\n", "stream x", "stream\nx\u{1}", "stream endstream ", "1 0 obj <<>> stream\n"] {
        let bytes = "%PDF-1.4\n".to_owned() + &part.repeat(100_000);
        assert!(soon("a.pdf", bytes.as_bytes(), &small()).is_err());
    }
    for part in ["<<", "[", "(", "1 0 obj ", "1 0 obj [", "/A", "trailer <</Root 1 0 R", "startxref 0 "] {
        let bytes = "%PDF-1.4\n".to_owned() + &part.repeat(100_000);
        let _ = soon("a.pdf", bytes.as_bytes(), &small());
    }
}

#[test]
fn pdf_in_layers() {
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    let mut data = vec![b' '; 64 << 20];
    for _ in 0..2 {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&data).unwrap();
        data = encoder.finish().unwrap();
    }
    let mut file = b"%PDF-1.4\n1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj 2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj \
        3 0 obj <</Type/Page/MediaBox[0 0 9 9]/Contents 4 0 R>> endobj 4 0 obj <</Filter[/FlateDecode/FlateDecode]/Length "
        .to_vec();
    write!(file, "{}>>\nstream\n", data.len()).unwrap();
    file.extend_from_slice(&data);
    file.extend_from_slice(b"\nendstream endobj trailer <</Root 1 0 R>>");
    let error = soon("a.pdf", &file, &small()).unwrap_err();
    assert!(matches!(error, Error::Bomb { .. }), "{error}");
}

#[test]
fn protected_office_files() {
    let mut bytes = fixture("manual.docx");
    // The flag of encryption, in the directory and before each member.
    for (magic, flags) in [(b"PK\x01\x02", 8), (b"PK\x03\x04", 6)] {
        let places: Vec<usize> =
            bytes.windows(4).enumerate().filter(|(_, w)| w == magic).map(|(at, _)| at).collect();
        for at in places {
            bytes[at + flags] |= 1;
        }
    }
    assert_eq!(soon("a.docx", &bytes, &small()).unwrap_err(), Error::Password { what: "docx" });
    let odt = with_member("rules.odt", "META-INF/manifest.xml", |text| {
        *text = b"<manifest><file-entry full-path='content.xml'><encryption-data/></file-entry></manifest>"
            .to_vec();
    });
    assert_eq!(soon("a.odt", &odt, &small()).unwrap_err(), Error::Password { what: "odt" });
}

#[test]
fn text_that_is_one_line_or_many() {
    let lines = "a\n\n".repeat(1_000_000);
    assert_eq!(read_text("a.txt", &lines).unwrap_err(), Error::TooMuchText { limit: 20_000_000 });
    let one = "word ".repeat(1_000_000);
    assert_eq!(read_text("a.txt", &one).unwrap().blocks.len(), 1);
}
