//! What the log says each game must have left in the tables.

use std::collections::{BTreeMap, BTreeSet};

use flywheel_events::{Event, GameId, System};
use flywheel_game_api::Experience;
use flywheel_log::StoredRecord;
use xxhash_rust::xxh3::Xxh3;

use crate::seqs::Seqs;

/// One game by the log.
#[derive(Default)]
pub(crate) struct LoggedGame {
    pub seqs: Seqs,
    /// Sum over the events of a hash of their content.
    pub content: u64,
    pub repeats: u64,
    /// Events after the position that `land` has reached.
    pub pending: u64,
    pub transitions: u64,
    pub bad_payloads: u64,
    next: u64,
    held: BTreeMap<u64, Event>,
    experience: Option<Box<dyn Experience>>,
}

/// Everything that the log says.
#[derive(Default)]
pub(crate) struct Logged {
    pub games: BTreeMap<GameId, LoggedGame>,
    /// Records that are no events, up to the position that `land` has reached: partition and offset.
    pub undecodable: BTreeSet<(String, u32, i64)>,
    pub records: u64,
}

pub(crate) type Experiences<'a> = &'a (dyn Fn(System) -> Option<Box<dyn Experience>> + Sync);

/// The part of an event that the table must give back: XXH3 over seq, kind, 0xff (no byte of UTF-8) and payload. Books in
/// archives hold sums of it, so it stays as it is.
pub(crate) fn content(seq: u64, kind: &str, payload: &str) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&seq.to_le_bytes());
    hasher.update(kind.as_bytes());
    hasher.update(&[0xff]);
    hasher.update(payload.as_bytes());
    hasher.digest()
}

impl Logged {
    pub fn take(&mut self, record: &StoredRecord, partition: (&str, u32), landed: Option<i64>, make: Experiences<'_>) {
        self.records += 1;
        let offset = record.offset.as_i64();
        let is_landed = landed.is_some_and(|landed| offset <= landed);
        // A table's `long` holds no larger `seq`: `land` gives the record up.
        let Some(event) = Event::decode(&record.value).ok().filter(|event| i64::try_from(event.seq).is_ok()) else {
            if is_landed {
                self.undecodable.insert((partition.0.to_owned(), partition.1, offset));
            }
            return;
        };
        let game = self
            .games
            .entry(event.game_id.clone())
            .or_insert_with(|| LoggedGame { experience: make(event.system), ..LoggedGame::default() });
        if !game.seqs.insert(event.seq) {
            game.repeats += 1;
            return;
        }
        if !is_landed {
            game.pending += 1;
        }
        game.content = game.content.wrapping_add(content(event.seq, &event.kind, event.payload.get()));
        game.held.insert(event.seq, event);
        while let Some(event) = game.held.remove(&game.next) {
            game.next += 1;
            let Some(experience) = &mut game.experience else { continue };
            let mut rows = Vec::new();
            match experience.accept(&event, &mut rows) {
                Ok(()) => game.transitions += rows.len() as u64,
                Err(_) => game.bad_payloads += 1,
            }
        }
    }
}

impl LoggedGame {
    /// Numbers missing below the highest.
    pub fn gaps(&self) -> u64 {
        self.seqs.last().map_or(0, |last| last + 1 - self.seqs.len())
    }

    /// How many transitions the game must leave once it has closed.
    pub fn transitions_due(&self) -> u64 {
        if self.gaps() > 0 || self.bad_payloads > 0 { 0 } else { self.transitions }
    }
}
