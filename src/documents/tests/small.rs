//! Rules that no fixture shows.

use super::{outline, read_text};

fn lines(name: &str, text: &str) -> Vec<String> {
    outline(&read_text(name, text).unwrap())
}

#[test]
fn csv_separators_and_quotes() {
    assert_eq!(lines("a.csv", "a,b\n\"x, \"\"y\"\"\nz\",2\n"), ["table a | b/x, \"y\" z | 2"]);
    assert_eq!(lines("a.csv", "a;b\n1,5;2,5\n3,5;4,5\n"), ["table a | b/1,5 | 2,5/3,5 | 4,5"]);
    assert_eq!(lines("a.csv", "a\tb, c\n1\t2\n"), ["table a | b, c/1 | 2"]);
    assert_eq!(lines("a.csv", "sep=;\na,b;c\n"), ["table a,b | c"]);
    assert_eq!(lines("a.csv", "one\ntwo\n"), ["table one/two"]);
    assert_eq!(lines("a.csv", "a,,c\n1,,3\n,x,\n"), ["table a | | c/1 | | 3/| x"]);
}

#[test]
fn html_that_is_not_closed() {
    assert_eq!(lines("a.html", "<nav>menu<main>text<script>if (a</script><p>more"), ["p text", "p more"]);
    assert_eq!(lines("a.html", "<h1>A<h2>B<p>c<td>d"), ["h1 A", "h2 B", "p cd"]);
    assert_eq!(lines("a.html", "<li>a<li>b</ul>c"), ["item a", "item b", "p c"]);
    assert_eq!(lines("a.html", "a &lt;b&gt; &copy; &#x20ac; &bogus; c"), ["p a <b> © € &bogus; c"]);
    assert_eq!(lines("a.html", "<table><tr><td>x<tr><td>y</table>z"), ["p x", "p y", "p z"]);
}

#[test]
fn mail_in_several_forms() {
    let mail = |rest: &str| lines("a.eml", &format!("From: a@b.c\nSubject: =?utf-8?Q?=C3=84?= x\n{rest}"));
    let head = "p From: a@b.c/Subject: Ä x";
    assert_eq!(mail("\nline one\nline two\n\nnext"), [head, "p line one/line two", "p next"]);
    let latin = "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\nGr=FC=DFe=\n!\n";
    assert_eq!(mail(latin), [head, "p Grüße!"]);
    let nested = "Content-Type: multipart/mixed; boundary=\"o\"\n\npreamble\n--o\nContent-Type: multipart/alternative; boundary=i\n\n\
        --i\nContent-Type: text/html\n\n<p>html\n--i\nContent-Type: text/plain\n\nplain\n--i--\n--o\n\nsecond text\n--o--\nepilogue";
    assert_eq!(mail(nested), [head, "p plain", "p second text"]);
    let cut = "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: base64\n\nPGI+aGVsbG88L2I+\n";
    assert_eq!(mail(cut), [head, "p hello"]);
}

#[test]
fn text_of_a_document() {
    let document = read_text("a.md", "# T\n\ntext\n\n- a\n- b\n\nend").unwrap();
    assert_eq!(document.text(), "T\n\ntext\n\na\nb\n\nend");
}
