//! How far each game has come, as this process knows it.

use std::{collections::HashMap, mem};

use flywheel_events::{GameId, System};

use crate::clock::Clock;

/// What is known of one game: every `seq` of `first..=last` was acknowledged by the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub first: u64,
    pub last: u64,
    /// Of its producer, where it was looked at.
    pub clock: Option<Clock>,
}

/// The runs of consecutive `seq` that this process has seen acknowledged: one run a game, the newest.
///
/// A `seq` inside the run is surely a repeat. Everything else may be new and is appended: after a restart, after the
/// game was forgotten, before the run, behind a gap. So nothing has to be rebuilt at start: a game's run begins again
/// with the next event of it that is acknowledged, and a repeat that is not recognised here is dropped by the lander,
/// which knows the keys of the last hour from the table.
///
/// Bounded: two generations of at most `limit` games each; a game that is asked for moves to the newer one, and the
/// older one is forgotten when the newer is full.
#[derive(Debug)]
pub struct Games {
    limit: usize,
    newer: HashMap<(System, GameId), Known>,
    older: HashMap<(System, GameId), Known>,
}

impl Games {
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), newer: HashMap::new(), older: HashMap::new() }
    }

    pub fn get(&mut self, game: &(System, GameId)) -> Option<Known> {
        if let Some(known) = self.newer.get(game) {
            return Some(*known);
        }
        let known = self.older.remove(game)?;
        self.put(game.clone(), known);
        Some(known)
    }

    /// `first..=last` were acknowledged. Returns what is known now, and the numbers that were jumped over.
    pub fn note(&mut self, game: &(System, GameId), first: u64, last: u64) -> (Known, Option<(u64, u64)>) {
        let before = self.get(game);
        let clock = before.and_then(|known| known.clock);
        let run = Known { first, last, clock };
        let (known, gap) = match before {
            None => (run, None),
            #[cfg(flywheel_bug)]
            Some(known) if first > known.last && crate::seeded_bug("gap-counts-as-seen") => {
                (Known { first: known.first, last, clock }, None)
            }
            Some(known) if first > known.last.saturating_add(1) => (run, Some((known.last + 1, first - 1))),
            // Late: it may be a repeat, or close a gap; the newest run says more about what comes next.
            Some(known) if last.saturating_add(1) < known.first => (known, None),
            Some(known) => (Known { first: known.first.min(first), last: known.last.max(last), clock }, None),
        };
        self.put(game.clone(), known);
        (known, gap)
    }

    /// What its producer's clock said last.
    pub fn note_clock(&mut self, game: &(System, GameId), clock: Clock) {
        if let Some(known) = self.get(game) {
            self.put(game.clone(), Known { clock: Some(clock), ..known });
        }
    }

    fn put(&mut self, game: (System, GameId), known: Known) {
        if self.newer.len() >= self.limit && !self.newer.contains_key(&game) {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(game, known);
    }

    /// Games that are remembered.
    pub fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn game(n: u64) -> (System, GameId) {
        (System::Tank, GameId::new(format!("g-{n}")).unwrap())
    }

    #[test]
    fn a_run_grows_at_both_ends_and_begins_anew_behind_a_gap() {
        let mut games = Games::new(10);
        let mut note = |first, last| {
            let (known, gap) = games.note(&game(0), first, last);
            (known.first, known.last, gap)
        };
        assert_eq!(note(3, 5), (3, 5, None));
        assert_eq!(note(6, 6), (3, 6, None));
        assert_eq!(note(1, 2), (1, 6, None), "the run before it was acknowledged later");
        assert_eq!(note(9, 9), (9, 9, Some((7, 8))));
        assert_eq!(note(7, 7), (9, 9, None), "a number in the gap says nothing about the other");
        assert_eq!(note(7, 8), (7, 9, None));
        assert_eq!(note(u64::MAX, u64::MAX), (u64::MAX, u64::MAX, Some((10, u64::MAX - 1))));
        assert_eq!(note(0, 0), (u64::MAX, u64::MAX, None));
    }

    #[test]
    fn games_are_forgotten_oldest_first_and_memory_is_bounded() {
        let mut games = Games::new(100);
        for n in 0..10_000 {
            games.note(&game(n), 0, n);
            // One game that is always in use.
            games.note(&game(0), 0, n);
            assert!(games.len() <= 200);
        }
        assert_eq!(games.get(&game(0)), Some(Known { first: 0, last: 9_999, clock: None }));
        assert!(games.get(&game(1)).is_none());
        assert!(games.get(&game(9_990)).is_some());
    }

    #[test]
    fn the_same_id_in_two_systems_is_two_games() {
        let mut games = Games::new(10);
        games.note(&game(1), 0, 5);
        assert!(games.get(&(System::Battle, GameId::new("g-1").unwrap())).is_none());
    }
}
