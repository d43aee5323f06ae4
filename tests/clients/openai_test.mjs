// The official client for Node against a running server: openai_test.mjs BASE_URL FOLDER AUDIO_FOLDER
//
// FOLDER has node_modules with what package.json asks for; AUDIO_FOLDER is that of openai_test.py. Real models, so what
// is asserted of their words is what any working model says. Prints a line a case; the first failure ends it with a
// trace.

import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const [baseURL, folder, clips] = process.argv.slice(2);
const { OpenAI } = createRequire(join(resolve(folder), "package.json"))("openai");
const client = new OpenAI({ baseURL, apiKey: "not-needed", maxRetries: 0, timeout: 120_000 });

const model = "smollm2-135m-instruct";
const input = "What is the capital of France? Answer with one word.";
const messages = [{ role: "user", content: input }];
const greedy = { model: "smollm2", temperature: 0 };
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 30 } },
  required: ["city"],
  additionalProperties: false,
};
const description = "The weather in a city.";
const city = {
  type: "object",
  properties: { name: { type: "string", maxLength: 20 }, founded: { type: "integer", minimum: 0, maximum: 2026 } },
  required: ["name", "founded"],
  additionalProperties: false,
};

async function collect(stream) {
  const all = [];
  for await (const event of stream) all.push(event);
  return all;
}

function isCity(text) {
  const value = JSON.parse(text);
  assert.deepEqual(Object.keys(value).sort(), ["founded", "name"]);
  assert.ok(value.name.length <= 20 && Number.isInteger(value.founded) && value.founded <= 2026, text);
}

const cases = {
  async models() {
    const listed = await collect(client.models.list());
    assert.ok(listed.some((m) => m.id === model && m.object === "model"));
    assert.equal((await client.models.retrieve("default")).id, model);
  },

  async chat() {
    const answer = await client.chat.completions.create({ ...greedy, messages, max_tokens: 30 });
    const text = answer.choices[0].message.content;
    assert.match(text, /Paris/);
    const stream = await client.chat.completions.create({
      ...greedy, messages, max_tokens: 30, stream: true, stream_options: { include_usage: true },
    });
    const chunks = await collect(stream);
    assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), text);
    assert.equal(chunks.at(-1).usage.total_tokens, answer.usage.total_tokens);
    // The client's own reader puts the same answer together.
    const final = await client.chat.completions.stream({ ...greedy, messages, max_tokens: 30 }).finalChatCompletion();
    assert.equal(final.choices[0].message.content, text);
    assert.equal(final.choices[0].finish_reason, "stop");
  },

  async chatTools() {
    const request = {
      ...greedy,
      max_tokens: 100,
      messages: [{ role: "user", content: "What is the weather in Oslo?" }],
      tools: [{ type: "function", function: { name: "weather", description, parameters } }],
      tool_choice: "required",
      parallel_tool_calls: false,
    };
    const stream = client.chat.completions.stream(request);
    const pieces = [];
    stream.on("tool_calls.function.arguments.delta", (event) => pieces.push(event.arguments_delta));
    const { message, finish_reason } = (await stream.finalChatCompletion()).choices[0];
    const [call] = message.tool_calls;
    assert.equal(finish_reason, "tool_calls");
    assert.equal(call.function.name, "weather");
    assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
    assert.ok(pieces.length > 2 && pieces.join("") === call.function.arguments, "the arguments are streamed");
    const answer = await client.chat.completions.create({
      ...request,
      tool_choice: "none",
      messages: [
        ...request.messages,
        { role: "assistant", tool_calls: message.tool_calls },
        { role: "tool", tool_call_id: call.id, content: "It rains, 7 degrees." },
      ],
    });
    assert.ok(answer.choices[0].message.content.length > 0);
  },

  async chatStructured() {
    const answer = await client.chat.completions.parse({
      ...greedy,
      max_tokens: 200,
      messages: [{ role: "user", content: "Describe a city." }],
      response_format: { type: "json_schema", json_schema: { name: "city", strict: true, schema: city } },
    });
    assert.equal(answer.choices[0].finish_reason, "stop");
    isCity(answer.choices[0].message.content);
  },

  async responses() {
    const request = { ...greedy, input, max_output_tokens: 30 };
    const answer = await client.responses.create(request);
    assert.equal(answer.status, "completed");
    assert.equal(answer.model, model);
    assert.match(answer.output_text, /Paris/);
    assert.equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens);
    const events = await collect(await client.responses.create({ ...request, stream: true }));
    assert.deepEqual(events.map((e) => e.sequence_number), events.map((_, at) => at));
    assert.equal(events[0].type, "response.created");
    assert.equal(events.at(-1).type, "response.completed");
    const deltas = events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta);
    assert.equal(deltas.join(""), answer.output_text);
    const final = await client.responses.stream(request).finalResponse();
    assert.equal(final.output_text, answer.output_text);
    const found = await client.responses.retrieve(final.id);
    assert.equal(found.output_text ?? found.output[0].content[0].text, answer.output_text);
    const items = await collect(client.responses.inputItems.list(final.id));
    assert.equal(items[0].content[0].text, input);
    const next = await client.responses.create({ ...request, input: "Why?", previous_response_id: final.id });
    assert.ok(next.usage.input_tokens > answer.usage.input_tokens);
    await client.responses.delete(final.id);
    await assert.rejects(client.responses.retrieve(final.id), OpenAI.NotFoundError);
  },

  async responsesTools() {
    const request = {
      ...greedy,
      max_output_tokens: 100,
      tools: [{ type: "function", name: "weather", description, parameters }],
      parallel_tool_calls: false,
    };
    const question = { role: "user", content: "What is the weather in Oslo?" };
    const stream = client.responses.stream({ ...request, input: [question], tool_choice: "required" });
    const pieces = [];
    stream.on("response.function_call_arguments.delta", (event) => pieces.push(event.delta));
    const first = await stream.finalResponse();
    const [call] = first.output;
    assert.deepEqual([call.type, call.name], ["function_call", "weather"]);
    assert.ok(pieces.length > 2 && pieces.join("") === call.arguments, "the arguments are streamed");
    const given = { type: "function_call_output", call_id: call.call_id, output: "It rains, 7 degrees." };
    const last = { ...request, tool_choice: "none" };
    const byItems = await client.responses.create({ ...last, input: [question, call, given] });
    const byId = await client.responses.create({ ...last, input: [given], previous_response_id: first.id });
    assert.ok(byItems.output_text.length > 0);
    assert.equal(byItems.output_text, byId.output_text);
  },

  async responsesStructured() {
    const answer = await client.responses.parse({
      ...greedy,
      max_output_tokens: 200,
      input: "Describe a city.",
      text: { format: { type: "json_schema", name: "city", strict: true, schema: city } },
    });
    isCity(answer.output_text);
    assert.equal(answer.status, "completed");
  },

  async embeddings() {
    const texts = ["A cat sat on the mat.", "A kitten rested on the rug.", "Interest rates rose again in March."];
    // The client asks for base64 unless told otherwise, and decodes it.
    const answer = await client.embeddings.create({ model: "all-minilm-l6-v2", input: texts });
    const floats = await client.embeddings.create({ model: "all-minilm-l6-v2", input: texts, encoding_format: "float" });
    const [cat, kitten, rates] = answer.data.map((d) => d.embedding);
    const dot = (a, b) => a.reduce((sum, x, at) => sum + x * b[at], 0);
    assert.equal(cat.length, 384);
    assert.ok(dot(cat, kitten) > 0.5 && dot(cat, rates) < 0.2, [dot(cat, kitten), dot(cat, rates)]);
    assert.ok(cat.every((x, at) => Math.abs(x - floats.data[0].embedding[at]) < 1e-6));
  },

  async transcription() {
    const fox = join(clips, "en", "quick_brown_fox.wav");
    const transcribe = (more) =>
      client.audio.transcriptions.create({ model: "whisper-1", language: "en", file: createReadStream(fox), ...more });
    const whole = await transcribe({});
    assert.match(whole.text, /fox/);
    assert.equal(whole.usage.type, "duration");
    const verbose = await transcribe({
      response_format: "verbose_json", timestamp_granularities: ["word", "segment"],
    });
    assert.ok(verbose.segments.length > 0 && verbose.words.some((w) => w.word === "fox"), JSON.stringify(verbose));
    assert.ok(verbose.words.every((w) => w.start <= w.end && w.end <= verbose.duration + 0.5));
    const events = await collect(await transcribe({ stream: true }));
    assert.equal(events.at(-1).type, "transcript.text.done");
    assert.equal(events.at(-1).text, whole.text);
    assert.equal(events.slice(0, -1).map((e) => e.delta).join(""), whole.text);
    const strategy = { type: "server_vad", silence_duration_ms: 500 };
    assert.match((await transcribe({ chunking_strategy: "auto" })).text, /fox/);
    assert.match((await transcribe({ chunking_strategy: strategy })).text, /fox/);
    const { logprobs } = await transcribe({ include: ["logprobs"] });
    assert.equal(Buffer.from(logprobs.flatMap((t) => t.bytes)).toString().trim(), whole.text);
  },

  async errors() {
    const status = (code) => (error) => error instanceof OpenAI.APIError && error.code === code;
    const long = "word ".repeat(20_000);
    await assert.rejects(client.responses.create({ ...greedy, model: "gpt-5", input }), status("model_not_found"));
    await assert.rejects(client.responses.create({ ...greedy, input: long }), status("context_length_exceeded"));
    await assert.rejects(
      client.chat.completions.create({ ...greedy, messages: [{ role: "user", content: long }], stream: true }),
      status("context_length_exceeded"),
    );
    const search = [{ type: "web_search" }];
    await assert.rejects(client.responses.create({ ...greedy, input, tools: search }), status("unsupported_parameter"));
  },
};

for (const [name, run] of Object.entries(cases)) {
  const begun = performance.now();
  await run();
  console.log(`${name}: ${((performance.now() - begun) / 1000).toFixed(2)} s`);
}
