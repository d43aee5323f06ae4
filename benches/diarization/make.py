#!/usr/bin/env python3
"""Makes conversations of which it is known who speaks when, to measure diarization on.

    pip install numpy soundfile
    python make.py --data FOLDER --out FOLDER

The first FOLDER is that of jfk.flac and librispeech-test-other/SPEAKER/*.flac. Utterances of LibriSpeech (CC BY 4.0), and
jfk.flac as a sixth voice, are cut at pauses into turns of 1 to 12 s and laid after one another, with gaps of 0.1 to 1.5 s
or over each other's ends, at most two at once. Writes NAME.wav (16 kHz, 16 bits) and NAME.rttm for each of 16
conversations of about two minutes; talk-3-10 has 3 speakers, and two speak at once in 10 % of the time with speech. The
same files come of the same data each time. What they are made of keeps its licence; they are not kept in the repository.

Speech is where the level in 20 ms is within 30 dB of the loud parts and 6 dB above the quiet ones, plus 30 ms on each
side; a gap of up to 0.5 s within a turn counts as speech. Each utterance is brought to one level, each speaker then moved
by up to 4 dB, and white noise of -60 dBFS is added. jfk.flac has 11 s, which are used once in a conversation.
"""
import argparse, pathlib

import numpy as np
import soundfile

RATE, HOP = 16_000, 160
SPEAKERS, OVERLAPS = (2, 3, 4, 5, 6), (0, 10, 20)
TALKS = [(n, o) for n in SPEAKERS for o in OVERLAPS] + [(4, 5)]
SECONDS, LEVEL = 118.0, 10 ** (-26 / 20)


def read(path):
    """16 kHz, one channel, by cutting the spectrum if need be."""
    samples, rate = soundfile.read(path, dtype="float64", always_2d=True)
    samples = samples.mean(1)
    if rate != RATE:
        count = round(len(samples) * RATE / rate)
        samples = np.fft.irfft(np.fft.rfft(samples)[:count // 2 + 1], count) * (count / len(samples))
    return samples


def runs(mask):
    """[start, end) of what is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return edges.reshape(-1, 2)


def filled(mask, most):
    """Gaps of up to `most` frames between what is true made true."""
    mask = mask.copy()
    for start, end in runs(~mask):
        if start > 0 and end < len(mask) and end - start <= most:
            mask[start:end] = True
    return mask


class Utterance:
    """Samples at one level, in which frames of 10 ms speech is, and the phrases between pauses."""

    def __init__(self, samples):
        count = len(samples) // HOP - 1
        frames = np.lib.stride_tricks.sliding_window_view(samples, 2 * HOP)[::HOP][:count]
        level = 10 * np.log10((frames ** 2).mean(1) + 1e-12)
        quiet, loud = np.percentile(level, [5, 95])
        speech = level > max(quiet + 6, loud - 30)
        # Clicks are no speech.
        for start, end in runs(speech):
            if end - start < 4:
                speech[start:end] = False
        speech = np.convolve(speech, np.ones(7), "same") > 0
        self.speech, energy = speech, (frames ** 2).mean(1)
        self.samples = samples * (LEVEL / np.sqrt(energy[speech].mean()))
        # Pauses of 0.15 s and more part phrases; one of more than 12 s is cut where it is quietest.
        phrases = [tuple(p) for p in runs(filled(speech, 14))]
        self.phrases = []
        while phrases:
            start, end = phrases.pop(0)
            if end - start <= 1_200:
                self.phrases.append((int(start), int(end)))
            else:
                cut = start + 300 + int(energy[start + 300:end - 300].argmin())
                phrases[:0] = [(start, cut), (cut, end)]


class Voice:
    """Gives turns of a speaker, each phrase once before any comes again."""

    def __init__(self, utterances, rng, again):
        self.utterances, self.rng, self.again = utterances, rng, again
        self.gain = 10 ** (rng.uniform(-4, 4) / 20)
        self.todo = []
        self.fill()

    def fill(self):
        for i in self.rng.permutation(len(self.utterances)):
            self.todo.append((self.utterances[i], list(self.utterances[i].phrases)))

    def turn(self):
        """Samples with 50 ms around the turn, and its frames of speech; None when nothing is left."""
        while True:
            if not self.todo:
                if not self.again:
                    return None
                self.fill()
            utterance, phrases = self.todo[0]
            wanted = self.rng.uniform(1, 12) * 100
            taken = []
            while phrases and (not taken or phrases[0][1] - taken[0][0] <= max(wanted, 100)):
                taken.append(phrases.pop(0))
                if taken[-1][1] - taken[0][0] > 1_200:
                    phrases.insert(0, taken.pop())
                    break
            if not phrases:
                self.todo.pop(0)
            start, end = taken[0][0], taken[-1][1]
            if 100 <= end - start <= 1_200:
                break
        margin = 5
        first, last = max(0, start - margin), min(len(utterance.speech), end + margin)
        samples = utterance.samples[first * HOP:last * HOP] * self.gain
        fade = min(HOP, (start - first) * HOP, (last - end) * HOP)
        if fade:
            ramp = np.linspace(0, 1, fade)
            samples = samples.copy()
            samples[:fade] *= ramp
            samples[-fade:] *= ramp[::-1]
        return samples, start - first, filled(utterance.speech[start:end], 50)


def talk(voices, overlap, rng):
    """Samples, and for each speaker the frames in which they speak."""
    frames = int(SECONDS * 100) + 3_000
    audio, speaking = np.zeros(frames * HOP), np.zeros((len(voices), frames), bool)
    end, before, last = int(rng.uniform(20, 100)), 0, None
    inside, order, silent = False, list(rng.permutation(len(voices))), set()
    while end < SECONDS * 100:
        if order:
            speaker = order.pop(0)
        else:
            others = [s for s in range(len(voices)) if s not in silent and (s != last or inside)]
            speaker = int(rng.choice(others))
        turn = voices[speaker].turn()
        if turn is None:
            silent.add(speaker)
            continue
        samples, lead, mask = turn
        count = speaking[:, :end].sum(0)
        both, any_ = (count > 1).sum(), (count > 0).sum()
        room = end - before
        start = end + int(rng.uniform(10, 150))
        # Over the last turn's end while less is overlapped than asked for, unless one turn lay within another just now.
        if last is not None and last != speaker and not inside and both < overlap / 100 * any_ and room > 60:
            most = min(room - 20, 400, int(0.8 * len(mask)) if len(mask) > 200 else len(mask) + 30)
            start = end - int(rng.uniform(30, max(31, most)))
        speaking[speaker, start:start + len(mask)] |= mask
        at = max(0, (start - lead) * HOP)
        audio[at:at + len(samples)] += samples
        inside = start + len(mask) <= end
        before = max(before, min(end, start + len(mask)))
        if not inside:
            end, last = start + len(mask), speaker
    frames = end + 50
    audio = audio[:frames * HOP] + rng.normal(0, 1e-3, frames * HOP)
    audio *= min(1, 0.98 / np.abs(audio).max())
    return audio, speaking[:, :frames]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folders = sorted(p for p in (args.data / "librispeech-test-other").iterdir() if p.is_dir())
    libri = {f.name: [Utterance(read(p)) for p in sorted(f.glob("*.flac"))] for f in folders}
    jfk = [Utterance(read(args.data / "jfk.flac"))]
    for speakers, overlap in TALKS:
        rng = np.random.default_rng([7, speakers, overlap])
        names = [str(n) for n in rng.permutation(sorted(libri))[:speakers]]
        voices = [Voice(libri[n], rng, True) for n in names]
        if speakers > len(names):
            names.append("jfk")
            voices.append(Voice(jfk, rng, False))
        audio, speaking = talk(voices, overlap, rng)
        name = f"talk-{speakers}-{overlap:02}"
        soundfile.write(args.out / f"{name}.wav", np.round(audio * 32767).astype(np.int16), RATE, subtype="PCM_16")
        segments = sorted((int(s), int(e), n) for n, row in zip(names, speaking) for s, e in runs(row))
        with open(args.out / f"{name}.rttm", "w") as out:
            for start, end, speaker in segments:
                out.write(f"SPEAKER {name} 1 {start / 100:.2f} {(end - start) / 100:.2f} <NA> <NA> {speaker} <NA> <NA>\n")
        count = speaking.sum(0)
        shares = " ".join(f"{n}:{row.mean() * len(row) / 100:.0f}s" for n, row in zip(names, speaking))
        print(f"{name}: {len(audio) / RATE:.1f} s, {len(segments)} segments, speech {(count > 0).mean():.0%},",
              f"two at once in {(count > 1).sum() / (count > 0).sum():.1%}, most at once {count.max()}; {shares}")


main()
