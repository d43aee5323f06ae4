//! What a caller asks of a speech model.

/// What to write down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The words in their own language.
    Transcribe,
    /// The words in English.
    Translate,
}

/// How to transcribe. Values are in range: whoever builds one has checked them.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Id or alias of the model.
    pub model: String,
    pub task: Task,
    /// ISO 639-1 code; `None` detects it.
    pub language: Option<String>,
    /// Text that the transcript is to read as if it followed.
    pub prompt: Option<String>,
    /// Names and terms that may be said; unlike the prompt they are context of every window.
    pub hotwords: Option<String>,
    /// Text that the first window begins with.
    pub prefix: Option<String>,
    /// What is said, where it is known: the answer is this text, with times.
    pub transcript: Option<String>,
    /// Whether each word's time is wanted.
    pub words: bool,
    /// Whether each token's log-probability is wanted.
    pub logprobs: bool,
    pub chunking: Chunking,
    pub decoding: Decoding,
}

impl Request {
    /// A transcription with nothing but defaults.
    pub fn new(model: impl Into<String>, task: Task) -> Request {
        Request {
            model: model.into(),
            task,
            language: None,
            prompt: None,
            hotwords: None,
            prefix: None,
            transcript: None,
            words: false,
            logprobs: false,
            chunking: Chunking::default(),
            decoding: Decoding::default(),
        }
    }
}

/// How a recording is cut into the 30 s that the network hears at a time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Chunking {
    /// One window after the other, each with the text before it as context.
    #[default]
    Sequential,
    /// The same on what a voice activity detector takes for speech: silence is left out first.
    Speech(Vad),
    /// Speech cut into chunks at its pauses, decoded side by side, each without the text of the others.
    Chunks(Vad),
}

/// What counts as speech. The defaults are Silero's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vad {
    /// Probability of speech above which it begins, 0 to 1. It ends below this less 0.15.
    pub threshold: f32,
    /// Shorter speech is dropped, in seconds.
    pub min_speech: f32,
    /// Longer speech is cut at its last pause, in seconds.
    pub max_speech: f32,
    /// A shorter pause does not end speech, in seconds.
    pub min_silence: f32,
    /// Added at both ends of speech, in seconds.
    pub pad: f32,
}

impl Default for Vad {
    fn default() -> Vad {
        Vad { threshold: 0.5, min_speech: 0.25, max_speech: f32::INFINITY, min_silence: 0.1, pad: 0.03 }
    }
}

/// How tokens are searched for, and which texts are believed. The defaults are openai/whisper's.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoding {
    /// Texts followed side by side at temperature 0, at least 1 (greedy).
    pub beam_size: usize,
    /// Texts sampled above temperature 0, of which the likeliest is taken; at least 1.
    pub best_of: usize,
    /// How many finished texts a beam search waits for, in beams (Kasai et al., 2022).
    pub patience: f32,
    /// Exponent of the length that a text's score is divided by.
    pub length_penalty: f32,
    /// Tried in turn until a text is believed; not empty.
    pub temperatures: Vec<f32>,
    /// Above this ratio a text repeats itself; `None`: not judged.
    pub compression_ratio: Option<f32>,
    /// Below this mean log-probability a text is not believed; `None`: not judged.
    pub logprob: Option<f32>,
    /// Above this probability a window that is not believed is silence; `None`: not judged.
    pub no_speech: Option<f32>,
    /// Whether each window's text is context for the next.
    pub condition_on_previous: bool,
    /// Whether a window may not begin with a blank or its end.
    pub suppress_blank: bool,
    /// Token ids that are never said; `None`: those that are not speech, as the model's files list them.
    pub suppress: Option<Vec<u32>>,
    /// Whether to write text alone, without the times of segments.
    pub without_timestamps: bool,
    /// Latest start of a window's first segment, in seconds.
    pub max_initial_timestamp: f32,
    /// With word times: silence around doubtful words is left out where it is longer than this many seconds.
    pub hallucination_silence: Option<f32>,
    /// Tokens that a window's text has at most; `None`: as many as the network has room for, 224.
    pub max_new_tokens: Option<usize>,
    /// Windows that the language is looked for in until it is likelier than not.
    pub language_windows: usize,
    /// Of the sampling above temperature 0.
    pub seed: u64,
}

impl Default for Decoding {
    fn default() -> Decoding {
        Decoding {
            beam_size: 5,
            best_of: 5,
            patience: 1.0,
            length_penalty: 1.0,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            compression_ratio: Some(2.4),
            logprob: Some(-1.0),
            no_speech: Some(0.6),
            condition_on_previous: true,
            suppress_blank: true,
            suppress: None,
            without_timestamps: false,
            max_initial_timestamp: 1.0,
            hallucination_silence: None,
            max_new_tokens: None,
            language_windows: 4,
            seed: 0,
        }
    }
}
