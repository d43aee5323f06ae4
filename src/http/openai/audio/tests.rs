//! What becomes of a form's fields.

use super::*;
use crate::http::form::Values;
use crate::service::transcript::Format;
use crate::types::asr::{Chunking, Vad};

fn read(pairs: &[(&str, &str)]) -> Result<Fields, ApiError> {
    let fields = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Fields::read(&Values::new(fields), Task::Transcribe, &Some("default".into()))
}

#[test]
fn fields_are_read_and_others_ignored() {
    let fields = read(&[
        ("model", "whisper-1"),
        ("language", "pt-BR"),
        ("prompt", " names "),
        ("response_format", "verbose_json"),
        ("temperature", "0.5"),
        ("timestamp_granularities[]", "segment"),
        ("stream", "false"),
        ("anything", "else"),
    ])
    .unwrap();
    assert_eq!(fields.shape, transcript::Shape::new(Format::Verbose, Task::Transcribe));
    assert!(!fields.stream);
    let request = fields.request;
    assert_eq!(request.model, "whisper-1");
    assert_eq!(request.language.as_deref(), Some("pt"));
    assert_eq!(request.prompt.as_deref(), Some("names"));
    assert_eq!(request.decoding.temperatures, [0.5]);
    assert_eq!((request.words, request.logprobs, request.chunking), (false, false, Chunking::Sequential));
    let default = read(&[("language", "")]).unwrap().request;
    assert_eq!(default, crate::types::asr::Request::new("default", Task::Transcribe));
    assert_eq!(read(&[("language", "auto")]).unwrap().request.language, None);
    assert_eq!(read(&[("languages[]", "de")]).unwrap().request.language.as_deref(), Some("de"));
}

#[test]
fn times_and_log_probabilities_are_asked_for() {
    let shape = |pairs: &[(&str, &str)]| {
        let fields = read(pairs).unwrap();
        (fields.shape.words, fields.shape.segments, fields.shape.logprobs, fields.request.words)
    };
    let verbose = ("response_format", "verbose_json");
    assert_eq!(shape(&[verbose, ("timestamp_granularities[]", "word")]), (true, false, false, true));
    let both = [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")];
    assert_eq!(shape(&[verbose, both[0], both[1]]), (true, true, false, true));
    for list in ["word,segment", r#"["word","segment"]"#] {
        assert_eq!(shape(&[verbose, ("timestamp_granularities", list)]), (true, true, false, true));
    }
    assert_eq!(shape(&[verbose, ("word_timestamps", "true")]), (true, true, false, true));
    assert!(read(&[("response_format", "srt"), ("word_timestamps", "1")]).unwrap().request.words);
    assert_eq!(shape(&[("include[]", "logprobs")]), (false, true, true, false));
    assert!(read(&[("include", "logprobs")]).unwrap().request.logprobs);
    assert_eq!(shape(&[("hallucination_silence_threshold", "2")]), (false, true, false, true));
}

#[test]
fn a_recording_is_cut_as_asked() {
    let chunking = |pairs: &[(&str, &str)]| read(pairs).unwrap().request.chunking;
    let auto = Vad { max_speech: 30.0, min_silence: 0.2, pad: 0.3, ..Vad::default() };
    for text in ["auto", "\"auto\"", r#"{"type": "server_vad"}"#] {
        assert_eq!(chunking(&[("chunking_strategy", text), ("vad_filter", "true")]), Chunking::Chunks(auto));
    }
    let tuned = Chunking::Chunks(Vad { threshold: 0.25, pad: 0.1, min_silence: 0.5, ..auto });
    let object =
        r#"{"type":"server_vad","threshold":0.25,"prefix_padding_ms":100,"silence_duration_ms":500}"#;
    assert_eq!(chunking(&[("chunking_strategy", object)]), tuned);
    let fields = [
        ("chunking_strategy[type]", "server_vad"),
        ("chunking_strategy[threshold]", "0.25"),
        ("chunking_strategy[prefix_padding_ms]", "100"),
        ("chunking_strategy[silence_duration_ms]", "500"),
    ];
    assert_eq!(chunking(&fields), tuned);
    let filter = Vad { min_silence: 2.0, pad: 0.4, ..Vad::default() };
    assert_eq!(chunking(&[("vad_filter", "true")]), Chunking::Speech(filter));
    let louder = Chunking::Speech(Vad { threshold: 0.75, ..filter });
    assert_eq!(chunking(&[("vad_filter", "true"), ("vad_threshold", "0.75")]), louder);
    assert_eq!(chunking(&[("vad_filter", "false"), ("vad_threshold", "0.75")]), Chunking::Sequential);
}

#[test]
fn decoding_is_as_asked() {
    let request = read(&[
        ("beam_size", "1"),
        ("best_of", "3"),
        ("patience", "2"),
        ("length_penalty", "0.5"),
        ("hotwords", "Ada"),
        ("keywords[]", "Grace"),
        ("keywords[]", "Alan"),
        ("prefix", "Well"),
        ("compression_ratio_threshold", "3"),
        ("logprob_threshold", "-2"),
        ("no_speech_threshold", "none"),
        ("condition_on_previous_text", "false"),
        ("without_timestamps", "true"),
        ("max_initial_timestamp", "2.5"),
        ("suppress_tokens", "1, 50257"),
        ("suppress_blank", "0"),
        ("hallucination_silence_threshold", "1.5"),
        ("max_new_tokens", "9"),
        ("seed", "-1"),
        ("temperature", "[0, 0.5]"),
    ])
    .unwrap()
    .request;
    assert_eq!(request.hotwords.as_deref(), Some("Ada, Grace, Alan"));
    assert_eq!(request.prefix.as_deref(), Some("Well"));
    let wanted = crate::types::asr::Decoding {
        beam_size: 1,
        best_of: 3,
        patience: 2.0,
        length_penalty: 0.5,
        temperatures: vec![0.0, 0.5],
        compression_ratio: Some(3.0),
        logprob: Some(-2.0),
        no_speech: None,
        condition_on_previous: false,
        suppress_blank: false,
        suppress: Some(vec![1, 50257]),
        without_timestamps: true,
        max_initial_timestamp: 2.5,
        hallucination_silence: Some(1.5),
        max_new_tokens: Some(9),
        seed: u64::MAX,
        ..crate::types::asr::Decoding::default()
    };
    assert_eq!(request.decoding, wanted);
    let one = |name: &str, text: &str| read(&[(name, text)]).unwrap().request.decoding;
    assert_eq!(one("suppress_tokens", "-1").suppress, None);
    assert_eq!(one("suppress_tokens", "[]").suppress, Some(Vec::new()));
    assert_eq!(one("temperature", "0").temperatures.len(), 6);
    assert_eq!(one("temperature[]", "0").temperatures, [0.0]);
    assert_eq!(one("temperature", "0,0.5").temperatures, [0.0, 0.5]);
}

#[test]
fn wrong_fields_are_named() {
    let long = "x".repeat(20_000);
    for (name, value) in [
        ("model", "a\u{7}b"),
        ("language", "../etc"),
        ("language", "english"),
        ("languages[]", "de,en"),
        ("response_format", "pdf"),
        ("prompt", &long),
        ("hotwords", &long),
        ("prefix", &long),
        ("temperature", "hot"),
        ("temperature", "NaN"),
        ("temperature", "1.5"),
        ("temperature", "[]"),
        ("temperature", "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0"),
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "letter"),
        ("include[]", "item"),
        ("stream", "maybe"),
        ("chunking_strategy", "clever"),
        ("chunking_strategy", r#"{"type":"client_vad"}"#),
        ("chunking_strategy", r#"{"type":"server_vad","threshold":2}"#),
        ("chunking_strategy", r#"{"type":"server_vad","silence_duration_ms":-1}"#),
        ("chunking_strategy", r#"{"type":"server_vad","eagerness":"high"}"#),
        ("chunking_strategy", r#"{"threshold":0.5}"#),
        ("vad_filter", "loud"),
        ("vad_threshold", "1.1"),
        ("beam_size", "0"),
        ("beam_size", "17"),
        ("beam_size", "2.5"),
        ("best_of", "0"),
        ("patience", "0"),
        ("length_penalty", "-1"),
        ("compression_ratio_threshold", "-1"),
        ("log_prob_threshold", "1"),
        ("logprob_threshold", "low"),
        ("no_speech_threshold", "1.1"),
        ("condition_on_previous_text", "2"),
        ("without_timestamps", "x"),
        ("max_initial_timestamp", "31"),
        ("suppress_tokens", "-1,5"),
        ("suppress_tokens", "a"),
        ("suppress_blank", "x"),
        ("hallucination_silence_threshold", "inf"),
        ("word_timestamps", "x"),
        ("seed", "x"),
        ("known_speaker_names[]", "Ann"),
        ("known_speaker_references[]", "data:"),
    ] {
        let error = read(&[(name, value)]).unwrap_err();
        assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(name)), "{value:.40}");
        assert!(error.message.contains(name.trim_end_matches("[]")) || error.code != "invalid_value");
    }
    let logprobs = [("include[]", "logprobs"), ("response_format", "verbose_json")];
    assert_eq!(read(&logprobs).unwrap_err().param.as_deref(), Some("include[]"));
    let key = [("chunking_strategy[type]", "server_vad"), ("chunking_strategy[pad]", "1")];
    assert_eq!(read(&key).unwrap_err().param.as_deref(), Some("chunking_strategy"));
}
