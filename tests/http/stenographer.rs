//! A live session without a model.

use stentor::service::Error;
use stentor::service::live::{self, Command, Event};
use stentor::types::asr;
use tokio::sync::mpsc;

use super::fake::COUGH;

/// Hears a word in every second of audio.
pub struct Stenographer {
    options: live::Options,
    item: u64,
    open: bool,
    /// Of the turn.
    samples: usize,
    /// Of the turns before this one.
    before: usize,
    text: String,
}

impl Stenographer {
    pub fn new(options: live::Options) -> Stenographer {
        Stenographer { options, item: 0, open: false, samples: 0, before: 0, text: String::new() }
    }

    /// To the end; `None` where the caller left before it.
    pub async fn write(
        mut self,
        mut inbox: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Option<()> {
        while let Some(command) = inbox.recv().await {
            for event in self.obey(command)? {
                let over = matches!(event, Event::Failed { item: None, .. });
                events.send(event).await.ok()?;
                if over {
                    return Some(());
                }
            }
            if self.item == u64::MAX {
                return Some(());
            }
        }
        None
    }

    fn obey(&mut self, command: Command) -> Option<Vec<Event>> {
        Some(match command {
            Command::Push(samples) => self.hear(samples.len()),
            Command::Commit if self.open => self.end(),
            Command::Commit => vec![Event::Nothing],
            Command::Clear => {
                (self.open, self.samples) = (false, 0);
                self.text.clear();
                Vec::new()
            }
            Command::Configure(options) => {
                self.options = *options;
                Vec::new()
            }
            Command::Finish => {
                let last = if self.open { self.end() } else { Vec::new() };
                self.item = u64::MAX;
                last
            }
        })
    }

    fn hear(&mut self, samples: usize) -> Vec<Event> {
        let mut events = Vec::new();
        if self.options.model == COUGH {
            let error = Error::Internal { detail: "secret detail".into() };
            return vec![Event::Failed { item: None, error }];
        }
        if !self.open && self.options.turns.is_some() {
            events.push(Event::SpeechStarted { item: self.item, ms: 0 });
        }
        self.open = true;
        let before = self.samples / 16_000;
        self.samples += samples;
        for second in before..self.samples / 16_000 {
            let delta = format!("{}word{second}.", if self.text.is_empty() { "" } else { " " });
            self.text.push_str(&delta);
            events.push(Event::Partial { item: self.item, delta });
        }
        if self.options.interval.is_none()
            && self.samples as f64 / 16e3 >= self.options.longest.pause.as_secs_f64()
        {
            events.extend(self.end());
        }
        events
    }

    fn end(&mut self) -> Vec<Event> {
        let (item, start) = (self.item, self.before as f64 / 16e3);
        let words = self.text.split(' ').zip(0..).map(|(text, at)| asr::Word {
            text: format!(" {text}"),
            start: start + f64::from(at),
            end: start + f64::from(at) + 0.5,
            probability: 1.0,
        });
        let (words, end) = (words.collect(), start + self.samples as f64 / 16e3);
        self.before += self.samples;
        let text = std::mem::take(&mut self.text);
        let mut events = vec![Event::Committed { item }, Event::Completed { item, text, words, start, end }];
        if self.options.turns.is_some() {
            events.insert(0, Event::SpeechStopped { item, ms: 1000 });
        }
        (self.item, self.open, self.samples) = (item + 1, false, 0);
        events
    }
}
