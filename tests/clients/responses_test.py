"""The Responses API by the official client against a running server: responses_test.py BASE_URL

Real models, so what is asserted of their words is what any working model says. Prints a line a case; the first
failure ends it with a traceback.
"""

import json
import sys
import time

import openai
import pydantic
from openai.types.responses import Response, ResponseStreamEvent

client = openai.OpenAI(base_url=sys.argv[1], api_key="not-needed", max_retries=0, timeout=120)
question = "What is the capital of France? Answer with one word."
model = "smollm2-135m-instruct"
# By the client's own types, which it does not check answers by.
event_type = pydantic.TypeAdapter(ResponseStreamEvent)
weather = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}},
        "required": ["city"],
        "additionalProperties": False,
    },
    # No `strict`: n8n sends none.
}


def ask(input, **more):
    answer = client.responses.create(**{"model": "smollm2", "input": input, "temperature": 0, "max_output_tokens": 30, **more})
    Response.model_validate(answer.to_dict(mode="json"))
    return answer


def fails(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def create():
    answer = ask(question, metadata={"case": "create"}, user="someone")
    assert answer.object == "response" and answer.model == model and answer.status == "completed", answer
    assert "Paris" in answer.output_text and answer.id.startswith("resp_"), answer
    assert answer.metadata == {"case": "create"} and answer.user == "someone" and answer.temperature == 0, answer
    usage = answer.usage
    assert usage.input_tokens > 15 and 0 < usage.output_tokens <= 30, usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens, usage
    # What is asked in items, or by a system message, is the same question.
    chat = client.chat.completions.create(
        model="smollm2", temperature=0, max_tokens=30,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}],
    )
    for answer in (
        ask(question, instructions="Be brief."),
        ask([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": question}]),
        ask([{"role": "user", "content": [{"type": "input_text", "text": question}]}], instructions="Be brief."),
    ):
        assert answer.output_text == chat.choices[0].message.content, (answer, chat)
        assert answer.usage.input_tokens == chat.usage.prompt_tokens, (answer, chat)
    # A limit cuts it, and says so.
    cut = ask("Count from one to twenty in words.", max_output_tokens=5)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens", cut
    assert cut.output[0].status == "incomplete" and cut.usage.output_tokens == 5, cut


def stream():
    whole = ask(question)
    request = {"model": "smollm2", "input": question, "temperature": 0, "max_output_tokens": 30}
    events = list(client.responses.create(stream=True, **request))
    for event in events:
        event_type.validate_python(event.to_dict(mode="json"))
    assert [e.sequence_number for e in events] == list(range(len(events))), events
    kinds = [e.type for e in events]
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * len(deltas),
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ], kinds
    assert "".join(deltas) == events[-1].response.output_text == whole.output_text, (deltas, whole)
    assert events[-1].response.output[0] == events[-2].item, events[-2:]
    # The client's own reader, which checks their order.
    with client.responses.stream(**request) as reader:
        snapshots = [e.snapshot for e in reader if e.type == "response.output_text.delta"]
        final = reader.get_final_response()
    assert snapshots[-1] == final.output_text == whole.output_text, (snapshots, final)
    assert len(snapshots) > 1 or len(final.output_text) < 8, "the text is streamed"


def tools():
    request = {
        "model": "smollm2", "temperature": 0, "max_output_tokens": 100, "tools": [weather],
        "parallel_tool_calls": False,
    }
    turns = [{"role": "user", "content": "What is the weather in Oslo?"}]
    first = ask(turns, **request, tool_choice="required")
    (call,) = first.output
    assert call.type == "function_call" and call.name == "weather" and call.status == "completed", first
    assert set(json.loads(call.arguments)) == {"city"} and call.call_id != call.id, call
    assert first.tools[0].name == "weather" and first.tool_choice == "required", first
    # The call and what it gave go back as items: the client's own object, and a plain one.
    turns += first.output
    turns += [{"type": "function_call_output", "call_id": call.call_id, "output": "It rains, 7 degrees."}]
    by_items = ask(turns, **request, tool_choice="none")
    by_id = ask(turns[-1:], **request, tool_choice="none", previous_response_id=first.id)
    assert by_items.output_text and by_items.output_text == by_id.output_text, (by_items, by_id)
    assert by_items.usage.input_tokens == by_id.usage.input_tokens, (by_items, by_id)
    error = fails(openai.BadRequestError, lambda: ask(turns[-1:], **request))
    assert error.param == "input[0].call_id", error
    # Streamed, the same call in pieces.
    named = {"type": "function", "name": "weather"}
    with client.responses.stream(**request, input=turns[:1], tool_choice=named) as reader:
        events = list(reader)
        final = reader.get_final_response()
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert "".join(pieces) == done[0].arguments == final.output[0].arguments and len(pieces) > 2, events
    assert json.loads(done[0].arguments) == json.loads(call.arguments), (done, call)


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    founded: int = pydantic.Field(ge=0, le=2026)


def structured():
    answer = client.responses.parse(
        model="smollm2", input="Describe a city.", text_format=City, temperature=0, max_output_tokens=200
    )
    assert isinstance(answer.output_parsed, City), answer
    assert answer.text.format.type == "json_schema" and answer.text.format.name == "City", answer.text
    with client.responses.stream(
        model="smollm2", input="Describe a city.", text_format=City, temperature=0, max_output_tokens=200
    ) as reader:
        assert reader.get_final_response().output_parsed == answer.output_parsed
    error = fails(openai.BadRequestError, lambda: ask("x", text={"format": {"type": "json_schema", "name": "x", "schema": {"uniqueItems": True, "type": "array"}}}))
    assert error.param == "text.format", error


def conversation():
    first = ask("My name is Ada. Say hello.", instructions="Speak English.")
    second = ask("What is my name?", previous_response_id=first.id)
    assert second.previous_response_id == first.id, second
    turns = [
        {"role": "user", "content": "My name is Ada. Say hello."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "What is my name?"},
    ]
    same = ask(turns)
    assert same.output_text == second.output_text, (same, second)
    # Instructions are not taken over, and what was computed for these turns is found again.
    assert same.usage.input_tokens == second.usage.input_tokens, (same, second)
    assert same.usage.input_tokens_details.cached_tokens > 0, same.usage
    third = ask("And now?", previous_response_id=second.id)
    assert third.usage.input_tokens > second.usage.input_tokens, (second, third)


def kept():
    answer = ask([{"role": "user", "content": "Say yes."}, {"role": "user", "content": "Please."}], metadata={"a": "b"})
    assert answer.to_dict() == client.responses.retrieve(answer.id).to_dict()
    items = client.responses.input_items.list(answer.id, order="asc", limit=1)
    assert items.data[0].content[0].text == "Say yes." and items.has_more, items
    assert [i.content[0].text for i in items] == ["Say yes.", "Please."], "the client turns the page"
    assert [i.content[0].text for i in client.responses.input_items.list(answer.id)] == ["Please.", "Say yes."]
    client.responses.delete(answer.id)
    for gone in (
        lambda: client.responses.retrieve(answer.id),
        lambda: client.responses.delete(answer.id),
        lambda: client.responses.input_items.list(answer.id),
        lambda: client.responses.retrieve("resp_none"),
        lambda: ask("x", previous_response_id=answer.id),
    ):
        fails(openai.NotFoundError, gone)
    passing = ask("Say yes.", store=False)
    error = fails(openai.NotFoundError, lambda: ask("x", previous_response_id=passing.id))
    assert error.code == "previous_response_not_found" and error.param == "previous_response_id", error


def errors():
    error = fails(openai.NotFoundError, lambda: ask("x", model="gpt-5"))
    assert error.code == "model_not_found" and model in error.message, error
    error = fails(openai.BadRequestError, lambda: ask("word " * 20_000))
    assert error.code == "context_length_exceeded" and error.param == "input", error
    error = fails(openai.BadRequestError, lambda: ask("x", tools=[{"type": "web_search"}]))
    assert error.param == "tools[0].type", error
    fails(openai.BadRequestError, lambda: ask("x", background=True))
    assert ask("Say yes.", model="default").model == model


for case in (create, stream, tools, structured, conversation, kept, errors):
    start = time.monotonic()
    case()
    print(f"{case.__name__}: {time.monotonic() - start:.2f} s", flush=True)
