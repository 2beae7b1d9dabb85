//! Whole games without sockets: for the farm, which records them, and the judge, which wants the outcome.
//!
//! A game stops at every transition with AI tanks to decide for; the caller answers with one action index per
//! tank, alone ([`Headless::play`]) or for many games in one batch ([`Headless::advance`], then
//! [`Headless::submit`]). Between two decisions the queues are empty, so each tank repeats its last input.
//!
//! With the recorder `()` nothing is recorded and a tick allocates nothing; with `Vec<TankEvent>` or another
//! [`Recorder`] the events are those of a live session.

use flywheel_events::{ModelRef, kinds, tank as payload};
use serde::Serialize;

use crate::{
    Action, Audience, CHECKPOINT_INTERVAL, ClientView, Delta, DeltaEncoder, EndReason, InputSource, Map,
    OBSERVATION_LEN, ObservationStack, QUIET_TICKS, Role, Rules, RulesError, STATE_LEN, Script, ScriptedPlayer, TILE,
    TankConfig, TankId, TankKind, observe, table_hash,
};

/// Chooses actions for AI tanks.
pub trait Decide {
    /// Pushes one action index (0..=9) per observation; `observations` has shape `[n, 108]`.
    fn decide(&mut self, observations: &[f32], n: usize, actions: &mut Vec<u8>);

    /// The model behind the last decision, and its epsilon.
    fn decision(&self) -> Decision {
        Decision::default()
    }
}

/// Who decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    pub model: Option<ModelRef>,
    pub epsilon: f32,
}

/// A payload of the tank system, with what its envelope needs.
#[derive(Debug, Clone)]
pub struct TankEvent {
    pub body: TankEventBody,
    /// The model that made the decision; `None` where no model did.
    pub model: Option<ModelRef>,
}

/// The payloads that a game without sockets produces.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum TankEventBody {
    Opened(payload::SessionOpened),
    Joined(payload::PlayerJoined),
    Input(payload::Input),
    Tick(Delta),
    Transition(payload::Transition),
    Checkpoint(payload::Checkpoint),
    Ended(payload::EpisodeEnded),
    Closed(payload::SessionClosed),
}

impl TankEvent {
    pub fn kind(&self) -> &'static str {
        match &self.body {
            TankEventBody::Opened(_) => kinds::TANK_SESSION_OPENED,
            TankEventBody::Joined(_) => kinds::TANK_PLAYER_JOINED,
            TankEventBody::Input(_) => kinds::TANK_INPUT,
            TankEventBody::Tick(_) => kinds::TANK_TICK,
            TankEventBody::Transition(_) => kinds::TANK_TRANSITION,
            TankEventBody::Checkpoint(_) => kinds::TANK_CHECKPOINT,
            TankEventBody::Ended(_) => kinds::TANK_EPISODE_ENDED,
            TankEventBody::Closed(_) => kinds::TANK_SESSION_CLOSED,
        }
    }

    /// The envelope's actor.
    pub fn actor(&self) -> &str {
        match &self.body {
            TankEventBody::Joined(joined) => &joined.player_id,
            TankEventBody::Input(input) => &input.tank_id,
            TankEventBody::Transition(_) => "controller",
            _ => "server",
        }
    }
}

/// Takes the events of a game, in order.
pub trait Recorder {
    /// Whether events are wanted at all; without, none are made.
    const RECORDS: bool = true;

    fn record(&mut self, event: TankEvent);
}

/// Records nothing.
impl Recorder for () {
    const RECORDS: bool = false;

    fn record(&mut self, _event: TankEvent) {}
}

impl Recorder for Vec<TankEvent> {
    fn record(&mut self, event: TankEvent) {
        self.push(event);
    }
}

/// How a game ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GameResult {
    pub reason: EndReason,
    pub ticks: u64,
    /// For the AI side.
    pub outcome: i8,
}

/// Where a game stands after [`Headless::advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// So many AI tanks wait for an action.
    Decide(usize),
    Over(GameResult),
}

/// Settings of a headless game that do not affect play.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadlessOptions {
    /// Record repeats of the last input as events of their own; a replay does not need them.
    pub record_repeats: bool,
    /// The `source` of the opening event.
    pub source: String,
    pub tick_ms: u32,
}

impl Default for HeadlessOptions {
    fn default() -> Self {
        Self { record_repeats: false, source: "farm".to_owned(), tick_ms: 33 }
    }
}

/// One AI tank in its controller's eyes.
#[derive(Debug, Clone)]
struct Pilot {
    id: TankId,
    kind: TankKind,
    stack: ObservationStack,
    /// The observation and the action of its last decision.
    s: [f32; OBSERVATION_LEN],
    a: Option<u8>,
    alive: bool,
}

/// One game: the rules, a scripted player, and AI tanks waiting for decisions.
#[derive(Debug, Clone)]
pub struct Headless {
    rules: Rules,
    view: ClientView,
    script: ScriptedPlayer,
    player: TankId,
    opponent: Script,
    options: HeadlessOptions,
    pilots: Vec<Pilot>,
    observations: Vec<f32>,
    waiting: Vec<TankId>,
    decision: Decision,
    encoder: DeltaEncoder,
    spawn_index: u32,
    opened: bool,
    result: Option<GameResult>,
}

impl Headless {
    /// A game at tick 0. The script's randomness comes from the same seed.
    ///
    /// # Errors
    /// If a setting makes no sense or the map's player spawns are blocked.
    pub fn new(map: &Map, config: &TankConfig, seed: u64, opponent: Script) -> Result<Self, RulesError> {
        Self::with_options(map, config, seed, opponent, HeadlessOptions::default())
    }

    /// # Errors
    /// Like [`Headless::new`].
    pub fn with_options(
        map: &Map,
        config: &TankConfig,
        seed: u64,
        opponent: Script,
        options: HeadlessOptions,
    ) -> Result<Self, RulesError> {
        let mut rules = Rules::new(map, config, seed)?;
        let joined = rules.add_player(None)?;
        let mut view = ClientView::new(map);
        view.refresh(&rules);
        Ok(Self {
            script: ScriptedPlayer::new(opponent, seed ^ 0x9e37_79b9_7f4a_7c15),
            player: joined.id,
            spawn_index: joined.spawn_index,
            rules,
            view,
            opponent,
            options,
            pilots: Vec::new(),
            observations: Vec::new(),
            waiting: Vec::new(),
            decision: Decision::default(),
            encoder: DeltaEncoder::new(Audience::Player),
            opened: false,
            result: None,
        })
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn opponent(&self) -> Script {
        self.opponent
    }

    /// `None` while the game goes on.
    pub fn result(&self) -> Option<GameResult> {
        self.result
    }

    /// Observations that wait for actions, shape `[n, 108]`.
    pub fn observations(&self) -> &[f32] {
        &self.observations
    }

    /// The tanks that wait, in the order of [`Headless::observations`].
    pub fn waiting(&self) -> &[TankId] {
        &self.waiting
    }

    /// Ticks until a decision is due or the game is over. With decisions waiting, those tanks go on as before.
    pub fn advance<R: Recorder>(&mut self, recorder: &mut R) -> Status {
        if R::RECORDS && !self.opened {
            self.opened = true;
            self.record_opening(recorder);
        }
        loop {
            if let Some(result) = self.result {
                return Status::Over(result);
            }
            let action = self.script.act(&self.view, self.player);
            // An idle player sends nothing.
            if action != Action::NOTHING {
                // The player can be gone only once the game is over.
                let _ = self.rules.queue_input(self.player, action, InputSource::Farm);
            }
            let report = self.rules.tick();
            self.view.refresh(&self.rules);
            if R::RECORDS {
                self.record_tick(recorder);
            }
            if report.transition_due {
                self.transition(report.ended.is_some(), recorder);
            }
            if let Some(reason) = report.ended {
                let outcome = self.rules.outcome().unwrap_or_else(|| reason.outcome());
                let result = GameResult { reason, ticks: report.tick, outcome };
                self.result = Some(result);
                self.waiting.clear();
                self.observations.clear();
                if R::RECORDS {
                    self.record_end(result, recorder);
                }
                return Status::Over(result);
            }
            if report.transition_due && !self.waiting.is_empty() {
                return Status::Decide(self.waiting.len());
            }
        }
    }

    /// Gives the waiting tanks their actions, in order, and says who decided.
    ///
    /// # Panics
    /// If there is not one action below 10 for each waiting tank.
    pub fn submit(&mut self, actions: &[u8], decision: Decision) {
        assert_eq!(actions.len(), self.waiting.len(), "one action for each waiting tank");
        self.decision = decision;
        for ((&id, &a), observation) in
            self.waiting.iter().zip(actions).zip(self.observations.chunks_exact(OBSERVATION_LEN))
        {
            let action = Action::from_index(a.into()).expect("action indices are below 10");
            // A waiting tank lives, and its queue is emptied every tick.
            let _ = self.rules.queue_input(id, action, InputSource::Farm);
            if let Some(pilot) = self.pilots.iter_mut().find(|p| p.id == id) {
                pilot.s.copy_from_slice(observation);
                pilot.a = Some(a);
            }
        }
        self.waiting.clear();
    }

    /// One decision period: on to the next decision, which `decide` makes.
    pub fn run_period<D: Decide, R: Recorder>(&mut self, decide: &mut D, recorder: &mut R) -> Option<GameResult> {
        match self.advance(recorder) {
            Status::Over(result) => Some(result),
            Status::Decide(n) => {
                let mut actions = Vec::with_capacity(n);
                decide.decide(&self.observations, n, &mut actions);
                self.submit(&actions, decide.decision());
                None
            }
        }
    }

    /// The whole game, nothing recorded.
    pub fn play<D: Decide>(&mut self, decide: &mut D) -> GameResult {
        let mut actions = Vec::new();
        loop {
            match self.advance(&mut ()) {
                Status::Over(result) => return result,
                Status::Decide(n) => {
                    actions.clear();
                    decide.decide(&self.observations, n, &mut actions);
                    self.submit(&actions, Decision::default());
                }
            }
        }
    }

    /// Builds one vector per living AI tank, completes the transitions, and says who waits.
    fn transition<R: Recorder>(&mut self, over: bool, recorder: &mut R) {
        let mut rows = Vec::new();
        for pilot in &mut self.pilots {
            pilot.alive = false;
        }
        self.waiting.clear();
        self.observations.clear();
        for entry in self.rules.rewards() {
            let at = self.pilots.iter().position(|p| p.id == entry.tank);
            let pilot = match at {
                Some(at) => &mut self.pilots[at],
                None if entry.gone => continue,
                None => {
                    self.pilots.push(Pilot {
                        id: entry.tank,
                        kind: entry.kind,
                        stack: ObservationStack::new(),
                        s: [0.0; OBSERVATION_LEN],
                        a: None,
                        alive: true,
                    });
                    self.pilots.last_mut().expect("one was just pushed")
                }
            };
            // A tank that is gone has no new vector: its last state stands for the next.
            if !entry.gone {
                pilot.alive = true;
                if let Some(tank) = self.view.tank(entry.tank) {
                    let mut vector = [0.0; STATE_LEN];
                    observe::state_vector(&self.view, tank, &mut vector);
                    pilot.stack.push(&vector);
                }
                self.waiting.push(entry.tank);
                self.observations.extend_from_slice(pilot.stack.values());
            }
            if let (true, Some(a)) = (R::RECORDS, pilot.a) {
                rows.push(payload::TankTransition {
                    tank_id: pilot.id.to_string(),
                    label: pilot.kind.label().to_owned(),
                    s: pilot.s.to_vec(),
                    a: a as i8,
                    r: entry.reward,
                    s2: pilot.stack.values().to_vec(),
                    done: over || entry.gone,
                    epsilon: self.decision.epsilon,
                    reasons: entry.reasons.to_strings(),
                });
            }
        }
        self.pilots.retain(|pilot| pilot.alive);
        if !rows.is_empty() {
            let body = TankEventBody::Transition(payload::Transition {
                tick: self.rules.ticks(),
                map_key: self.rules.map().key().to_owned(),
                tanks: rows,
            });
            recorder.record(TankEvent { body, model: self.decision.model.clone() });
        }
    }

    fn record_opening<R: Recorder>(&self, recorder: &mut R) {
        let opened = opening(&self.rules, &self.options.source, Some(self.opponent.as_str()), self.options.tick_ms);
        recorder.record(TankEvent { body: TankEventBody::Opened(opened), model: None });
        let joined = payload::PlayerJoined {
            player_id: self.player.to_string(),
            label: self.rules.config().player_label.label().to_owned(),
            spawn_index: self.spawn_index,
            opponent: Some(self.opponent.as_str().to_owned()),
        };
        recorder.record(TankEvent { body: TankEventBody::Joined(joined), model: None });
    }

    fn record_tick<R: Recorder>(&mut self, recorder: &mut R) {
        for applied in self.rules.applied() {
            if applied.source == InputSource::Repeat && !self.options.record_repeats {
                continue;
            }
            let model = if applied.role == Role::Ai { self.decision.model.clone() } else { None };
            let body = TankEventBody::Input(input_event(self.rules.ticks(), applied));
            recorder.record(TankEvent { body, model });
        }
        let delta = self.encoder.encode(&self.rules);
        if tick_is_due(&delta) {
            recorder.record(TankEvent { body: TankEventBody::Tick(delta), model: None });
        }
        if self.rules.ticks().is_multiple_of(CHECKPOINT_INTERVAL) {
            let body = TankEventBody::Checkpoint(checkpoint(&self.rules));
            recorder.record(TankEvent { body, model: None });
        }
    }

    fn record_end<R: Recorder>(&self, result: GameResult, recorder: &mut R) {
        let ended = episode_ended(&self.rules, result.reason);
        recorder.record(TankEvent { body: TankEventBody::Ended(ended), model: None });
        let closed = payload::SessionClosed { cause: "finished".to_owned() };
        recorder.record(TankEvent { body: TankEventBody::Closed(closed), model: None });
    }
}

/// The payload of `tank.session.opened` for a session at tick 0.
pub fn opening(rules: &Rules, source: &str, opponent: Option<&str>, tick_ms: u32) -> payload::SessionOpened {
    payload::SessionOpened {
        map_name: rules.map().name().to_owned(),
        map_key: rules.map().key().to_owned(),
        map_size: rules.map().size() as u32,
        tile_size: TILE as u32,
        tiles: rules.map().rows(),
        tank_table_hash: table_hash().to_owned(),
        seed: rules.seed(),
        settings: serde_json::to_value(rules.config()).expect("settings serialise"),
        tick_ms,
        source: source.to_owned(),
        opponent: opponent.map(str::to_owned),
    }
}

/// The payload of `tank.input` for an input applied at `tick`.
pub fn input_event(tick: u64, applied: &crate::Applied) -> payload::Input {
    payload::Input {
        tick,
        tank_id: applied.tank.to_string(),
        role: applied.role.as_str().to_owned(),
        movement: applied.action.movement.map(|m| m.as_str().to_owned()),
        fire: applied.action.fire,
        source: applied.source.as_str().to_owned(),
    }
}

/// Whether a delta is worth a `tank.tick`: with a change, or every [`QUIET_TICKS`]th tick.
pub fn tick_is_due(delta: &Delta) -> bool {
    !delta.is_empty() || delta.tick.is_multiple_of(QUIET_TICKS)
}

/// The payload of `tank.checkpoint` after the last tick. Its state carries the whole tile grid, and `resume` what a
/// replay needs beside it to go on from here.
pub fn checkpoint(rules: &Rules) -> payload::Checkpoint {
    let mut state = rules.full_state(Audience::Ai);
    state.map_tiles = Some(rules.tile_rows());
    payload::Checkpoint {
        tick: rules.ticks(),
        state: serde_json::to_value(state).expect("a state serialises"),
        state_hash: rules.state_hash_text(),
        rng_position: rules.rng_position(),
        resume: Some(rules.resume_point()),
    }
}

/// The payload of `tank.episode.ended`.
pub fn episode_ended(rules: &Rules, reason: EndReason) -> payload::EpisodeEnded {
    let tanks = rules
        .records()
        .into_iter()
        .map(|r| payload::TankSummary {
            tank_id: r.tank.to_string(),
            label: r.kind.label().to_owned(),
            episode_return: r.episode_return,
            shots: r.shots,
            predicted_hits: r.predicted_hits,
            damage_dealt: r.damage_dealt,
            damage_taken: r.damage_taken,
        })
        .collect();
    let outcome = rules.outcome().unwrap_or_else(|| reason.outcome());
    payload::EpisodeEnded { reason: reason.as_str().to_owned(), ticks: rules.ticks(), outcome, tanks }
}
