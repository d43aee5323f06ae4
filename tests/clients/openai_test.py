"""The official client against a running server: openai_test.py BASE_URL AUDIO_FOLDER

Real models, so what is asserted of their words is what any working model says. Prints a line a case; the first
failure ends it with a traceback.
"""

import base64
import math
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="not-needed", max_retries=0, timeout=120)
clips = Path(sys.argv[2]) / "en"
question = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]


def words(text):
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def models():
    listed = {m.id: m for m in client.models.list()}
    assert {"smollm2-135m-instruct", "all-minilm-l6-v2", "whisper-base"} <= set(listed), listed
    assert all(m.object == "model" and m.owned_by and m.created > 0 for m in listed.values())
    assert client.models.retrieve("whisper-1").id == "whisper-base"


def chat():
    answer = client.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=30)
    assert answer.object == "chat.completion" and answer.model == "smollm2-135m-instruct", answer
    assert "Paris" in answer.choices[0].message.content, answer
    assert answer.choices[0].finish_reason == "stop", answer
    usage = answer.usage
    assert usage.prompt_tokens > 15 and 0 < usage.completion_tokens <= 30, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def chat_streamed():
    def stream(**more):
        return client.chat.completions.create(
            model="smollm2", messages=question, temperature=0, max_tokens=30, stream=True, **more
        )

    whole = client.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=30)
    chunks = list(stream(stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    assert len({c.id for c in chunks}) == 1
    *parts, last = chunks
    text = "".join(c.choices[0].delta.content or "" for c in parts)
    assert text == whole.choices[0].message.content, (text, whole)
    assert [c.choices[0].finish_reason for c in parts if c.choices[0].finish_reason] == ["stop"]
    assert last.choices == [] and last.usage == whole.usage, (last, whole.usage)
    assert all(c.choices for c in stream()), "usage only where it was asked for"


def chat_second_turn():
    # What the first turn computed is not computed again, and says so.
    story = " ".join(f"Sentence {i} of the story tells of ship {i * 7} and its captain." for i in range(30))
    turns = [{"role": "user", "content": story + " Which ship came first?"}]
    first = client.chat.completions.create(model="smollm2", messages=turns, temperature=0, max_tokens=8)
    said = {"role": "assistant", "content": first.choices[0].message.content}
    turns += [said, {"role": "user", "content": "And which came last?"}]
    second = client.chat.completions.create(model="smollm2", messages=turns, temperature=0, max_tokens=8).usage
    cached = second.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens - 40 <= cached < second.prompt_tokens, (first.usage, second)
    assert second.prompt_tokens > first.usage.prompt_tokens > 400, (first.usage, second)


def chat_options():
    # Two answers of one request; the same seed gives the same two again.
    def two(seed):
        answer = client.chat.completions.create(
            model="smollm2", messages=question, n=2, seed=seed, temperature=1.5, max_tokens=12
        )
        assert [c.index for c in answer.choices] == [0, 1]
        return [c.message.content for c in answer.choices]

    first = two(7)
    assert first[0] != first[1] and two(7) == first and two(8) != first, first
    # A token that is made certain is the answer; one that the model does not have is an error.
    certain = client.chat.completions.create(
        model="smollm2", messages=question, temperature=0, max_tokens=3, logit_bias={"504": 100}, logprobs=False
    )
    assert certain.choices[0].message.content == "TheTheThe", certain
    try:
        client.chat.completions.create(model="smollm2", messages=question, logit_bias={"9999999": 1})
        raise AssertionError("a token outside of the vocabulary was taken")
    except openai.BadRequestError as error:
        assert error.param == "logit_bias", error
    # Of the likeliest token alone, any temperature says what greedy says.
    ask = {"model": "smollm2", "messages": question, "max_tokens": 12}
    greedy = client.chat.completions.create(temperature=0, **ask).choices[0].message.content
    for alone in ({"top_k": 1}, {"min_p": 1}):
        said = client.chat.completions.create(temperature=2, extra_body=alone, **ask).choices[0].message.content
        assert said == greedy, (alone, said, greedy)
    # A stop string ends the answer before it.
    counting = [{"role": "user", "content": "Count from one to ten in digits, separated by commas."}]
    options = {"model": "smollm2", "messages": counting, "temperature": 0, "max_tokens": 40}
    text = client.chat.completions.create(**options).choices[0].message.content
    cut = text[len(text) // 2 : len(text) // 2 + 3]
    stopped = client.chat.completions.create(**options, stop=[cut]).choices[0]
    assert stopped.finish_reason == "stop" and stopped.message.content == text[: text.index(cut)], (text, stopped)
    # Far more than the context is clamped, not refused.
    client.chat.completions.create(model="smollm2", messages=question, temperature=0, max_tokens=128_000)


def log_probabilities():
    ask = {"model": "smollm2", "messages": question, "temperature": 0, "max_tokens": 12, "logprobs": True}
    whole = client.chat.completions.create(top_logprobs=3, **ask).choices[0]
    tokens = whole.logprobs.content

    def same(these, those):
        pairs = list(zip(these, those, strict=True))
        return all(a.token == b.token and abs(a.logprob - b.logprob) < 1e-3 for a, b in pairs)

    assert "".join(t.token for t in tokens) == whole.message.content, whole
    assert bytes(b for t in tokens for b in t.bytes) == whole.message.content.encode(), tokens
    for token in tokens:
        # Greedy takes the likeliest; the three together are not more than everything.
        chances = [math.exp(t.logprob) for t in token.top_logprobs]
        assert len(chances) == 3 and chances == sorted(chances, reverse=True) and sum(chances) < 1.0001, token
        assert token.top_logprobs[0].token == token.token and token.top_logprobs[0].logprob == token.logprob, token
    # A stream says the same, each token in the chunk that has its text.
    streamed = []
    for chunk in client.chat.completions.create(top_logprobs=3, stream=True, **ask):
        choice = chunk.choices[0]
        here = choice.logprobs.content if choice.logprobs else []
        assert "".join(t.token for t in here) == (choice.delta.content or ""), chunk
        streamed += here
    assert same(streamed, tokens), (streamed, tokens)
    # What is done to the choice afterwards does not change them; what a stop string cuts off is not told.
    hot = client.chat.completions.create(**{**ask, "temperature": 2, "seed": 1, "max_tokens": 1}, top_logprobs=3)
    assert same(hot.choices[0].logprobs.content[0].top_logprobs, tokens[0].top_logprobs), (hot, tokens[0])
    cut = client.chat.completions.create(**ask, stop=["Paris"]).choices[0]
    # A token of which the beginning is shown is told.
    told = "".join(t.token for t in cut.logprobs.content)
    assert told in (cut.message.content, cut.message.content.removesuffix(" ") + " Paris"), cut
    assert client.chat.completions.create(**{**ask, "logprobs": False}).choices[0].logprobs is None
    # Completions have four lists.
    text = client.completions.create(
        model="smollm2", prompt="The capital of France is", temperature=0, max_tokens=6, logprobs=2
    ).choices[0]
    lists = text.logprobs
    assert "".join(lists.tokens) == text.text, text
    assert lists.text_offset == [len("".join(lists.tokens[:i])) for i in range(len(lists.tokens))], lists
    for token, logprob, top in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs, strict=True):
        assert len(top) == 2 and top[token] == max(top.values()) == logprob, lists


def vllm_options():
    ask = {"model": "smollm2", "messages": question, "temperature": 0, "max_tokens": 12}

    def choice(**more):
        return client.chat.completions.create(**ask, extra_body=more).choices[0]

    plain = choice()
    assert plain.finish_reason == "stop", plain
    # Without the model's end it goes on; and an answer that would be shorter gets longer.
    assert choice(ignore_eos=True).finish_reason == "length"
    assert choice(min_tokens=12).finish_reason == "length"
    # One of the answer's own tokens ends it where it comes first.
    ids = choice(logit_bias={"504": 100}, stop_token_ids=[504])
    assert ids.message.content == "" and ids.finish_reason == "stop", ids
    assert choice(priority=100, typical_p=0.5).message.content == plain.message.content
    for wrong in ({"priority": 101}, {"typical_p": 2}, {"min_tokens": 13}, {"stop_token_ids": [9999999]}):
        try:
            choice(**wrong)
            raise AssertionError(f"{wrong} was taken")
        except openai.BadRequestError as error:
            assert error.param in wrong, error


def completions():
    answer = client.completions.create(
        model="smollm2", prompt=["The capital of France is", "Two plus two is"], temperature=0, max_tokens=8
    )
    assert [c.index for c in answer.choices] == [0, 1] and "Paris" in answer.choices[0].text, answer
    stream = client.completions.create(
        model="smollm2", prompt="The capital of France is", temperature=0, max_tokens=8, stream=True
    )
    assert "".join(c.choices[0].text for c in stream) == answer.choices[0].text


def embeddings():
    texts = ["A cat sat on the mat.", "A kitten rested on the rug.", "Interest rates rose again in March."]
    answer = client.embeddings.create(model="all-minilm-l6-v2", input=texts)
    vectors = [d.embedding for d in answer.data]
    assert [d.index for d in answer.data] == [0, 1, 2] and {len(v) for v in vectors} == {384}
    assert abs(sum(x * x for x in vectors[0]) - 1) < 1e-5
    near, far = cosine(vectors[0], vectors[1]), cosine(vectors[0], vectors[2])
    assert near > 0.5 > 0.2 > far, (near, far)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 10
    # The client asks for base64 unless told otherwise, and decodes it; both are the same numbers.
    floats = client.embeddings.create(model="all-minilm-l6-v2", input=texts, encoding_format="float")
    assert max(abs(a - b) for a, b in zip(floats.data[0].embedding, vectors[0], strict=True)) < 1e-6
    raw = client.embeddings.with_raw_response.create(
        model="all-minilm-l6-v2", input=texts[0], encoding_format="base64"
    )
    encoded = base64.b64decode(raw.http_response.json()["data"][0]["embedding"])
    unpacked = struct.unpack("<384f", encoded)
    assert max(abs(a - b) for a, b in zip(unpacked, vectors[0], strict=True)) < 1e-6
    # 'hello world' as BERT's own token ids.
    tokens = client.embeddings.create(model="all-minilm-l6-v2", input=[101, 7592, 2088, 102])
    text = client.embeddings.create(model="all-minilm-l6-v2", input="hello world")
    assert cosine(tokens.data[0].embedding, text.data[0].embedding) > 0.9999
    short = client.embeddings.create(model="all-minilm-l6-v2", input=texts[0], dimensions=64).data[0].embedding
    assert len(short) == 64 and cosine(short, vectors[0][:64]) > 0.9999
    assert abs(sum(x * x for x in short) - 1) < 1e-5
    many = client.embeddings.create(model="all-minilm-l6-v2", input=[f"Note {i}" for i in range(512)])
    assert [d.index for d in many.data] == list(range(512))


def transcription():
    with open(clips / "counting.wav", "rb") as file:
        answer = client.audio.transcriptions.create(model="whisper-1", file=file)
    # The model may write numbers either way.
    assert words(answer.text)[-1] in ("10", "ten"), answer.text
    with open(clips / "quick_brown_fox.wav", "rb") as file:
        answer = client.audio.transcriptions.create(
            model="whisper-base", file=file, language="en", response_format="verbose_json"
        )
    said = words((clips / "quick_brown_fox.txt").read_text())
    assert words(answer.text) == said, (answer.text, said)
    assert answer.language in ("en", "english") and answer.duration > 1
    assert "".join(s.text for s in answer.segments).strip() == answer.text.strip()
    starts = [s.start for s in answer.segments]
    assert starts == sorted(starts) and answer.segments[-1].end <= answer.duration + 0.5
    for form, sign in (("srt", "-->"), ("vtt", "WEBVTT"), ("text", "fox")):
        with open(clips / "quick_brown_fox.wav", "rb") as file:
            text = client.audio.transcriptions.create(model="whisper-1", file=file, response_format=form)
        assert isinstance(text, str) and sign in text and "fox" in text, (form, text)


def transcribe(name, **more):
    with open(clips / name, "rb") as file:
        return client.audio.transcriptions.create(model="whisper-1", file=file, language="en", **more)


def transcription_words():
    fox = "quick_brown_fox.wav"
    said = words((clips / "quick_brown_fox.txt").read_text())
    answer = transcribe(fox, response_format="verbose_json", timestamp_granularities=["word"])
    assert answer.segments is None, "only words were asked for"
    assert words(" ".join(w.word for w in answer.words)) == said, answer.words
    assert all(w.word == w.word.strip() and w.start <= w.end <= answer.duration + 0.5 for w in answer.words)
    starts = [w.start for w in answer.words]
    assert starts == sorted(starts) and starts[-1] > starts[0], starts
    both = transcribe(fox, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert both.words == answer.words and both.segments and both.usage.type == "duration", both
    # Each word lies in a segment.
    for word in both.words:
        assert any(s.start - 0.1 <= word.start and word.end <= s.end + 0.1 for s in both.segments), word
    cues = transcribe(fox, response_format="srt", extra_body={"word_timestamps": True})
    lines = [line for cue in cues.strip().split("\n\n") for line in cue.split("\n")[2:]]
    assert all(len(line) <= 42 for line in lines) and words(" ".join(lines)) == said, cues
    try:
        transcribe(fox, timestamp_granularities=["word"])
        raise AssertionError("words came with json")
    except openai.BadRequestError as error:
        assert error.param == "timestamp_granularities[]", error


def transcription_streamed():
    whole = transcribe("quick_brown_fox.wav")
    events = list(transcribe("quick_brown_fox.wav", stream=True, include=["logprobs"]))
    *deltas, done = events
    assert {e.type for e in deltas} == {"transcript.text.delta"} and done.type == "transcript.text.done", events
    assert "".join(e.delta for e in deltas) == done.text == whole.text, (events, whole)
    assert done.usage.seconds == whole.usage.seconds
    tokens = [t for e in deltas for t in e.logprobs]
    assert [t.token for t in tokens] == [t.token for t in done.logprobs]
    events = list(transcribe("quick_brown_fox.wav", stream=True, response_format="verbose_json"))
    segments = [e for e in events if e.type == "transcript.text.segment"]
    assert "".join(s.text for s in segments).strip() == events[-1].text == whole.text, events
    assert all(s.start < s.end for s in segments)


def transcription_logprobs():
    answer = transcribe("quick_brown_fox.wav", include=["logprobs"])
    data = bytes(int(byte) for token in answer.logprobs for byte in token.bytes)
    assert data.decode().strip() == answer.text, (data, answer.text)
    assert all(-10 < token.logprob <= 0 for token in answer.logprobs), answer.logprobs
    try:
        transcribe("quick_brown_fox.wav", include=["logprobs"], response_format="verbose_json")
        raise AssertionError("log-probabilities came with verbose_json")
    except openai.BadRequestError as error:
        assert error.param == "include[]", error


def transcription_options():
    said = words((clips / "quick_brown_fox.txt").read_text())
    vad = {"type": "server_vad", "threshold": 0.4, "prefix_padding_ms": 200, "silence_duration_ms": 500}
    for strategy in ("auto", vad):
        assert words(transcribe("quick_brown_fox.wav", chunking_strategy=strategy).text) == said, strategy
    for extra in ({"beam_size": 1}, {"vad_filter": True}, {"temperature": [0]}, {"condition_on_previous_text": False}):
        assert words(transcribe("quick_brown_fox.wav", extra_body=extra).text) == said, extra
    for name, value in (("beam_size", 0), ("patience", -1), ("no_speech_threshold", 2), ("suppress_tokens", "a")):
        try:
            transcribe("quick_brown_fox.wav", extra_body={name: value})
            raise AssertionError(f"{name}={value} was taken")
        except openai.BadRequestError as error:
            assert error.param == name, error


def errors():
    def fails(kind, call):
        try:
            call()
        except kind as error:
            return error
        raise AssertionError(f"{kind.__name__} was not raised")

    def ask(**fields):
        return client.chat.completions.create(**{"model": "smollm2", "messages": question, **fields})

    error = fails(openai.NotFoundError, lambda: ask(model="gpt-5"))
    assert error.code == "model_not_found" and "smollm2-135m-instruct" in error.message, error
    error = fails(openai.BadRequestError, lambda: ask(temperature="warm"))
    assert error.param == "temperature", error
    long = [{"role": "user", "content": "word " * 20_000}]
    error = fails(openai.BadRequestError, lambda: ask(messages=long))
    assert error.code == "context_length_exceeded", error
    error = fails(openai.BadRequestError, lambda: ask(messages=long, stream=True))
    assert error.code == "context_length_exceeded", error
    note = ("note.wav", b"This is a note, not a recording.")
    fails(openai.BadRequestError, lambda: client.audio.transcriptions.create(model="whisper-1", file=note))
    error = fails(openai.BadRequestError, lambda: client.embeddings.create(model="whisper-1", input="x"))
    assert "all-minilm-l6-v2" in error.message, error


def all_at_once():
    """Speech, chats and embeddings in one process at the same time; all finish, and none waits for another's end."""
    begun = time.monotonic()
    spans = {}

    def timed(name, work):
        start = time.monotonic() - begun
        result = work()
        spans[name] = (start, time.monotonic() - begun)
        return result

    def speak():
        with open(clips / "quick_brown_fox.wav", "rb") as file:
            return client.audio.transcriptions.create(model="whisper-1", file=file, language="en").text

    def talk(i):
        stream = client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": f"Tell me a story about {i} ships."}],
            temperature=0, max_tokens=100, stream=True,
        )
        return sum(1 for _ in stream)

    def embed(i):
        texts = [f"Sentence {j} of batch {i}, about the weather on the coast." for j in range(64)]
        return client.embeddings.create(model="all-minilm-l6-v2", input=texts).data

    with ThreadPoolExecutor(16) as pool:
        talks = [pool.submit(timed, f"chat {i}", lambda i=i: talk(i)) for i in range(4)]
        speeches = [pool.submit(timed, f"speech {i}", speak) for i in range(3)]
        batches = [pool.submit(timed, f"embed {i}", lambda i=i: embed(i)) for i in range(4)]
        assert all(f.result() >= 50 for f in talks), [f.result() for f in talks]
        assert {" ".join(words(f.result())) for f in speeches} == {
            " ".join(words((clips / "quick_brown_fox.txt").read_text()))
        }
        assert all(len(f.result()) == 64 for f in batches)
    first_end = min(end for _, end in spans.values())
    assert all(start < first_end for start, _ in spans.values()), f"they did not overlap: {spans}"


for case in (
    models, chat, chat_streamed, chat_second_turn, chat_options, log_probabilities, vllm_options, completions,
    embeddings, transcription, transcription_words, transcription_streamed, transcription_logprobs,
    transcription_options, errors, all_at_once,
):
    start = time.monotonic()
    case()
    print(f"{case.__name__}: {time.monotonic() - start:.2f} s", flush=True)
