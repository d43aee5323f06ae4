"""llama.cpp's greedy answers to 20 prompts and its perplexity on one text, from one GGUF file, and the perplexity that
transformers gives the same weights dequantised to f32: llama.cpp rounds activations, which moves its own by up to 0.6%.

Keys and values are kept in f32 and attention is computed step by step (as with `-ctk f32 -ctv f32 -fa off`), so that
what is compared is the model and not how either engine rounds its cache.

python3 -m pip install llama-cpp-python==0.3.36 numpy torch transformers accelerate gguf
python3 tests/golden/llm/greedy.py GGUF > tests/golden/llm/greedy-NAME.json

(A second argument is an earlier file of the same weights, whose exact perplexity is taken over.)

The requantised files of SmolLM2 are written by
STENTOR_TEST_KEEP=FOLDER cargo test --release --lib requantised
"""
import json
import sys

import llama_cpp as L
import numpy as np

PROMPTS = [
    "The capital of France is", "Once upon a time, in a small village by the sea,", "def fibonacci(n):\n    ",
    "Der Hund läuft durch den Wald und", "1, 2, 3, 5, 8, 13,", "The three primary colours are",
    "Water boils at a temperature of", "In 1969, the first humans", "To make a good cup of tea, you",
    "Q: What is the largest planet?\nA:", "The quick brown fox", "List of European countries:\n1. Austria\n2.",
    "Dear Sir or Madam,\n\nI am writing to", "La Tour Eiffel se trouve à", "SELECT name, age FROM users WHERE",
    "The meaning of the word \"library\" is", "Photosynthesis is the process by which",
    "My favourite season is autumn because", "{\"name\": \"Alice\", \"age\":", "Two plus two equals",
]
STEPS = 64
FIRST, EVERY = [504, 1000, 3575, 19556, 30000], 997
# The opening of "Pride and Prejudice" (Jane Austen, 1813).
TEXT = """It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want \
of a wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, \
this truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful property \
of some one or other of their daughters. "My dear Mr. Bennet," said his lady to him one day, "have you heard that \
Netherfield Park is let at last?" Mr. Bennet replied that he had not. "But it is," returned she; "for Mrs. Long has \
just been here, and she told me all about it." Mr. Bennet made no answer. "Do not you want to know who has taken \
it?" cried his wife impatiently. "You want to tell me, and I have no objection to hearing it." This was invitation \
enough. "Why, my dear, you must know, Mrs. Long says that Netherfield is taken by a young man of large fortune from \
the north of England; that he came down on Monday in a chaise and four to see the place, and was so much delighted \
with it that he agreed with Mr. Morris immediately; that he is to take possession before Michaelmas, and some of his \
servants are to be in the house by the end of next week." "What is his name?" "Bingley." "Is he married or single?" \
"Oh! Single, my dear, to be sure! A single man of large fortune; four or five thousand a year. What a fine thing for \
our girls!" "How so? How can it affect them?" "My dear Mr. Bennet," replied his wife, "how can you be so tiresome! You \
must know that I am thinking of his marrying one of them." "Is that his design in settling here?" "Design! Nonsense, \
how can you talk so! But it is very likely that he may fall in love with one of them, and therefore you must visit him \
as soon as he comes." "I see no occasion for that. You and the girls may go, or you may send them by themselves, which \
perhaps will be still better, for as you are as handsome as any of them, Mr. Bingley might like you the best of the \
party." "My dear, you flatter me. I certainly have had my share of beauty, but I do not pretend to be anything \
extraordinary now. When a woman has five grown-up daughters, she ought to give over thinking of her own beauty." "In \
such cases, a woman has not often much beauty to think of." "But, my dear, you must indeed go and see Mr. Bingley when \
he comes into the neighbourhood." "It is more than I engage for, I assure you." "But consider your daughters. Only think \
what an establishment it would be for one of them. Sir William and Lady Lucas are determined to go, merely on that \
account, for in general, you know, they visit no newcomers. Indeed you must go, for it will be impossible for us to \
visit him if you do not." "You are over-scrupulous, surely. I dare say Mr. Bingley will be very glad to see you; and I \
will send a few lines by you to assure him of my hearty consent to his marrying whichever he chooses of the girls; \
though I must throw in a good word for my little Lizzy." "I desire you will do no such thing. Lizzy is not a bit better \
than the others; and I am sure she is not half so handsome as Jane, nor half so good-humoured as Lydia. But you are \
always giving her the preference." """

L.llama_backend_init()
params = L.llama_model_default_params()
# Plain kernels: llama.cpp's repacked ones for AMX crash on short batches of Q4_1.
params.use_extra_bufts = False
model = L.llama_model_load_from_file(sys.argv[1].encode(), params)
vocab = L.llama_model_get_vocab(model)
n_vocab = L.llama_vocab_n_tokens(vocab)


def tokenize(text):
    raw = text.encode()
    out = (L.llama_token * 1024)()
    n = L.llama_tokenize(vocab, raw, len(raw), out, 1024, True, False)
    return list(out[:n])


def context():
    p = L.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_threads, p.n_threads_batch = 1024, 1024, 1, 1
    p.type_k = p.type_v = L.GGML_TYPE_F32
    p.flash_attn_type = L.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return L.llama_init_from_model(model, p)


def decode(ctx, ids, start, every=False):
    batch = L.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, t in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = t, start + i, 1, 0
        batch.logits[i] = every or i == len(ids) - 1
    assert L.llama_decode(ctx, batch) == 0
    wanted = range(len(ids)) if every else [len(ids) - 1]
    return [np.ctypeslib.as_array(L.llama_get_logits_ith(ctx, i), (n_vocab,)).copy() for i in wanted]


def answer(prompt):
    ctx = context()
    logits = decode(ctx, prompt, 0)[0]
    greedy, margins = [], []
    for step in range(STEPS):
        a, b = np.partition(logits, -2)[-2:]
        greedy.append(int(logits.argmax()))
        margins.append(round(float(b - a), 3))
        logits = decode(ctx, [greedy[-1]], len(prompt) + step)[0]
    L.llama_free(ctx)
    return {"prompt": prompt, "greedy": greedy, "margins": margins}


def mean_loss(ids):
    logits = np.stack(decode(context(), ids, 0, every=True)[:-1]).astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float((log_sum - logits[np.arange(len(ids) - 1), ids[1:]]).mean())


def exact_loss(ids):
    if len(sys.argv) > 2:
        with open(sys.argv[2]) as earlier:
            return json.load(earlier)["exact_loss"]
    import os

    import torch
    from transformers import AutoModelForCausalLM

    folder, name = os.path.split(os.path.abspath(sys.argv[1]))
    exact = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    tokens = torch.tensor([ids])
    with torch.no_grad():
        return exact(tokens, labels=tokens).loss.item()


def first(token):
    # A sequence of one token attends to itself alone: what is left are the products, whose sums are exact in blocks.
    ctx = context()
    logits = decode(ctx, [token], 0)[0]
    L.llama_free(ctx)
    return {"token": token, "logits": [round(float(x), 5) for x in logits[::EVERY]]}


text = tokenize(TEXT)
answers = [answer(tokenize(p)) for p in PROMPTS]
golden = {"answers": answers, "first": [first(t) for t in FIRST], "text": text}
json.dump(golden | {"loss": mean_loss(text), "exact_loss": exact_loss(text)}, sys.stdout)
