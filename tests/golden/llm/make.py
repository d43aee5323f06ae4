"""Greedy tokens and logits of llama.cpp on one GGUF file, and the logits of transformers on the same weights
dequantised to f32, which say how far the rounding of activations to 8 bits moves llama.cpp's own.

python3 -m pip install llama-cpp-python==0.3.36 numpy torch transformers accelerate gguf
python3 tests/golden/llm/make.py GGUF > tests/golden/llm/smollm2-135m-instruct.json
"""
import json
import os
import sys

import llama_cpp as L
import numpy as np
import torch
from transformers import AutoModelForCausalLM

TEXTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "Der Hund läuft durch den Wald und",
    "1, 2, 3, 5, 8, 13,",
]
STEPS = 48

L.llama_backend_init()
params = L.llama_model_default_params()
# Plain kernels: llama.cpp's repacked ones for AMX crash on short batches of Q4_1.
params.use_extra_bufts = False
model = L.llama_model_load_from_file(sys.argv[1].encode(), params)
vocab = L.llama_model_get_vocab(model)
folder, name = os.path.split(os.path.abspath(sys.argv[1]))
exact = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
n_vocab = L.llama_vocab_n_tokens(vocab)


def tokenize(text):
    raw = text.encode()
    out = (L.llama_token * 256)()
    n = L.llama_tokenize(vocab, raw, len(raw), out, 256, False, False)
    return list(out[:n])


def run(tokens):
    p = L.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_threads, p.n_threads_batch = 512, 512, 2, 2
    ctx = L.llama_init_from_model(model, p)

    def decode(ids, start):
        batch = L.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, t in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = t, start + i, 1, 0
            batch.logits[i] = i == len(ids) - 1
        assert L.llama_decode(ctx, batch) == 0
        return np.ctypeslib.as_array(L.llama_get_logits_ith(ctx, len(ids) - 1), (n_vocab,)).copy()

    first = decode(tokens, 0)
    logits, greedy, margins = first, [], []
    for step in range(STEPS):
        a, b = np.partition(logits, -2)[-2:]
        greedy.append(int(logits.argmax()))
        margins.append(round(float(b - a), 3))
        logits = decode([greedy[-1]], len(tokens) + step)
    L.llama_free(ctx)
    with torch.no_grad():
        reference = exact(torch.tensor([tokens])).logits[0, -1]
    top = np.argsort(-first)[:40]
    sample = np.arange(0, n_vocab, 997)
    ids = sorted({int(i) for i in np.concatenate([top, sample])})
    return {
        "prompt": tokens,
        "logits": [[i, round(float(first[i]), 4)] for i in ids],
        "exact": [[i, round(float(reference[i]), 4)] for i in ids],
        "greedy": greedy,
        "margins": margins,
    }


json.dump([{"text": t, **run(tokenize(t))} for t in TEXTS], sys.stdout, ensure_ascii=False)
