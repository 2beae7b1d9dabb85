//! One session: the rules, its sockets, and what each tick sends and records.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::extract::ws::Utf8Bytes;
use flywheel_events::{GameId, kinds, tank as payload};
use flywheel_kit::GameEvents;
use flywheel_tank::{
    Action, Audience, DeltaEncoder, EndReason, InputSource, Joined, Map, Role, Rules, RulesError, TankId, headless,
    rules::QUEUE_WARN,
};
use parking_lot::Mutex;
use serde_json::{json, value::RawValue};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    GameBackendConfig,
    beat::Beat,
    debug::DebugNotes,
    frames::{FrameMaker, GameFrame},
    messages::{self, Tiles},
    metrics::{GAMES_ENDED, INPUT_OVERFLOWS, SOCKETS_SLOW, TICKS, TICKS_SKIPPED},
    protocol::{CLOSE_NORMAL, CLOSE_REPLACED, CLOSE_TRY_AGAIN, Dropped},
};

/// What goes out on one socket, in order.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Text(Utf8Bytes),
    /// Everything queued before is sent first.
    Close(u16, &'static str),
}

/// The session's side of a joined socket.
#[derive(Debug)]
pub(crate) struct SocketSeat {
    pub id: u64,
    pub role: Role,
    pub player: Option<TankId>,
    pub queue: mpsc::Sender<Outgoing>,
    /// Closes at once, whatever is queued.
    pub close: Option<oneshot::Sender<(u16, &'static str)>>,
    pub debug_ai: bool,
    pub debug_gbe: bool,
}

impl SocketSeat {
    /// Queues a message; false if the socket is gone or has fallen too far behind, and has been told to close.
    fn send(&mut self, message: Outgoing) -> bool {
        match self.queue.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                metrics::counter!(SOCKETS_SLOW).increment(1);
                self.close_now(CLOSE_TRY_AGAIN, "too slow");
                false
            }
        }
    }

    fn close_now(&mut self, code: u16, reason: &'static str) {
        if let Some(close) = self.close.take() {
            let _ = close.send((code, reason));
        }
    }
}

/// What is known about a session from outside.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    pub id: GameId,
    pub tick: u64,
    pub game_over: bool,
    /// Tanks alive, AI included.
    pub players: usize,
    pub map_name: String,
    pub map_key: String,
    /// The base key of the session's models.
    pub model_key: String,
    /// `human`, or what the player said of itself.
    pub opponent: String,
    pub ended: Option<EndReason>,
    pub started_at_ms: i64,
}

/// What the tick loop learns from one visit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// Come again at this time; so many ticks were run, so many given up.
    Next { at: Instant, ran: u64, skipped: u64 },
    /// Remove the session, for this cause.
    Remove(&'static str),
}

#[derive(Debug)]
pub(crate) struct Session {
    pub id: GameId,
    pub map: Map,
    pub model_key: String,
    pub started_at_ms: i64,
    pub frames: watch::Sender<Arc<GameFrame>>,
    /// Cancelled once the AI backend has accounted for the last tick, or cannot any more.
    pub last_words: CancellationToken,
    /// Cancelled when the session is out of the list: sockets that never joined go too.
    pub gone: CancellationToken,
    events: GameEvents,
    settings: Settings,
    beat: Beat,
    core: Mutex<Core>,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    tick: Duration,
    max_tick_catch_up: u32,
    checkpoint_ticks: u64,
    finished_linger: Duration,
    abandoned_after: Duration,
    max_sockets: usize,
}

#[derive(Debug)]
struct Core {
    rules: Rules,
    /// Deltas of the events and of player sockets.
    public: DeltaEncoder,
    /// Deltas of the AI socket; begun anew when one joins.
    private: DeltaEncoder,
    sockets: Vec<SocketSeat>,
    connected: usize,
    next_tick: Instant,
    /// Since when no socket is joined.
    lonely_since: Option<Instant>,
    ended: Option<(EndReason, payload::EpisodeEnded)>,
    previous_state: Box<RawValue>,
    tiles_since_transition: Vec<flywheel_tank::TileChange>,
    /// The AI socket came after tiles had changed; its first transition brings the whole grid, for a reader of
    /// transitions alone.
    ai_needs_tiles: bool,
    debug: DebugNotes,
    frame_maker: FrameMaker,
    opponent: Option<String>,
}

/// Why a socket or a request got nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("session full: {0}")]
    Full(RulesError),
    #[error("session full: it has {0} sockets already")]
    TooManySockets(usize),
}

impl Session {
    pub fn open(
        id: GameId,
        rules: Rules,
        config: &GameBackendConfig,
        opponent: Option<String>,
        events: GameEvents,
        (started_at_ms, beat): (i64, Beat),
    ) -> Self {
        let mut frame_maker = FrameMaker::default();
        let first = Arc::new(frame_maker.frame(&rules, None));
        let opened = headless::opening(&rules, "live", opponent.as_deref().or(Some("human")), config.tick_ms);
        events.emit(kinds::TANK_SESSION_OPENED, Some("server"), None, &opened);
        let map = rules.map().clone();
        Self {
            id,
            model_key: format!("{}-{}", config.model_base_key, map.key()),
            map,
            started_at_ms,
            frames: watch::Sender::new(first),
            last_words: CancellationToken::new(),
            gone: CancellationToken::new(),
            events,
            settings: Settings {
                tick: Duration::from_millis(config.tick_ms.into()),
                max_tick_catch_up: config.max_tick_catch_up,
                checkpoint_ticks: config.checkpoint_ticks,
                finished_linger: config.finished_linger,
                abandoned_after: config.abandoned_after,
                max_sockets: config.max_sockets_per_session,
            },
            beat,
            core: Mutex::new(Core {
                previous_state: messages::full_state(&rules, Audience::Ai, Tiles::Changed(&[])),
                rules,
                public: DeltaEncoder::new(Audience::Player),
                private: DeltaEncoder::new(Audience::Ai),
                sockets: Vec::new(),
                connected: 0,
                next_tick: Instant::now(),
                lonely_since: Some(Instant::now()),
                ended: None,
                tiles_since_transition: Vec::new(),
                ai_needs_tiles: false,
                debug: DebugNotes::default(),
                frame_maker,
                opponent,
            }),
        }
    }

    /// Puts a player into the game; the answer's `playerId` and `state`.
    ///
    /// # Errors
    /// If every player spawn is taken or blocked, or the game is over.
    pub fn add_player(&self, opponent: Option<&str>) -> Result<(Joined, Box<RawValue>), SessionError> {
        let mut core = self.core.lock();
        let joined = core.rules.add_player(None).map_err(SessionError::Full)?;
        if core.opponent.is_none() {
            core.opponent = opponent.map(str::to_owned);
        }
        let event = payload::PlayerJoined {
            player_id: joined.id.to_string(),
            label: joined.kind.label().to_owned(),
            spawn_index: joined.spawn_index,
            opponent: opponent.map(str::to_owned),
        };
        self.events.emit(kinds::TANK_PLAYER_JOINED, Some(&event.player_id), None, &event);
        // The answer's map is that of the start; whoever joins later needs the ground as it is.
        let tiles = if core.rules.tiles_revision() > 0 { Tiles::All } else { Tiles::Changed(&[]) };
        let state = messages::full_state(&core.rules, Audience::Player, tiles);
        Ok((joined, state))
    }

    pub fn info(&self) -> SessionInfo {
        let core = self.core.lock();
        SessionInfo {
            id: self.id.clone(),
            tick: core.rules.ticks(),
            game_over: core.rules.end().is_some(),
            players: core.rules.tanks().len(),
            map_name: self.map.name().to_owned(),
            map_key: self.map.key().to_owned(),
            model_key: self.model_key.clone(),
            opponent: core.opponent.clone().unwrap_or_else(|| "human".to_owned()),
            ended: core.rules.end(),
            started_at_ms: self.started_at_ms,
        }
    }

    /// The full state as JSON, for a look from outside.
    pub fn snapshot(&self) -> Box<RawValue> {
        let core = self.core.lock();
        messages::full_state(&core.rules, Audience::Player, Tiles::Changed(core.rules.tiles_changed()))
    }

    pub fn n_sockets(&self) -> usize {
        self.core.lock().sockets.len()
    }

    /// Keeps a place for a socket that is about to be upgraded.
    ///
    /// # Errors
    /// If the session has as many as it may.
    pub fn connect(&self) -> Result<(), SessionError> {
        let mut core = self.core.lock();
        if core.connected >= self.settings.max_sockets {
            return Err(SessionError::TooManySockets(core.connected));
        }
        core.connected += 1;
        Ok(())
    }

    /// Binds a socket and sends it the state so far. Joining again changes its role.
    pub fn join(&self, mut seat: SocketSeat, player: Option<&str>, opponent: Option<&str>) {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        if let Some(at) = core.sockets.iter().position(|other| other.id == seat.id) {
            seat.close = seat.close.or(core.sockets.swap_remove(at).close);
        }
        if let (Role::Player, Some(name)) = (seat.role, player) {
            seat.player = core.rules.tank_named(name).filter(|tank| !tank.is_ai()).map(|tank| tank.id);
        }
        if core.opponent.is_none() {
            core.opponent = opponent.map(str::to_owned);
        }
        let mut first = match seat.role {
            Role::Player => DeltaEncoder::new(Audience::Player),
            Role::Ai => {
                for other in core.sockets.iter_mut().filter(|s| s.role == Role::Ai) {
                    other.close_now(CLOSE_REPLACED, "replaced");
                }
                core.sockets.retain(|s| s.role != Role::Ai);
                core.previous_state = messages::full_state(&core.rules, Audience::Ai, Tiles::All);
                core.tiles_since_transition.clear();
                core.ai_needs_tiles = core.rules.tiles_revision() > 0;
                DeltaEncoder::new(Audience::Ai)
            }
        };
        let message = messages::first_state(&core.rules, &mut first);
        if seat.role == Role::Ai {
            core.private = first;
        }
        if seat.send(Outgoing::Text(message)) {
            core.sockets.push(seat);
        }
        if core.lonely_since.take().is_some() {
            // The first tick comes with the first socket, at the latest a decision period after it.
            let interval = u64::from(core.rules.config().transition_interval.max(1));
            let ahead = interval - core.rules.ticks() % interval - 1;
            let ahead = self.settings.tick.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX));
            core.next_tick = self.beat.align(Instant::now() + self.settings.tick, ahead);
        }
    }

    /// A socket has gone, joined or not.
    pub fn leave(&self, socket: u64) {
        let mut core = self.core.lock();
        core.connected = core.connected.saturating_sub(1);
        core.forget(socket);
        if core.ended.is_some() && !core.has_ai() {
            self.last_words.cancel();
        }
    }

    /// Queues an action of a joined socket.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn input(
        &self,
        socket: u64,
        role: Role,
        tank: Option<&str>,
        action: Action,
        debug: Option<&RawValue>,
    ) -> Result<(), Dropped> {
        let mut core = self.core.lock();
        let own = core.sockets.iter().find(|s| s.id == socket && s.role == role).map(|s| s.player);
        let Some(mut own) = own else { return Err(Dropped::WrongRole) };
        if let (Role::Player, None, Some(name)) = (role, own, tank) {
            own = core.take_seat(socket, name);
        }
        let id = match (tank, own) {
            (Some(name), _) => core.rules.tank_named(name).map(|tank| tank.id).ok_or(Dropped::NotYourTank)?,
            (None, Some(own)) => own,
            (None, None) => return Err(Dropped::NotYourTank),
        };
        let is_ai = core.rules.tank(id).is_some_and(|tank| tank.is_ai());
        match role {
            Role::Ai if !is_ai => return Err(Dropped::NotYourTank),
            Role::Player if own != Some(id) => return Err(Dropped::NotYourTank),
            _ => {}
        }
        if let Some(debug) = debug {
            core.debug.of_tank(id, debug);
        }
        self.queue(&mut core, id, action, InputSource::Ws)
    }

    /// Queues an action for an AI tank that came by HTTP.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn ai_input(&self, tank: &str, action: Action, debug: Option<&RawValue>) -> Result<(), Dropped> {
        let mut core = self.core.lock();
        let tank = core.rules.tank_named(tank).filter(|tank| tank.is_ai()).map(|tank| tank.id);
        let id = tank.ok_or(Dropped::NotYourTank)?;
        if let Some(debug) = debug {
            core.debug.of_tank(id, debug);
        }
        self.queue(&mut core, id, action, InputSource::Http)
    }

    fn queue(&self, core: &mut Core, id: TankId, action: Action, source: InputSource) -> Result<(), Dropped> {
        let is_ai = core.rules.tank(id).is_some_and(|tank| tank.is_ai());
        let waiting = core.rules.queue_input(id, action, source).map_err(|error| match error {
            RulesError::UnknownTank(_) => Dropped::NotYourTank,
            _ => Dropped::QueueFull,
        })?;
        if is_ai && waiting == QUEUE_WARN + 1 {
            metrics::counter!(INPUT_OVERFLOWS).increment(1);
            core.debug.input_overflows += 1;
            warn!(game_id = %self.id, tank = %id, waiting, "more inputs wait than the tank can use");
        }
        Ok(())
    }

    /// The AI backend's line about a finished episode.
    pub fn episode_log(&self, socket: u64, text: &str, tick: i64) {
        let mut core = self.core.lock();
        if !core.sockets.iter().any(|s| s.id == socket && s.role == Role::Ai) && core.ended.is_none() {
            return;
        }
        core.debug.episode_log(text, tick);
        if core.ended.is_some() {
            self.last_words.cancel();
        }
    }

    pub fn toggle_debug(&self, socket: u64, ai: Option<bool>, gbe: Option<bool>) {
        let mut core = self.core.lock();
        if let Some(seat) = core.sockets.iter_mut().find(|s| s.id == socket) {
            seat.debug_ai = ai.unwrap_or(seat.debug_ai);
            seat.debug_gbe = gbe.unwrap_or(seat.debug_gbe);
        }
    }

    pub fn count_dropped(&self, why: Dropped) {
        self.core.lock().debug.dropped(why);
    }

    /// Runs the ticks that are due and says when to come again.
    pub fn visit(&self, now: Instant) -> Visit {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        if core.sockets.is_empty() {
            let since = *core.lonely_since.get_or_insert(now);
            let (patience, cause) = match core.ended {
                Some(_) => (self.settings.finished_linger, "finished"),
                None => (self.settings.abandoned_after, "abandoned"),
            };
            if now.duration_since(since) >= patience {
                return Visit::Remove(cause);
            }
            return Visit::Next { at: since + patience, ran: 0, skipped: 0 };
        }
        let (mut ran, mut given_up) = (0, 0);
        while core.next_tick <= now {
            if core.ended.is_some() {
                return Visit::Remove("finished");
            }
            if ran == u64::from(self.settings.max_tick_catch_up) {
                let behind = now.duration_since(core.next_tick);
                given_up = (behind.as_nanos() / self.settings.tick.as_nanos() + 1) as u64;
                metrics::counter!(TICKS_SKIPPED).increment(given_up);
                core.debug.ticks_skipped += given_up;
                core.next_tick = now + self.settings.tick;
                break;
            }
            self.tick(core);
            core.next_tick += self.settings.tick;
            ran += 1;
        }
        Visit::Next { at: core.next_tick, ran, skipped: given_up }
    }

    fn tick(&self, core: &mut Core) {
        let began = Instant::now();
        let report = core.rules.tick();
        metrics::counter!(TICKS).increment(1);
        for applied in core.rules.applied() {
            let input = headless::input_event(report.tick, applied);
            self.events.emit(kinds::TANK_INPUT, Some(&input.tank_id), None, &input);
        }
        let delta = core.public.encode(&core.rules);
        let record = headless::tick_is_due(&delta);
        let public = messages::raw(&delta);
        if record {
            self.events.emit(kinds::TANK_TICK, Some("server"), None, &public);
        }
        if report.tick.is_multiple_of(self.settings.checkpoint_ticks) {
            let checkpoint = headless::checkpoint(&core.rules);
            self.events.emit(kinds::TANK_CHECKPOINT, Some("server"), None, &checkpoint);
        }
        let private = core.has_ai().then(|| messages::raw(&core.private.encode(&core.rules)));
        core.broadcast(&public, private.as_deref());
        core.tiles_since_transition.extend_from_slice(core.rules.tiles_changed());
        if report.transition_due {
            core.send_transition();
        }
        if let Some(reason) = report.ended {
            self.end(core, reason);
        }
        if self.frames.receiver_count() > 0 || core.ended.is_some() {
            let ended = core.ended.as_ref().map(|(reason, _)| *reason);
            self.frames.send_replace(Arc::new(core.frame_maker.frame(&core.rules, ended)));
        }
        let took = began.elapsed();
        core.debug.tick_micros = took.as_micros() as u64;
        metrics::histogram!(crate::metrics::TICK_SECONDS).record(took.as_secs_f64());
    }

    fn end(&self, core: &mut Core, reason: EndReason) {
        core.ended = Some((reason, headless::episode_ended(&core.rules, reason)));
        metrics::counter!(GAMES_ENDED, "reason" => reason.as_str()).increment(1);
        info!(game_id = %self.id, reason = reason.as_str(), tick = core.rules.ticks(), "game over");
        if !core.has_ai() {
            self.last_words.cancel();
        }
    }

    /// Closes all sockets after what is queued for them.
    pub fn close_sockets(&self, code: u16, reason: &'static str) {
        let mut core = self.core.lock();
        for mut socket in core.sockets.drain(..) {
            let _ = socket.send(Outgoing::Close(code, reason));
            // Dropping the seat must not look like an order to close at once.
            if let Some(close) = socket.close.take() {
                drop(close);
            }
        }
    }

    /// The session's end, once it is out of the list: closes sockets, and records the end of the game after the
    /// AI backend's account of the last tick, or after `last_words` at most. Returns the sequence, for latecomers.
    pub async fn farewell(self: Arc<Self>, cause: &'static str, last_words: Duration) -> GameEvents {
        self.close_sockets(CLOSE_NORMAL, if cause == "finished" { "game over" } else { cause });
        self.gone.cancel();
        let ended = self.core.lock().ended.take();
        if let Some((_, ended)) = ended {
            let _ = tokio::time::timeout(last_words, self.last_words.cancelled()).await;
            self.events.emit(kinds::TANK_EPISODE_ENDED, Some("server"), None, &ended);
        }
        let closed = payload::SessionClosed { cause: cause.to_owned() };
        self.events.emit(kinds::TANK_SESSION_CLOSED, Some("server"), None, &closed);
        self.events.clone()
    }
}

impl Core {
    fn has_ai(&self) -> bool {
        self.sockets.iter().any(|s| s.role == Role::Ai)
    }

    /// `playerId` of a join is optional: a player's socket that came without takes the first player's tank that it
    /// names, unless another socket has it.
    fn take_seat(&mut self, socket: u64, name: &str) -> Option<TankId> {
        let id = self.rules.tank_named(name).filter(|tank| !tank.is_ai())?.id;
        if self.sockets.iter().any(|s| s.player == Some(id)) {
            return None;
        }
        self.sockets.iter_mut().find(|s| s.id == socket)?.player = Some(id);
        Some(id)
    }

    fn forget(&mut self, socket: u64) {
        self.sockets.retain(|s| s.id != socket);
        self.mark_lonely();
    }

    fn mark_lonely(&mut self) {
        if self.sockets.is_empty() && self.lonely_since.is_none() {
            self.lonely_since = Some(Instant::now());
        }
    }

    /// Hands the tick's delta to every socket; each form is written once and shared.
    fn broadcast(&mut self, public: &RawValue, private: Option<&RawValue>) {
        let mut made: [Option<Utf8Bytes>; 8] = Default::default();
        let notes = &self.debug;
        let rules = &self.rules;
        let n_sockets = self.sockets.len();
        self.sockets.retain_mut(|socket| {
            let ai = socket.role == Role::Ai;
            let slot = usize::from(ai) | usize::from(socket.debug_ai) << 1 | usize::from(socket.debug_gbe) << 2;
            let message = made[slot].get_or_insert_with(|| {
                let delta = if ai { private.unwrap_or(public) } else { public };
                let ai_debug = socket.debug_ai.then(|| notes.ai_debug());
                let gbe_debug = socket.debug_gbe.then(|| notes.gbe_debug(rules, n_sockets));
                messages::state(delta, rules, ai_debug.as_ref(), gbe_debug.as_ref())
            });
            socket.send(Outgoing::Text(message.clone()))
        });
        self.mark_lonely();
    }

    fn send_transition(&mut self) {
        if !self.has_ai() {
            self.tiles_since_transition.clear();
            return;
        }
        let all = std::mem::take(&mut self.ai_needs_tiles);
        let tiles = if all { Tiles::All } else { Tiles::Changed(&self.tiles_since_transition) };
        let next = messages::full_state(&self.rules, Audience::Ai, tiles);
        self.tiles_since_transition.clear();
        let message = messages::transition(&self.rules, &self.previous_state, &next);
        self.previous_state = next;
        self.sockets.retain_mut(|socket| socket.role != Role::Ai || socket.send(Outgoing::Text(message.clone())));
        self.mark_lonely();
    }
}

/// The answer of create and join, without the session's own fields.
pub(crate) fn admission(
    session: &Session,
    joined: Joined,
    state: &RawValue,
    with_model: bool,
) -> serde_json::Map<String, serde_json::Value> {
    let mut answer = serde_json::Map::new();
    answer.insert("sessionId".to_owned(), session.id.as_str().into());
    answer.insert("playerId".to_owned(), joined.id.to_string().into());
    answer.insert("map".to_owned(), json!(session.map.view()));
    answer.insert("state".to_owned(), json!(state));
    if with_model {
        answer.insert("modelKey".to_owned(), session.model_key.clone().into());
        answer.insert("mapKey".to_owned(), session.map.key().into());
    }
    answer
}
