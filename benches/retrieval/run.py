#!/usr/bin/env python3
"""How often the passage that answers a question is among the first that are found: run.py BASE_URL FOLDER

BASE_URL is a running server's, FOLDER the documents that corpus.py made. They are indexed first, into the collection
`retrieval-test`; those that are there already cost a look. Prints a table: recall at 1, 5 and 10, and the mean reciprocal rank
among 10, by vectors alone, by words alone, and by both. README.md says what a hit is.
"""

import json
import sys
import urllib.request
import uuid
from pathlib import Path

from check import QUESTIONS, is_hit

COLLECTION = "retrieval-test"
WAYS = [("vectors", 1, 0), ("words", 0, 1), ("both", 1, 1)]


def post(url, body, mime="application/json"):
    request = urllib.request.Request(url, data=body, headers={"Content-Type": mime})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def index(base, path):
    boundary = uuid.uuid4().hex
    head = "--{b}\r\nContent-Disposition: form-data; name=\"{n}\"{f}\r\n\r\n"
    body = head.format(b=boundary, n="collection", f="").encode() + COLLECTION.encode() + b"\r\n"
    body += head.format(b=boundary, n="files", f=f'; filename="{path.name}"').encode()
    body += path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    answer = post(f"{base}/index", body, f"multipart/form-data; boundary={boundary}")
    return answer["files"][0]


def search(base, question, vectors, words):
    weights = {"embedding_weight": vectors, "text_weight": words}
    body = {"query": question, "max_num_results": 10, "ranking_options": {"hybrid_search": weights}}
    answer = post(f"{base}/v1/vector_stores/{COLLECTION}/search", json.dumps(body).encode())
    return [(hit["filename"], hit["content"][0]["text"]) for hit in answer["data"]]


def rank(found, question):
    """Of the first hit, from 1; 0 where there is none."""
    hits = (at for at, (name, text) in enumerate(found, 1) if name == question["document"] and is_hit(text, question["evidence"]))
    return next(hits, 0)


def row(name, ranks):
    within = lambda k: 100 * sum(1 for rank in ranks if 0 < rank <= k) / len(ranks)
    mrr = sum(1 / rank for rank in ranks if rank) / len(ranks)
    return f"| {name} | {within(1):.1f}% | {within(5):.1f}% | {within(10):.1f}% | {mrr:.3f} |"


def main():
    if len(sys.argv) != 3:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    base = sys.argv[1].rstrip("/")
    passages = sum(index(base, path)["chunks"] for path in sorted(Path(sys.argv[2]).iterdir()))
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    print(f"{len(questions)} questions, {passages} passages\n\n| found by | recall@1 | recall@5 | recall@10 | MRR@10 |\n|---|---|---|---|---|")
    for way, vectors, words in WAYS:
        ranks = {question["id"]: rank(search(base, question["question"], vectors, words), question) for question in questions}
        print(row(way, list(ranks.values())))
        for part in ["lang", "style"]:
            for value in sorted({question[part] for question in questions}):
                print(row(f"{way}, {value}", [ranks[q["id"]] for q in questions if q[part] == value]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
