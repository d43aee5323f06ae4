//! Where sentences end, language by language; `|` is an end.

use super::super::{by_words, sentences};

const CASES: &[&str] = &[
    // English
    "It rained.|We stayed in.",
    "Dr. Smith met Mr. J. R. Jones at 3.15 p.m. on Monday.|He was late.",
    "It costs $3.50, i.e. nothing.|See fig. 3 and pp. 4-5 (cf. Sec. 2).",
    "The U.S. Army came.|\"Why?\" he asked.|\"No!\"|Nobody spoke.",
    "See https://example.org/a.b?c=d for more.|It works.",
    "Visit example.org now.|Version 2.0.1 is out.",
    "Wait... what?|Really?!|Yes.",
    "Apples, pears, etc. are fruit.|Bring cups, plates, etc.|Then go.",
    "It was in 1984.|Then came 1985.",
    "Acme Inc. is big.|No. 5 is in St. Louis.",
    "She said (quietly).|He left.",
    "1. Introduction and aims",
    // German
    "Am 3. Oktober war Feiertag.|Danach nicht mehr.",
    "Das kostet ca. 3,50 €, z. B. beim Bäcker, z.B. in Berlin.|Gut.",
    "Im 19. Jahrhundert lebte Prof. Dr. Müller in der Hauptstr. 5.|Er starb bald.",
    "Der 1. FC spielt.|Ludwig XIV. war König.|„Geh!“|Sie ging.",
    "Das gilt gem. Abs. 2 Nr. 3 BGB, vgl. Bd. 4, d. h. immer.|So ist es.",
    "Es waren 17.|Dann 18.",
    // French
    "M. Dupont et Mme. Petit arrivent.|Ils partent.|« Quoi ? »|Rien !",
    "Voir p. 12, chap. 3, env. 20 km.|C'est tout.",
    // Spanish
    "El Sr. García vive en la Av. Central.|¿Cómo está Ud. hoy?|¡Bien!|La Dra. López no vino.",
    "Véase pág. 12 y núm. 3.|Fin.",
    // Italian
    "Il sig. Rossi e il dott. Bianchi parlano.|L'avv. Verdi tace.",
    // Portuguese
    "O Sr. Silva e a Dra. Costa chegaram.|A Profa. Lima saiu, cf. pág. 3.",
    // Polish
    "Prof. dr hab. Jan Kowalski mieszka przy ul. Długiej 5.|To jest np. Warszawa.|Dnia 3. Maja jest święto.",
    // Scripts with signs of their own
    "今日は雨です。|明日は？|晴れです！",
    "他说：“你好。”|我走了。|价格是3.5元。",
    "यह एक वाक्य है।|यह दूसरा है॥",
    "یہ ایک جملہ ہے۔|دوسرا؟",
    // No ends
    "no end at all",
    "a line\nand the next of the same sentence.|Another.",
    "A heading\n\n|A paragraph.",
];

#[test]
fn sentences_end_where_they_should() {
    let mut wrong = Vec::new();
    for case in CASES {
        let wanted: Vec<&str> = case.split('|').map(str::trim).collect();
        // Chinese, Japanese: without blanks.
        let wide = case.chars().any(|c| ('\u{3000}'..='\u{9fff}').contains(&c));
        let text = case.replace('|', if wide { "" } else { " " });
        let text = text.replace("\n\n ", "\n\n");
        let found = sentences(&text);
        if found != wanted {
            wrong.push(format!("{found:?}\n  instead of {wanted:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_lost_between_sentences() {
    let text = CASES.join(" ");
    let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    assert_eq!(bare(&text), bare(&sentences(&text).concat()));
    assert!(sentences(" \n ").is_empty());
}

#[test]
fn long_texts_take_no_longer_than_they_are() {
    for text in ["a. ", ". ", "...", "\n", "1. ", "z. B. ", "」", "a"] {
        let text = text.repeat(300_000);
        let start = std::time::Instant::now();
        let _ = sentences(&text);
        assert!(start.elapsed().as_secs() < 5, "{:?}", &text[..8]);
    }
}

#[test]
fn words() {
    let text: Vec<String> = (0..500).map(|at| at.to_string()).collect();
    let pieces = by_words(&text.join(" \n"), 200, 20);
    let ends: Vec<(&str, &str)> = pieces
        .iter()
        .map(|piece| (piece.split(' ').next().unwrap(), piece.rsplit(' ').next().unwrap()))
        .collect();
    assert_eq!(ends, [("0", "199"), ("180", "379"), ("360", "499")]);
    assert_eq!(by_words("a b", 200, 20), ["a b"]);
    assert_eq!(by_words("a b c", 2, 5), ["a b", "b c"]);
    assert_eq!(by_words("a b c d", 2, 0), ["a b", "c d"]);
    assert!(by_words(" ", 200, 20).is_empty());
}
