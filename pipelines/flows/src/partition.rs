//! One partition of the log as games that open and close: a pure function of its records.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use flywheel_events::{Event, GameId, System};
use flywheel_game_api::Experience;
use flywheel_log::StoredRecord;
use flywheel_tables::{DeadLetterRow, DeadLettersBuilder, EpisodesBuilder, TransitionsBuilder, day_of};

use crate::{
    AssembleConfig,
    game::{Closing, OpenGame, Place, Unusable},
    land::system_of,
};

pub(crate) type Experiences = Arc<dyn Fn(System) -> Option<Box<dyn Experience>> + Send + Sync>;

/// The priority of a transition that no learner has seen.
const FIRST_PRIORITY: f32 = 1.0;

/// Rows of closed games that are not committed yet.
#[derive(Default)]
pub(crate) struct Output {
    pub transitions: TransitionsBuilder,
    pub episodes: EpisodesBuilder,
    pub dead: DeadLettersBuilder,
    /// When the games in it closed, by the clock of the log.
    pub closed_ms: Vec<i64>,
    pub incomplete: u64,
    pub abandoned: u64,
}

/// Where the three tables stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    pub transitions: Option<i64>,
    pub episodes: Option<i64>,
    pub dead: Option<i64>,
}

pub(crate) struct Partition {
    pub number: u32,
    pub committed: Committed,
    /// The last record that was taken.
    pub taken: Option<i64>,
    /// The last dead letter in the output.
    pub dead_taken: Option<i64>,
    open: HashMap<GameId, OpenGame>,
    deadlines: BTreeSet<(i64, GameId)>,
    closed: RecentlyClosed,
    open_rows: usize,
    now_ms: i64,
    unusable: Vec<Unusable>,
    /// Records that were no events; `land` files them.
    pub undecodable: u64,
    pub repeats: u64,
    /// Events of games that had closed.
    pub late: u64,
}

impl Partition {
    pub fn new(number: u32, committed: Committed, resume_after: Option<i64>, closed: RecentlyClosed) -> Self {
        Self {
            number,
            committed,
            taken: resume_after,
            dead_taken: committed.dead,
            open: HashMap::new(),
            deadlines: BTreeSet::new(),
            closed,
            open_rows: 0,
            now_ms: i64::MIN,
            unusable: Vec::new(),
            undecodable: 0,
            repeats: 0,
            late: 0,
        }
    }

    /// Takes the next record: time first, since it may close games, then the event.
    pub fn take(
        &mut self,
        record: &StoredRecord,
        config: &AssembleConfig,
        experiences: &Experiences,
        output: &mut Output,
    ) {
        let offset = record.offset.as_i64();
        self.now_ms = self.now_ms.max(record.ingest_ms);
        while let Some((deadline, game_id)) = self.deadlines.first().filter(|(at, _)| *at <= self.now_ms).cloned() {
            self.deadlines.remove(&(deadline, game_id.clone()));
            let game = self.open.remove(&game_id).expect("a deadline is of an open game");
            let why = game.deadline(config).1;
            self.close(game_id, game, why, offset, record.ingest_ms, output);
        }
        self.event(record, offset, config, experiences, output);
        self.taken = Some(offset);
    }

    fn event(
        &mut self,
        record: &StoredRecord,
        offset: i64,
        config: &AssembleConfig,
        experiences: &Experiences,
        output: &mut Output,
    ) {
        let Ok(event) = Event::decode(&record.value) else {
            self.undecodable += 1;
            return;
        };
        if self.closed.contains(&event.game_id) {
            self.late += 1;
            return;
        }
        let mut game = match self.open.remove(&event.game_id) {
            Some(game) => game,
            None => {
                let Some(experience) = experiences(event.system) else { return };
                let before = self.taken.unwrap_or(-1);
                OpenGame::new(event.system, event.game_id.clone(), before, experience)
            }
        };
        let rows = game.rows();
        let place = Place { offset, ingest_ms: record.ingest_ms, value: record.value.clone() };
        if !game.take(&event, place, config.max_held_bytes, &mut self.unusable) {
            self.repeats += 1;
        }
        self.open_rows = self.open_rows + game.rows() - rows;
        let deadline = game.deadline(config).0;
        if deadline != game.deadline_ms {
            self.deadlines.remove(&(game.deadline_ms, event.game_id.clone()));
            self.deadlines.insert((deadline, event.game_id.clone()));
            game.deadline_ms = deadline;
        }
        self.open.insert(event.game_id, game);
        self.give_up(record.offset.as_i64(), config, output);
        if self.open_rows > config.max_open_rows {
            let largest = self.open.iter().max_by_key(|(id, game)| (game.rows(), *id)).map(|(id, _)| id.clone());
            let largest = largest.expect("rows belong to open games");
            let game = self.open.remove(&largest).expect("it was just found");
            self.deadlines.remove(&(game.deadline_ms, largest.clone()));
            tracing::warn!(game_id = %largest, n_rows = game.rows(), "too many open transitions; closing the largest game");
            self.close(largest, game, Closing::TooLarge, offset, record.ingest_ms, output);
        }
    }

    /// Dead letters count by the record that raised them, so that reading again raises none twice.
    fn give_up(&mut self, cause: i64, config: &AssembleConfig, output: &mut Output) {
        let known = self.committed.dead.is_some_and(|committed| cause <= committed);
        for unusable in self.unusable.drain(..).filter(|_| !known) {
            self.dead_taken = Some(cause);
            output.dead.push(&DeadLetterRow {
                system: system_of(&config.topic),
                flow: "assemble".to_owned(),
                topic: config.topic.to_string(),
                partition: self.number,
                offset: unusable.place.offset,
                ingest_ms: unusable.place.ingest_ms,
                reason: unusable.reason.to_owned(),
                detail: unusable.detail,
                raw: unusable.place.value.to_vec(),
            });
        }
    }

    fn close(&mut self, game_id: GameId, game: OpenGame, why: Closing, offset: i64, at_ms: i64, output: &mut Output) {
        self.open_rows -= game.rows();
        let closed = game.close(why, self.number, offset, at_ms);
        if self.committed.transitions.is_none_or(|committed| offset > committed) {
            let dt = day_of(at_ms);
            for (row, episode_return) in &closed.transitions {
                output
                    .transitions
                    .push(closed.system, row, &dt, *episode_return, FIRST_PRIORITY)
                    .expect("actions were checked when the event was taken");
            }
        }
        if self.committed.episodes.is_none_or(|committed| offset > committed) {
            closed.seats.iter().for_each(|seat| output.episodes.push(seat));
            output.closed_ms.push(at_ms);
            output.incomplete += u64::from(closed.incomplete);
            output.abandoned += u64::from(why == Closing::Abandoned);
        }
        self.closed.insert(game_id, at_ms);
    }

    /// After which record a restart has to read to see every open game whole.
    pub fn resume_after(&self) -> i64 {
        let oldest = self.open.values().map(|game| game.before).min();
        oldest.unwrap_or_else(|| self.taken.unwrap_or(-1))
    }

    pub fn open_games(&self) -> usize {
        self.open.len()
    }

    pub fn open_rows(&self) -> usize {
        self.open_rows
    }
}

/// Games that closed within a window of the log's time.
#[derive(Debug)]
pub(crate) struct RecentlyClosed {
    games: HashMap<GameId, i64>,
    order: VecDeque<(i64, GameId)>,
    window_ms: i64,
}

impl RecentlyClosed {
    pub fn new(window_ms: i64) -> Self {
        Self { games: HashMap::new(), order: VecDeque::new(), window_ms }
    }

    pub fn contains(&self, game_id: &GameId) -> bool {
        self.games.contains_key(game_id)
    }

    /// Games come in the order in which they closed.
    pub fn insert(&mut self, game_id: GameId, closed_ms: i64) {
        if self.games.insert(game_id.clone(), closed_ms).is_none() {
            self.order.push_back((closed_ms, game_id));
        }
        let oldest = closed_ms.saturating_sub(self.window_ms);
        while self.order.front().is_some_and(|(at, _)| *at < oldest) {
            let (_, game_id) = self.order.pop_front().expect("just seen");
            self.games.remove(&game_id);
        }
    }
}
