//! Transcription: a file to features, segments back as they are heard.

use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Context, Error, Service, Transcription, Upload};
use crate::engine::job::Event;
use crate::engine::lane::asr::Input;
use crate::model::asr::output::Options;
use crate::model::asr::{Asr, Front};
use crate::types::asr::{Chunking, Delta, Request, Task};

impl Service {
    /// Reads a recording and begins to transcribe it. Dropping the future, or what it gives, stops the work.
    pub async fn transcribe(
        &self,
        ctx: Context,
        request: Request,
        upload: Upload,
    ) -> Result<Transcription, Error> {
        let handle = self.model::<Asr>(&ctx, &request.model).await?;
        check(handle.front(), &request.model, request.language.as_deref(), request.task)?;
        // Held until the transcript is there: features of waiting recordings are what takes memory.
        let place = self.place().await?;
        let detector = match request.chunking {
            Chunking::Sequential => self.possible_detector(&ctx).await?,
            Chunking::Speech(_) | Chunking::Chunks(_) => {
                Some(self.detector(&ctx, "chunking_strategy").await?)
            }
        };
        let heard = self.listen(upload, handle.front().mels, detector).await?;
        let cut = heard.cut(request.chunking);
        let mel = heard.mel;
        let duration = mel.seconds();
        let input = Input { mel, cut, options: Options::new(&request), priority: 0 };
        let events = handle.submit(input, Some(self.options.timeout))?;
        let model = handle.id().to_owned();
        let begin = Some(Delta::Begin { duration });
        Ok(Transcription::new(model, deltas(Heard { begin, events, _place: place })))
    }
}

/// A recording that is being recognised.
struct Heard {
    begin: Option<Delta>,
    events: mpsc::Receiver<Event<Asr>>,
    _place: OwnedSemaphorePermit,
}

fn deltas(heard: Heard) -> impl stream::Stream<Item = Result<Delta, Error>> {
    stream::unfold(Some(heard), |heard| async {
        let mut heard = heard?;
        if let Some(begin) = heard.begin.take() {
            return Some((Ok(begin), Some(heard)));
        }
        let lost = || Error::Internal { detail: "the worker dropped the job".to_owned() };
        Some(match heard.events.recv().await {
            Some(Event::Delta(segment)) => (Ok(Delta::Segment(segment)), Some(heard)),
            Some(Event::Done(ending)) => (Ok(Delta::End(ending)), None),
            Some(Event::Failed(failure)) => (Err(failure.into()), None),
            None => (Err(lost()), None),
        })
    })
}

/// Whether the model can do what is asked.
pub(super) fn check(front: &Front, model: &str, language: Option<&str>, task: Task) -> Result<(), Error> {
    let languages = front.vocab.languages();
    if !front.vocab.is_multilingual() && task == Task::Translate {
        let message = format!("the model `{model}` knows English only and cannot translate");
        return Err(Error::Invalid { param: "model", message });
    }
    match language {
        None => Ok(()),
        Some(code) if languages.contains_key(code) || (languages.is_empty() && code == "en") => Ok(()),
        Some(code) => {
            let known: Vec<&str> = languages.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "en".to_owned() } else { known.join(", ") };
            let message = format!("the model does not know the language `{code}`; it knows {known}");
            Err(Error::Invalid { param: "language", message })
        }
    }
}
