//! One open game: its events in order, its transitions so far, and when it closes.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use flywheel_events::{Event, GameId, System};
use flywheel_game_api::{Experience, ExperienceError, SeatOutcome, TransitionRow};
use flywheel_tables::{EpisodeSeatRow, day_of};

use crate::{
    AssembleConfig,
    seen::{Added, SeqSet},
};

/// Why a game closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Its last event came, and after it nothing for the grace.
    Ended,
    /// A gap in its events stayed open.
    Gap,
    /// Its events stopped.
    Abandoned,
    /// It held more transitions than may be kept.
    TooLarge,
}

/// Whether nothing of the game is expected after an event of this kind, such as `tank.session.closed`.
pub fn is_terminal(kind: &str) -> bool {
    kind.ends_with(".closed")
}

/// An event as it lies in the log.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub offset: i64,
    pub ingest_ms: i64,
    pub value: Bytes,
}

/// An event that the game's experience could not use.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub place: Place,
    pub reason: &'static str,
    pub detail: String,
}

pub(crate) struct OpenGame {
    system: System,
    game_id: GameId,
    /// The record before its first one; reading after it gives the whole game again.
    pub before: i64,
    /// As filed in the order of deadlines.
    pub deadline_ms: i64,
    experience: Box<dyn Experience>,
    seqs: SeqSet,
    next: u64,
    /// Events behind a gap, by `seq`.
    held: BTreeMap<u64, Place>,
    held_bytes: usize,
    rows: Vec<TransitionRow>,
    gap_since_ms: Option<i64>,
    last_ms: i64,
    over_ms: Option<i64>,
    /// More was held than may be: the gap cannot be closed any more.
    lost: bool,
    unusable: bool,
}

/// A game's rows, ready for the tables.
#[derive(Debug)]
pub(crate) struct Closed {
    pub system: System,
    pub transitions: Vec<(TransitionRow, Option<f32>)>,
    pub seats: Vec<EpisodeSeatRow>,
    pub incomplete: bool,
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl OpenGame {
    pub fn new(system: System, game_id: GameId, before: i64, experience: Box<dyn Experience>) -> Self {
        Self {
            system,
            game_id,
            before,
            deadline_ms: i64::MAX,
            experience,
            seqs: SeqSet::default(),
            next: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            rows: Vec::new(),
            gap_since_ms: None,
            last_ms: i64::MIN,
            over_ms: None,
            lost: false,
            unusable: false,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Takes one event; `false` if it is a repeat.
    pub fn take(&mut self, event: &Event, place: Place, max_held_bytes: usize, unusable: &mut Vec<Unusable>) -> bool {
        match self.seqs.insert(event.seq) {
            Added::Repeat => return false,
            Added::Refused => {
                self.lost = true;
                return false;
            }
            Added::New => {}
        }
        let now = place.ingest_ms;
        self.last_ms = self.last_ms.max(now);
        if event.seq != self.next {
            self.gap_since_ms.get_or_insert(now);
            self.hold(event.seq, place, max_held_bytes);
            return true;
        }
        self.feed(event, place, now, unusable);
        let mut filled = false;
        while let Some(place) = self.held.remove(&self.next) {
            self.held_bytes -= place.value.len();
            filled = true;
            match Event::decode(&place.value) {
                Ok(event) => self.feed(&event, place, now, unusable),
                // It was decoded when it came.
                Err(error) => {
                    self.next += 1;
                    self.refuse(place, error.reason(), error.to_string(), unusable);
                }
            }
        }
        if self.held.is_empty() && !self.lost {
            self.gap_since_ms = None;
        } else if filled {
            // The gap behind the one that was just filled is a younger one.
            self.gap_since_ms = Some(now);
        }
        true
    }

    fn hold(&mut self, seq: u64, place: Place, max_held_bytes: usize) {
        self.held_bytes += place.value.len();
        if self.lost || self.held_bytes > max_held_bytes {
            // The last events tell how the game ended: they stay, the rest has to go.
            self.lost = true;
            self.held.clear();
            self.held_bytes = place.value.len();
        }
        self.held.insert(seq, place);
    }

    fn feed(&mut self, event: &Event, place: Place, now: i64, unusable: &mut Vec<Unusable>) {
        self.next = event.seq + 1;
        let before = self.rows.len();
        let outcome = self.experience.accept(event, &mut self.rows);
        if let Err(error) = outcome {
            self.rows.truncate(before);
            let reason = match &error {
                ExperienceError::Decode(error) => error.reason(),
                ExperienceError::Invalid(_) => "invalid_payload",
            };
            self.refuse(place, reason, error.to_string(), unusable);
        } else if let Some(row) = self.rows[before..].iter().find(|row| i8::try_from(row.a).is_err()) {
            let detail = format!("action {} does not fit a table's byte", row.a);
            self.rows.truncate(before);
            self.refuse(place, "action_out_of_range", detail, unusable);
        }
        if self.over_ms.is_none() && (is_terminal(&event.kind) || self.experience.ended().is_some()) {
            self.over_ms = Some(now);
        }
    }

    fn refuse(&mut self, place: Place, reason: &'static str, detail: String, unusable: &mut Vec<Unusable>) {
        self.unusable = true;
        unusable.push(Unusable { place, reason, detail });
    }

    /// When, by the clock of the log, the game closes if nothing more comes, and why.
    pub fn deadline(&self, config: &AssembleConfig) -> (i64, Closing) {
        let idle = (self.last_ms.saturating_add(ms(config.idle_timeout)), Closing::Abandoned);
        let other = match (self.gap_since_ms, self.over_ms) {
            (Some(since), _) => (since.saturating_add(ms(config.gap_timeout)), Closing::Gap),
            (None, Some(over)) => (over.saturating_add(ms(config.end_grace)), Closing::Ended),
            (None, None) => idle,
        };
        if other.0 <= idle.0 { other } else { idle }
    }

    /// The rows of the game, closed by the record at `offset`.
    pub fn close(mut self, why: Closing, partition: u32, offset: i64, closed_ms: i64) -> Closed {
        let gap = self.gap_since_ms.is_some() || self.lost;
        let incomplete = gap || self.unusable || why == Closing::TooLarge;
        let mut rows = std::mem::take(&mut self.rows);
        // Past the gap nothing becomes a transition, yet it may tell how the game ended.
        let mut ignored = Vec::new();
        for place in std::mem::take(&mut self.held).into_values() {
            if let Ok(event) = Event::decode(&place.value) {
                let _ = self.experience.accept(&event, &mut ignored);
                ignored.clear();
            }
        }
        let seats = self.seats(&rows, why, incomplete, partition, offset, closed_ms);
        if incomplete {
            rows.clear();
        }
        let returns: BTreeMap<_, _> = seats.iter().map(|seat| (seat.seat.clone(), seat.episode_return)).collect();
        let with_return = rows.into_iter().map(|row| {
            let episode_return = returns.get(&row.lane.seat).copied().flatten();
            (row, episode_return)
        });
        Closed { system: self.system, transitions: with_return.collect(), seats, incomplete }
    }

    fn seats(
        &self,
        rows: &[TransitionRow],
        why: Closing,
        incomplete: bool,
        partition: u32,
        closed_offset: i64,
        closed_ms: i64,
    ) -> Vec<EpisodeSeatRow> {
        let ended = self.experience.ended();
        let reason = match (&ended, why) {
            (Some(episode), _) => episode.reason.clone(),
            (None, Closing::TooLarge) => "too_large".to_owned(),
            (None, _) => "abandoned".to_owned(),
        };
        let mut models: Vec<String> = match &ended {
            Some(episode) => episode.models.iter().map(ToString::to_string).collect(),
            None => rows.iter().filter_map(|row| row.model.as_ref()).map(ToString::to_string).collect(),
        };
        let mut known = std::collections::BTreeSet::new();
        models.retain(|model| known.insert(model.clone()));
        let whole = EpisodeSeatRow {
            system: self.system,
            dt: day_of(closed_ms),
            game_id: self.game_id.clone(),
            seat: String::new(),
            label: String::new(),
            map_key: rows.first().map(|row| row.map_key.clone()).unwrap_or_default(),
            opponent: String::new(),
            source: String::new(),
            reason,
            outcome: 0,
            length: rows.iter().map(|row| row.tick).max().unwrap_or_default(),
            episode_return: None,
            model: (!models.is_empty()).then(|| models.join(",")),
            incomplete,
            partition,
            closed_offset,
            closed_ms,
        };
        let (whole, seats): (_, Vec<(SeatOutcome, bool)>) = match ended {
            Some(episode) => {
                let whole = EpisodeSeatRow {
                    map_key: episode.map_key,
                    opponent: episode.opponent,
                    source: episode.source,
                    outcome: episode.outcome,
                    length: episode.ticks,
                    ..whole
                };
                (whole, episode.seats.into_iter().map(|seat| (seat, true)).collect())
            }
            None => {
                let mut seats: BTreeMap<&str, &str> = BTreeMap::new();
                for row in rows {
                    seats.entry(&row.lane.seat).or_insert(&row.label);
                }
                let unknown = |(seat, label): (&str, &str)| SeatOutcome {
                    seat: seat.to_owned(),
                    label: label.to_owned(),
                    episode_return: 0.0,
                };
                (whole, seats.into_iter().map(|seat| (unknown(seat), false)).collect())
            }
        };
        if seats.is_empty() {
            // Every closed game leaves a row: by it a restarted assembler knows that the game is done with.
            return vec![whole];
        }
        let seat = |(seat, known): (SeatOutcome, bool)| EpisodeSeatRow {
            seat: seat.seat,
            label: seat.label,
            episode_return: known.then_some(seat.episode_return),
            ..whole.clone()
        };
        seats.into_iter().map(seat).collect()
    }
}
