"""Small models of every architecture with random weights, and what transformers computes with them.

python3 -m pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 llama-cpp-python==0.3.36
python3 tests/golden/llm/architectures/make.py tests/golden/llm/architectures

For each: `NAME.gguf` as llama.cpp's converter names and lays out its tensors, `NAME/` as transformers saves a model
(one in f32, one in several files, the others in f16), and `NAME.json` with tokens and the logits after each. Matrices
are rounded to halves before anything is computed, so that both files hold the very weights of the reference; vectors
stay f32. llama.cpp reads each GGUF file too; how far it is from transformers is printed. It is at most 0.12 off
where logits are within +-23, except on phi3, whose sliding window llama.cpp does not use.
"""
import json
import math
import os
import shutil
import sys

import gguf
import numpy as np
import torch
import transformers as T
from gguf import GGUFValueType as V

TOKENS = 44
VOCAB = 96
SIZES = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
             bos_token_id=1, eos_token_id=2, pad_token_id=0)


def rope(theta, **more):
    return dict(rope_parameters=dict(rope_theta=theta, **({"rope_type": "default"} | more)))


def models():
    """name -> (architecture in GGUF or None, configuration)"""
    s = SIZES
    llama3 = rope(500.0, rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=16)
    yarn = rope(1000.0, rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
    longrope = rope(1000.0, rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.6],
                    long_factor=[1.2, 1.9, 2.7, 4.1], original_max_position_embeddings=16)
    gemma = dict(rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
        sliding_attention=dict(rope_type="default", rope_theta=10_000.0)))
    return {
        "llama": ("llama", T.LlamaConfig(**s, **rope(10_000.0))),
        "llama-3.1": ("llama", T.LlamaConfig(**s | dict(tie_word_embeddings=True), **llama3)),
        "llama-linear": ("llama", T.LlamaConfig(**s, **rope(10_000.0, rope_type="linear", factor=2.5))),
        "qwen2": ("qwen2", T.Qwen2Config(**s | dict(tie_word_embeddings=True), **rope(1e6))),
        "qwen2-yarn": ("qwen2", T.Qwen2Config(**s, **yarn)),
        "qwen3": ("qwen3", T.Qwen3Config(**s, head_dim=16, **rope(1e6))),
        "qwen3moe": ("qwen3moe", T.Qwen3MoeConfig(**s, head_dim=16, num_experts=6, num_experts_per_tok=2,
                                                  moe_intermediate_size=16, norm_topk_prob=True, **rope(1e6))),
        "gemma3": ("gemma3", T.Gemma3TextConfig(
            **s | dict(num_hidden_layers=7, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True),
            head_dim=16, query_pre_attn_scalar=16, sliding_window=8, **gemma)),
        "phi3": ("phi3", T.Phi3Config(**s | dict(num_key_value_heads=4), sliding_window=11, **rope(10_000.0))),
        "phi3-longrope": ("phi3", T.Phi3Config(**s | dict(num_key_value_heads=4),
                                               original_max_position_embeddings=16, **longrope)),
        # What llama.cpp's converter has no place for: as folders only.
        "mistral": (None, T.MistralConfig(**s, sliding_window=11, **rope(10_000.0))),
        "qwen3-window": (None, T.Qwen3Config(**s, head_dim=16, use_sliding_window=True, sliding_window=9,
                                             max_window_layers=1, **rope(1e6))),
        "phi3-partial": (None, T.Phi3Config(**s | dict(num_key_value_heads=4),
                                            **rope(10_000.0, partial_rotary_factor=0.5))),
    }


def randomise(model, seed):
    random = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            base = 0.0 if "bias" in name or is_gemma(model) else 1.0
            p.data = base + 0.3 * torch.randn(p.shape, generator=random)
        else:
            scale = 1.0 if "embed" in name else 2.0 / math.sqrt(p.shape[-1])
            p.data = (scale * torch.randn(p.shape, generator=random)).half().float()


def is_gemma(model):
    return model.config.model_type.startswith("gemma3")


def paired(weight, heads):
    """Rows of a query or key projection as GGUF's llama has them: dimensions that turn together side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def tensors(arch, model):
    """GGUF's names and values."""
    c, state = model.config, {k: v.numpy() for k, v in model.state_dict().items()}
    plain = {
        "input_layernorm.weight": "attn_norm.weight", "self_attn.o_proj.weight": "attn_output.weight",
        "self_attn.q_proj.weight": "attn_q.weight", "self_attn.q_proj.bias": "attn_q.bias",
        "self_attn.k_proj.weight": "attn_k.weight", "self_attn.k_proj.bias": "attn_k.bias",
        "self_attn.v_proj.weight": "attn_v.weight", "self_attn.v_proj.bias": "attn_v.bias",
        "self_attn.qkv_proj.weight": "attn_qkv.weight",
        "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight",
        "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
        "mlp.gate_up_proj.weight": "ffn_up.weight", "mlp.down_proj.weight": "ffn_down.weight",
        "mlp.gate.weight": "ffn_gate_inp.weight", "mlp.experts.down_proj": "ffn_down_exps.weight",
    }
    if arch == "gemma3":
        plain |= {"post_attention_layernorm.weight": "post_attention_norm.weight",
                  "pre_feedforward_layernorm.weight": "ffn_norm.weight",
                  "post_feedforward_layernorm.weight": "post_ffw_norm.weight"}
    else:
        plain |= {"post_attention_layernorm.weight": "ffn_norm.weight"}
    for key, value in state.items():
        if key == "model.embed_tokens.weight":
            yield "token_embd.weight", value
        elif key == "model.norm.weight":
            yield "output_norm.weight", value + (1.0 if arch == "gemma3" else 0.0)
        elif key == "lm_head.weight":
            if not c.tie_word_embeddings:
                yield "output.weight", value
        else:
            layer, part = key.removeprefix("model.layers.").split(".", 1)
            if part == "mlp.experts.gate_up_proj":
                half = value.shape[1] // 2
                yield f"blk.{layer}.ffn_gate_exps.weight", value[:, :half]
                yield f"blk.{layer}.ffn_up_exps.weight", value[:, half:]
                continue
            name = plain[part]
            if arch == "llama" and name in ("attn_q.weight", "attn_k.weight"):
                value = paired(value, c.num_attention_heads if "attn_q" in name else c.num_key_value_heads)
            if arch == "gemma3" and name.endswith("norm.weight"):
                value = value + 1.0
            yield f"blk.{layer}.{name}", value


def llama3_factors(c):
    r = c.rope_parameters
    dims = c.hidden_size // c.num_attention_heads
    low = r["original_max_position_embeddings"] / r["low_freq_factor"]
    high = r["original_max_position_embeddings"] / r["high_freq_factor"]
    out = []
    for i in range(dims // 2):
        wave = 2 * math.pi * r["rope_theta"] ** (2 * i / dims)
        smooth = (r["original_max_position_embeddings"] / wave - r["low_freq_factor"]) / (
            r["high_freq_factor"] - r["low_freq_factor"])
        if wave < high:
            out.append(1.0)
        elif wave > low:
            out.append(r["factor"])
        else:
            out.append(1 / ((1 - smooth) / r["factor"] + smooth))
    return np.array(out, dtype=np.float32)


def write_gguf(path, arch, model):
    c = model.config
    w = gguf.GGUFWriter(path, arch)
    key = lambda name, value, kind: w.add_key_value(f"{arch}.{name}", value, kind)
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    for name, value in [("block_count", c.num_hidden_layers), ("context_length", c.max_position_embeddings),
                        ("embedding_length", c.hidden_size), ("feed_forward_length", c.intermediate_size),
                        ("attention.head_count", c.num_attention_heads),
                        ("attention.head_count_kv", c.num_key_value_heads), ("attention.key_length", head_dim),
                        ("attention.value_length", head_dim), ("rope.dimension_count", head_dim),
                        ("vocab_size", c.vocab_size)]:
        key(name, value, V.UINT32)
    key("attention.layer_norm_rms_epsilon", c.rms_norm_eps, V.FLOAT32)
    r = c.rope_parameters
    r = r.get("full_attention", r)
    key("rope.freq_base", r["rope_theta"], V.FLOAT32)
    if r["rope_type"] in ("linear", "yarn"):
        key("rope.scaling.type", r["rope_type"], V.STRING)
        key("rope.scaling.factor", r["factor"], V.FLOAT32)
    if r["rope_type"] in ("yarn", "longrope"):
        key("rope.scaling.original_context_length", r["original_max_position_embeddings"], V.UINT32)
    if r["rope_type"] == "longrope":
        scale = c.max_position_embeddings / r["original_max_position_embeddings"]
        factor = math.sqrt(1 + math.log(scale) / math.log(r["original_max_position_embeddings"]))
        key("rope.scaling.attn_factor", factor, V.FLOAT32)
        w.add_tensor("rope_factors_long.weight", np.array(r["long_factor"], dtype=np.float32))
        w.add_tensor("rope_factors_short.weight", np.array(r["short_factor"], dtype=np.float32))
    if r["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(c))
    if arch in ("gemma3", "phi3") and getattr(c, "sliding_window", None):
        key("attention.sliding_window", c.sliding_window, V.UINT32)
    if arch == "qwen3moe":
        key("expert_count", c.num_experts, V.UINT32)
        key("expert_used_count", c.num_experts_per_tok, V.UINT32)
        key("expert_feed_forward_length", c.moe_intermediate_size, V.UINT32)
    w.add_key_value("tokenizer.ggml.model", "no_vocab", V.STRING)
    for name, value in tensors(arch, model):
        matrix = value.ndim > 1 and not name.endswith("ffn_gate_inp.weight")
        w.add_tensor(name, np.ascontiguousarray(value.astype(np.float16 if matrix else np.float32)))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_folder(path, name, model):
    shutil.rmtree(path, ignore_errors=True)
    half = name != "llama-linear"
    tied = lambda k: k == "lm_head.weight" and model.config.tie_word_embeddings
    state = {k: v.half() if half and v.dim() > 1 else v for k, v in model.state_dict().items() if not tied(k)}
    model.save_pretrained(path, state_dict=state, max_shard_size="60KB" if name == "qwen3moe" else "1GB")
    os.remove(os.path.join(path, "generation_config.json"))


def llama_cpp_logits(path, ids):
    import llama_cpp as L
    params = L.llama_model_default_params()
    params.use_extra_bufts = False
    model = L.llama_model_load_from_file(path.encode(), params)
    if not model:
        return None
    p = L.llama_context_default_params()
    p.n_ctx, p.n_batch, p.n_threads, p.n_threads_batch = 64, 64, 1, 1
    ctx = L.llama_init_from_model(model, p)
    batch = L.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, t in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = t, i, 1, 0, 1
    assert L.llama_decode(ctx, batch) == 0
    return np.stack([np.ctypeslib.as_array(L.llama_get_logits_ith(ctx, i), (VOCAB,)).copy()
                     for i in range(len(ids))])


def main(folder):
    for seed, (name, (arch, config)) in enumerate(models().items()):
        config._attn_implementation = "eager"
        model = T.AutoModelForCausalLM.from_config(config).eval().float()
        randomise(model, seed)
        ids = torch.randint(3, VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].numpy()
        path = os.path.join(folder, name)
        write_folder(path, name, model)
        with open(path + ".json", "w") as file:
            rounded = [[round(float(v), 4) for v in row[::5]] for row in logits]
            json.dump({"tokens": ids, "every": 5, "logits": rounded}, file)
        print(f"{name}: logits within ±{np.abs(logits).max():.1f}")
        if arch:
            write_gguf(path + ".gguf", arch, model)
            peer = llama_cpp_logits(path + ".gguf", ids)
            off = "cannot load it" if peer is None else f"is at most {np.abs(peer - logits).max():.3f} off"
            print(f"    llama.cpp {off}")


if __name__ == "__main__":
    main(sys.argv[1])
