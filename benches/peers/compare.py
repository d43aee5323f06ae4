#!/usr/bin/env python3
"""Our figures and a peer's side by side: each measured in turn, several times, medians and their ratio as a table.

    compare.py llm   --model ID --peer-model GGUF       --peer peer_llama.py   --python VENV/bin/python
    compare.py embed --model ID --peer-model FOLDER     --peer peer_embed.py   --python VENV/bin/python
    compare.py asr   --model ID --peer-model FOLDER     --peer peer_whisper.py --python VENV/bin/python --audio FILE

A peer's script prints a JSON line a case, as `stentor bench` does: the same `case` (and `sequences`) are compared.
Both sides get the same two cores, the same file, and nothing else to run beside them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

# Figure, unit, and whether more is better.
FIGURES = {"tok_s": ("tokens/s", True), "texts_s": ("texts/s", True), "ms": ("ms", False), "rtfx": ("x real time", True)}


def lines(command):
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found = {}
    for line in done.stdout.splitlines():
        case = json.loads(line) if line.startswith("{") else {}
        for figure in FIGURES:
            if figure in case:
                name = case["case"] + (f" {case['sequences']}" if "sequences" in case else "")
                found[name, figure] = case[figure]
    return found


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["llm", "embed", "asr"])
    options.add_argument("--stentor", default="stentor", help="the program")
    options.add_argument("--model", required=True, help="our model, by id or path")
    options.add_argument("--peer", required=True, help="the peer's script")
    options.add_argument("--peer-model", required=True)
    options.add_argument("--peer-args", nargs="*", default=[], help="further arguments of the peer's script")
    options.add_argument("--python", default=sys.executable, help="the Python that has the peer")
    options.add_argument("--audio", help="the recording, for asr")
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    audio = [args.audio] if args.audio else []
    ours = [args.stentor, "bench", args.what, "--model", args.model, "--json"]
    ours += ["--audio", args.audio] if args.audio else []
    peer = [args.python, args.peer, args.peer_model, *audio, *args.peer_args]
    figures = {}
    for number in range(args.rounds):
        # Whoever is second finds a warmer machine: they take turns at that too.
        sides = [(0, ours), (1, peer)] if number % 2 == 0 else [(1, peer), (0, ours)]
        for side, command in sides:
            for case, figure in lines(command).items():
                figures.setdefault(case, ([], []))[side].append(figure)
        print(f"round {number + 1} of {args.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    print("| case | ours | theirs | ratio | ours, all | theirs, all |\n|---|---|---|---|---|---|")
    for (case, figure), (mine, theirs) in figures.items():
        unit, more = FIGURES[figure]
        show = lambda values: " ".join(f"{v:g}" for v in sorted(values))
        if not mine or not theirs:
            print(f"| {case} | {show(mine) or 'not supported'} | {show(theirs)} {unit} | | | |")
            continue
        a, b = statistics.median(mine), statistics.median(theirs)
        print(f"| {case} | {a:g} {unit} | {b:g} | {a / b if more else b / a:.2f} | {show(mine)} | {show(theirs)} |")


main()
