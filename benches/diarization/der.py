#!/usr/bin/env python3
"""The diarization error rate of a guess: python der.py REFERENCE.rttm GUESS.rttm

    pip install pyannote.metrics==4.2.0

Prints JSON: der, and der_collar with 0.5 s not scored around each end of the reference's segments (0.25 s on each side:
collar=0.5 of pyannote.metrics); miss, false_alarm and confusion, of which der is the sum, as parts of the reference's
speech; how many speakers each file has. Speech of two at once is scored.
"""
import json, sys, warnings

warnings.filterwarnings("ignore")
from pyannote.core import Annotation, Segment
from pyannote.metrics.diarization import DiarizationErrorRate


def rttm(path):
    """Who speaks when in an RTTM file."""
    out = Annotation()
    with open(path) as lines:
        for i, line in enumerate(lines):
            f = line.split()
            if f and f[0] == "SPEAKER" and float(f[4]) > 0:
                out[Segment(float(f[3]), float(f[3]) + float(f[4])), i] = f[7]
    return out


def measure(reference, guess):
    parts = DiarizationErrorRate()(reference, guess, detailed=True)
    share = lambda name: round(parts[name] / parts["total"], 4)
    return {
        "der": round(parts["diarization error rate"], 4),
        "der_collar": round(DiarizationErrorRate(collar=0.5)(reference, guess), 4),
        "miss": share("missed detection"),
        "false_alarm": share("false alarm"),
        "confusion": share("confusion"),
        "speakers_reference": len(reference.labels()),
        "speakers_guess": len(guess.labels()),
    }


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(json.dumps(measure(rttm(sys.argv[1]), rttm(sys.argv[2]))))
