#!/usr/bin/env python3
"""Checks questions.jsonl against the corpus that corpus.py made.

    check.py FOLDER     the folder of documents

Every question names a document and a passage of it that occurs there exactly once, and no run of half the passage's words is
anywhere else in the corpus, so that a chunk that is a hit holds the passage itself. README.md says what a hit is.
"""

import json
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

QUESTIONS = Path(__file__).with_name("questions.jsonl")
FIELDS = ["id", "lang", "question", "document", "evidence", "style"]
LANGUAGES = {"en", "de"}
STYLES = {"paraphrase", "keyword", "name"}
DROPPED = {"script", "style", "nav", "noscript", "template", "svg", "iframe", "object", "noembed", "noframes", "select", "title"}
INLINE = set("a b i em strong code tt span kbd samp var cite abbr acronym small big sub sup u s q dfn font mark del ins strike "
             "label bdo bdi time wbr".split())


class Page(HTMLParser):
    """The text of a page; elements that stand by themselves part words."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.dropped = [], 0

    def handle_starttag(self, tag, attrs):
        if tag in DROPPED:
            self.dropped += 1
        elif tag not in INLINE:
            self.parts.append(" ")

    def handle_endtag(self, tag):
        if tag in DROPPED:
            self.dropped = max(0, self.dropped - 1)
        elif tag not in INLINE:
            self.parts.append(" ")

    def handle_data(self, data):
        if not self.dropped:
            self.parts.append(data)


def text(path):
    """A document's text with single spaces."""
    read = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        page = Page()
        page.feed(read)
        page.close()
        read = "".join(page.parts)
    return " ".join(read.split())


def words(text):
    """Runs of letters and digits, in small letters."""
    return re.findall(r"[^\W_]+", text.lower())


def is_hit(chunk, evidence):
    """Whether `chunk` holds at least half of the words of `evidence`, rounded up, as one run."""
    evidence, chunk = words(evidence), f" {' '.join(words(chunk))} "
    half = (len(evidence) + 1) // 2
    return any(f" {' '.join(evidence[at:at + half])} " in chunk for at in range(len(evidence) - half + 1))


def main():
    if len(sys.argv) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    texts = {path.name: text(path) for path in sorted(folder.iterdir())}
    runs = {name: f" {' '.join(words(text))} " for name, text in texts.items()}
    wrong, ids, asked = [], set(), set()
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        def bad(why):
            wrong.append(f"{row.get('id')}: {why}")
        if list(row) != FIELDS or not all(isinstance(value, str) and value for value in row.values()):
            bad("not the fields " + ", ".join(FIELDS))
            continue
        if row["id"] in ids:
            bad("its id is another's too")
        ids.add(row["id"])
        if row["question"].lower() in asked:
            bad("its question is another's too")
        asked.add(row["question"].lower())
        if row["lang"] not in LANGUAGES or row["style"] not in STYLES:
            bad(f"language {row['lang']}, style {row['style']}")
        if row["document"] not in texts:
            bad(f"no document {row['document']}")
            continue
        evidence = row["evidence"]
        if not 60 <= len(evidence) <= 250 or evidence != " ".join(evidence.split()):
            bad(f"evidence of {len(evidence)} characters, or spaces in it that are not single")
        found = texts[row["document"]].count(evidence)
        if found != 1:
            bad(f"evidence found {found} times in {row['document']}")
        if not is_hit(texts[row["document"]], evidence):
            bad("the whole document is no hit")
        part = words(evidence)
        half = (len(part) + 1) // 2
        for at in range(len(part) - half + 1):
            run = " ".join(part[at:at + half])
            places = {name: read.count(f" {run} ") for name, read in runs.items() if f" {run} " in read}
            if sum(places.values()) != 1:
                bad(f"half of the evidence is in {places}: {run}")
                break
    print(f"{len(rows)} questions about {len({row['document'] for row in rows})} of {len(texts)} documents, "
          f"{sum(len(text.encode()) for text in texts.values())} bytes of text")
    for what in ("lang", "style", "document"):
        print(f"{what}: " + ", ".join(f"{name} {count}" for name, count in sorted(Counter(row[what] for row in rows).items())))
    for name in sorted(set(texts) - {row["document"] for row in rows}):
        wrong.append(f"no question about {name}")
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
