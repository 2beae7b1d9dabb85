//! One session's mind: from a message to actions, training and events. No sockets here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use flywheel_events::{ModelRef, kinds, tank as payload};
use flywheel_kit::GameEvents;
use flywheel_policy::{OnlineTransition, VersionedNetwork};
use flywheel_tank::{ACTIONS, Action, OBSERVATION_LEN, TankId};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AgentConfig, Swap,
    champions::{Champions, Refusal},
    eyes::{Chosen, Eyes, Seen},
    metrics as names,
    model::{Buffers, LearningRule, Model},
    stats::Counters,
};

/// Most AI tanks of one session; more are left alone.
const MAX_TANKS: usize = 64;
/// Models named in debug objects.
const MAX_BRIEF: usize = 8;

/// What the session task sends after a message.
#[derive(Debug, Default, PartialEq)]
pub struct Reply {
    /// `input` frames, one per AI tank.
    pub inputs: Vec<String>,
    /// The `episode_log` frame.
    pub episode_log: Option<String>,
    /// It is time to save the model.
    pub save: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(default)]
    state: Option<Value>,
    #[serde(default)]
    next_state: Option<Value>,
    #[serde(default)]
    ai_rewards: Option<Value>,
}

/// A reward entry that can be used.
#[derive(Debug, Clone, PartialEq)]
struct Reward {
    tank: TankId,
    reward: f32,
    reasons: Vec<String>,
}

/// What a transition was about, for the debug objects.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    rewards: usize,
    reward_sum: f32,
    steps: u64,
    td_loss: f32,
    q_mean: f32,
    train: Duration,
}

/// Pool sizes and the like, which only the session task knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings {
    pub available: usize,
    pub in_use: usize,
    pub async_save_ms: u64,
}

#[derive(Debug)]
pub struct Pilot {
    session_id: String,
    map_key: String,
    config: Arc<AgentConfig>,
    rule: LearningRule,
    champions: Arc<Champions>,
    events: Option<GameEvents>,
    stats: Arc<Counters>,
    eyes: Eyes,
    pub model: Model,
    rng: ChaCha8Rng,
    buffers: Buffers,
    observations: Vec<f32>,
    actions: Vec<u8>,
    last_round: Option<u64>,
    /// The last tick seen before the socket was lost, until the next state comes.
    away_since: Option<u64>,
    ended: bool,
    /// The version that this episode is played with.
    episode_model: Option<Option<ModelRef>>,
    refusals_told: u64,
    transitions: u64,
    generated: u64,
    infer: Duration,
    account: Account,
}

impl Pilot {
    #[allow(clippy::too_many_arguments, reason = "one call, from the session's task")]
    pub fn new(
        session_id: &str,
        map_name: &str,
        map_key: &str,
        model: Model,
        config: Arc<AgentConfig>,
        champions: Arc<Champions>,
        events: Option<GameEvents>,
        stats: Arc<Counters>,
        seed: u64,
    ) -> Self {
        Self {
            session_id: session_id.to_owned(),
            map_key: map_key.to_owned(),
            rule: LearningRule::from(&*config),
            eyes: Eyes::new(map_name),
            refusals_told: champions.refusals(),
            config,
            champions,
            events,
            stats,
            model,
            rng: ChaCha8Rng::seed_from_u64(seed),
            buffers: Buffers::default(),
            observations: Vec::new(),
            actions: Vec::new(),
            last_round: None,
            away_since: None,
            ended: false,
            episode_model: None,
            transitions: 0,
            generated: 0,
            infer: Duration::ZERO,
            account: Account::default(),
        }
    }

    /// Takes the champion of the moment if there is one; called when the key is allocated.
    pub fn begin(&mut self) {
        if let Some(reason) = self.model.stands_in.take() {
            self.tell_refused(&self.model.key.clone(), &reason);
        }
        self.take_champion();
        self.emit_change(kinds::TANK_MODEL_ALLOCATED, None);
    }

    /// The last word about the model; called once, when the key is released.
    pub fn finish(&self) {
        self.emit_change(kinds::TANK_MODEL_RELEASED, None);
    }

    pub fn events(&self) -> Option<&GameEvents> {
        self.events.as_ref()
    }

    /// A socket has opened: the next state shows how many ticks were missed since the last one.
    pub fn connected(&mut self) {
        self.away_since = self.eyes.has_seen().then(|| self.eyes.tick());
    }

    /// Takes one text frame.
    pub fn take(&mut self, text: &str, around: Surroundings) -> Reply {
        let Ok(message) = serde_json::from_str::<Incoming>(text) else {
            self.stats.add(&self.stats.bad_frames, 1);
            return Reply::default();
        };
        match &*message.kind {
            "state" => {
                if let Some(state) = &message.state {
                    self.merge(state);
                }
                Reply::default()
            }
            "transition" => self.transition(message, around),
            // Errors and what newer game backends may say.
            _ => Reply::default(),
        }
    }

    fn merge(&mut self, state: &Value) -> Option<Seen> {
        match self.eyes.merge(state) {
            Ok(seen) => {
                if seen.skipped > 0 {
                    self.skipped(seen.skipped);
                }
                if seen.new_episode {
                    self.new_episode();
                }
                // With more than a second missed the history is worth nothing.
                if let Some(last) = self.away_since.take()
                    && seen.tick.saturating_sub(last).saturating_mul(self.config.tick_ms.into()) > 1_000
                {
                    self.eyes.forget_history();
                }
                Some(seen)
            }
            Err(_) => {
                self.stats.add(&self.stats.bad_states, 1);
                None
            }
        }
    }

    fn skipped(&self, n: usize) {
        self.stats.add(&self.stats.entries_skipped, n as u64);
        metrics::counter!(names::ENTRIES_SKIPPED).increment(n as u64);
    }

    fn new_episode(&mut self) {
        self.last_round = None;
        self.ended = false;
        self.episode_model = None;
        self.take_champion();
    }

    fn transition(&mut self, message: Incoming, around: Surroundings) -> Reply {
        self.stats.add(&self.stats.transitions, 1);
        self.transitions += 1;
        // From here to the actions computed is the decision time.
        let parsed = Instant::now();
        let Some(seen) = message.next_state.as_ref().and_then(|state| self.merge(state)) else {
            return Reply::default();
        };
        #[cfg(flywheel_bug)]
        if crate::seeded_bug("swap-without-drain") {
            self.take_champion();
        }
        if self.config.swap == Swap::Tick {
            self.take_champion();
        }
        self.tell_refusals();
        let repeated = self.last_round == Some(seen.tick);
        if repeated {
            // A second vector for the same moment would tear the stack, and a second round is not allowed.
            self.stats.add(&self.stats.repeated_ticks, 1);
            return Reply::default();
        }
        self.eyes.observe();
        let (rewards, skipped) = self.rewards(message.ai_rewards.as_ref());
        if skipped > 0 {
            self.skipped(skipped);
        }
        let before: Vec<(TankId, Chosen)> =
            self.eyes.seats.iter_mut().filter_map(|seat| Some((seat.id, seat.chosen.take()?))).collect();
        let mut reply = Reply::default();
        let decided = if seen.game_over { Vec::new() } else { self.decide(seen.tick, parsed) };
        self.last_round = Some(seen.tick);
        self.learn(seen, &rewards, before);
        reply.inputs = self.write_inputs(seen.tick, &decided, &rewards, around);
        self.stats.add(&self.stats.decisions_answered, reply.inputs.len() as u64);
        if seen.game_over {
            reply.episode_log = self.end_episode(seen.tick);
        }
        self.eyes.drop_absent();
        if self.model.learns()
            && (self.model.unsaved_steps >= self.config.save_every_steps
                || (reply.episode_log.is_some() && self.model.unsaved_steps > 0))
        {
            reply.save = true;
        }
        reply
    }

    /// Entries that name a tank we know; how many do not.
    fn rewards(&mut self, entries: Option<&Value>) -> (Vec<Reward>, usize) {
        let Some(entries) = entries.and_then(Value::as_array) else { return (Vec::new(), 0) };
        let mut rewards: Vec<Reward> = Vec::with_capacity(entries.len());
        let mut skipped = 0;
        for entry in entries {
            let tank = entry["tankId"].as_str().and_then(TankId::parse);
            let reward = entry["reward"].as_f64().map(|r| r as f32).filter(|r| r.is_finite());
            let known = tank.filter(|&id| self.eyes.seat(id).is_some() && rewards.iter().all(|r| r.tank != id));
            let (Some(tank), Some(reward)) = (known, reward) else {
                skipped += 1;
                continue;
            };
            let words = entry["rewardReasons"].as_array().into_iter().flatten();
            let reasons = words.filter_map(|w| w.as_str().map(str::to_owned)).take(32).collect();
            rewards.push(Reward { tank, reward, reasons });
        }
        (rewards, skipped)
    }

    /// Chooses one action for every AI tank, all of them by one version.
    fn decide(&mut self, tick: u64, parsed: Instant) -> Vec<(TankId, u8)> {
        self.observations.clear();
        self.actions.clear();
        let waiting: Vec<TankId> =
            self.eyes.seats.iter().filter(|seat| seat.present).take(MAX_TANKS).map(|seat| seat.id).collect();
        if waiting.is_empty() {
            return Vec::new();
        }
        self.stats.add(&self.stats.decisions_requested, waiting.len() as u64);
        for &id in &waiting {
            let seat = self.eyes.seat(id).expect("it waits");
            self.observations.extend_from_slice(seat.stack.values());
        }
        let model = self.model.reference();
        self.model.best(&self.observations, &mut self.buffers, &mut self.actions);
        let epsilon = self.model.epsilon;
        for action in &mut self.actions {
            if self.rng.random::<f32>() < epsilon {
                *action = self.rng.random_range(0..ACTIONS) as u8;
            }
        }
        let took = parsed.elapsed();
        self.infer = took;
        // Between two swap points a game uses one version only.
        let began_with = self.episode_model.get_or_insert_with(|| model.clone());
        if self.config.swap == Swap::Episode && !self.config.online_learning && *began_with != model {
            self.stats.add(&self.stats.decisions_mixed, waiting.len() as u64);
        }
        self.stats.round(waiting.len() as u64, took, model.as_ref());
        if let Some(model) = &model {
            self.champions.decided(&self.model.base, model);
        }
        self.generated += waiting.len() as u64;
        let decided: Vec<(TankId, u8)> = waiting.into_iter().zip(self.actions.iter().copied()).collect();
        for (i, &(id, a)) in decided.iter().enumerate() {
            let observation = &self.observations[i * OBSERVATION_LEN..][..OBSERVATION_LEN];
            let s = Box::new(observation.try_into().expect("one whole observation"));
            let seat = self.eyes.seat(id).expect("it waits");
            seat.chosen = Some(Chosen { s, a, model: model.clone(), epsilon });
        }
        tracing::trace!(session = self.session_id, tick, n = decided.len(), "decided");
        decided
    }

    /// Trains on every entry whose tank had an action, and puts the transitions on the stream.
    fn learn(&mut self, seen: Seen, rewards: &[Reward], before: Vec<(TankId, Chosen)>) {
        let began = Instant::now();
        let mut account = Account { rewards: rewards.len(), ..Account::default() };
        let mut rows: Vec<(Option<ModelRef>, payload::TankTransition)> = Vec::with_capacity(before.len());
        for reward in rewards {
            account.reward_sum += reward.reward;
            let seat = self.eyes.seat(reward.tank).expect("rewards are of known tanks");
            seat.episode_return += reward.reward;
            let Some((_, chosen)) = before.iter().find(|(id, _)| *id == reward.tank) else { continue };
            let done = seen.game_over || !seat.present;
            // A tank that is gone has no new vector: its last state stands for the next.
            let s2 = seat.stack.values();
            let step = OnlineTransition { s: &*chosen.s, a: chosen.a.into(), r: reward.reward, s2, done };
            if let Some(update) = self.model.learn(step, &self.rule) {
                account.steps += 1;
                account.td_loss += update.loss;
                account.q_mean += update.q_mean;
                if !update.applied {
                    self.stats.add(&self.stats.train_refused, 1);
                }
            }
            if self.events.is_some() {
                let row = payload::TankTransition {
                    tank_id: reward.tank.to_string(),
                    label: seat.label.to_owned(),
                    s: chosen.s.to_vec(),
                    a: chosen.a as i8,
                    r: reward.reward,
                    s2: s2.to_vec(),
                    done,
                    epsilon: chosen.epsilon,
                    reasons: reward.reasons.clone(),
                };
                rows.push((chosen.model.clone(), row));
            }
        }
        if account.steps > 0 {
            account.td_loss /= account.steps as f32;
            account.q_mean /= account.steps as f32;
            account.train = began.elapsed();
            self.stats.add(&self.stats.train_steps, account.steps);
            self.stats.train.record(account.train);
            metrics::counter!(names::TRAIN_STEPS).increment(account.steps);
            metrics::histogram!(names::TRAIN_SECONDS).record(account.train.as_secs_f64());
        }
        let mut learning = self.stats.learning.lock();
        learning.reward_count += account.rewards as u64;
        learning.reward_sum += f64::from(account.reward_sum);
        if account.steps > 0 {
            (learning.td_loss, learning.q_mean) = (account.td_loss, account.q_mean);
            learning.state_bytes = account.steps * 2 * 4 * OBSERVATION_LEN as u64;
        }
        drop(learning);
        self.account = account;
        self.emit_transitions(seen.tick, rows);
    }

    /// One event per version; with one version in play, which is nearly always so, one event.
    fn emit_transitions(&self, tick: u64, mut rows: Vec<(Option<ModelRef>, payload::TankTransition)>) {
        let Some(events) = &self.events else { return };
        while let Some((model, _)) = rows.first() {
            let model = model.clone();
            let (of_this, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(m, _)| *m == model);
            rows = others;
            let event = payload::Transition {
                tick,
                map_key: self.map_key.clone(),
                tanks: of_this.into_iter().map(|(_, row)| row).collect(),
            };
            events.emit(kinds::TANK_TRANSITION, Some("controller"), model.as_ref(), &event);
        }
    }

    fn end_episode(&mut self, tick: u64) -> Option<String> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        self.model.episodes += 1;
        self.stats.add(&self.stats.episodes, 1);
        let state = self.eyes.merger().state();
        let reason = state.game_over_reason.clone().unwrap_or_default();
        let won = matches!(&*reason, "player_destroyed" | "hq_destroyed");
        self.stats.add(&self.stats.wins, u64::from(won));
        let n = self.eyes.seats.len().max(1) as f32;
        let mean = self.eyes.seats.iter().map(|seat| seat.episode_return).sum::<f32>() / n;
        let outcome = if won { format!("won in {tick} ticks") } else { format!("ended after {tick} ticks") };
        let line = format!(
            "episode {}: {outcome} ({reason}), mean return {mean:.2}, epsilon {:.3}, {} steps",
            self.model.episodes, self.model.epsilon, self.model.steps
        );
        Some(serde_json::json!({"type": "episode_log", "episodeLog": line, "episodeLogTick": tick}).to_string())
    }

    fn write_inputs(
        &mut self,
        tick: u64,
        decided: &[(TankId, u8)],
        rewards: &[Reward],
        around: Surroundings,
    ) -> Vec<String> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Input<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            role: &'static str,
            tank_id: TankId,
            #[serde(rename = "move")]
            movement: Option<&'static str>,
            fire: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            debug: Option<Debug<'a>>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Debug<'a> {
            reward: f32,
            reward_reasons: &'a [String],
            steps: u64,
            episodes: u64,
            epsilon: f32,
            /// The newest state vector.
            state: &'a [f32],
            action: u8,
            model_pool_available: usize,
            model_pool_total: usize,
            model_pool_in_use: usize,
            transitions_received: u64,
            actions_generated: u64,
            action_tick: u64,
            model_instances_brief: &'a [String],
            reward_batch_count: usize,
            reward_batch_sum: f32,
            train_steps_delta: u64,
            td_loss: f32,
            q_mean: f32,
            perf_train_ms: f64,
            perf_infer_ms: f64,
            async_save_ms: u64,
            mem_model_bytes: usize,
            mem_train_state_bytes: u64,
            mem_history_bytes: usize,
        }
        if decided.is_empty() {
            return Vec::new();
        }
        let history_bytes = self.eyes.history_bytes();
        let brief = [format!("{}:{}", self.model.key, self.model.steps)];
        let brief = &brief[..brief.len().min(MAX_BRIEF)];
        let bytes = if self.config.send_debug { self.model.bytes() } else { 0 };
        let none = ["none".to_owned()];
        decided
            .iter()
            .map(|&(id, a)| {
                let action = Action::from_index(a.into()).expect("action indices are below ten");
                let entry = rewards.iter().find(|r| r.tank == id);
                let seat = self.eyes.seats.iter().find(|seat| seat.id == id);
                let debug = self.config.send_debug.then(|| Debug {
                    reward: entry.map_or(0.0, |r| r.reward),
                    reward_reasons: entry.map_or(&none[..], |r| &r.reasons),
                    steps: self.model.steps,
                    episodes: self.model.episodes,
                    epsilon: self.model.epsilon,
                    state: seat.map_or(&[][..], |seat| &seat.vector),
                    action: a,
                    model_pool_available: around.available,
                    model_pool_total: around.available + around.in_use,
                    model_pool_in_use: around.in_use,
                    transitions_received: self.transitions,
                    actions_generated: self.generated,
                    action_tick: tick,
                    model_instances_brief: brief,
                    reward_batch_count: self.account.rewards,
                    reward_batch_sum: self.account.reward_sum,
                    train_steps_delta: self.account.steps,
                    td_loss: self.account.td_loss,
                    q_mean: self.account.q_mean,
                    perf_train_ms: self.account.train.as_secs_f64() * 1e3,
                    perf_infer_ms: self.infer.as_secs_f64() * 1e3,
                    async_save_ms: around.async_save_ms,
                    mem_model_bytes: bytes,
                    mem_train_state_bytes: self.account.steps * 2 * 4 * OBSERVATION_LEN as u64,
                    mem_history_bytes: history_bytes,
                });
                let input = Input {
                    kind: "input",
                    role: "ai",
                    tank_id: id,
                    movement: action.movement.map(|m| m.as_str()),
                    fire: action.fire,
                    debug,
                };
                serde_json::to_string(&input).expect("an input serialises")
            })
            .collect()
    }

    /// Puts the champion of the moment in place if it is another than the one played. A swap point.
    fn take_champion(&mut self) {
        let Some(champion) = self.champions.current(&self.model.base) else { return };
        if self.model.follows(&champion) {
            return;
        }
        self.swap(&champion);
    }

    fn swap(&mut self, champion: &Arc<VersionedNetwork>) {
        let from = self.model.adopt(champion, self.config.online_learning, self.rule.epsilon_min);
        self.episode_model = None;
        self.stats.add(&self.stats.swaps, 1);
        metrics::counter!(names::SWAPS).increment(1);
        self.emit_change(kinds::TANK_MODEL_SWAPPED, from.map(|model| model.version.0));
    }

    fn emit_change(&self, kind: &str, from_version: Option<u64>) {
        let Some(events) = &self.events else { return };
        let model = self.model.reference();
        let change = payload::ModelChange {
            model_key: self.model.key.clone(),
            base_key: model.as_ref().map_or_else(|| self.model.base.clone(), |m| m.base_key.to_string()),
            version: model.as_ref().map_or(0, |m| m.version.0),
            steps: self.model.steps,
            epsilon: self.model.epsilon,
            from_version,
        };
        events.emit(kind, Some("controller"), model.as_ref(), &change);
    }

    fn tell_refusals(&mut self) {
        let now = self.champions.refusals();
        if now == self.refusals_told {
            return;
        }
        self.refusals_told = now;
        if let Some(Refusal { model, reason }) = self.champions.last_refusal(&self.model.base) {
            self.tell_refused(&model, &reason);
        }
    }

    fn tell_refused(&self, model: &str, reason: &str) {
        let Some(events) = &self.events else { return };
        let stays_on = self.model.reference();
        let refused = payload::SwapRefused {
            model: model.to_owned(),
            stays_on: stays_on.as_ref().map(ToString::to_string),
            reason: reason.to_owned(),
        };
        events.emit(kinds::MODEL_SWAP_REFUSED, Some("controller"), stays_on.as_ref(), &refused);
    }
}
