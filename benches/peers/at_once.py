#!/usr/bin/env python3
"""Several recordings sent at once to a running server, beside faster-whisper on one after the other.

    at_once.py URL PEER_MODEL RECORDING... [--compute int8] [--rounds 3]

Run it with a Python that has faster-whisper. Prints a row of a table: times real time of all recordings together.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
import wave

from faster_whisper import WhisperModel


def ours(url, files):
    def send(file):
        form = ["-F", f"file=@{file}", "-F", "model=whisper-1", "-F", "beam_size=1"]
        answer = subprocess.run(["curl", "-sf", f"{url}/v1/audio/transcriptions", *form], capture_output=True, check=True)
        assert json.loads(answer.stdout)["text"]

    threads = [threading.Thread(target=send, args=[file]) for file in files]
    start = time.perf_counter()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return time.perf_counter() - start


def theirs(model, files):
    start = time.perf_counter()
    for file in files:
        assert "".join(s.text for s in model.transcribe(file, beam_size=1)[0])
    return time.perf_counter() - start


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("url")
    options.add_argument("model")
    options.add_argument("files", nargs="+")
    options.add_argument("--compute", default="int8")
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()
    model = WhisperModel(args.model, device="cpu", compute_type=args.compute, cpu_threads=2)
    seconds = 0
    for file in args.files:
        with wave.open(file) as audio:
            seconds += audio.getnframes() / audio.getframerate()
    figures = ([], [])
    for number in range(args.rounds):
        # Whoever is second finds a warmer machine: they take turns at that too.
        sides = [(0, lambda: ours(args.url, args.files)), (1, lambda: theirs(model, args.files))]
        for side, run in sides if number % 2 == 0 else reversed(sides):
            figures[side].append(round(seconds / run(), 1))
    a, b = (statistics.median(side) for side in figures)
    show = lambda values: " ".join(f"{v:g}" for v in sorted(values))
    print(f"| {len(args.files)} at once | {a:g} x real time | {b:g} | {a / b:.2f} | {show(figures[0])} | {show(figures[1])} |")


main()
