//! Who is in which room: a count, and no more. As many rooms at most as sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The rooms that somebody is in.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Rooms(Arc<Mutex<HashMap<String, usize>>>);

/// Somebody's stay in a room, over when it is dropped.
#[derive(Debug)]
pub(in crate::http) struct Stay {
    rooms: Rooms,
    room: String,
}

impl Rooms {
    /// One more in this room, and how many there are with them.
    pub fn join(&self, room: &str) -> (Stay, usize) {
        let mut counts = self.counts();
        let count = counts.entry(room.to_owned()).or_default();
        *count += 1;
        (Stay { rooms: self.clone(), room: room.to_owned() }, *count)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        // Counts are changed as a whole, or not at all.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut counts = self.rooms.counts();
        if let Some(count) = counts.get_mut(&self.room) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.room);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_room_is_forgotten() {
        let rooms = Rooms::default();
        let (one, count) = rooms.join("a");
        assert_eq!((count, rooms.join("a").1, rooms.join("b").1), (1, 2, 1));
        assert_eq!(rooms.counts().len(), 1);
        drop(one);
        assert!(rooms.counts().is_empty());
    }
}
