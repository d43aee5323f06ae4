#!/usr/bin/env python3
"""Writes hf/model.safetensors out in the formats of openai/whisper and whisper.cpp: formats/small.pt, ggml-small.bin.

    pip install numpy
    python tests/golden/asr/make_formats.py

The checkpoint has the layout of `torch.save`, made with Python's own pickle and zipfile: entries stored, data at
multiples of 64, a pickle of protocol 2 whose storages are persistent ids. The other file has the layout that
whisper.cpp's `convert-pt-to-ggml.py` gives it: vectors and positions as f32, everything else as f16.
"""
import collections, io, json, pathlib, pickle, struct, sys, types, zipfile
import numpy as np

here = pathlib.Path(__file__).parent
PARTS = {
    "layers": "blocks", "self_attn": "attn", "encoder_attn": "cross_attn", "q_proj": "query", "k_proj": "key",
    "v_proj": "value", "out_proj": "out", "fc1": "mlp.0", "fc2": "mlp.2", "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln", "final_layer_norm": "mlp_ln", "embed_tokens": "token_embedding",
}


def openai(name):
    name = name.removeprefix("model.").replace("embed_positions.weight", "positional_embedding")
    last = "ln_post" if name.startswith("encoder") else "ln"
    return ".".join({**PARTS, "layer_norm": last}.get(p, p) for p in name.split("."))


def weights():
    raw = (here / "hf/model.safetensors").read_bytes()
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    out = {}
    for name, info in json.loads(raw[8:end]).items():
        if name != "__metadata__":
            a, b = info["data_offsets"]
            out[openai(name)] = np.frombuffer(raw[end + a:end + b], "<f2").reshape(info["shape"])
    return out


def modules():
    """The names that a checkpoint's pickle refers to, as modules that pickle finds them in."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    def _rebuild_tensor_v2():
        pass
    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch.HalfStorage = type("HalfStorage", (), {"__module__": "torch"})
    torch._utils = utils
    sys.modules.update({"torch": torch, "torch._utils": utils})
    return torch


def checkpoint(dims, tensors):
    torch = modules()

    class Storage:
        def __init__(self, key, data):
            self.key, self.data = key, data

    class Tensor:
        def __init__(self, storage):
            self.storage = storage

        def __reduce__(self):
            shape = self.storage.data.shape
            stride = tuple(int(np.prod(shape[i + 1:])) for i in range(len(shape)))
            args = (self.storage, 0, shape, stride, False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, args

    class Pickler(pickle.Pickler):
        def persistent_id(self, o):
            if isinstance(o, Storage):
                return ("storage", torch.HalfStorage, o.key, "cpu", o.data.size)

    state = collections.OrderedDict()
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    for i, (name, data) in enumerate(tensors.items()):
        state[name] = Tensor(Storage(str(i), data))
    out = io.BytesIO()
    Pickler(out, 2).dump({"dims": dims, "model_state_dict": state})
    entries = [("data.pkl", out.getvalue()), ("byteorder", b"little")]
    entries += [(f"data/{i}", data.tobytes()) for i, data in enumerate(tensors.values())]
    entries += [("version", b"3\n")]
    with open(here / "formats/small.pt", "wb") as f, zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as z:
        for name, data in entries:
            entry = zipfile.ZipInfo("small/" + name, (1980, 1, 1, 0, 0, 0))
            pad = -(f.tell() + 30 + len(entry.filename) + 4) % 64
            entry.extra = struct.pack("<HH", 0x4246, pad) + b"Z" * pad
            z.writestr(entry, data)


def ggml(dims, tensors):
    order = ["n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_text_ctx", "n_text_state",
             "n_text_head", "n_text_layer", "n_mels"]
    with open(here / "formats/ggml-small.bin", "wb") as f:
        f.write(struct.pack("<12i", 0x67676D6C, *(dims[n] for n in order), 1))
        f.write(struct.pack("<2i8f", 2, 4, *[0.5] * 8))
        f.write(struct.pack("<i", 3) + b"".join(struct.pack("<i", len(t)) + t for t in (b"a", b"\xc3", b"the")))
        for name, data in tensors.items():
            data = data.squeeze()
            if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
                data = data.reshape(-1, 1)
            single = data.ndim < 2 or data.shape[1] == 1 or name.endswith("positional_embedding")
            data = data.astype("<f4") if single else data
            f.write(struct.pack("<3i", data.ndim, len(name), 0 if single else 1))
            f.write(struct.pack(f"<{data.ndim}i", *data.shape[::-1]) + name.encode() + data.tobytes())


if __name__ == "__main__":
    c = json.loads((here / "hf/config.json").read_text())
    dims = {
        "n_mels": c["num_mel_bins"], "n_vocab": c["vocab_size"],
        "n_audio_ctx": c["max_source_positions"], "n_audio_state": c["d_model"],
        "n_audio_head": c["encoder_attention_heads"], "n_audio_layer": c["encoder_layers"],
        "n_text_ctx": c["max_target_positions"], "n_text_state": c["d_model"],
        "n_text_head": c["decoder_attention_heads"], "n_text_layer": c["decoder_layers"],
    }
    (here / "formats").mkdir(exist_ok=True)
    checkpoint(dims, weights())
    ggml(dims, weights())
