#!/usr/bin/env python3
"""Makes the golden in this folder from Silero's own package.

    pip install silero-vad==6.2.3 onnxruntime numpy av
    python tests/golden/vad/make.py --data FOLDER --clips FOLDER

FOLDERs are those of jfk.flac and librispeech-test-other, and of the spoken clips of pytest-audioeval. Writes

  speech.json   recordings, each joined of files with silence before each; the probability of speech in every frame, and
                the spans that the package's get_speech_timestamps_from_probs finds with two settings

The package's safetensors file holds other weights than its ONNX files. Its graph is run with the former, by
onnxruntime, in place of its own. PyTorch, which it imports for what is not used here, is stood in for.
"""
import argparse, json, pathlib, struct, sys
from unittest import mock

import av
import numpy as np
import onnxruntime

sys.modules["torch"] = mock.MagicMock()
import silero_vad
from silero_vad.sequence_vad import SileroVADSequence
from silero_vad.utils_vad import get_speech_timestamps_from_probs

here = pathlib.Path(__file__).parent
data = pathlib.Path(silero_vad.__file__).parent / "data"

# Silence in samples, then the file behind it.
RECORDINGS = {
    "jfk": [(0, "data/jfk.flac")],
    "librispeech": [
        (0, "data/librispeech-test-other/1688/1688-142285-0001.flac"),
        (16_000, "data/librispeech-test-other/1998/1998-15444-0000.flac"),
        (24_123, "data/librispeech-test-other/2033/2033-164914-0000.flac"),
    ],
    "clips": [
        (9_000, "clips/en/counting.wav"),
        (4_000, "clips/fr/pangrama.wav"),
        (12_345, "clips/es/conteo.wav"),
        (1_700, "clips/it/ciao_mondo.wav"),
        (40_000, "clips/hi/ginti.wav"),
        (800, "clips/pl/pangrama.wav"),
        (8_000, "clips/en/quick_brown_fox.wav"),
        (2_500, "clips/zh/jishu.wav"),
    ],
}
SETTINGS = {
    "default": dict(threshold=0.5, min_speech=0.25, max_speech=None, min_silence=0.1, pad=0.03),
    "long": dict(threshold=0.6, min_speech=0.0, max_speech=5.0, min_silence=0.5, pad=0.4),
}


def samples(path):
    """16 kHz, one channel, within 1; resampled by FFmpeg if need be."""
    container, out = av.open(str(path)), []
    resampler = av.AudioResampler("flt", "mono", 16_000)
    for frame in container.decode(audio=0):
        out += [f.to_ndarray()[0] for f in resampler.resample(frame)]
    out += [f.to_ndarray()[0] for f in resampler.resample(None)]
    return np.concatenate(out)


def weights():
    raw = (data / "silero_vad_16k.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + length])
    part = lambda t: raw[8 + length + t["data_offsets"][0]:8 + length + t["data_offsets"][1]]
    return {n: np.frombuffer(part(t), "<f4").reshape(t["shape"]) for n, t in header.items()}


def model():
    """The package's model of whole recordings, with the weights of its safetensors file."""
    w = weights()
    # PyTorch's gates are i, f, g, o; those of ONNX i, o, f, g.
    gates = lambda a: np.concatenate([np.split(a, 4)[i] for i in (0, 3, 1, 2)])
    lstm = {k: gates(w["lstm_cell." + k]) for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    new = {"stft.forward_basis_buffer": w["stft_conv.weight"],
           "output.weight": w["final_conv.weight"], "output.bias": w["final_conv.bias"],
           "onnx::LSTM_209": lstm["weight_ih"][None], "onnx::LSTM_210": lstm["weight_hh"][None],
           "onnx::LSTM_211": np.concatenate([lstm["bias_ih"], lstm["bias_hh"]])[None]}
    for i in range(4):
        for p in ("weight", "bias"):
            new[f"encoder.{i}.{p}"] = w[f"conv{i + 1}.{p}"]
    path = str(data / "silero_vad_16k_sequence.onnx")
    model = SileroVADSequence(path)
    options = onnxruntime.SessionOptions()
    held = {n: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a)) for n, a in new.items()}
    for name, value in held.items():
        options.add_initializer(name, value)
    model.session, model.held = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]), held
    return model


def main(folders):
    vad, out = model(), {}
    for name, parts in RECORDINGS.items():
        files = [(np.zeros(silence, "f4"), samples(folders[f.split("/")[0]] / f.split("/", 1)[1])) for silence, f in parts]
        audio = np.concatenate([a for pair in files for a in pair])
        probabilities = vad.audio_forward(audio)
        settings = []
        for s in SETTINGS.values():
            found = get_speech_timestamps_from_probs(
                probabilities, threshold=s["threshold"], min_speech_duration_ms=s["min_speech"] * 1000,
                max_speech_duration_s=s["max_speech"] or float("inf"), min_silence_duration_ms=s["min_silence"] * 1000,
                speech_pad_ms=s["pad"] * 1000, use_max_poss_sil_at_max_speech=False, audio_length_samples=len(audio))
            settings.append(dict(**s, spans=[[f["start"], f["end"]] for f in found]))
        out[name] = dict(parts=parts, samples=len(audio), probabilities=[round(float(p), 5) for p in probabilities],
                         settings=settings)
        print(name, len(audio) / 16_000, [len(s["spans"]) for s in settings])
    lines = ",\n".join(json.dumps(name) + ": " + json.dumps(r, separators=(",", ":")) for name, r in out.items())
    (here / "speech.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    a = argparse.ArgumentParser()
    a.add_argument("--data", type=pathlib.Path, required=True)
    a.add_argument("--clips", type=pathlib.Path, required=True)
    a = a.parse_args()
    main({"data": a.data, "clips": a.clips})
