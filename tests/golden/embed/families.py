"""Small models of random weights of every family beside BERT, and what the reference implementation makes of
texts with them: python families.py OUT_DIR

Made with sentence-transformers 6.2.0, transformers 5.24.0, tokenizers 0.23.3, gguf 0.19.0, torch 2.15.0 in float32 on
a CPU. Vocabularies are trained on the texts below, not quite alike each time, so all files are made together. Texts
and pairs go through one at a time, so that nothing is padded. transformers has nomic_bert built in, and writes its
tensors under the names of the published model.
"""

import json
import pathlib
import shutil
import sys

import gguf
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    NomicBertConfig,
    NomicBertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

OUT = pathlib.Path(sys.argv[1])

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "a",
    "Hello, world!",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "Le renard brun saute par-dessus le chien paresseux.",
    "Быстрая лиса прыгает через собаку.",
    "敏捷的棕色狐狸跳过了懒狗。",
    "tabs\tand\nnew lines  and   many spaces",
    "numbers 3.14159 and 1,000,000",
    " ".join(f"the fox number {i} jumps" for i in range(30)),
]
QUERIES = ["how fast is the fox", "Wo ist der Hund?", " ".join("the dog is lazy and the fox" for _ in range(12))]


def randomise(model, seed):
    """Weights large enough that texts differ, norms and biases that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            norm = "norm" in name.lower() and name.endswith("weight")
            value.copy_(1.0 + 0.2 * noise if norm else 0.4 * noise)
    return model.eval()


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=250, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS + QUERIES, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=250, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS + QUERIES, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def bytelevel():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS + QUERIES, trainer)
    end = ("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[end]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|endoftext|>", padding_side="left"
    )


def save(model, tokenizer, name):
    """A folder as transformers writes it."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def embeddings(folder, pooling, prompts, max_length):
    """Makes the folder one of sentence-transformers, and gives its vectors."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    transformer = modules.Transformer(str(folder), max_seq_length=max_length)
    width = transformer.get_embedding_dimension()
    pool = modules.Pooling(width, pooling_mode=pooling)
    model = SentenceTransformer(
        modules=[transformer, pool, modules.Normalize()], device="cpu", prompts=prompts
    )
    model.save(str(folder))
    model = SentenceTransformer(str(folder), device="cpu")
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            vector = model.encode([text], prompt="")[0]
            ids = tokenizer([text], truncation=True, max_length=max_length)["input_ids"][0]
            rows.append({"text": text, "ids": ids, "vector": [round(float(v), 7) for v in vector]})
        if prompts:
            for text in TEXTS[:2]:
                vector = model.encode([text], prompt_name="query")[0]
                text = prompts["query"] + text
                ids = tokenizer([text], truncation=True, max_length=max_length)["input_ids"][0]
                rows.append({"text": text, "ids": ids, "vector": [round(float(v), 7) for v in vector]})
    write(folder / "golden.json", rows)


def scores(folder, max_length):
    """The logits of pairs, the longer side cut first."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    with torch.no_grad():
        for query in QUERIES:
            for text in TEXTS:
                inputs = tokenizer(query, text, truncation=True, max_length=max_length, return_tensors="pt")
                score = float(model(**inputs).logits[0, 0])
                types = inputs.get("token_type_ids", torch.zeros_like(inputs["input_ids"]))
                row = {"query": query, "text": text, "ids": inputs["input_ids"][0].tolist()}
                rows.append(row | {"types": types[0].tolist(), "score": round(score, 6)})
    write(folder / "golden.json", rows)


def write(path, rows):
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text.replace('},{"', '},\n{"') + "\n", encoding="utf-8")


def trim(folder, max_length):
    """Only what is read, and small."""
    for name in ["README.md", "special_tokens_map.json", "sentence_bert_config.json"]:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "2_Normalize", ignore_errors=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {"model_max_length": max_length, "tokenizer_class": config["tokenizer_class"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept, indent=2) + "\n")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def xlm_roberta():
    tokenizer = unigram()
    config = XLMRobertaConfig(
        **SIZES, vocab_size=len(tokenizer), max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5
    )
    model = randomise(XLMRobertaModel(config, add_pooling_layer=False), 1)
    folder = save(model, tokenizer, "xlm-roberta")
    embeddings(folder, "cls", {"query": "query: ", "passage": "passage: "}, 64)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    trim(folder, 64)


def nomic_bert():
    tokenizer = wordpiece()
    config = NomicBertConfig(**SIZES, vocab_size=len(tokenizer) + 3, max_position_embeddings=64)
    model = randomise(NomicBertModel(config), 2)
    folder = save(model, tokenizer, "nomic-bert")
    embeddings(folder, "mean", {}, 64)
    trim(folder, 64)
    # As the published file has it: the names of GPT-2's configuration.
    path = folder / "config.json"
    new = json.loads(path.read_text())
    published = {
        "model_type": "nomic_bert",
        "architectures": ["NomicBertModel"],
        "vocab_size": new["vocab_size"],
        "n_embd": new["hidden_size"],
        "n_layer": new["num_hidden_layers"],
        "n_head": new["num_attention_heads"],
        "n_inner": new["intermediate_size"],
        "n_positions": new["max_position_embeddings"],
        "type_vocab_size": new["type_vocab_size"],
        "layer_norm_epsilon": new["layer_norm_eps"],
        "activation_function": "swiglu",
        "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "prenorm": False,
        "use_rms_norm": False,
        "causal": False,
    }
    shutil.copy(path, folder / "config-transformers.json")
    path.write_text(json.dumps(published, indent=2) + "\n")
    for kind in [gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0]:
        nomic_gguf(model, tokenizer, kind)


GGUF_NAMES = [
    ("embeddings.word_embeddings", "token_embd"),
    ("embeddings.token_type_embeddings", "token_types"),
    ("embeddings.LayerNorm", "token_embd_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "attn_output_norm"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.down_proj", "ffn_down"),
    ("post_mlp_layernorm", "layer_output_norm"),
    ("layers.", "blk."),
]


def nomic_gguf(model, tokenizer, kind):
    """The file that llama.cpp's converter makes of such a model, and the vectors of its rounded weights."""
    config, state = model.config, dict(model.state_dict())
    for i in range(config.num_hidden_layers):
        parts = [state.pop(f"layers.{i}.self_attn.{part}_proj.weight") for part in "qkv"]
        state[f"blk.{i}.attn_qkv.weight"] = torch.cat(parts)
    path = OUT / "nomic-bert" / f"nomic-{kind.name}.gguf"
    writer = gguf.GGUFWriter(path, "nomic-bert")
    writer.add_name("nomic-embed-text-v1.5")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_rope_freq_base(1000.0)
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [word for word, _ in words] + [f"[PAD{i}]" for i in range(len(words), config.vocab_size)]

    def phantom(token):
        if token.startswith("[") and token.endswith("]"):
            return token
        return token[2:] if token.startswith("##") else "\u2581" + token

    special = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("bert")
    writer.add_token_list([phantom(token) for token in tokens])
    writer.add_token_types([special[0] if token.startswith("[") else special[1] for token in tokens])
    writer.add_token_type_count(config.type_vocab_size)
    writer.add_bos_token_id(tokenizer.cls_token_id)
    writer.add_sep_token_id(tokenizer.sep_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    rounded = {}
    for name, value in state.items():
        for old, new in GGUF_NAMES:
            name = name.replace(old, new)
        data = value.numpy().astype(np.float32)
        if data.ndim == 2 and name != "token_types.weight":
            packed = gguf.quants.quantize(data, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
            data = gguf.quants.dequantize(packed, kind)
        else:
            writer.add_tensor(name, data)
        rounded[name] = torch.from_numpy(np.asarray(data, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    twin = NomicBertModel(config).eval()
    loaded = {}
    for name in twin.state_dict():
        new = name
        for old, short in GGUF_NAMES:
            new = new.replace(old, short)
        if "self_attn." in new and "_proj" in new:
            layer, part = new.split(".")[1], "qkv".index(new.split("self_attn.")[1][0])
            loaded[name] = rounded[f"blk.{layer}.attn_qkv.weight"].chunk(3)[part]
        else:
            loaded[name] = rounded[new]
    twin.load_state_dict(loaded)
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            inputs = tokenizer([text], truncation=True, max_length=64, return_tensors="pt")
            vector = twin(**inputs).last_hidden_state[0].mean(0)
            vector = vector / vector.norm()
            rows.append(
                {
                    "text": text,
                    "ids": inputs["input_ids"][0].tolist(),
                    "vector": [round(float(v), 7) for v in vector],
                }
            )
    write(path.with_suffix(".json"), rows)


def qwen3():
    tokenizer = bytelevel()
    config = Qwen3Config(
        vocab_size=len(tokenizer) + 5,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=64,
        max_position_embeddings=64,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
    )
    model = randomise(Qwen3Model(config), 3)
    folder = save(model, tokenizer, "qwen3")
    embeddings(folder, "lasttoken", {"query": "Instruct: find\nQuery:", "document": ""}, 64)
    trim(folder, 64)


def rerankers():
    tokenizer = wordpiece()
    config = BertConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=64, num_labels=1)
    model = randomise(AutoModelForSequenceClassification.from_config(config), 4)
    folder = save(model, tokenizer, "rerank-bert")
    scores(folder, 64)
    trim(folder, 64)
    tokenizer = unigram()
    config = XLMRobertaConfig(
        **SIZES,
        vocab_size=len(tokenizer),
        max_position_embeddings=66,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=1,
    )
    model = randomise(AutoModelForSequenceClassification.from_config(config), 5)
    folder = save(model, tokenizer, "rerank-xlm-roberta")
    scores(folder, 64)
    trim(folder, 64)


torch.set_num_threads(1)
OUT.mkdir(parents=True, exist_ok=True)
xlm_roberta()
nomic_bert()
qwen3()
rerankers()
