"""Small tokenizers in the forms that chat models have theirs, and the ids that the `tokenizers` package gives.

python3 -m pip install tokenizers==0.23.3
python3 tests/golden/text/json/make.py

Writes NAME.json and NAME.ids.json beside itself: for each text the ids with special tokens as text, and as tokens.
The vocabularies are trained on this folder's own texts; normalizers, pre-tokenizers, post-processors and the flags of
added tokens are those of the models' files.
"""
import json
import pathlib
import re

import tokenizers as T
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
# The texts that the tokenizers of GGUF files are compared on.
SOURCE = (HERE.parent.parent / "text_ids.py").read_text()
TEXTS = eval(SOURCE[SOURCE.index("TEXTS = [") + 8:SOURCE.index("\n]\n") + 2])
TEXTS += [
    "'\u017f 'S it'\u017fx", "e\u0301e\u0301\u1100\u1161\u11a8 \ufb01", "<|user|>\n  hi<|end|> \n<|assistant|>\n", "  <|user|> <s>x</s>  y",
    "\n\n\n\nx\n\n", "▁▁ ▁a  ▁▁▁▁b", "<think>\nhm</think>\n\nok", "a" * 7 + " " + "ab" * 9, "\x00\x04\x06\x13 \x14x\x16\x1d", " \u3000 x \u2003\u2003y",
    "1234567 12 123 ١٢٣٤ ²³ Ⅷ5", "<|im_start|>system\n<|im_end|>", "x<0x41>y <0xZZ>", "Straße STRASSE İstanbul ı ﬀ", "<s>", "<s> <s>", "<unk>q<unk>",
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# No vocabulary learns to make special tokens of ordinary text, which ours never does.
LEARNED = [re.sub(r"<[^ ]*>", "", text) for text in TEXTS * 2 + [SOURCE]]
MARKS = normalizers.Replace(" ", "▁")
LLAMA2 = normalizers.Sequence([normalizers.Prepend("▁"), MARKS])


def special(text, **flags):
    return AddedToken(text, special=True, normalized=False, **flags)


def ordinary(text):
    return AddedToken(text, special=False, normalized=False)


def byte_level(*steps, use_regex=False):
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


def split(regex, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(regex), behavior, invert)


def first(token, id, *before):
    single = processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A $B", special_tokens=[(token, id)])
    return processors.Sequence([*before, single]) if before else single


def trained(normalizer, cutter, added, merges, lacks=""):
    """A model over bytes."""
    tokenizer = T.Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = cutter
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LEARNED, trainer)
    file = json.loads(tokenizer.to_str())
    file["model"]["vocab"] = {t: i for i, t in enumerate(t for t in file["model"]["vocab"] if t not in lacks)}
    tokenizer = T.Tokenizer.from_str(json.dumps(file))
    add(tokenizer, added)
    return tokenizer


def spelled(normalizer, cutter, added, merges):
    """A model over characters, with bytes for those that it lacks."""
    tokenizer = T.Tokenizer(models.BPE())
    tokenizer.normalizer = MARKS
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁+[^▁])"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=100 + merges, limit_alphabet=100, show_progress=False)
    tokenizer.train_from_iterator(LEARNED, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    head = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(head + list(model["vocab"])))}
    model = models.BPE(vocab, [tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = T.Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if cutter:
        tokenizer.pre_tokenizer = cutter
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = first("<s>", 1)
    add(tokenizer, [special("<unk>"), special("<s>"), special("</s>"), *added])
    return tokenizer


def add(tokenizer, added):
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])


def make():
    chatml = [special(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    llama3 = trained(None, byte_level(split(LLAMA3)), [special("<|begin_of_text|>"), special("<|eot_id|>")], 300)
    llama3.model.ignore_merges = True
    llama3.post_processor = first("<|begin_of_text|>", llama3.token_to_id("<|begin_of_text|>"), processors.ByteLevel())
    yield "llama3", llama3
    thinks = [*chatml, ordinary("<think>"), ordinary("</think>")]
    yield "qwen2", trained(normalizers.NFC(), byte_level(split(QWEN2)), thinks, 300)
    digits = pre_tokenizers.Digits(individual_digits=True)
    # Lacks what SmolLM2's vocabulary lacks.
    yield "smollm2", trained(None, byte_level(digits, use_regex=True), chatml, 300, lacks="ĄĆēĔĖĝ")
    yield "gpt4o", trained(None, byte_level(split(GPT4O, "removed", True)), chatml, 300)
    yield "llama2", spelled(LLAMA2, None, [], 300)
    yield "mistral", spelled(None, pre_tokenizers.Metaspace("▁", "first", False), [], 300)
    yield "metaspace", spelled(None, pre_tokenizers.Metaspace("▁", "always", True), [], 300)
    turns = [special(t, rstrip=True) for t in ("<|user|>", "<|assistant|>", "<|end|>")] + [special("<|left|>", lstrip=True)]
    yield "phi3", spelled(LLAMA2, None, turns, 300)
    gemma = [ordinary("\n\n"), ordinary("\n\n\n"), ordinary("▁▁"), special("<start_of_turn>"), special("<end_of_turn>")]
    yield "gemma3", spelled(MARKS, pre_tokenizers.Split(" ", "merged_with_previous"), gemma, 300)


for name, tokenizer in make():
    text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (HERE / f"{name}.json").write_text(text + "\n")
    cases = []
    for case in TEXTS:
        both = []
        for as_text in (True, False):
            tokenizer.encode_special_tokens = as_text
            both.append(tokenizer.encode(case).ids)
        cases.append([case, *(both if both[0] != both[1] else both[:1])])
    (HERE / f"{name}.ids.json").write_text(json.dumps(cases, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(name, tokenizer.get_vocab_size(), len(text), sum(len(c[1]) for c in cases))
