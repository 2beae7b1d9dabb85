//! A game with two seats whose transitions are easy to foretell, and logs full of such games.

use flywheel_events::{Event, GameId, System};
use flywheel_game_api::{EpisodeRow, Experience, ExperienceError, Lane, SeatOutcome, TransitionRow};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::{T0, VecLog};

pub const STEP: &str = "tank.step";
pub const ENDED: &str = "tank.episode.ended";
pub const CLOSED: &str = "tank.session.closed";

#[derive(Deserialize)]
struct Step {
    tick: u64,
    seat: String,
    r: f32,
}

#[derive(Default)]
pub struct ToyExperience {
    game: Option<GameId>,
    returns: std::collections::BTreeMap<String, f32>,
    ended: bool,
    ticks: u64,
}

pub fn experience(system: System) -> Option<Box<dyn Experience>> {
    (system == System::Tank).then(|| Box::new(ToyExperience::default()) as Box<dyn Experience>)
}

impl Experience for ToyExperience {
    fn accept(&mut self, event: &Event, out: &mut Vec<TransitionRow>) -> Result<(), ExperienceError> {
        self.game = Some(event.game_id.clone());
        match event.kind.as_str() {
            STEP => {
                let step: Step = event.payload_as()?;
                *self.returns.entry(step.seat.clone()).or_default() += step.r;
                self.ticks = step.tick;
                out.push(TransitionRow {
                    lane: Lane { game_id: event.game_id.clone(), seat: step.seat },
                    tick: step.tick,
                    label: "toy".into(),
                    map_key: "m".into(),
                    model: Some("toy@7".parse().unwrap()),
                    s: vec![step.tick as f32, -0.0],
                    a: (step.tick % 10) as i16,
                    r: step.r,
                    s2: vec![step.tick as f32 + 1.0, f32::MIN_POSITIVE],
                    done: false,
                    epsilon: 0.5,
                });
            }
            ENDED => self.ended = true,
            _ => {}
        }
        Ok(())
    }

    fn ended(&self) -> Option<EpisodeRow> {
        self.ended.then(|| EpisodeRow {
            game_id: self.game.clone().unwrap(),
            map_key: "m".into(),
            opponent: "hunter".into(),
            reason: "time_limit".into(),
            outcome: -1,
            ticks: self.ticks,
            source: "farm".into(),
            models: vec!["toy@7".parse().unwrap()],
            seats: self
                .returns
                .iter()
                .map(|(seat, r)| SeatOutcome { seat: seat.clone(), label: "toy".into(), episode_return: *r })
                .collect(),
        })
    }
}

pub fn event(game: &str, seq: u64, kind: &str, payload: serde_json::Value) -> Vec<u8> {
    Event::new(System::Tank, kind, GameId::new(game).unwrap(), seq, 0).payload(&payload).encode()
}

/// What must become of a game.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Plain,
    /// Some events come twice, late ones after the end.
    Repeats,
    /// Some events come late, yet before the gap times out.
    Reordered,
    /// An event never comes.
    Gap,
    /// It stops in the middle.
    Abandoned,
    /// One payload cannot be used.
    Poisoned,
    /// Transitions come after the event that ends it.
    LateTransitions,
}

pub const FATES: [Fate; 7] =
    [Fate::Plain, Fate::Repeats, Fate::Reordered, Fate::Gap, Fate::Abandoned, Fate::Poisoned, Fate::LateTransitions];

/// The events of one game in the order in which they reach the log, and how many transitions it must leave.
pub fn game(name: &str, fate: Fate, steps: u64, rng: &mut ChaCha8Rng) -> (Vec<Vec<u8>>, usize) {
    let mut events = vec![event(name, 0, "tank.session.opened", serde_json::json!({"map": "m"}))];
    let step = |seq: u64| {
        let seat = if seq.is_multiple_of(2) { "a" } else { "b" };
        event(name, seq, STEP, serde_json::json!({"tick": seq, "seat": seat, "r": seq as f32 / 4.0}))
    };
    let after_end = if fate == Fate::LateTransitions { 2 } else { 0 };
    events.extend((1..=steps - after_end).map(step));
    let seq = steps - after_end + 1;
    if fate != Fate::Abandoned {
        events.push(event(name, seq, ENDED, serde_json::json!({})));
        events.extend((seq + 1..seq + 1 + after_end).map(step));
        events.push(event(name, seq + 1 + after_end, CLOSED, serde_json::json!({"cause": "x"})));
    }
    let mut transitions = steps as usize;
    let middle = rng.random_range(1..steps as usize);
    match fate {
        Fate::Repeats => {
            for _ in 0..4 {
                let from = rng.random_range(0..events.len());
                let to = rng.random_range(from + 1..=events.len());
                events.insert(to, events[from].clone());
            }
        }
        Fate::Reordered => events[1..].chunks_mut(3).for_each(|chunk| chunk.shuffle(rng)),
        Fate::Gap => {
            events.remove(middle);
            transitions = 0;
        }
        Fate::Poisoned => {
            events[middle] = event(name, middle as u64, STEP, serde_json::json!({"tick": "not a number"}));
            transitions = 0;
        }
        Fate::Plain | Fate::Abandoned | Fate::LateTransitions => {}
    }
    (events, transitions)
}

/// A log of many games, interleaved, with what each must leave: name, fate, transitions. A last, open game carries
/// time far enough that all others close.
pub fn fill(log: &VecLog, games: usize, seed: u64) -> Vec<(String, Fate, usize)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut fates = Vec::new();
    for partition in 0..log.partitions() {
        let mut open: Vec<std::vec::IntoIter<Vec<u8>>> = Vec::new();
        let (mut started, mut now) = (0, T0);
        loop {
            if started < games && open.len() < 4 && (open.is_empty() || rng.random_bool(0.3)) {
                let fate = FATES[(started + seed as usize) % FATES.len()];
                let name = format!("p{partition}-{started:03}-{fate:?}");
                let steps = rng.random_range(4..12);
                let (events, transitions) = game(&name, fate, steps, &mut rng);
                fates.push((name, fate, transitions));
                open.push(events.into_iter());
                started += 1;
            }
            if open.is_empty() {
                break;
            }
            let next = rng.random_range(0..open.len());
            match open[next].next() {
                Some(event) => {
                    now += rng.random_range(1..200);
                    log.put(partition, now, event);
                }
                None => drop(open.swap_remove(next)),
            }
            if rng.random_bool(0.05) {
                log.put(partition, now, b"not an event".to_vec());
            }
        }
        // 61 seconds at a time: gaps time out one by one, then the abandoned.
        for n in 0..12u64 {
            now += 61_000;
            let beat = event(&format!("p{partition}-clock"), n, "tank.tick", serde_json::json!({}));
            log.put(partition, now, beat);
        }
    }
    fates
}
