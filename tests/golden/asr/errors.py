"""What was said and what faster-whisper writes, greedy and with a beam of 5: tests/golden/asr/errors.json.

    python errors.py WHISPER_BASE_FOLDER CLIPS_FOLDER > errors.json

faster-whisper 1.2.1 with CTranslate2 4.8.5, float32, at temperature 0 alone: text sampled at higher ones depends on
the generator. CLIPS_FOLDER is `pytest_audioeval/samples/audio` of pytest-audioeval 0.1.3; `tests/data/audio` has the
spoken texts.
"""
import glob
import json
import os
import sys

from faster_whisper import WhisperModel

model_dir, clips = sys.argv[1:3]
model = WhisperModel(model_dir, device="cpu", compute_type="float32")
own = os.path.join(os.path.dirname(__file__), "../../data/audio")
files = [(os.path.relpath(f, clips), f) for f in sorted(glob.glob(f"{clips}/*/*.wav"))]
files += [(os.path.basename(f), f) for f in sorted(glob.glob(f"{own}/spoken-*.flac"))]
golden = {}
for key, path in files:
    with open(os.path.splitext(path)[0] + ".txt", encoding="utf-8") as said:
        golden[key] = {"said": said.read().strip()}
    for name, beam in ("greedy", 1), ("beam", 5):
        segments, _ = model.transcribe(path, beam_size=beam, temperature=0)
        golden[key][name] = "".join(s.text for s in segments)
json.dump(golden, sys.stdout, ensure_ascii=False, separators=(",", ":"))
