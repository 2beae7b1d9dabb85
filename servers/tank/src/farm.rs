//! The farm: whole games without sockets, played by the policy of the moment.
//!
//! A game is played by one version from its first decision to its last: the safe point for a new one is the start
//! of a game. The farm is the producer that can wait, so it does: above half a queue of events it pauses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flywheel_events::{GameId, ModelRef, System};
use flywheel_kit::{Emitter, GameEvents};
use flywheel_policy::{LivePolicy, Policy, Scratch, VersionedNetwork, argmax};
use flywheel_tank::{
    ACTIONS, Decide, Decision, Headless, Map, OBSERVATION_LEN, Recorder, Script, TankConfig, TankEvent,
    headless::{HeadlessOptions, Status},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    TankServerError,
    metrics::{FARM_GAMES, FARM_TICKS, FARM_WAIT_SECONDS, FARM_WAITING},
};

/// How the farm plays.
#[derive(Debug, Clone)]
pub struct FarmConfig {
    /// Games at a time, each on a thread of its own. 0: no farm.
    pub threads: usize,
    /// Ticks per second of all threads together; bounds the events that the farm makes.
    pub ticks_per_second: f64,
    /// Maps, taken in turn.
    pub maps: Vec<Map>,
    /// Who plays against the AI tanks, with weights.
    pub opponents: Vec<(Script, f64)>,
    /// Each game draws one of these as its share of random actions.
    pub epsilons: Vec<f32>,
    /// Rules settings.
    pub tank: TankConfig,
    /// Written into the opening event.
    pub tick_ms: u32,
    pub seed: u64,
    /// Record inputs, deltas and checkpoints too, so that a game can be replayed. Without, a game is its opening,
    /// its transitions and its end: a fraction of the bytes.
    pub record_play: bool,
}

impl Default for FarmConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            ticks_per_second: 2_000.0,
            maps: Map::shipped().to_vec(),
            opponents: vec![(Script::Random, 1.0), (Script::Camper, 2.0), (Script::Hunter, 2.0)],
            epsilons: vec![0.05, 0.1, 0.2, 0.35, 0.5],
            tank: TankConfig::default(),
            tick_ms: 33,
            seed: 1,
            record_play: true,
        }
    }
}

impl FarmConfig {
    fn validate(&self) -> Result<(), TankServerError> {
        let fail = |setting, value: String, expected: &str| {
            Err(TankServerError::Setting { setting, value, expected: expected.to_owned() })
        };
        if self.maps.is_empty() {
            return Err(TankServerError::NoMaps);
        }
        if self.threads > 256 {
            return fail("threads", self.threads.to_string(), "at most 256");
        }
        if !(self.ticks_per_second.is_finite() && self.ticks_per_second > 0.0) {
            return fail("ticks_per_second", self.ticks_per_second.to_string(), "a number above 0");
        }
        if self.epsilons.is_empty() || self.epsilons.iter().any(|e| !(0.0..=1.0).contains(e)) {
            return fail("epsilons", format!("{:?}", self.epsilons), "at least one number from 0 to 1");
        }
        let sound = self.opponents.iter().all(|(_, w)| w.is_finite() && *w >= 0.0);
        if !sound || self.opponents.iter().map(|(_, w)| w).sum::<f64>() <= 0.0 {
            return fail("opponents", format!("{:?}", self.opponents), "weights from 0, not all 0");
        }
        Ok(())
    }
}

/// What the farm has done.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FarmStats {
    pub games: u64,
    pub ticks: u64,
    /// Games that the AI side won.
    pub wins: u64,
    /// Decisions made by a policy, random ones included.
    pub decisions: u64,
    /// Threads that wait for the event queue now.
    pub waiting: usize,
    /// Seconds that threads have waited for the event queue.
    pub waited_seconds: f64,
    /// Threads that play.
    pub threads: usize,
}

#[derive(Debug, Default)]
struct Counters {
    games: AtomicU64,
    ticks: AtomicU64,
    wins: AtomicU64,
    decisions: AtomicU64,
    waiting: AtomicUsize,
    waited_micros: AtomicU64,
}

/// Running farm threads. They stop when the token is cancelled, within one decision.
#[derive(Debug)]
pub struct Farm {
    counters: Arc<Counters>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Farm {
    /// Starts the threads; `live` decides, whatever is swapped into it.
    ///
    /// # Errors
    /// If a setting cannot work or a thread cannot be started.
    pub fn start(
        config: FarmConfig,
        live: Arc<LivePolicy>,
        emitter: Emitter,
        stop: CancellationToken,
    ) -> Result<Self, TankServerError> {
        config.validate()?;
        let counters = Arc::new(Counters::default());
        let config = Arc::new(config);
        let mut threads = Vec::with_capacity(config.threads);
        for index in 0..config.threads {
            let worker = Worker {
                rng: ChaCha8Rng::seed_from_u64(config.seed.wrapping_add(index as u64)),
                config: config.clone(),
                live: live.clone(),
                emitter: emitter.clone(),
                counters: counters.clone(),
                stop: stop.clone(),
                next_map: index,
            };
            let builder = thread::Builder::new().name(format!("tank-farm-{index}"));
            threads.push(builder.spawn(move || worker.run()).map_err(TankServerError::Thread)?);
        }
        Ok(Self { counters, threads })
    }

    pub fn stats(&self) -> FarmStats {
        let c = &self.counters;
        FarmStats {
            games: c.games.load(Ordering::Relaxed),
            ticks: c.ticks.load(Ordering::Relaxed),
            wins: c.wins.load(Ordering::Relaxed),
            decisions: c.decisions.load(Ordering::Relaxed),
            waiting: c.waiting.load(Ordering::Relaxed),
            waited_seconds: c.waited_micros.load(Ordering::Relaxed) as f64 / 1e6,
            threads: self.threads.iter().filter(|t| !t.is_finished()).count(),
        }
    }

    /// Waits for the threads; cancel the token first.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a farm thread panicked");
            }
        }
    }
}

struct Worker {
    config: Arc<FarmConfig>,
    live: Arc<LivePolicy>,
    emitter: Emitter,
    counters: Arc<Counters>,
    stop: CancellationToken,
    rng: ChaCha8Rng,
    next_map: usize,
}

impl Worker {
    fn run(mut self) {
        while !self.stop.is_cancelled() {
            self.wait_for_queue();
            self.play();
        }
    }

    fn play(&mut self) {
        let map = self.config.maps[self.next_map % self.config.maps.len()].clone();
        self.next_map += 1;
        let opponent = self.draw_opponent();
        let epsilon = self.config.epsilons[self.rng.random_range(0..self.config.epsilons.len())];
        let seed = self.rng.random::<u64>() >> 11;
        let options = HeadlessOptions { tick_ms: self.config.tick_ms, ..HeadlessOptions::default() };
        let game = Headless::with_options(&map, &self.config.tank, seed, opponent, options);
        let mut game = match game {
            Ok(game) => game,
            Err(error) => {
                warn!(%error, map = map.name(), "the farm cannot play this map");
                std::thread::sleep(Duration::from_secs(1));
                return;
            }
        };
        let id = GameId::new(format!("farm-{}", uuid::Uuid::new_v4())).expect("letters, digits and hyphens");
        let mut recorder = Bridge { events: self.emitter.game(System::Tank, id), everything: self.config.record_play };
        let mut decider = GreedyMix {
            policy: self.live.load(),
            epsilon,
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x5bd1_e995),
            values: Vec::new(),
            scratch: Scratch::default(),
        };
        let mut actions = Vec::new();
        let mut pace = Pace::new(self.config.ticks_per_second / self.config.threads.max(1) as f64);
        let mut ticks = 0;
        loop {
            let status = game.advance(&mut recorder);
            let now = game.rules().ticks();
            let ran = now - ticks;
            ticks = now;
            self.counters.ticks.fetch_add(ran, Ordering::Relaxed);
            metrics::counter!(FARM_TICKS).increment(ran);
            match status {
                Status::Over(result) => {
                    self.counters.games.fetch_add(1, Ordering::Relaxed);
                    self.counters.wins.fetch_add(u64::from(result.outcome > 0), Ordering::Relaxed);
                    metrics::counter!(FARM_GAMES, "opponent" => opponent.as_str()).increment(1);
                    break;
                }
                Status::Decide(n) => {
                    actions.clear();
                    decider.decide(game.observations(), n, &mut actions);
                    game.submit(&actions, decider.decision());
                    self.counters.decisions.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
            if self.stop.is_cancelled() {
                recorder.cut_short();
                break;
            }
            if let Some(nap) = pace.spend(ran) {
                std::thread::sleep(nap);
            }
            if ticks.is_multiple_of(64) {
                self.wait_for_queue();
            }
        }
        recorder.events.close();
    }

    fn draw_opponent(&mut self) -> Script {
        let total: f64 = self.config.opponents.iter().map(|(_, w)| w).sum();
        let mut at = self.rng.random::<f64>() * total;
        for (script, weight) in &self.config.opponents {
            at -= weight;
            if at < 0.0 {
                return *script;
            }
        }
        self.config.opponents[0].0
    }

    /// Pauses while more than half of the emitter's queue is taken, or events are being spilled.
    fn wait_for_queue(&self) {
        if self.emitter.fullness() <= 0.5 {
            return;
        }
        let since = Instant::now();
        self.counters.waiting.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!(FARM_WAITING).increment(1);
        info!("the farm waits: more than half of the event queue is taken");
        while self.emitter.fullness() > 0.5 && !self.stop.is_cancelled() {
            std::thread::sleep(Duration::from_millis(10));
        }
        metrics::gauge!(FARM_WAITING).decrement(1);
        self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        let waited = since.elapsed();
        self.counters.waited_micros.fetch_add(waited.as_micros() as u64, Ordering::Relaxed);
        metrics::counter!(FARM_WAIT_SECONDS).increment(waited.as_secs());
    }
}

/// Greedy by one version, random with probability epsilon.
struct GreedyMix {
    policy: Arc<VersionedNetwork>,
    epsilon: f32,
    rng: ChaCha8Rng,
    values: Vec<f32>,
    scratch: Scratch,
}

impl Decide for GreedyMix {
    fn decide(&mut self, observations: &[f32], n: usize, actions: &mut Vec<u8>) {
        debug_assert_eq!(observations.len(), n * OBSERVATION_LEN);
        self.values.resize(n * ACTIONS, 0.0);
        self.policy.evaluate(observations, &mut self.values, &mut self.scratch);
        for values in self.values.chunks_exact(ACTIONS) {
            let random = self.rng.random::<f32>() < self.epsilon;
            let action = if random { self.rng.random_range(0..ACTIONS) } else { argmax(values) };
            actions.push(action as u8);
        }
    }

    fn decision(&self) -> Decision {
        Decision { model: self.policy.model().cloned(), epsilon: self.epsilon }
    }
}

/// From a game's recorder to the log.
struct Bridge {
    events: GameEvents,
    everything: bool,
}

impl Bridge {
    fn cut_short(&mut self) {
        let closed = flywheel_events::tank::SessionClosed { cause: "server_stopped".to_owned() };
        self.events.emit(flywheel_events::kinds::TANK_SESSION_CLOSED, Some("server"), None, &closed);
    }
}

impl Recorder for Bridge {
    fn record(&mut self, event: TankEvent) {
        use flywheel_events::kinds::{TANK_CHECKPOINT, TANK_INPUT, TANK_TICK};
        let kind = event.kind();
        if !self.everything && [TANK_CHECKPOINT, TANK_INPUT, TANK_TICK].contains(&kind) {
            return;
        }
        let model: Option<&ModelRef> = event.model.as_ref();
        self.events.emit(kind, Some(event.actor()), model, &event.body);
    }
}

/// Spreads ticks evenly over time; a pause is not made up for.
struct Pace {
    per_tick: f64,
    next: Instant,
}

impl Pace {
    fn new(ticks_per_second: f64) -> Self {
        Self { per_tick: 1.0 / ticks_per_second, next: Instant::now() }
    }

    /// How long to sleep after `n` ticks. Naps shorter than 2 ms are saved up.
    fn spend(&mut self, n: u64) -> Option<Duration> {
        let now = Instant::now();
        self.next = self.next.max(now - Duration::from_millis(20)) + Duration::from_secs_f64(self.per_tick * n as f64);
        let ahead = self.next.saturating_duration_since(now);
        (ahead >= Duration::from_millis(2)).then_some(ahead)
    }
}
