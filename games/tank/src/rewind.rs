//! A recorded game at any of its ticks, played from the nearest checkpoint instead of from the opening.
//!
//! A checkpoint is used only if the session made from it has the very hash that the checkpoint names. One that is
//! damaged, or from before checkpoints could be resumed from, is passed over for the one before it, in the end for
//! the opening; what was recorded after the start is held against the rules as in any replay.

use std::borrow::Borrow;

use flywheel_events::{Event, kinds, tank as payload};
use serde::Deserialize;

use crate::{ReplayError, Replayer, Rules};

/// A game rewound.
#[derive(Debug)]
pub struct Rewound {
    /// Stands after the tick asked for.
    pub replayer: Replayer,
    /// Tick of the checkpoint that it was played from; `None`: from the opening.
    pub from_checkpoint: Option<u64>,
    /// Checkpoints between there and the tick that could not be used: `seq` and why.
    pub passed_over: Vec<(u64, String)>,
}

impl Rewound {
    /// The session after the tick asked for.
    ///
    /// # Panics
    /// Never: a game without an opening is not rewound.
    pub fn rules(&self) -> &Rules {
        self.replayer.rules().expect("a rewound game has been opened")
    }
}

#[derive(Deserialize)]
struct Ticks {
    tick: Option<u64>,
    ticks: Option<u64>,
}

/// The tick that an event speaks of.
fn tick_of(event: &Event) -> Option<u64> {
    match event.kind.as_str() {
        kinds::TANK_INPUT | kinds::TANK_TICK | kinds::TANK_CHECKPOINT | kinds::TANK_EPISODE_ENDED => {
            let Ticks { tick, ticks } = event.payload_as().ok()?;
            tick.or(ticks)
        }
        _ => None,
    }
}

/// The game after `tick`, or after its last recorded tick if that is lower. `events` are those of one game from its
/// opening on, in order of `seq`. Costs the ticks since the nearest usable checkpoint before `tick`.
///
/// Players who joined after `tick` and before the next are in.
///
/// # Errors
/// The first divergence or unusable event that is no checkpoint; `NotOpened` when there is no opening.
pub fn rewind<E: Borrow<Event>>(events: &[E], tick: u64) -> Result<Rewound, ReplayError> {
    let events: Vec<&Event> = events.iter().map(Borrow::borrow).collect();
    let tick = events.iter().rev().find_map(|event| tick_of(event)).map_or(0, |last| last.min(tick));
    let mut replayer = Replayer::new();
    let Some(opening) = events.iter().position(|event| event.kind == kinds::TANK_SESSION_OPENED) else {
        return Err(ReplayError::NotOpened { seq: 0, kind: "the end of the record".to_owned() });
    };
    replayer.accept(events[opening])?;

    let (mut start, mut from_checkpoint, mut passed_over) = (opening + 1, None, Vec::new());
    for at in (opening + 1..events.len()).rev() {
        let event = events[at];
        if event.kind != kinds::TANK_CHECKPOINT || tick_of(event).is_some_and(|of| of >= tick) {
            continue;
        }
        let checkpoint = event.payload_as::<payload::Checkpoint>().map_err(|e| e.to_string());
        match checkpoint.and_then(|checkpoint| replayer.resume(&checkpoint).map(|()| checkpoint.tick)) {
            Ok(resumed_at) => {
                (start, from_checkpoint) = (at + 1, Some(resumed_at));
                break;
            }
            Err(reason) => passed_over.push((event.seq, reason)),
        }
    }

    for event in &events[start..] {
        if passed_over.iter().any(|(seq, _)| *seq == event.seq) {
            continue;
        }
        match tick_of(event) {
            Some(next) if next > tick => {
                replayer.stop_at(event.seq, tick, next == tick + 1)?;
                return Ok(Rewound { replayer, from_checkpoint, passed_over });
            }
            _ => replayer.accept(event)?,
        }
    }
    replayer.stop_at(events.last().map_or(0, |event| event.seq), tick, true)?;
    Ok(Rewound { replayer, from_checkpoint, passed_over })
}
