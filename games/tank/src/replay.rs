//! A recorded game played again: the opening and the inputs must give every recorded delta and checkpoint.

use std::borrow::Borrow;

use flywheel_events::{DecodeError, Event, kinds, tank as payload};
use serde::Deserialize as _;
use serde_json::Value;

use crate::{
    Action, Audience, Delta, DeltaEncoder, EndReason, InputSource, Map, MapError, Move, NetId, Rules, RulesError,
    StateView, TankConfig, TankKind, table_hash,
};

/// The first thing in a recorded game that does not fit. `seq` names the event.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("event {seq}: {source}")]
    Decode { seq: u64, source: DecodeError },
    #[error("event {seq} is `{kind}`, but the session has not been opened before it")]
    NotOpened { seq: u64, kind: String },
    #[error("event {seq} opens the session a second time")]
    OpenedTwice { seq: u64 },
    #[error("event {seq}: the game was recorded with tank table {recorded}; these rules have {ours}")]
    TankTable { seq: u64, recorded: String, ours: &'static str },
    #[error("event {seq}: {source}")]
    Map { seq: u64, source: MapError },
    #[error("event {seq}: {source}")]
    Rules { seq: u64, source: RulesError },
    #[error("event {seq} cannot be used: {reason}")]
    Invalid { seq: u64, reason: String },
    #[error("event {seq} diverges at tick {tick}: {what} is {ours} by the rules and {recorded} in the record")]
    Diverged { seq: u64, tick: u64, what: &'static str, recorded: String, ours: String },
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayOutcome {
    pub ticks: u64,
    pub end: Option<EndReason>,
    /// `tank.tick` events that matched.
    pub ticks_checked: u64,
    /// `tank.checkpoint` events that matched.
    pub checkpoints_checked: u64,
    pub state_hash: u64,
    /// The public state after the last event.
    pub state: StateView,
}

/// Plays one game again, event by event.
#[derive(Debug, Default)]
pub struct Replayer {
    session: Option<Session>,
    /// Players whose first tick is not known yet: they join before the tick that the next event names.
    joining: Vec<(u64, payload::PlayerJoined)>,
    ticks_checked: u64,
    checkpoints_checked: u64,
}

#[derive(Debug)]
struct Session {
    rules: Rules,
    encoder: DeltaEncoder,
    last_delta: Option<Delta>,
    /// Begun from a checkpoint: whether labels were sent before it is not known.
    resumed: bool,
}

impl Replayer {
    pub fn new() -> Self {
        Self::default()
    }

    /// The public state after the events so far; `None` before the session is opened.
    pub fn state(&self) -> Option<StateView> {
        self.session.as_ref().map(|s| s.rules.full_state(Audience::Player))
    }

    /// The rules after the events so far.
    pub fn rules(&self) -> Option<&Rules> {
        self.session.as_ref().map(|s| &s.rules)
    }

    /// Takes the next event of the game, in order of `seq`. Kinds that say nothing about play are passed over.
    ///
    /// # Errors
    /// The first divergence or unusable event; later events mean nothing after it.
    pub fn accept(&mut self, event: &Event) -> Result<(), ReplayError> {
        let seq = event.seq;
        match event.kind.as_str() {
            kinds::TANK_SESSION_OPENED => self.open(seq, decode(event)?),
            kinds::TANK_PLAYER_JOINED => {
                self.session(event)?;
                self.joining.push((seq, decode(event)?));
                Ok(())
            }
            kinds::TANK_INPUT => {
                self.session(event)?;
                self.input(seq, &decode::<payload::Input>(event)?)
            }
            kinds::TANK_TICK => {
                self.session(event)?;
                self.check_tick(seq, &decode::<Value>(event)?)
            }
            kinds::TANK_CHECKPOINT => {
                self.session(event)?;
                self.check_checkpoint(seq, &decode::<payload::Checkpoint>(event)?)
            }
            kinds::TANK_EPISODE_ENDED => {
                self.session(event)?;
                self.check_end(seq, &decode::<payload::EpisodeEnded>(event)?)
            }
            _ => Ok(()),
        }
    }

    /// What has been found so far; `None` before the session is opened.
    pub fn outcome(&self) -> Option<ReplayOutcome> {
        let rules = self.rules()?;
        Some(ReplayOutcome {
            ticks: rules.ticks(),
            end: rules.end(),
            ticks_checked: self.ticks_checked,
            checkpoints_checked: self.checkpoints_checked,
            state_hash: rules.state_hash(),
            state: rules.full_state(Audience::Player),
        })
    }

    fn session(&mut self, event: &Event) -> Result<&mut Session, ReplayError> {
        let (seq, kind) = (event.seq, event.kind.clone());
        self.session.as_mut().ok_or(ReplayError::NotOpened { seq, kind })
    }

    fn open(&mut self, seq: u64, opened: payload::SessionOpened) -> Result<(), ReplayError> {
        if self.session.is_some() {
            return Err(ReplayError::OpenedTwice { seq });
        }
        if opened.tank_table_hash != table_hash() {
            return Err(ReplayError::TankTable { seq, recorded: opened.tank_table_hash, ours: table_hash() });
        }
        let config: TankConfig = serde_json::from_value(opened.settings)
            .map_err(|e| ReplayError::Invalid { seq, reason: format!("`settings`: {e}") })?;
        let map = Map::from_tiles(&opened.map_name, opened.map_size, opened.tile_size, &opened.tiles)
            .map_err(|source| ReplayError::Map { seq, source })?;
        let rules = Rules::new(&map, &config, opened.seed).map_err(|source| ReplayError::Rules { seq, source })?;
        self.session =
            Some(Session { rules, encoder: DeltaEncoder::new(Audience::Player), last_delta: None, resumed: false });
        Ok(())
    }

    /// Goes to a checkpoint of the session that has just been opened, if it gives the state that it names.
    pub(crate) fn resume(&mut self, checkpoint: &payload::Checkpoint) -> Result<(), String> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Tiles {
            map_tiles: Vec<Vec<u8>>,
        }
        let opened = self.rules().ok_or("the session is not open")?;
        let point = checkpoint.resume.as_ref().ok_or("it carries nothing to resume from")?;
        let Tiles { map_tiles } = Tiles::deserialize(&checkpoint.state).map_err(|e| format!("`state`: {e}"))?;
        let rules = Rules::resumed(
            opened.map(),
            opened.config(),
            opened.seed(),
            checkpoint.tick,
            &map_tiles,
            checkpoint.rng_position,
            point,
        )?;
        let hash = rules.state_hash_text();
        if hash != checkpoint.state_hash {
            return Err(format!("its state hash is {}; the state has {hash}", checkpoint.state_hash));
        }
        let mut encoder = DeltaEncoder::new(Audience::Player);
        encoder.encode(&rules);
        self.session = Some(Session { rules, encoder, last_delta: None, resumed: true });
        Ok(())
    }

    /// Plays on to `tick`; players who wait to join do so then, or not at all.
    pub(crate) fn stop_at(&mut self, seq: u64, tick: u64, with_joins: bool) -> Result<(), ReplayError> {
        if !with_joins {
            self.joining.clear();
        }
        self.run_to(seq, tick)
    }

    fn input(&mut self, seq: u64, input: &payload::Input) -> Result<(), ReplayError> {
        let invalid = |reason: String| ReplayError::Invalid { seq, reason };
        let tank = NetId::parse(&input.tank_id)
            .ok_or_else(|| invalid(format!("`tankId` is `{}`, not a network id", input.tank_id)))?;
        let movement = match input.movement.as_deref() {
            None => None,
            Some(text) => {
                Some(Move::from_wire(text).ok_or_else(|| invalid(format!("`move` is `{text}`, not a move")))?)
            }
        };
        let source = InputSource::from_wire(&input.source)
            .ok_or_else(|| invalid(format!("`source` is `{}`, not a source", input.source)))?;
        let action = Action { movement, fire: input.fire };
        self.run_to(seq, input.tick.saturating_sub(1))?;
        let session = self.session.as_mut().expect("checked by the caller");
        if session.rules.ticks() + 1 != input.tick {
            return diverged(seq, input.tick, "input's tick", input.tick, session.rules.ticks() + 1);
        }
        if source == InputSource::Repeat {
            // The rules repeat by themselves.
            return Ok(());
        }
        if session.rules.tank(tank).is_none() {
            // A tank that spawns in a tick can have no input in it, so the record is wrong.
            return Err(invalid(format!("{} tank `{tank}` is not alive before tick {}", input.role, input.tick)));
        }
        session.rules.queue_input(tank, action, source).map_err(|source| ReplayError::Rules { seq, source })?;
        Ok(())
    }

    /// Plays up to and including `tick`.
    fn run_to(&mut self, seq: u64, tick: u64) -> Result<(), ReplayError> {
        loop {
            let session = self.session.as_mut().expect("checked by the caller");
            let now = session.rules.ticks();
            // A join is followed by an event of the very next tick, so it belongs before the last tick to play.
            if now >= tick {
                if now == tick {
                    self.join_waiting()?;
                }
                return Ok(());
            }
            if tick - now > MAX_TICKS_AT_ONCE {
                let reason = format!("tick {tick} is {} ticks after the one before", tick - now);
                return Err(ReplayError::Invalid { seq, reason });
            }
            session.rules.tick();
            session.last_delta = Some(session.encoder.encode(&session.rules));
        }
    }

    fn join_waiting(&mut self) -> Result<(), ReplayError> {
        let session = self.session.as_mut().expect("checked by the caller");
        for (seq, joined) in self.joining.drain(..) {
            let kind = TankKind::from_label(&joined.label);
            let ours = session.rules.add_player(kind).map_err(|source| ReplayError::Rules { seq, source })?;
            if (ours.id.to_string(), ours.spawn_index) != (joined.player_id.clone(), joined.spawn_index) {
                return diverged(
                    seq,
                    session.rules.ticks(),
                    "player",
                    format!("{} on spawn {}", joined.player_id, joined.spawn_index),
                    format!("{} on spawn {}", ours.id, ours.spawn_index),
                );
            }
        }
        Ok(())
    }

    fn check_tick(&mut self, seq: u64, recorded: &Value) -> Result<(), ReplayError> {
        let Some(tick) = recorded.get("tick").and_then(Value::as_u64) else {
            return Err(ReplayError::Invalid { seq, reason: "`tick` is missing".to_owned() });
        };
        self.run_to(seq, tick.saturating_sub(1))?;
        self.run_to(seq, tick)?;
        let session = self.session.as_ref().expect("checked by the caller");
        let mut ours = serde_json::to_value(&session.last_delta).expect("a delta serialises");
        let same = if session.resumed {
            let mut recorded = recorded.clone();
            [&mut ours, &mut recorded].into_iter().for_each(without_labels);
            ours == recorded
        } else {
            ours == *recorded
        };
        if !same {
            return diverged(seq, tick, "delta", recorded, ours);
        }
        self.ticks_checked += 1;
        Ok(())
    }

    fn check_checkpoint(&mut self, seq: u64, recorded: &payload::Checkpoint) -> Result<(), ReplayError> {
        self.run_to(seq, recorded.tick.saturating_sub(1))?;
        self.run_to(seq, recorded.tick)?;
        let rules = &self.session.as_ref().expect("checked by the caller").rules;
        let tick = recorded.tick;
        if rules.ticks() != tick {
            return diverged(seq, tick, "checkpoint's tick", tick, rules.ticks());
        }
        if rules.state_hash_text() != recorded.state_hash {
            return diverged(seq, tick, "state hash", &recorded.state_hash, rules.state_hash_text());
        }
        if rules.rng_position() != recorded.rng_position {
            return diverged(seq, tick, "generator's position", recorded.rng_position, rules.rng_position());
        }
        self.checkpoints_checked += 1;
        Ok(())
    }

    fn check_end(&mut self, seq: u64, recorded: &payload::EpisodeEnded) -> Result<(), ReplayError> {
        self.run_to(seq, recorded.ticks.saturating_sub(1))?;
        self.run_to(seq, recorded.ticks)?;
        let rules = &self.session.as_ref().expect("checked by the caller").rules;
        if rules.ticks() != recorded.ticks {
            return diverged(seq, recorded.ticks, "last tick", recorded.ticks, rules.ticks());
        }
        let ours = rules.end().map_or("none", EndReason::as_str);
        if ours != recorded.reason {
            return diverged(seq, recorded.ticks, "end", &recorded.reason, ours);
        }
        Ok(())
    }
}

/// Ticks that one event may ask to be played: a record always names a tick every 30.
const MAX_TICKS_AT_ONCE: u64 = 100_000;

fn without_labels(delta: &mut Value) {
    for list in ["players", "bullets"] {
        if let Some(fields) = delta.get_mut(list).and_then(Value::as_object_mut) {
            fields.remove("labels");
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(event: &Event) -> Result<T, ReplayError> {
    event.payload_as().map_err(|source| ReplayError::Decode { seq: event.seq, source })
}

fn diverged<T>(
    seq: u64,
    tick: u64,
    what: &'static str,
    recorded: impl ToString,
    ours: impl ToString,
) -> Result<T, ReplayError> {
    let short = |text: String| if text.len() > 400 { text.chars().take(400).collect::<String>() + "…" } else { text };
    let (recorded, ours) = (short(recorded.to_string()), short(ours.to_string()));
    Err(ReplayError::Diverged { seq, tick, what, recorded, ours })
}

/// Plays a whole recorded game again. `events` are those of one game, in order of `seq`.
///
/// # Errors
/// The first divergence or unusable event; `NotOpened` when there is no opening at all.
pub fn replay<E: Borrow<Event>>(events: impl IntoIterator<Item = E>) -> Result<ReplayOutcome, ReplayError> {
    let mut replayer = Replayer::new();
    for event in events {
        replayer.accept(event.borrow())?;
    }
    replayer.outcome().ok_or(ReplayError::NotOpened { seq: 0, kind: "the end of the record".to_owned() })
}
