//! The message that a session begins with.

use std::time::Duration;

use serde::Deserialize;

use crate::http::realtime::session::{language_code, model_name};
use crate::http::{ApiError, State, speech};
use crate::service::live::{Encoding, Longest, Options};

/// Longest name of a room or a role.
const MAX_NAME: usize = 128;

/// What a client asks for. `compute_type`, `flush_interval_sec` and `max_buffer_sec` are how the server is run; they and
/// `enable_alignment` are taken and change nothing.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct Start {
    event: String,
    sample_rate: u32,
    encoding: String,
    language: Option<String>,
    model: Option<String>,
    beam_size: usize,
    pub batch_window_sec: f64,
    max_batch_window_sec: Option<f64>,
    pub enable_diarization: bool,
    pub enable_insights: bool,
    pub insight_model: Option<String>,
    room_id: Option<String>,
    role: Option<String>,
}

impl Default for Start {
    fn default() -> Start {
        Start {
            event: String::new(),
            sample_rate: 16_000,
            encoding: "pcm16".to_owned(),
            language: None,
            model: None,
            beam_size: 5,
            batch_window_sec: 5.0,
            max_batch_window_sec: None,
            enable_diarization: false,
            enable_insights: true,
            insight_model: None,
            room_id: None,
            role: None,
        }
    }
}

impl Start {
    /// The session, and how its audio is written.
    pub fn read(&self, state: &State) -> Result<(Options, Encoding), ApiError> {
        if self.event != "start" {
            return Err(ApiError::invalid("event", "the first `event` must be `start`"));
        }
        if self.encoding != "pcm16" {
            return Err(ApiError::invalid("encoding", "`encoding` must be `pcm16`"));
        }
        if !(8_000..=48_000).contains(&self.sample_rate) {
            return Err(ApiError::invalid("sample_rate", "`sample_rate` must be from 8000 to 48000"));
        }
        if !(1..=10).contains(&self.beam_size) {
            return Err(ApiError::invalid("beam_size", "`beam_size` must be from 1 to 10"));
        }
        let window = self.batch_window_sec;
        if !(0.5..=15.0).contains(&window) {
            return Err(ApiError::invalid("batch_window_sec", "`batch_window_sec` must be from 0.5 to 15"));
        }
        let most = self.max_batch_window_sec.unwrap_or((2.0 * window).min(20.0));
        if !(window..=20.0).contains(&most) {
            let message = "`max_batch_window_sec` must be from `batch_window_sec` to 20";
            return Err(ApiError::invalid("max_batch_window_sec", message));
        }
        let named = self.model.clone().map(model_name).transpose()?.map(|name| speech::sized(state, &name));
        let model = named.or_else(|| state.settings().default_asr.clone());
        let missing = || ApiError::invalid("model", "`model` is missing: name a speech model");
        let mut options = Options::new(model.ok_or_else(missing)?);
        options.language = language_code(self.language.as_deref().unwrap_or_default())?;
        options.turns = None;
        options.interval = None;
        options.beam_size = self.beam_size;
        options.longest =
            Longest { pause: Duration::from_secs_f64(window), any: Duration::from_secs_f64(most) };
        Ok((options, Encoding::Pcm16 { rate: self.sample_rate }))
    }

    /// The room to join and as what, where one is named.
    pub fn place(&self) -> Result<Option<(String, String)>, ApiError> {
        let plain = |text: &str| (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control);
        let Some(room) = &self.room_id else { return Ok(None) };
        match &self.role {
            Some(role) if plain(room) && plain(role) => Ok(Some((room.clone(), role.clone()))),
            None => Err(ApiError::invalid("role", "`role` is missing: a `room_id` needs one")),
            _ => Err(ApiError::invalid(
                "role",
                "`room_id` and `role` have 1 to 128 bytes, no control characters",
            )),
        }
    }
}
