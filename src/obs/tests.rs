use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

fn record_everything(model: &str) {
    let metrics = ModelMetrics::new(model, 0);
    metrics.set_load(2, 3);
    metrics.set_kv_usage(1.5);
    metrics.set_cache_config(16, 100);
    metrics.step(17);
    metrics.prefix_cache(10, 4);
    metrics.preempted();
    metrics.rejected(Rejection::QueueFull);
    metrics.transcribed(Duration::from_secs(11), Duration::from_secs(2));
    metrics.transcribed(Duration::ZERO, Duration::from_secs(2));
    metrics.embedded(3, 30);
    metrics.listened(31);
    metrics.loaded(Duration::from_secs(1), 1000);
    metrics.load_failed();
    let start = Instant::now();
    let mut timer = metrics.request(start);
    timer.start(start + Duration::from_millis(100));
    timer.prompt(7);
    timer.token(start + Duration::from_millis(300));
    timer.token(start + Duration::from_millis(330));
    timer.finish(start + Duration::from_millis(350), Outcome::Stop, 7);
    drop(metrics.request(start));
    rejected(Rejection::ShuttingDown);
    set_ready(true);
    http_request("/v1/models", "GET", 200, Duration::from_millis(3));
}

#[test]
fn the_exposition_is_well_formed_and_says_what_was_recorded() {
    let exposition = install_metrics().unwrap();
    let model = "odd \"name\" \\ with\nlines";
    record_everything(model);
    record_everything("plain");
    exposition.upkeep();
    let text = exposition.render();
    check_format(&text);
    check_with_promtool(&text);
    for metric in names::ALL {
        assert!(text.contains(&format!("# HELP {} ", metric.name)), "no help for {}", metric.name);
    }
    let plain = "model_name=\"plain\",engine=\"0\"";
    let of = |series: &str| value(&text, &series.replace("$", plain)).unwrap_or(f64::NAN);
    assert_eq!(of("vllm:num_requests_running{$}"), 2.0);
    assert_eq!(of("vllm:num_requests_waiting{$}"), 3.0);
    assert_eq!(of("vllm:kv_cache_usage_perc{$}"), 1.0);
    assert_eq!(of("vllm:prompt_tokens_total{$}"), 7.0);
    assert_eq!(of("vllm:generation_tokens_total{$}"), 2.0);
    assert_eq!(of("vllm:request_success_total{$,finished_reason=\"stop\"}"), 1.0);
    assert_eq!(of("vllm:request_success_total{$,finished_reason=\"abort\"}"), 1.0);
    assert_eq!(of("vllm:request_success_total{$,finished_reason=\"length\"}"), 0.0);
    assert_eq!(of("vllm:prefix_cache_queries_total{$}"), 10.0);
    assert_eq!(of("vllm:prefix_cache_hits_total{$}"), 4.0);
    assert_eq!(of("vllm:num_preemptions_total{$}"), 1.0);
    // In seconds: the first step after 0.1, tokens at 0.3 and 0.33, the end at 0.35.
    for (name, sum) in [
        ("time_to_first_token_seconds", 0.3),
        ("inter_token_latency_seconds", 0.03),
        ("e2e_request_latency_seconds", 0.35),
        ("request_queue_time_seconds", 0.1),
        ("request_prefill_time_seconds", 0.2),
        ("request_decode_time_seconds", 0.05),
        ("request_inference_time_seconds", 0.25),
        ("request_prompt_tokens", 7.0),
        ("request_generation_tokens", 2.0),
        ("iteration_tokens_total", 17.0),
    ] {
        assert_eq!(of(&format!("vllm:{name}_count{{$}}")), 1.0, "{name}");
        let found = of(&format!("vllm:{name}_sum{{$}}"));
        assert!((found - sum).abs() < 1e-9, "{name}: {found}");
    }
    assert_eq!(of("vllm:admission_rejections_total{$,reason=\"queue_full\"}"), 1.0);
    assert_eq!(of("vllm:time_to_first_token_seconds_bucket{$,le=\"0.25\"}"), 0.0);
    assert_eq!(of("vllm:time_to_first_token_seconds_bucket{$,le=\"0.5\"}"), 1.0);
    assert_eq!(of("vllm:inter_token_latency_seconds_count{$}"), 1.0);
    assert_eq!(of("vllm:cache_config_info{$,block_size=\"16\",num_gpu_blocks=\"100\"}"), 1.0);
    assert_eq!(of("stentor_requests_cancelled_total{$}"), 1.0);
    assert_eq!(of("stentor_asr_audio_seconds_total{$}"), 11.0);
}

#[test]
fn names_are_distinct_and_follow_the_conventions() {
    let mut seen = HashSet::new();
    for metric in names::ALL {
        assert!(seen.insert(metric.name), "{} twice", metric.name);
        assert!(metric.help.ends_with('.'), "{}", metric.name);
        let counter = metric.kind == Type::Counter;
        // vLLM's one histogram that ends like a counter.
        let exempt = metric.name == names::ITERATION_TOKENS.name;
        assert!(exempt || metric.name.ends_with("_total") == counter, "{}", metric.name);
        if let Type::Histogram(bounds) = metric.kind {
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]), "{}", metric.name);
        }
    }
}

/// The parts of the format that a scraper depends on: names, label syntax, a type before its samples, one
/// block a metric, cumulative buckets that end in +Inf and agree with the count.
fn check_format(text: &str) {
    let mut types: HashMap<&str, &str> = HashMap::new();
    let mut series = HashSet::new();
    let mut buckets: HashMap<String, f64> = HashMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "two blocks of {name}");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (key, number) = line.rsplit_once(' ').unwrap();
        number.parse::<f64>().unwrap_or_else(|_| panic!("not a number: {line}"));
        assert!(series.insert(key), "the series {key} twice");
        let name = key.split('{').next().unwrap();
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        assert!(name.chars().all(legal), "{name}");
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let kind = types.get(name).or_else(|| base.and_then(|base| types.get(base)));
        assert!(kind.is_some(), "{name} has no type");
        if name.ends_with("_bucket") {
            let at = key.find("le=").unwrap();
            let last = buckets.entry(key[..at].to_owned()).or_default();
            let count: f64 = number.parse().unwrap();
            assert!(count >= *last, "buckets of {key} fall");
            *last = count;
        }
    }
}

fn check_with_promtool(text: &str) {
    let child = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        println!("promtool is not installed: its check is skipped");
        return;
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    // Status 3 is lint (vLLM's own names break two of its rules); 1 is a format error.
    assert_ne!(child.wait().unwrap().code(), Some(1));
}
