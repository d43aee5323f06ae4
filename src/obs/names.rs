//! Every metric: name, type, help, buckets.
//!
//! vLLM's names where it has one, so that its dashboards and the gateways that route by them work as they
//! are; bucket bounds follow `vllm/v1/metrics/loggers.py`. What is ours alone begins with `stentor_`.

/// What a metric counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Type,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, kind: Type::Counter }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, kind: Type::Gauge }
}

const fn histogram(name: &'static str, bounds: &'static [f64], help: &'static str) -> Metric {
    Metric { name, help, kind: Type::Histogram(bounds) }
}

const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const BETWEEN_TOKENS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];
const TOKENS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5];
const STEP_TOKENS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
/// HTTP answers begin at a millisecond (health checks) and end with long transcripts.
const HTTP: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1800.0,
];
const FACTOR: &[f64] = &[0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 10.0];

pub const RUNNING: Metric = gauge("vllm:num_requests_running", "Requests that the model works on now.");
pub const WAITING: Metric = gauge("vllm:num_requests_waiting", "Requests that wait for the model.");
pub const KV_USAGE: Metric =
    gauge("vllm:kv_cache_usage_perc", "Share of the key-value cache in use; 1 is all of it.");
pub const CACHE_CONFIG: Metric =
    gauge("vllm:cache_config_info", "Shape of the key-value cache, as labels; the value is 1.");
pub const PROMPT_TOKENS: Metric =
    counter("vllm:prompt_tokens_total", "Tokens of the prompts that were computed or found in the cache.");
pub const GENERATION_TOKENS: Metric = counter("vllm:generation_tokens_total", "Tokens generated.");
pub const REQUEST_SUCCESS: Metric =
    counter("vllm:request_success_total", "Requests that ended, by the reason they ended for.");
pub const PREFIX_QUERIES: Metric =
    counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.");
pub const PREFIX_HITS: Metric =
    counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.");
pub const PREEMPTIONS: Metric =
    counter("vllm:num_preemptions_total", "Sequences put back in the queue to free cache.");
pub const SPEC_DRAFTS: Metric =
    counter("vllm:spec_decode_num_drafts_total", "Times guesses of a sequence's next tokens were checked.");
pub const SPEC_DRAFT_TOKENS: Metric =
    counter("vllm:spec_decode_num_draft_tokens_total", "Guesses that were checked.");
pub const SPEC_ACCEPTED: Metric =
    counter("vllm:spec_decode_num_accepted_tokens_total", "Guesses that came true.");
pub const ADMISSION_REJECTIONS: Metric =
    counter("vllm:admission_rejections_total", "Requests refused before they were queued, by reason.");
pub const FIRST_TOKEN_TIME: Metric =
    histogram("vllm:time_to_first_token_seconds", FIRST_TOKEN, "Arrival to first token.");
pub const TOKEN_LATENCY: Metric =
    histogram("vllm:inter_token_latency_seconds", BETWEEN_TOKENS, "Time between two tokens of an answer.");
pub const REQUEST_LATENCY: Metric =
    histogram("vllm:e2e_request_latency_seconds", LATENCY, "Arrival to last token.");
pub const QUEUE_TIME: Metric =
    histogram("vllm:request_queue_time_seconds", LATENCY, "Arrival to the first step that holds it.");
pub const PREFILL_TIME: Metric =
    histogram("vllm:request_prefill_time_seconds", LATENCY, "First step to first token.");
pub const DECODE_TIME: Metric =
    histogram("vllm:request_decode_time_seconds", LATENCY, "First token to last token.");
pub const INFERENCE_TIME: Metric =
    histogram("vllm:request_inference_time_seconds", LATENCY, "First step to last token.");
pub const REQUEST_PROMPT_TOKENS: Metric =
    histogram("vllm:request_prompt_tokens", TOKENS, "Prompt tokens of a request.");
pub const REQUEST_GENERATION_TOKENS: Metric =
    histogram("vllm:request_generation_tokens", TOKENS, "Tokens generated for a request.");
pub const ITERATION_TOKENS: Metric =
    histogram("vllm:iteration_tokens_total", STEP_TOKENS, "Tokens of one engine step.");

pub const HTTP_REQUESTS: Metric =
    counter("http_requests_total", "HTTP requests by route template, method and class of status.");
pub const HTTP_DURATION: Metric = histogram(
    "http_request_duration_seconds",
    HTTP,
    "From a request's head to the last byte of its answer, by route template.",
);

pub const BUILD_INFO: Metric = gauge("stentor_build_info", "The version, as a label; the value is 1.");
pub const READY: Metric = gauge("stentor_ready", "1 when requests can be answered.");
pub const CANCELLED: Metric =
    counter("stentor_requests_cancelled_total", "Requests whose caller went away before the end.");
pub const ASR_AUDIO: Metric = counter("stentor_asr_audio_seconds_total", "Seconds of audio transcribed.");
pub const ASR_FACTOR: Metric = histogram(
    "stentor_asr_real_time_factor",
    FACTOR,
    "Seconds of work for a second of audio, one observation a recording.",
);
pub const EMBEDDING_TOKENS: Metric = counter("stentor_embedding_tokens_total", "Tokens embedded.");
pub const EMBEDDING_INPUTS: Metric = counter("stentor_embedding_inputs_total", "Texts embedded.");
pub const VAD_FRAMES: Metric =
    counter("stentor_vad_frames_total", "Frames of 32 ms that were searched for speech.");
pub const MODEL_LOADS: Metric = counter("stentor_model_loads_total", "Model loads, by result.");
pub const MODEL_LOAD_TIME: Metric =
    histogram("stentor_model_load_seconds", LATENCY, "Time that a load took.");
pub const MODEL_LOADED: Metric = gauge("stentor_model_loaded", "1 while the model is in memory.");
pub const MODEL_BYTES: Metric =
    gauge("stentor_model_memory_bytes", "Device memory that the model's weights take.");

/// All of them, so that each has its help and buckets before the first value.
pub const ALL: &[Metric] = &[
    RUNNING,
    WAITING,
    KV_USAGE,
    CACHE_CONFIG,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    REQUEST_SUCCESS,
    PREFIX_QUERIES,
    PREFIX_HITS,
    PREEMPTIONS,
    ADMISSION_REJECTIONS,
    FIRST_TOKEN_TIME,
    TOKEN_LATENCY,
    REQUEST_LATENCY,
    QUEUE_TIME,
    PREFILL_TIME,
    DECODE_TIME,
    INFERENCE_TIME,
    REQUEST_PROMPT_TOKENS,
    REQUEST_GENERATION_TOKENS,
    ITERATION_TOKENS,
    HTTP_REQUESTS,
    HTTP_DURATION,
    BUILD_INFO,
    READY,
    CANCELLED,
    ASR_AUDIO,
    ASR_FACTOR,
    EMBEDDING_TOKENS,
    EMBEDDING_INPUTS,
    VAD_FRAMES,
    MODEL_LOADS,
    MODEL_LOAD_TIME,
    MODEL_LOADED,
    MODEL_BYTES,
];
