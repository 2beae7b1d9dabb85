//! From records of the log to transitions.

use std::collections::{HashMap, HashSet};

use flywheel_events::{Event, GameId, System, kinds};
use flywheel_game_api::{Experience, TransitionRow};
use flywheel_log::StoredRecord;

/// Builds the reader of one game's events.
pub type ExperienceFactory = fn(System) -> Option<Box<dyn Experience>>;

/// Games followed at the same time, at most; the one idle longest is given up.
const GAMES_MAX: usize = 20_000;

/// What became of records so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct GamesStats {
    pub events: u64,
    /// Events seen before, left out.
    pub repeats: u64,
    /// Games with a hole in their events; nothing more is learned from them.
    pub incomplete: u64,
    /// Records and events that could not be used. The land flow keeps them as dead letters.
    pub unusable: u64,
    /// Events of games that the table already gave.
    pub known: u64,
}

/// Follows every open game of one system.
pub struct Games {
    system: System,
    experience: ExperienceFactory,
    open: HashMap<GameId, Open>,
    /// Games that were read from the table.
    loaded: HashSet<GameId>,
    stats: GamesStats,
    turn: u64,
}

struct Open {
    /// `None` once the game has a hole.
    experience: Option<Box<dyn Experience>>,
    next_seq: u64,
    last_turn: u64,
}

impl std::fmt::Debug for Games {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Games").field("open", &self.open.len()).field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// What a record brought.
#[derive(Debug, Default)]
pub struct Taken {
    pub rows: Vec<TransitionRow>,
    /// No more rows of this game will come.
    pub closed: Option<GameId>,
}

impl Games {
    pub fn new(system: System, experience: ExperienceFactory) -> Self {
        Self { system, experience, open: HashMap::new(), loaded: HashSet::new(), stats: GamesStats::default(), turn: 0 }
    }

    /// The table gave this game's rows: its events in the log are left out.
    pub fn loaded(&mut self, game: &GameId) {
        if !self.loaded.contains(game) {
            self.loaded.insert(game.clone());
        }
    }

    pub fn stats(&self) -> GamesStats {
        self.stats
    }

    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Takes one record. Records of a game come in order, repeats are allowed.
    pub fn take(&mut self, record: &StoredRecord) -> Taken {
        let mut taken = Taken::default();
        let event = match Event::decode(&record.value) {
            Ok(event) if event.system == self.system => event,
            _ => {
                self.stats.unusable += 1;
                return taken;
            }
        };
        self.stats.events += 1;
        self.turn += 1;
        if self.loaded.contains(&event.game_id) {
            self.stats.known += 1;
            return taken;
        }
        let game = match self.open.get_mut(&event.game_id) {
            Some(game) => game,
            // The first event seen is taken as the first: the log may have been trimmed, and a game that was half
            // read when the table was loaded begins where the table's position says.
            None => {
                self.make_room();
                let experience = (self.experience)(self.system);
                let game = Open { experience, next_seq: event.seq, last_turn: 0 };
                self.open.entry(event.game_id.clone()).or_insert(game)
            }
        };
        game.last_turn = self.turn;
        if event.seq < game.next_seq {
            self.stats.repeats += 1;
            return taken;
        }
        if event.seq > game.next_seq && game.experience.take().is_some() {
            // Transitions that follow a hole might join states that do not follow each other.
            self.stats.incomplete += 1;
        }
        game.next_seq = event.seq + 1;
        if let Some(experience) = &mut game.experience
            && experience.accept(&event, &mut taken.rows).is_err()
        {
            self.stats.unusable += 1;
            taken.rows.clear();
        }
        if is_end(&event.kind) {
            taken.closed = Some(event.game_id.clone());
        }
        if is_close(&event.kind) {
            self.open.remove(&event.game_id);
        }
        taken
    }

    fn make_room(&mut self) {
        if self.open.len() < GAMES_MAX {
            return;
        }
        // Rare, and linear only then: an eighth goes at once.
        let mut turns: Vec<u64> = self.open.values().map(|game| game.last_turn).collect();
        let (_, &mut limit, _) = turns.select_nth_unstable(GAMES_MAX / 8);
        self.open.retain(|_, game| game.last_turn > limit);
    }
}

fn is_end(kind: &str) -> bool {
    kind == kinds::TANK_EPISODE_ENDED || is_close(kind)
}

fn is_close(kind: &str) -> bool {
    kind == kinds::TANK_SESSION_CLOSED
}
