//! Live transcription over WebSockets: OpenAI's Realtime API for transcription and Paneas' stream. Both are a
//! [`live::Session`](crate::service::live::Session) behind their own messages.

mod company;
mod events;
pub(super) mod openai;
pub(super) mod paneas;
mod rooms;
mod session;
mod socket;
mod stream;

pub(super) use rooms::Rooms;
