"""Goldens of log-mel features, from faster-whisper's FeatureExtractor and openai-whisper.

    pip install faster-whisper==1.2.1 openai-whisper==20250625 numpy
    python mel.py jfk.flac 1688-142285-0000.flac

writes, in this folder, little-endian f32, frame after frame:
  synthetic-80.f32, synthetic-128.f32   every 5th content frame of the synthetic signal below
  jfk-80.f32                            every 10th content frame of jfk.flac
  speech-80.f32                         every 20th content frame of a LibriSpeech utterance (CC BY 4.0)
"""
import sys
import numpy as np
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.audio import decode_audio
import torch, whisper


def synthetic(n=40_123):
    """A chirp from 50 to 7950 Hz over noise, after a quarter of silence; the same formula as in the test."""
    out, state = np.zeros(n, np.float32), 12345
    for i in range(n):
        state = (state * 1664525 + 1013904223) % 2**32
        t = i / 16000
        chirp = 0.5 * np.sin(2 * np.pi * (50 + 7900 * t / (2 * n / 16000)) * t)
        noise = (state / 2**32 - 0.5) * 0.01
        out[i] = 0.0 if i < n // 4 else np.float32(chirp + noise)
    return out


def features(audio, bins):
    fw = FeatureExtractor(feature_size=bins)(audio)
    content = fw.shape[1] - 1
    assert content == len(audio) // 160
    ow = whisper.log_mel_spectrogram(torch.from_numpy(audio), bins, padding=480_000).numpy()
    print(bins, "bins:", content, "frames; the two references differ by", np.abs(fw[:, :content] - ow[:, :content]).max())
    return fw[:, :content]


for bins in (80, 128):
    features(synthetic(), bins)[:, ::5].T.astype("<f4").tofile(f"synthetic-{bins}.f32")
features(decode_audio(sys.argv[1]), 80)[:, ::10].T.astype("<f4").tofile("jfk-80.f32")
features(decode_audio(sys.argv[2]), 80)[:, ::20].T.astype("<f4").tofile("speech-80.f32")
