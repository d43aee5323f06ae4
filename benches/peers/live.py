#!/usr/bin/env python3
"""Live sessions at the speed of speech: how long after the end of a turn its text is there.

    live.py URL MODEL RECORDING [--sessions 32] [--seconds 60]

RECORDING is 24 kHz, 16 bits, mono; every session begins at another place of it. Run it with a Python that has
`websockets` (`pip install websockets`). Prints turns, words, and the lag from the last sample of speech that was sent
to the turn's text.
"""

import argparse
import asyncio
import base64
import json
import statistics
import time
import wave

import websockets

STEP = 0.1


async def session(url, model, audio, seconds, lags, words, notices):
    async with websockets.connect(f"{url}/v1/realtime?intent=transcription", max_size=None) as socket:
        transcription = {"model": model, "language": "en"}
        update = {"type": "transcription", "audio": {"input": {"transcription": transcription}}}
        await socket.send(json.dumps({"type": "session.update", "session": update}))
        start = time.monotonic()
        ends = {}

        async def send():
            step = int(24_000 * STEP) * 2
            for i in range(int(seconds / STEP)):
                chunk = base64.b64encode(audio[i * step : (i + 1) * step]).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": chunk}))
                await asyncio.sleep(max(0.0, start + (i + 1) * STEP - time.monotonic()))

        async def hear():
            async for message in socket:
                event = json.loads(message)
                kind = event["type"]
                if kind.endswith("speech_stopped"):
                    ends[event["item_id"]] = start + event["audio_end_ms"] / 1000
                elif kind.endswith("transcription.completed"):
                    words.append(len(event["transcript"].split()))
                    if event["item_id"] in ends:
                        lags.append(time.monotonic() - ends[event["item_id"]])
                elif kind == "error":
                    notices.append(event["error"]["code"])

        hearing = asyncio.create_task(hear())
        await send()
        await asyncio.sleep(10)
        hearing.cancel()


async def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("url")
    options.add_argument("model")
    options.add_argument("recording")
    options.add_argument("--sessions", type=int, default=32)
    options.add_argument("--seconds", type=float, default=60)
    args = options.parse_args()
    with wave.open(args.recording) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        audio = file.readframes(file.getnframes())
    lags, words, notices = [], [], []
    places = [len(audio) // 2 * i // args.sessions * 2 for i in range(args.sessions)]
    ws = args.url.replace("http", "ws", 1)
    runs = [session(ws, args.model, audio[at:] + audio[:at], args.seconds, lags, words, notices) for at in places]
    await asyncio.gather(*runs)
    lags.sort()
    if not lags:
        raise SystemExit(f"no turn ended; {sum(words)} words, {len(notices)} notices: {sorted(set(notices))}")
    late = sum(lag > 3 for lag in lags)
    at = lambda share: lags[min(len(lags) - 1, int(share * len(lags)))]
    print(
        f"| {args.sessions} sessions of {args.seconds:g} s | {len(lags)} turns, {sum(words)} words | "
        f"median {statistics.median(lags):.2f} s, 95% within {at(0.95):.2f} s, most {lags[-1]:.2f} s | "
        f"{late} later than 3 s | {len(notices)} notices {sorted(set(notices)) or ''} |"
    )


asyncio.run(main())
