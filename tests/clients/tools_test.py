"""Streamed calls of tools, read by the official client: tools_test.py BASE_URL < TOOLS

TOOLS is a JSON list of functions, a line. Asks for a call of each, the first quarter one after the other and the rest
at once, and prints a JSON line with the name and the arguments of every call.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="not-needed", max_retries=0, timeout=120)
tools = [{"type": "function", "function": function} for function in json.load(sys.stdin)]


def call(at):
    wanted = tools[at]["function"]["name"]
    named = at % 2 == 0
    request = {
        "model": "smollm2", "temperature": 1, "seed": at, "max_tokens": 800,
        "messages": [{"role": "user", "content": f"Call the function {wanted} with an example."}],
        "tools": [tools[at], tools[(at + 1) % len(tools)]],
        "tool_choice": {"type": "function", "function": {"name": wanted}} if named else "required",
        "parallel_tool_calls": at % 3 == 0,
    }
    with client.chat.completions.stream(**request) as stream:
        chunks = [event.chunk for event in stream if event.type == "chunk"]
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls", final
    calls = final.message.tool_calls
    assert not final.message.content and calls, final
    assert len(calls) == 1 or (not named and at % 3 == 0), final
    assert not named or calls[0].function.name == wanted, final
    deltas = [d for c in chunks for choice in c.choices for d in choice.delta.tool_calls or []]
    for index, made in enumerate(calls):
        mine = [d for d in deltas if d.index == index]
        # The id, the type and the name come once, in the first piece; the rest is arguments.
        assert mine[0].id == made.id and mine[0].type == "function" and mine[0].function.name, mine[0]
        assert all(d.id is None and d.type is None and d.function.name is None for d in mine[1:]), mine
        assert "".join(d.function.arguments for d in mine) == made.function.arguments, mine
        assert len(mine) > 2 or made.function.arguments == "{}", "the arguments are streamed"
    assert len({made.id for made in calls}) == len(calls)
    # The same request as a whole answer makes the same calls.
    if at % 10 == 0:
        whole = client.chat.completions.create(**request).choices[0]
        assert whole.finish_reason == "tool_calls" and whole.message.content is None, whole
        said = [(c.function.name, c.function.arguments) for c in calls]
        assert [(c.function.name, c.function.arguments) for c in whole.message.tool_calls] == said, (whole, said)
    return [{"name": c.function.name, "arguments": json.loads(c.function.arguments)} for c in calls]


half = len(tools) // 4
made = [call(at) for at in range(half)]
with ThreadPoolExecutor(16) as pool:
    made += pool.map(call, range(half, len(tools)))
for calls in made:
    for made_call in calls:
        print(json.dumps(made_call))

# What tools answered goes back, and the model goes on; without a choice it may do as it likes.
last = made[0][0]
turns = [
    {"role": "user", "content": "Use a tool."},
    {"role": "assistant", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": last["name"], "arguments": json.dumps(last["arguments"])}}
    ]},
    {"role": "tool", "tool_call_id": "call_1", "content": "It is 21 degrees."},
]
for choice in ("auto", "none"):
    answer = client.chat.completions.create(
        model="smollm2", messages=turns, tools=tools[:3], tool_choice=choice, temperature=0, max_tokens=40
    ).choices[0]
    assert answer.finish_reason in ("stop", "length", "tool_calls"), answer
    assert answer.message.content or answer.message.tool_calls, answer
    assert choice == "auto" or not answer.message.tool_calls, answer
