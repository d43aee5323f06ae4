"""Files, vector stores and answers from them by the official client, and LangChain's classes: documents_test.py BASE_URL

Real models, so what is asserted of their words is what any working model says. Prints a line a case; the first
failure ends it with a traceback.
"""

import io
import math
import os
import sys
import time

import openai
from openai.types.responses import Response

base = sys.argv[1]
client = openai.OpenAI(base_url=base, api_key="not-needed", max_retries=0, timeout=120)
TEXTS = {
    "bees.md": "# Bees\n\nA honeybee colony has one queen. Worker bees build the combs from wax.",
    "tides.txt": "The moon pulls the water of the oceans. Spring tides come at full moon and at new moon.",
    "bread.html": "<h1>Bread</h1><p>Yeast makes the dough rise before it is baked in an oven.</p>",
}


def fails(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def file(name, text=None):
    return name, io.BytesIO((text or TEXTS[name]).encode())


def files():
    made = client.files.create(file=file("bees.md"), purpose="assistants")
    assert made.filename == "bees.md" and made.bytes == len(TEXTS["bees.md"]) and made.status == "processed", made
    assert client.files.content(made.id).text == TEXTS["bees.md"]
    assert made.id in [one.id for one in client.files.list(purpose="assistants", limit=2)]
    assert client.files.retrieve(made.id) == made
    assert client.files.delete(made.id).deleted
    fails(openai.NotFoundError, lambda: client.files.retrieve(made.id))
    expiring = client.files.create(
        file=file("tides.txt"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert expiring.expires_at == expiring.created_at + 3600, expiring
    client.files.delete(expiring.id)


def vector_stores():
    store = client.vector_stores.create(name="Nature", metadata={"owner": "test"})
    assert store.object == "vector_store" and store.status == "completed" and store.metadata == {"owner": "test"}, store
    one = client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=file("bees.md"))
    assert one.status == "completed" and one.last_error is None, one
    batch = client.vector_stores.file_batches.upload_and_poll(
        vector_store_id=store.id, files=[file("tides.txt"), file("bread.html"), file("broken.pdf", "%PDF-1.7")]
    )
    assert batch.status == "completed" and batch.file_counts.completed == 2 and batch.file_counts.failed == 1, batch
    failed = list(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, filter="failed"))
    assert len(failed) == 1 and failed[0].last_error.code == "invalid_file", failed
    store = client.vector_stores.retrieve(store.id)
    assert store.file_counts.total == 4 and store.usage_bytes > 0, store

    found = client.vector_stores.search(store.id, query="What do insects make their homes of?", max_num_results=3)
    first = found.data[0]
    assert first.filename == "bees.md" and 0 < first.score <= 1 and "wax" in first.content[0].text, found
    words = client.vector_stores.search(store.id, query=["yeast", "moon"], rewrite_query=False)
    assert {result.filename for result in words.data[:2]} == {"bread.html", "tides.txt"}, words

    changed = client.vector_stores.files.update(one.id, vector_store_id=store.id, attributes={"year": 2020, "kind": "animal"})
    assert changed.attributes == {"year": 2020, "kind": "animal"}, changed
    animals = {"type": "and", "filters": [{"type": "eq", "key": "kind", "value": "animal"}, {"type": "lt", "key": "year", "value": 2021}]}
    found = client.vector_stores.search(store.id, query="the moon", filters=animals)
    assert [result.filename for result in found.data] == ["bees.md"], found
    content = client.vector_stores.files.content(one.id, vector_store_id=store.id)
    assert "combs from wax" in content.data[0].text, content
    assert client.vector_stores.files.delete(one.id, vector_store_id=store.id).deleted
    assert client.files.retrieve(one.id).id == one.id, "the file itself stays"
    assert client.vector_stores.update(store.id, name="Renamed").name == "Renamed"
    assert store.id in [known.id for known in client.vector_stores.list()]
    assert client.vector_stores.delete(store.id).deleted
    fails(openai.NotFoundError, lambda: client.vector_stores.search(store.id, query="moon"))


def answers():
    store = client.vector_stores.create(name="Answers")
    client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=file("tides.txt"))
    tool = {"type": "file_search", "vector_store_ids": [store.id], "max_num_results": 2}
    ask = {"model": "smollm2", "input": "When do spring tides come?", "tools": [tool], "temperature": 0, "max_output_tokens": 60}
    answer = client.responses.create(**ask, include=["file_search_call.results"])
    Response.model_validate(answer.to_dict(mode="json"))
    search, message = answer.output
    assert search.type == "file_search_call" and search.status == "completed" and search.queries == [ask["input"]], search
    assert search.results[0].filename == "tides.txt", search
    assert answer.output_text, answer
    for part in message.content:
        for annotation in part.annotations:
            assert annotation.type == "file_citation" and annotation.filename == "tides.txt", annotation
    kinds = []
    with client.responses.stream(**ask) as stream:
        for event in stream:
            kinds.append(event.type)
        whole = stream.get_final_response()
    assert "response.file_search_call.completed" in kinds and whole.output[0].type == "file_search_call", kinds
    assert whole.output_text == answer.output_text, (whole.output_text, answer.output_text)
    # What was searched before is not searched again by going on.
    more = client.responses.create(**{**ask, "tools": []}, previous_response_id=answer.id)
    assert [item.type for item in more.output] == ["message"], more
    client.vector_stores.delete(store.id)


def langchain():
    os.environ["OPENAI_API_KEY"] = "not-needed"
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    # Otherwise LangChain sends tokens of OpenAI's own vocabulary, which are no tokens of this model.
    embeddings = OpenAIEmbeddings(model="all-minilm-l6-v2", base_url=base, check_embedding_ctx_length=False)
    vectors = embeddings.embed_documents(list(TEXTS.values()))
    query = embeddings.embed_query("Who builds combs?")
    assert len(query) == 384 and math.isclose(sum(x * x for x in query), 1, rel_tol=1e-3)
    scores = [sum(a * b for a, b in zip(query, vector)) for vector in vectors]
    assert scores.index(max(scores)) == 0, scores

    chat = ChatOpenAI(model="smollm2", base_url=base, temperature=0, max_completion_tokens=20)
    messages = [("system", "Answer with one word."), ("user", "What is the capital of France?")]
    answer = chat.invoke(messages)
    assert "Paris" in answer.content and answer.usage_metadata["output_tokens"] > 0, answer
    pieces = list(chat.stream(messages))
    assert len(pieces) > 1 and "".join(piece.content for piece in pieces) == answer.content, pieces


for case in [files, vector_stores, answers, langchain]:
    started = time.time()
    case()
    print(f"{case.__name__}: {time.time() - started:.1f} s")
