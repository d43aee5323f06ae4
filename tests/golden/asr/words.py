"""What faster-whisper writes with a beam of 5, and when it hears each word at beam 1: tests/golden/asr/words.json.

    python words.py WHISPER_BASE_FOLDER SHARED_DATA_FOLDER CLIPS_FOLDER > words.json

faster-whisper 1.2.1 with CTranslate2 4.8.5, float32. CLIPS_FOLDER is `pytest_audioeval/samples/audio` of
pytest-audioeval 0.1.3; SHARED_DATA_FOLDER has `jfk.flac` and `librispeech-test-other`. Clips of which some text was
sampled are left out: it depends on the generator.
"""
import glob
import json
import os
import sys

from faster_whisper import WhisperModel

model_dir, data, clips = sys.argv[1:4]
model = WhisperModel(model_dir, device="cpu", compute_type="float32")
files = [("data/jfk.flac", f"{data}/jfk.flac")]
speech = f"{data}/librispeech-test-other"
files += [(os.path.relpath(f, speech), f) for f in sorted(glob.glob(f"{speech}/*/*-000[1-4].flac"))]
files += [(os.path.relpath(f, clips), f) for f in sorted(glob.glob(f"{clips}/*/*.wav"))]
golden = {}
for key, path in files:
    greedy = list(model.transcribe(path, beam_size=1, word_timestamps=True)[0])
    beam = list(model.transcribe(path, beam_size=5)[0])
    if any(s.temperature > 0 for s in greedy + beam):
        continue
    words = [[w.word, round(w.start, 2), round(w.end, 2), round(w.probability, 3)] for s in greedy for w in s.words]
    golden[key] = {"beam": "".join(s.text for s in beam), "words": words}
json.dump(golden, sys.stdout, ensure_ascii=False, separators=(",", ":"))
