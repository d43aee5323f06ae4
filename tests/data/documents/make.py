#!/usr/bin/env python3
"""Makes the fixtures beside it. See README.md for what it needs."""

import zipfile
from datetime import date, datetime, time
from email.message import EmailMessage
from pathlib import Path

import docx
import openpyxl
import pikepdf
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from odf import style as odf_style
from odf import table as odf_table
from odf import text as odf_text
from odf import dc
from odf.opendocument import OpenDocumentText
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfgen import canvas
from reportlab.platypus import ListFlowable, PageBreak, Paragraph, SimpleDocTemplate, Table

HERE = Path(__file__).parent
BODY = (
    "The lighthouse was built in 1874 on a cliff that the sea has been eating ever since. Its lamp burned "
    "rape oil at first, then paraffin, and was lit by hand every evening. Dr. Hansen kept the log for 31 years "
    "and missed a single night."
)


def pdf():
    styles = getSampleStyleSheet()
    out = SimpleDocTemplate(str(HERE / "report.pdf"), pagesize=A4, title="Report on the lighthouse", invariant=1)
    out.build(
        [
            Paragraph("The Lighthouse", styles["Heading1"]),
            Paragraph(BODY, styles["BodyText"]),
            Paragraph("Der Wächter schrieb: „Kein Öl mehr für die Lampe“, und fünf Tage später kam das Boot.", styles["BodyText"]),
            Paragraph("Keepers", styles["Heading2"]),
            ListFlowable([Paragraph(name, styles["BodyText"]) for name in ("Hansen, 1874 to 1905", "Petersen, 1905 to 1931")], bulletType="1"),
            PageBreak(),
            Paragraph("Costs", styles["Heading2"]),
            Table([["Year", "Oil", "Wages"], ["1874", "120", "300"], ["1875", "131", "310"]]),
            PageBreak(),
            Paragraph("The end of the log, on the last page.", styles["BodyText"]),
        ]
    )
    with pikepdf.open(HERE / "report.pdf") as document:
        document.save(HERE / "locked.pdf", encryption=pikepdf.Encryption(user="secret", owner="secret", R=6))
        # Readable by all, but encrypted, and with its objects in streams.
        document.save(
            HERE / "owner.pdf",
            encryption=pikepdf.Encryption(user="", owner="secret", R=4),
            object_stream_mode=pikepdf.ObjectStreamMode.generate,
        )
    page = canvas.Canvas(str(HERE / "scanned.pdf"), pagesize=A4, invariant=1)
    page.rect(100, 100, 300, 400, fill=1)
    page.save()
    # Letters one by one, a turned page, and a word divided at the end of a line.
    page = canvas.Canvas(str(HERE / "odd.pdf"), pagesize=A4, invariant=1)
    for at, letter in enumerate("SPACED"):
        page.drawString(100 + at * 9, 700, letter)
    page.drawString(100, 650, "A word that is div-")
    page.drawString(100, 636, "ided at the end of a line of text.")
    page.showPage()
    page.setPageRotation(90)
    page.drawString(100, 300, "This page is turned.")
    page.save()


def word():
    document = docx.Document()
    document.core_properties.title = "Manual of the harbour"
    document.add_heading("Harbour", 1)
    document.add_paragraph("Ships report on channel 12.\tThe pilot boards at the buoy.")
    document.add_heading("Berths", 2)
    document.add_paragraph("Berth one", style="List Bullet")
    document.add_paragraph("Berth two", style="List Number")
    table = document.add_table(rows=2, cols=3)
    for cell, value in zip([c for row in table.rows for c in row.cells], ["Berth", "Length", "Depth", "1", "120 m", "9 m"]):
        cell.text = value
    paragraph = document.add_paragraph("Kept ")
    gone = OxmlElement("w:del")
    run = OxmlElement("w:r")
    text = OxmlElement("w:delText")
    text.text = "deleted"
    run.append(text)
    gone.append(run)
    paragraph._p.append(gone)
    paragraph.add_run("and <signed> & sealed.")
    # A heading that only its outline level tells.
    outlined = document.add_paragraph("Tides")
    level = OxmlElement("w:outlineLvl")
    level.set(qn("w:val"), "2")
    outlined._p.get_or_add_pPr().append(level)
    document.add_paragraph("High water is at noon.")
    document.save(HERE / "manual.docx")


def odt():
    document = OpenDocumentText()
    document.meta.addElement(dc.Title(text="Rules of the club"))
    title = odf_style.Style(name="P1", family="paragraph", parentstylename="Heading_20_2")
    document.automaticstyles.addElement(title)
    document.text.addElement(odf_text.H(outlinelevel=1, text="Club"))
    paragraph = odf_text.P(text="Members meet")
    paragraph.addElement(odf_text.S(c=3))
    paragraph.addText("on Mondays")
    note = odf_text.Note(noteclass="footnote")
    note.addElement(odf_text.NoteCitation(text="1"))
    body = odf_text.NoteBody()
    body.addElement(odf_text.P(text="Except in August."))
    note.addElement(body)
    paragraph.addElement(note)
    paragraph.addText(" at eight.")
    document.text.addElement(paragraph)
    document.text.addElement(odf_text.P(stylename=title, text="Fees"))
    items = odf_text.List()
    for name in ("Adults", "Children"):
        item = odf_text.ListItem()
        item.addElement(odf_text.P(text=name))
        items.addElement(item)
    document.text.addElement(items)
    table = odf_table.Table(name="Fees")
    table.addElement(odf_table.TableColumn(numbercolumnsrepeated=2))
    for row in (("Who", "Fee"), ("Adults", "30")):
        line = odf_table.TableRow()
        for value in row:
            cell = odf_table.TableCell()
            cell.addElement(odf_text.P(text=value))
            line.addElement(cell)
        table.addElement(line)
    document.text.addElement(table)
    document.save(HERE / "rules.odt")


def sheet():
    book = openpyxl.Workbook()
    first = book.active
    first.title = "Stock"
    for row in (
        ("Item", "Count", "Since", "Share", "Checked", "Sum"),
        ("Rope", 12, date(2024, 2, 29), 0.25, time(8, 30), 0.1 + 0.2),
        ("Lamp oil", 3.5, datetime(2023, 12, 31, 23, 59), 1, True, "=1+1"),
    ):
        first.append(row)
    first["D2"].number_format = "0.0%"
    first["D3"].number_format = "0%"
    first["H9"] = "far away"
    book.create_sheet("Empty")
    other = book.create_sheet("Öl & Teer")
    other.append(["Fass", "Liter"])
    other.append(["A", 200])
    book.save(HERE / "stock.xlsx")


def texts():
    (HERE / "utf8.txt").write_text("Größe und Maß.\n\nZweiter Absatz,\nzwei Zeilen.\n", encoding="utf-8")
    (HERE / "utf16.txt").write_text("Größe und Maß.\n", encoding="utf-16")
    (HERE / "latin.txt").write_bytes("Größe und Maß – “quoted”.\n".encode("cp1252"))
    (HERE / "semicolon.csv").write_bytes('Name;Betrag\nMüller;1,50\n"Zwei; Namen";"2,00"\n'.encode("cp1252"))
    (HERE / "tabs.tsv").write_text("a\tb\n1\t2\n", encoding="utf-8")
    (HERE / "page.html").write_bytes(
        """<!DOCTYPE html><html><head><meta charset="iso-8859-15"><title>Café page</title>
<style>p { color: red }</style><script>var x = "<p>not text</p>";</script></head><body>
<nav><ul><li><a href="/">Home</a></li></ul></nav>
<h1>Prices in €</h1><p>One &amp; two<br>three&nbsp;four, <b>bo</b>ld.</p><!-- <p>hidden</p> -->
<ol start="3"><li>third<li><p>fourth</p><ul><li>inner</ul></ol>
<table><caption>Table 1</caption><tr><th>Name<th colspan=2>Price<tr><td>Tea<td>2<td>€<tr><td>Cof<i>fee</i><td>3</table>
<table><tr><td><table><tr><td>laid</td><td>out</td></tr></table></td></tr></table>
<pre>  code
    deep</pre><h2>End</h2>last words""".encode("iso-8859-15")
    )
    (HERE / "notes.md").write_text(
        """---
title: Notes
---
# Top *level*

A paragraph
of two lines with `code` and a [link](http://example.org).

Setext
------

1. first
2. second

   more of the second
   * inner

| A | B |
|---|---|
| 1 | 2 |

```rust
fn main() {
    loop {}
}
```

<div>html <b>inside</b></div>
"""
    )


def mail():
    inner = EmailMessage()
    inner["From"] = "Inner <inner@example.org>"
    inner["To"] = "outer@example.org"
    inner["Subject"] = "Inner mail"
    inner.set_content("The text of the inner mail.\n")
    message = EmailMessage()
    message["From"] = "Jörg Größe <joerg@example.org>"
    message["To"] = "Anna <anna@example.org>, bob@example.org"
    message["Date"] = "Tue, 05 Mar 2024 14:07:00 +0100"
    message["Subject"] = "Übergabe der Pläne"
    message.set_content("Hallo Anna,\n\nanbei die Pläne für März.\n\nGrüße\nJörg\n", cte="quoted-printable")
    message.add_alternative("<p>Hallo Anna, <b>html</b></p>", subtype="html")
    message.add_attachment((HERE / "stock.xlsx").read_bytes(), maintype="application", subtype="octet-stream", filename="Übersicht.xlsx")
    message.add_attachment(b"\x89PNG\r\n\x1a\n" + bytes(20), maintype="image", subtype="png", filename="logo.png")
    message.add_attachment(b"PK\x03\x04broken", maintype="application", subtype="octet-stream", filename="broken.docx")
    message.add_attachment(inner)
    message.set_boundary("outer-boundary")
    message.get_payload()[0].set_boundary("inner-boundary")
    (HERE / "mail.eml").write_bytes(bytes(message))
    page = EmailMessage()
    page["From"] = "shop@example.org"
    page["Subject"] = "Your order"
    page.set_content("<html><body><h1>Thanks</h1><p>Order 7 is on its way.</p></body></html>", subtype="html", cte="base64")
    (HERE / "html-only.eml").write_bytes(bytes(page))


def hostile():
    with zipfile.ZipFile(HERE / "manual.docx") as source:
        members = {name: source.read(name) for name in source.namelist()}
    # 40 MB of blanks in a member that has to be read.
    with zipfile.ZipFile(HERE / "bomb.docx", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for name, data in members.items():
            if name == "word/document.xml":
                data = data.replace(b"</w:body>", b" " * (40 << 20) + b"</w:body>")
            out.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    pdf = pikepdf.new()
    pdf.add_blank_page()
    pdf.pages[0].Contents = pikepdf.Stream(pdf, b" " * (40 << 20) + b"BT ET")
    pdf.save(HERE / "bomb.pdf", compress_streams=True, recompress_flate=True, deterministic_id=True)


if __name__ == "__main__":
    pdf()
    word()
    odt()
    sheet()
    texts()
    mail()
    hostile()
