//! Who speaks in a stream, as it goes on: asked now and then, speakers keep the numbers that they had.

use tokio::sync::{mpsc, oneshot};

use super::super::{Error, Service};
use super::ear::{Ear, Networks};
use super::turns::Scene;
use super::{dot, who};
use crate::service::Context;
use crate::types::asr::SAMPLE_RATE;
use crate::types::speaker::{Diarization, Speakers, Voice};

/// Messages that the networks may be behind before whoever speaks waits.
const INBOX: usize = 16;

/// What a stream's listener is told.
#[derive(Debug)]
pub enum Told {
    /// Samples at 16 kHz.
    Samples(Vec<f32>),
    /// Who spoke so far.
    Asked(oneshot::Sender<Result<Diarization, Error>>),
}

/// Listens to a stream for its speakers. Cheap to clone; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Company(mpsc::Sender<Told>);

impl Company {
    /// A listener, and what it is told.
    pub fn open() -> (Company, mpsc::Receiver<Told>) {
        let (sender, told) = mpsc::channel(INBOX);
        (Company(sender), told)
    }

    /// The next samples. Waits while the networks are behind; where they have failed, [`so_far`](Self::so_far) says so.
    pub async fn push(&self, samples: &[f32]) {
        let _ = self.0.send(Told::Samples(samples.to_vec())).await;
    }

    /// Who spoke when in all samples so far. Speakers keep their numbers from one answer to the next; one who is another
    /// one by now has no turns.
    ///
    /// # Errors
    /// A network that failed.
    pub async fn so_far(&self) -> Result<Diarization, Error> {
        let gone = || Error::Internal { detail: "nobody listens to the stream any more".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.0.send(Told::Asked(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Service {
    /// Begins to listen to a stream for its speakers.
    ///
    /// # Errors
    /// No models for it.
    pub async fn company(&self, ctx: Context) -> Result<Company, Error> {
        let networks = self.networks(&ctx).await?;
        let (company, told) = Company::open();
        tokio::task::spawn_blocking(move || listen(networks, told));
        Ok(company)
    }
}

fn listen(networks: Networks, mut told: mpsc::Receiver<Told>) {
    let merge = networks.speaker.front().scale.merge;
    let mut ear = Ear::live(networks);
    let mut known = Known { voices: Vec::new(), merge };
    let mut failed: Option<Error> = None;
    while let Some(told) = told.blocking_recv() {
        match told {
            Told::Samples(samples) if failed.is_none() => failed = ear.push(&samples).err(),
            Told::Samples(_) => {}
            Told::Asked(reply) => {
                let answer = match failed.take() {
                    Some(error) => Err(error),
                    None => so_far(&mut ear, &mut known),
                };
                let _ = reply.send(answer);
            }
        }
    }
}

fn so_far(ear: &mut Ear, known: &mut Known) -> Result<Diarization, Error> {
    let (windows, grid) = (ear.so_far()?, ear.grid());
    let voices = who::voices(&windows, &grid, known.merge, Speakers::default());
    let seconds = ear.count() as f64 / f64::from(SAMPLE_RATE);
    let found = Scene::new(&windows, &voices, &grid).finish(&voices, seconds);
    Ok(known.number(found))
}

/// The voices of a stream by their numbers.
struct Known {
    voices: Vec<Vec<f32>>,
    /// How alike a voice must be to keep its number.
    merge: f32,
}

impl Known {
    /// Gives speakers the numbers that they had before, the most alike first; those who are new get new ones.
    fn number(&mut self, mut found: Diarization) -> Diarization {
        let mut pairs = Vec::new();
        for (at, voice) in found.voices.iter().enumerate() {
            let alike = self
                .voices
                .iter()
                .enumerate()
                .map(|(number, known)| (dot(&voice.embedding, known), at, number));
            pairs.extend(alike.filter(|pair| pair.0 >= self.merge));
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut numbers: Vec<Option<usize>> = vec![None; found.voices.len()];
        for (_, at, number) in pairs {
            if numbers[at].is_none() && !numbers.contains(&Some(number)) {
                numbers[at] = Some(number);
            }
        }
        for (number, voice) in numbers.iter_mut().zip(&found.voices) {
            let number = *number.get_or_insert(self.voices.len());
            match self.voices.get_mut(number) {
                Some(known) => known.clone_from(&voice.embedding),
                None => self.voices.push(voice.embedding.clone()),
            }
        }
        let number = |at: usize| numbers.get(at).copied().flatten().unwrap_or(at);
        for turn in found.turns.iter_mut().chain(&mut found.exclusive) {
            turn.speaker = number(turn.speaker);
        }
        let seconds = |speaker: usize| {
            let turns = found.turns.iter().filter(|turn| turn.speaker == speaker);
            turns.map(|turn| turn.end - turn.start).sum()
        };
        let voices = self.voices.iter().enumerate();
        let voice =
            |(at, known): (usize, &Vec<f32>)| Voice { embedding: known.clone(), seconds: seconds(at) };
        let voices = voices.map(voice).collect();
        Diarization { voices, ..found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::speaker::Turn;

    fn found(voices: &[[f32; 2]]) -> Diarization {
        let turns: Vec<Turn> = (0..voices.len())
            .map(|speaker| Turn { start: speaker as f64, end: speaker as f64 + 1.0, speaker })
            .collect();
        let voices = voices.iter().map(|voice| Voice { embedding: voice.to_vec(), seconds: 1.0 }).collect();
        Diarization { duration: 9.0, exclusive: turns.clone(), turns, voices }
    }

    fn speakers(found: &Diarization) -> Vec<usize> {
        found.turns.iter().map(|turn| turn.speaker).collect()
    }

    #[test]
    fn speakers_keep_their_numbers_whoever_comes_and_goes() {
        let mut known = Known { voices: Vec::new(), merge: 0.5 };
        assert_eq!(speakers(&known.number(found(&[[1.0, 0.0]]))), [0]);
        assert_eq!(speakers(&known.number(found(&[[0.0, 1.0], [0.96, 0.28]]))), [1, 0]);
        let third = known.number(found(&[[-1.0, 0.0], [0.28, 0.96]]));
        assert_eq!((speakers(&third), third.voices.len()), (vec![2, 1], 3));
        let seconds: Vec<f64> = third.voices.iter().map(|voice| voice.seconds).collect();
        assert_eq!(seconds, [0.0, 1.0, 1.0]);
        assert!(known.number(found(&[])).turns.is_empty());
    }
}
