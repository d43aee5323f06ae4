#!/usr/bin/env python3
"""Makes the goldens in this folder from the reference implementations.

    pip install faster-whisper openai-whisper transformers
    python tests/golden/asr/make.py --models HOME/models --clips FOLDER... --jfk FILE

HOME/models holds whisper-base and whisper-tiny.en as CTranslate2 folders. Writes

  jfk_mel.u8         a mel of 80 x 1100 (bin-major); value = byte / 100 - 1; both sides hear exactly this
  reference.json     encoder output and logits of openai-whisper, with the same weights, in float32, on that mel
  hf/                a small random Whisper of transformers (safetensors), hf.json: its encoder output and logits
  transcripts.json   faster-whisper, float32, beam_size=1, everything else at its default
"""
import argparse, json, pathlib, struct
import numpy as np, torch

here = pathlib.Path(__file__).parent


def read_ct2(path):
    """Variables of a CTranslate2 model.bin as float32 arrays."""
    f = open(path, "rb")
    take = lambda fmt: struct.unpack("<" + fmt, f.read(struct.calcsize(fmt)))[0]
    text = lambda: f.read(take("H"))[:-1].decode()
    take("I"), text(), take("I")
    out = {}
    for _ in range(take("I")):
        name, shape = text(), [take("I") for _ in range(take("B"))]
        dtype = {0: "f4", 1: "i1", 2: "i2", 3: "i4", 4: "f2"}[take("B")]
        out[name] = np.frombuffer(f.read(take("I")), "<" + dtype).reshape(shape).astype("f4")
    return out


def torch_whisper(folder):
    """openai-whisper's model with the weights of a CTranslate2 folder."""
    from whisper.model import ModelDimensions, Whisper

    v = read_ct2(folder / "model.bin")
    width, mels = v["encoder/conv1/weight"].shape[:2]
    heads = int(v["encoder/num_heads"])
    layers = lambda s: len([n for n in v if n.startswith(s + "/layer_") and n.endswith("self_attention/linear_0/weight")])
    vocab = v["decoder/embeddings/weight"].shape[0]
    model = Whisper(ModelDimensions(mels, 1500, width, heads, layers("encoder"), vocab, 448, width, heads, layers("decoder")))
    sd = {
        "encoder.positional_embedding": v["encoder/position_encodings/encodings"],
        "decoder.positional_embedding": v["decoder/position_encodings/encodings"],
        "decoder.token_embedding.weight": v["decoder/embeddings/weight"],
        "encoder.ln_post.weight": v["encoder/layer_norm/gamma"], "encoder.ln_post.bias": v["encoder/layer_norm/beta"],
        "decoder.ln.weight": v["decoder/layer_norm/gamma"], "decoder.ln.bias": v["decoder/layer_norm/beta"],
    }
    for conv in ("conv1", "conv2"):
        for p in ("weight", "bias"):
            sd[f"encoder.{conv}.{p}"] = v[f"encoder/{conv}/{p}"]
    def lin(dst, src, i=None, n=1):
        w, b = v[src + "/weight"], v[src + "/bias"]
        if i is not None:
            w, b = np.split(w, n)[i], np.split(b, n)[i]
        sd[dst + ".weight"] = w
        if not dst.endswith(".key"):
            sd[dst + ".bias"] = b
        else:
            assert not b.any()
    def ln(dst, src):
        sd[dst + ".weight"], sd[dst + ".bias"] = v[src + "/gamma"], v[src + "/beta"]
    for stack in ("encoder", "decoder"):
        for l in range(layers(stack)):
            d, s = f"{stack}.blocks.{l}", f"{stack}/layer_{l}"
            for i, part in enumerate(("query", "key", "value")):
                lin(f"{d}.attn.{part}", f"{s}/self_attention/linear_0", i, 3)
            lin(f"{d}.attn.out", f"{s}/self_attention/linear_1")
            ln(f"{d}.attn_ln", f"{s}/self_attention/layer_norm")
            if stack == "decoder":
                lin(f"{d}.cross_attn.query", f"{s}/attention/linear_0")
                lin(f"{d}.cross_attn.key", f"{s}/attention/linear_1", 0, 2)
                lin(f"{d}.cross_attn.value", f"{s}/attention/linear_1", 1, 2)
                lin(f"{d}.cross_attn.out", f"{s}/attention/linear_2")
                ln(f"{d}.cross_attn_ln", f"{s}/attention/layer_norm")
            lin(f"{d}.mlp.0", f"{s}/ffn/linear_0"), lin(f"{d}.mlp.2", f"{s}/ffn/linear_1")
            ln(f"{d}.mlp_ln", f"{s}/ffn/layer_norm")
    model.load_state_dict({k: torch.tensor(np.array(a)) for k, a in sd.items()})
    return model.eval()


FRAMES, ROUND = [0, 1, 2, 300, 549, 1100, 1498, 1499], 5
rounded = lambda t: [round(float(x), ROUND) for x in t]


def reference(models, jfk):
    from faster_whisper.audio import decode_audio
    from faster_whisper.feature_extractor import FeatureExtractor

    mel = FeatureExtractor(feature_size=80)(decode_audio(str(jfk)))[:, :1100]
    quantised = np.clip(np.round((mel + 1) * 100), 0, 255).astype("u1")
    (here / "jfk_mel.u8").write_bytes(quantised.tobytes())
    window = np.zeros((1, 80, 3000), "f4")
    window[0, :, :1100] = quantised.astype("f4") / np.float32(100) - np.float32(1)
    out = {}
    for name, prompt in (("whisper-base", [50258, 50259, 50359]), ("whisper-tiny.en", [50257])):
        model = torch_whisper(models / name)
        with torch.no_grad():
            encoded = model.encoder(torch.tensor(window))
            tokens = list(prompt)
            timestamps = model.dims.n_vocab - 1501
            tokens.append(timestamps)
            while len(tokens) < len(prompt) + 20:
                logits = model.decoder(torch.tensor([tokens]), encoded)[0]
                tokens.append(int(logits[-1, :timestamps - 1].argmax()))
            logits = model.decoder(torch.tensor([tokens]), encoded)[0]
        probe = list(range(0, model.dims.n_vocab, model.dims.n_vocab // 60))
        out[name] = dict(
            frames=FRAMES, dims=64, encoder=[rounded(encoded[0, t, :64]) for t in FRAMES],
            encoder_mean_square=float((encoded**2).mean()),
            tokens=tokens, prompt=len(prompt) + 1, probe=probe,
            logits=[rounded(row[probe]) for row in logits],
            argmax=[int(row.argmax()) for row in logits],
            logsumexp=rounded(logits.logsumexp(-1)),
        )
    (here / "reference.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


def hf():
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=70, num_mel_bins=80, encoder_layers=2, decoder_layers=1, d_model=16, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_target_positions=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, init_std=0.3,
    )
    model = WhisperForConditionalGeneration(config).eval().half()
    model.save_pretrained(here / "hf", safe_serialization=True)
    (here / "hf/generation_config.json").unlink(missing_ok=True)
    model = model.float()
    raw = np.frombuffer((here / "jfk_mel.u8").read_bytes(), "u1").reshape(80, 1100)
    window = np.zeros((1, 80, 3000), "f4")
    window[0, :, :1100] = raw.astype("f4") / np.float32(100) - np.float32(1)
    tokens = [3, 17, 42, 69, 5, 11]
    with torch.no_grad():
        encoded = model.model.encoder(torch.tensor(window)).last_hidden_state
        logits = model(encoder_outputs=(encoded,), decoder_input_ids=torch.tensor([tokens])).logits[0]
    out = dict(frames=FRAMES, dims=16, encoder=[rounded(encoded[0, t]) for t in FRAMES], tokens=tokens,
               logits=[rounded(row) for row in logits])
    (here / "hf.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


def transcripts(models, clips):
    from faster_whisper import WhisperModel

    out = {}
    for name in ("whisper-base", "whisper-tiny.en"):
        model = WhisperModel(str(models / name), device="cpu", compute_type="float32", cpu_threads=2)
        out[name] = {}
        for clip in clips:
            if name.endswith(".en") and "/en/" not in str(clip) and not clip.suffix == ".flac":
                continue
            segments, info = model.transcribe(str(clip), beam_size=1)
            key = "/".join(clip.parts[-2:])
            out[name][key] = dict(language=info.language, duration=info.duration, segments=[
                dict(start=round(s.start, 3), end=round(s.end, 3), text=s.text, temperature=s.temperature,
                     avg_logprob=round(s.avg_logprob, 4), compression_ratio=round(s.compression_ratio, 4),
                     no_speech_prob=round(s.no_speech_prob, 5)) for s in segments])
    (here / "transcripts.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    a = argparse.ArgumentParser()
    a.add_argument("--models", type=pathlib.Path, required=True)
    a.add_argument("--clips", type=pathlib.Path, nargs="*", default=[])
    a.add_argument("--jfk", type=pathlib.Path, required=True)
    a.add_argument("--only", default="reference,hf,transcripts")
    a = a.parse_args()
    found = sorted(p for c in a.clips for p in (c.rglob("*") if c.is_dir() else [c]) if p.suffix in (".wav", ".flac"))
    if "reference" in a.only:
        reference(a.models, a.jfk)
    if "hf" in a.only:
        hf()
    if "transcripts" in a.only:
        transcripts(a.models, [a.jfk] + found)
