#!/usr/bin/env python3
"""Decoding through HTTP with streaming: chat.py MODEL [BASE_URL]

The cases, prompts and lengths of `stentor bench llm`, as streamed completions on connections of their own, so that
compare.py sets the two side by side. The server must not speculate (`STENTOR_MODELS_SPECULATE=false`), as the bench does
not. Plain sockets: a client library would take part of the two cores for itself.
"""

import json
import selectors
import socket
import sys
import time
import urllib.parse

MODEL = sys.argv[1]
BASE = urllib.parse.urlparse(sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8080")
STEPS = {1: 128, 4: 48, 8: 48, 16: 48}
LEAD = 8


def ask(sequence, tokens):
    prompt = [100 + sequence + i for i in range(16)]
    body = json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
                       "ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {BASE.netloc}\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection((BASE.hostname, BASE.port))
    connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def decode(sequences, tokens):
    """Tokens a second from the last stream's first piece to the last stream's end."""
    streams = {ask(s, tokens): b"" for s in range(sequences)}
    waiting, begun = selectors.DefaultSelector(), {}
    for connection in streams:
        waiting.register(connection, selectors.EVENT_READ)
    while streams:
        for key, _ in waiting.select(timeout=60):
            connection, received = key.fileobj, key.fileobj.recv(1 << 16)
            assert received, streams[connection]
            # The end may come in two parts.
            seen = streams[connection][-100:] + received
            streams[connection] = seen
            if b"data: {" in seen:
                begun.setdefault(connection, time.perf_counter())
            if b"data: [DONE]" in seen:
                end = time.perf_counter()
                waiting.unregister(connection)
                connection.close()
                del streams[connection]
    return sequences * (tokens - 1) / (end - max(begun.values()))


decode(1, 16)
for sequences, steps in STEPS.items():
    rate = decode(sequences, 1 + steps + LEAD)
    print(json.dumps({"case": "decode", "sequences": sequences, "tok_s": round(rate, 1)}))
