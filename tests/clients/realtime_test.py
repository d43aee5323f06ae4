"""Live transcription by a running server: realtime_test.py BASE_URL AUDIO_FOLDER

The official client for OpenAI's events, and a plain WebSocket for Paneas'. Clips are sent four times as fast as they are
spoken. Prints a line a case; the first failure ends it with a traceback.
"""

import base64
import json
import struct
import sys
import threading
import time
from pathlib import Path

import openai
from websockets.sync.client import connect

base = sys.argv[1]
client = openai.OpenAI(base_url=base, api_key="not-needed", max_retries=0, timeout=120)
clips = Path(sys.argv[2]) / "en"
PIECE = 0.1
SPEED = 4


def words(text):
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def samples(name, rate):
    """A clip of 32-bit floats as 16-bit samples at this rate, by straight lines, with a second of silence after it."""
    data = (clips / f"{name}.wav").read_bytes()
    at = 12
    while at < len(data):
        kind, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if kind == b"fmt ":
            form, channels, own, _, _, bits = struct.unpack_from("<HHIIHH", data, at + 8)
            assert (form, channels, bits) == (3, 1, 32), (form, channels, bits)
        if kind == b"data":
            values = struct.unpack_from(f"<{size // 4}f", data, at + 8)
        at += 8 + size + size % 2
    out = []
    for i in range(int(len(values) * rate / own) - 1):
        left = int(i * own / rate)
        part = i * own / rate - left
        value = values[left] * (1 - part) + values[min(left + 1, len(values) - 1)] * part
        out.append(int(max(-1.0, min(1.0, value)) * 32767))
    return out + [0] * rate


def pcm(values):
    return struct.pack(f"<{len(values)}h", *values)


def paced(values, rate, speed=SPEED):
    """Pieces of a tenth of a second, so many times as fast as they are spoken."""
    begun, size = time.monotonic(), int(rate * PIECE)
    for at in range(0, len(values), size):
        wait = begun + at / rate / speed - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        yield pcm(values[at : at + size])


def listen(connection, enough):
    """Events until there are enough."""
    events = []
    for event in connection:
        events.append(event)
        assert event.type != "error", event
        if enough(events):
            return events


def completed(events):
    return [e for e in events if e.type.endswith("transcription.completed")]


def deltas(events, item):
    return "".join(e.delta for e in events if e.type.endswith("transcription.delta") and e.item_id == item)


def turns_by_voice():
    said = [samples(name, 24_000) for name in ("counting", "quick_brown_fox")]
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        transcription = {"model": "whisper-base", "language": "en"}
        session = {"type": "transcription", "audio": {"input": {"transcription": transcription}}}
        connection.session.update(session=session)
        assert connection.recv().type == "session.updated"

        def speak():
            for clip in said:
                for piece in paced(clip, 24_000):
                    connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        text = lambda events: words(" ".join(e.transcript for e in completed(events)))
        events = listen(connection, lambda events: "dog" in text(events))
        speaker.join()
    assert "jumps over the lazy dog" in " ".join(text(events)), text(events)
    assert "three" in text(events) or "3" in text(events), text(events)
    for event in completed(events):
        assert deltas(events, event.item_id) == event.transcript, event
        kinds = [e.type for e in events if getattr(e, "item_id", None) == event.item_id]
        assert kinds[0] == "input_audio_buffer.speech_started", kinds
        assert kinds.index("input_audio_buffer.committed") < len(kinds) - 1, kinds


def words_come_while_somebody_speaks():
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        transcription = {"model": "whisper-base", "language": "en"}
        session = {"audio": {"input": {"transcription": transcription, "turn_detection": None}}}
        connection.session.update(session={"type": "transcription", **session})
        assert connection.recv().type == "session.updated"
        clip = samples("quick_brown_fox", 24_000) + samples("counting", 24_000)

        def speak():
            for piece in paced(clip, 24_000, speed=1):
                connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
            connection.input_audio_buffer.commit()

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        events = listen(connection, completed)
        speaker.join()
    done = completed(events)[0]
    assert deltas(events, done.item_id) == done.transcript, events
    end = next(i for i, e in enumerate(events) if e.type == "input_audio_buffer.committed")
    early = words(deltas(events[:end], done.item_id))
    assert early and early == words(done.transcript)[: len(early)], (early, done)
    print(f"  {len(early)} of {len(words(done.transcript))} words came before the end", flush=True)
    assert "lazy dog" in " ".join(words(done.transcript)), done


def turns_by_the_client():
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        transcription = {"model": "whisper-base", "language": "en"}
        session = {"audio": {"input": {"transcription": transcription, "turn_detection": None}}}
        connection.session.update(session={"type": "transcription", **session})
        assert connection.recv().type == "session.updated"
        clip = samples("hello_world", 24_000)
        connection.input_audio_buffer.append(audio=base64.b64encode(pcm(clip)).decode())
        connection.input_audio_buffer.commit()
        begun = time.monotonic()
        events = listen(connection, completed)
        print(f"  the words came {time.monotonic() - begun:.2f} s after the end of the turn", flush=True)
        event = completed(events)[0]
        assert words(event.transcript) == ["hello", "world"], event
        assert deltas(events, event.item_id) == event.transcript, events
        # Silence gives no text.
        silence = base64.b64encode(pcm([0] * 48_000)).decode()
        connection.input_audio_buffer.append(audio=silence)
        connection.input_audio_buffer.commit()
        assert completed(listen(connection, completed))[0].transcript == ""


def paneas():
    address = base.replace("http://", "ws://").removesuffix("/v1") + "/api/v1/asr/stream"
    with connect(address) as socket:
        hear = lambda: json.loads(socket.recv(timeout=120))
        assert hear()["event"] == "ready"
        socket.send(json.dumps({"event": "start", "language": "en", "model": "base", "beam_size": 1}))
        assert hear()["event"] == "session_started"
        for name in ("counting", "quick_brown_fox"):
            for piece in paced(samples(name, 16_000), 16_000):
                socket.send(json.dumps({"event": "audio", "chunk": base64.b64encode(piece).decode()}))
        socket.send(json.dumps({"event": "stop"}))
        events = []
        while not events or events[-1]["event"] != "session_ended":
            events.append(hear())
            assert "error" not in events[-1]["event"], events[-1]
    batches = [e for e in events if e["event"] == "batch_processed"]
    stats = next(e["stats"] for e in events if e["event"] == "final_summary")
    assert stats["total_batches"] == len(batches) and stats["total_tokens"] == batches[-1]["total_tokens"], stats
    assert "lazy" in words(stats["transcript"]) and "dog" in words(stats["transcript"]), stats
    assert words(" ".join(b["text"] for b in batches)) == words(stats["transcript"]), batches


for case in (turns_by_voice, words_come_while_somebody_speaks, turns_by_the_client, paneas):
    start = time.monotonic()
    case()
    print(f"{case.__name__}: {time.monotonic() - start:.2f} s", flush=True)
