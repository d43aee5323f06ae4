//! Each format's fixture, made by another program, gives the text that went in.

use super::super::{Error, Kind};
use super::{outline, read_fixture};

const LIGHTHOUSE: &str = "The lighthouse was built in 1874 on a cliff that the sea has been eating ever since. Its lamp \
     burned rape oil at first, then paraffin, and was lit by hand every evening. Dr. Hansen kept the log for 31 years \
     and missed a single night.";

fn check(name: &str, kind: Kind, title: Option<&str>, lines: &[&str]) {
    let document = read_fixture(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((document.kind, document.title.as_deref()), (kind, title), "{name}");
    assert_eq!(outline(&document), lines, "{name}");
}

#[test]
fn pdf_keeps_pages_lines_and_headings() {
    let body = format!("p@1 {LIGHTHOUSE}");
    let lines = [
        "h1@1 The Lighthouse",
        &body,
        "p@1 Der Wächter schrieb: „Kein Öl mehr für die Lampe“, und fünf Tage später kam das Boot.",
        "h2@1 Keepers",
        "p@1 1 Hansen, 1874 to 1905",
        "p@1 2 Petersen, 1905 to 1931",
        "h2@2 Costs",
        "p@2 Year Oil Wages/1874 120 300/1875 131 310",
        "p@3 The end of the log, on the last page.",
    ];
    check("report.pdf", Kind::Pdf, Some("Report on the lighthouse"), &lines);
    // Encrypted, but for everybody to read, and with its objects in compressed streams.
    check("owner.pdf", Kind::Pdf, Some("Report on the lighthouse"), &lines);
    assert_eq!(read_fixture("report.pdf").unwrap().pages, Some(3));
}

#[test]
fn pdf_with_spaced_letters_divided_words_and_turned_pages() {
    let lines = [
        "p@1 SPACED",
        "p@1 A word that is divided at the end of a line of text.",
        "p@2 This page is turned.",
    ];
    check("odd.pdf", Kind::Pdf, None, &lines);
}

#[test]
fn pdf_that_says_nothing_tells_why() {
    let locked = read_fixture("locked.pdf").unwrap_err();
    assert_eq!(locked, Error::Password { what: "pdf" });
    let scanned = read_fixture("scanned.pdf").unwrap_err();
    assert!(scanned.to_string().contains("text in pictures is not read"), "{scanned}");
}

#[test]
fn docx_headings_lists_and_tables() {
    let lines = [
        "h1 Harbour",
        "p Ships report on channel 12. The pilot boards at the buoy.",
        "h2 Berths",
        "item Berth one",
        "item Berth two",
        "table Berth | Length | Depth/1 | 120 m | 9 m",
        "p Kept and <signed> & sealed.",
        "h3 Tides",
        "p High water is at noon.",
    ];
    check("manual.docx", Kind::Docx, Some("Manual of the harbour"), &lines);
}

#[test]
fn odt_headings_lists_tables_and_notes() {
    let lines = [
        "h1 Club",
        "p Members meet on Mondays at eight.",
        "p Except in August.",
        "h2 Fees",
        "item Adults",
        "item Children",
        "table Who | Fee/Adults | 30",
    ];
    check("rules.odt", Kind::Odt, Some("Rules of the club"), &lines);
}

#[test]
fn xlsx_shows_what_cells_show() {
    let lines = [
        "h1 Stock",
        "table Item | Count | Since | Share | Checked | Sum/Rope | 12 | 2024-02-29 | 25.0% | 08:30 | 0.3/Lamp oil | 3.5 | \
         2023-12-31 23:59 | 100% | TRUE/| | | | | | far away",
        "h1 Öl & Teer",
        "table Fass | Liter/A | 200",
    ];
    check("stock.xlsx", Kind::Xlsx, None, &lines);
}

#[test]
fn text_in_any_encoding() {
    check("utf8.txt", Kind::Text, None, &["p Größe und Maß.", "p Zweiter Absatz,/zwei Zeilen."]);
    check("utf16.txt", Kind::Text, None, &["p Größe und Maß."]);
    check("latin.txt", Kind::Text, None, &["p Größe und Maß – “quoted”."]);
    check("semicolon.csv", Kind::Csv, None, &["table Name | Betrag/Müller | 1,50/Zwei; Namen | 2,00"]);
    check("tabs.tsv", Kind::Csv, None, &["table a | b/1 | 2"]);
}

#[test]
fn html_without_what_is_no_text() {
    let lines = [
        "h1 Prices in €",
        "p One & two/three four, bold.",
        "item 3. third",
        "item 4. fourth",
        "item inner",
        "p Table 1",
        "table Name | Price/Tea | 2 | €/Coffee | 3",
        "table laid | out",
        "code   code/    deep",
        "h2 End",
        "p last words",
    ];
    check("page.html", Kind::Html, Some("Café page"), &lines);
}

#[test]
fn markdown() {
    let lines = [
        "h1 Top level",
        "p A paragraph of two lines with code and a link.",
        "h2 Setext",
        "item 1. first",
        "item 2. second",
        "p more of the second",
        "item inner",
        "table A | B/1 | 2",
        "code fn main() {/    loop {}/}",
        "p html inside",
    ];
    check("notes.md", Kind::Markdown, Some("Notes"), &lines);
}

#[test]
fn mail_with_attachments_of_which_some_are_broken() {
    let lines = [
        "p From: Jörg Größe <joerg@example.org>/To: Anna <anna@example.org>, bob@example.org/Date: Tue, 05 Mar 2024 \
         14:07:00 +0100/Subject: Übergabe der Pläne",
        "p Hallo Anna,",
        "p anbei die Pläne für März.",
        "p Grüße/Jörg",
    ];
    check("mail.eml", Kind::Mail, Some("Übergabe der Pläne"), &lines);
    let mail = read_fixture("mail.eml").unwrap();
    let names: Vec<&str> = mail.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["Übersicht.xlsx", "logo.png", "broken.docx", "attachment 4.eml"]);
    let sheet = mail.parts[0].document.as_ref().unwrap();
    assert_eq!((sheet.kind, sheet.blocks[0].text.as_str()), (Kind::Xlsx, "Stock"));
    assert_eq!(mail.parts[1].document, Err(Error::Picture { what: "png" }));
    assert!(matches!(mail.parts[2].document, Err(Error::Broken { kind: Kind::Docx, .. })));
    let inner = mail.parts[3].document.as_ref().unwrap();
    assert_eq!(inner.title.as_deref(), Some("Inner mail"));
    assert_eq!(inner.blocks.last().unwrap().text, "The text of the inner mail.");
    let text = mail.text();
    assert!(text.contains("Rope | 12") && text.contains("inner mail."), "{text}");
}

#[test]
fn mail_of_html_alone() {
    let lines = ["p From: shop@example.org/Subject: Your order", "h1 Thanks", "p Order 7 is on its way."];
    check("html-only.eml", Kind::Mail, Some("Your order"), &lines);
}
