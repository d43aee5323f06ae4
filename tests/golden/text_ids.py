"""Token ids of llama.cpp: python text_ids.py SMOLLM2.gguf GEMMA3.gguf  (pip install llama-cpp-python)

Writes text/smollm2.json and text/gemma3.json beside itself. Other pre-tokenizers are run over SmolLM2's
vocabulary: their merges are not its own, but the words are cut as theirs.
"""
import json
import pathlib
import sys

import llama_cpp

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", " \t \n ", "a", " a", "  a", "a ", "a  ", "a\n b\n\n  c\t\td",
    "Hello, world!", "hello   world", "The quick brown fox jumps over the lazy dog.",
    "I'm sure they'll say it's what we've got, isn't it? I'D RATHER NOT, YOU'RE RIGHT. 'tis O'Neil's",
    "12 345 6789 12345678901234567890 3.14159 1,000,000 0x1F 1e-9 2024-12-31T23:59:59Z",
    "Grüße aus Köln, où l'été s'achève; El Niño ¿qué tal? Žluťoučký kůň. Øre, Æther, ß, ſ",
    "Привет, как дела? Сегодня 5 мая.", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم، كيف حالك؟", "नमस्ते दुनिया",
    "สวัสดีชาวโลก", "你好,世界。今天天气很好!", "こんにちは世界。カタカナ、ひらがな、漢字。", "안녕하세요 세계", "Xin chào thế giới",
    "emoji 😀😃 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ ☃ end", "combining e\u0301 a\u0308 \u1e9b\u0323", "full width ABC123",
    "nbsp\u00a0here\u2003em\u200bzero\u3000ideographic\u2028line\u0085nel", "control \x01\x02\x1b[0m\x7f bytes",
    "a\r\nb\rc\n\rd", "½ ² Ⅷ ٣ ४", "$100 €20 £5 ¥9 100% #tag @user & <b>bold</b> </p> `code` ~tilde~ ^caret^ | pipe",
    "def f(x):\n    if x > 0:\n        return x ** 2  # comment\n\n\tpass\n", "https://example.com/a/b?c=d&e=f#g",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b\\n"}}', "ALLCAPS CamelCase snake_case kebab-case",
    "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "<start_of_turn>user\nhi<end_of_turn>\n<bos><eos>", "<|im_start", "x<|im_end|>y",
    "supercalifragilisticexpialidocious antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!!!!!!????????........--------________========", "▁already▁marked ▁", "\ufeffbom", "x" + " " * 40 + "y" + "\n" * 40 + "z" + "\t" * 9,
    "\U0001f1e9\U0001f1ea flags \U00020000 rare \U0010ffff last", "Ġ Ċ ĉ are byte symbols", "mixed 日本語 and English текст 123漢字456",
]


def cases(path, **overrides):
    vocab = llama_cpp.Llama(path, vocab_only=True, verbose=False, kv_overrides=overrides or None)
    ids = lambda text, special: vocab.tokenize(text.encode(), add_bos=True, special=special)
    return [[text, ids(text, False), ids(text, True)] for text in TEXTS]


def write(name, sets):
    out = pathlib.Path(__file__).parent / "text" / name
    command = "python tests/golden/text_ids.py SMOLLM2.gguf GEMMA3.gguf (llama-cpp-python %s)" % llama_cpp.__version__
    with out.open("w") as f:
        json.dump({"command": command, "fields": ["text", "ids, special tokens as text", "ids, special tokens parsed"], "sets": sets}, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


smollm2, gemma3 = sys.argv[1:3]
pres = ["smollm", "default", "gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o", "falcon", "bloom"]
write("smollm2.json", {pre: cases(smollm2, **{"tokenizer.ggml.pre": pre}) for pre in pres})
write("gemma3.json", {"plain": cases(gemma3), "space_prefix": cases(gemma3, **{"tokenizer.ggml.add_space_prefix": True})})
