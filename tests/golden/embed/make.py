"""Embeddings of the reference implementation: python make.py MODEL_DIR > minilm.json

Made with sentence-transformers 6.2.0, transformers 5.23.0, torch 2.15.0 in float32 on a CPU.
Texts are embedded one at a time, so that nothing is padded.
"""

import json
import sys

import torch
from sentence_transformers import SentenceTransformer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "",
    " ",
    "a",
    "Hello, world!",
    "HELLO, WORLD!",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Le renard brun saute par-dessus le chien paresseux, n'est-ce pas ?",
    "El zorro marrón salta sobre el perro perezoso.",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "敏捷的棕色狐狸跳过了懒狗。",
    "素早い茶色の狐がのろまな犬を飛び越える。",
    "الثعلب البني السريع يقفز فوق الكلب الكسول",
    "तेज भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "👩‍👩‍👧‍👦 emoji 🎉 and flags 🇩🇪🇫🇷",
    "tabs\tand\nnew lines\r\nand\u00a0no-break\u200bspaces",
    "numbers 3.14159, 1,000,000 and 0x1F; e-mail a.b@example.org https://example.org/?q=1&r=2",
    "[CLS] special [SEP] tokens [MASK] inside",
    "x" * 150,
    "fn main() { println!(\"{}\", 1 + 1); }",
    "naïve café résumé Ångström ﬁne ①②③ ½",
    " ".join(f"word{i}" for i in range(400)),
]

model = SentenceTransformer(sys.argv[1], device="cpu")
rows = []
with torch.no_grad():
    for text in TEXTS:
        vector = model.encode([text])[0]
        ids = model.tokenizer([text], truncation=True, max_length=model.max_seq_length)["input_ids"][0]
        rows.append({"text": text, "ids": ids, "vector": [round(float(v), 7) for v in vector]})
json.dump(rows, sys.stdout, ensure_ascii=False, separators=(",", ":"))
