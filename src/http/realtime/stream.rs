//! A session's two halves, whatever its messages are: what the client says goes in, what is heard goes out, and neither
//! waits for the other.

use std::time::Duration;

use super::socket::{Gone, Outgoing, close};
use crate::http::ApiError;
use crate::service::live::{Decoder, Encoding, Input, Over};
use crate::service::voices::Company;

/// For the last words of a session that is being closed.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// Why a client's half ended.
pub(super) enum End {
    Gone,
    /// The session is to end after its last words.
    Close(u16, &'static str),
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> End {
        End::Gone
    }
}

impl From<Over> for End {
    /// Why it is over is told by the other half.
    fn from(Over: Over) -> End {
        End::Close(close::INTERNAL, "the session failed")
    }
}

/// Where the client's audio goes.
pub(super) struct Microphone {
    decoder: Decoder,
    pub input: Input,
    /// Who listens for speakers beside the session.
    company: Option<Company>,
}

impl Microphone {
    /// Of a session that has begun.
    pub fn new(encoding: Encoding, input: Input, company: Option<Company>) -> Result<Microphone, ApiError> {
        Ok(Microphone { decoder: Decoder::new(encoding)?, input, company })
    }

    async fn push(&mut self, samples: &[f32]) -> Result<(), Over> {
        if let Some(company) = &self.company {
            company.push(samples).await;
        }
        self.input.push(samples).await
    }

    /// The next bytes. The outer error is the client's, and the session goes on.
    pub async fn hear(&mut self, bytes: &[u8]) -> Result<Result<(), Over>, ApiError> {
        let samples = self.decoder.decode(bytes)?;
        Ok(self.push(&samples).await)
    }

    /// What the filter holds belongs to the turn that ends.
    pub async fn flush(&mut self) -> Result<Result<(), Over>, ApiError> {
        let samples = self.decoder.flush()?;
        Ok(self.push(&samples).await)
    }

    /// No more audio comes.
    pub async fn finish(&mut self) {
        let _ = self.flush().await;
        let _ = self.input.finish().await;
    }
}

/// Runs both halves until the client has gone, or the session is over and told.
pub(super) async fn both(
    reading: impl Future<Output = End>,
    telling: impl Future<Output = Result<(), Gone>>,
    outgoing: Outgoing,
) {
    let (mut reading, mut telling) = (std::pin::pin!(reading), std::pin::pin!(telling));
    let (code, reason) = tokio::select! {
        biased;
        end = &mut reading => match end {
            End::Gone => return,
            End::Close(code, reason) => {
                let _ = tokio::time::timeout(LAST_WORDS, telling).await;
                (code, reason)
            }
        },
        told = &mut telling => match told {
            Ok(()) => (close::INTERNAL, "the session failed"),
            Err(Gone) => return,
        },
    };
    outgoing.close(code, reason).await;
}
