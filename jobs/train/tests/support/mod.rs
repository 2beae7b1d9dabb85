//! A small learner in plain Rust, a host that remembers, and data to learn from.
// Each test program uses a part of it.
#![allow(dead_code)]

use std::{path::Path, sync::Arc};

use flywheel_events::{Event, GameId, ModelVersion, System, kinds, tank};
use flywheel_game_api::{EpisodeRow, Experience, ExperienceError, Lane, TransitionRow};
use flywheel_lake::Lake;
use flywheel_log::{EventLog, MemoryLog, Record, Topic, partition_of};
use flywheel_policy::{LearnError, LearnErrorKind, Learner, Network, NetworkSpec, StepReport, Tensor, TrainingBatch};
use flywheel_tables::{TableName, TransitionsBuilder, day_of};
use flywheel_torch::{Adam, DoubleDqnLoss, DqnConfig, Layout, adam_step, square_sum};
use flywheel_train::{
    Beat, Candidate, Checkpoints, Host, Origin, PublishError, Session, Shape, Sources, TrainConfig, TrainError,
    TrainLearner, Trainer,
};
use serde_json::{Value, json};
use tokio::{runtime::Handle, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub const SHAPE: Shape = Shape { frame_len: 3, stack: 2, actions: 2 };
pub const PARTITIONS: u32 = 2;

/// A linear double DQN: the same loss and optimiser as the real one, without libtorch.
#[derive(Debug)]
pub struct Linear {
    layout: Layout,
    online: Vec<f32>,
    target: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
    loss: DoubleDqnLoss,
    adam: Adam,
    target_sync_steps: u64,
    steps: u64,
}

impl Linear {
    pub fn new(config: &DqnConfig) -> Self {
        let spec = NetworkSpec { hidden: Vec::new(), ..config.network.clone() };
        let layout = Layout::new(&spec);
        let online = layout.random(config.seed);
        Self {
            target: online.clone(),
            m: vec![0.0; layout.len],
            v: vec![0.0; layout.len],
            loss: DoubleDqnLoss::new(spec.head, spec.outputs, config.huber_delta),
            adam: Adam::new(config.learning_rate),
            target_sync_steps: config.target_sync_steps,
            steps: 0,
            online,
            layout,
        }
    }

    fn forward(&self, parameters: &[f32], rows: &[f32]) -> Vec<f32> {
        let layer = &self.layout.layers[0];
        rows.chunks_exact(layer.inputs)
            .flat_map(|row| {
                (0..layer.outputs).map(move |o| {
                    let weights = &parameters[layer.weight + o * layer.inputs..][..layer.inputs];
                    parameters[layer.bias + o] + weights.iter().zip(row).map(|(w, x)| w * x).sum::<f32>()
                })
            })
            .collect()
    }
}

impl Learner for Linear {
    fn step(&mut self, batch: &TrainingBatch) -> Result<StepReport, LearnError> {
        let layer = self.layout.layers[0].clone();
        batch.check(layer.outputs)?;
        let mut online = self.forward(&self.online, &batch.s);
        online.extend(self.forward(&self.online, &batch.s2));
        let target = self.forward(&self.target, &batch.s2);
        let (mut by_output, mut td_abs) = (vec![0.0; batch.n * layer.outputs], Vec::new());
        let report = self.loss.evaluate(batch, &online, &target, &mut by_output, &mut td_abs);
        if !report.loss.is_finite() {
            return Err(LearnError::new(LearnErrorKind::NotFinite, "stepping", format!("loss {}", report.loss)));
        }
        let mut gradient = vec![0.0; self.layout.len];
        for (row, by_output) in batch.s.chunks_exact(layer.inputs).zip(by_output.chunks_exact(layer.outputs)) {
            for (o, g) in by_output.iter().enumerate() {
                gradient[layer.bias + o] += g;
                for (k, x) in row.iter().enumerate() {
                    gradient[layer.weight + o * layer.inputs + k] += g * x;
                }
            }
        }
        self.steps += 1;
        adam_step(&self.adam, self.steps, 1.0, &gradient, (&mut self.online, &mut self.m, &mut self.v));
        if self.steps.is_multiple_of(self.target_sync_steps) {
            self.target.copy_from_slice(&self.online);
        }
        let grad_norm = square_sum(&gradient).sqrt() as f32;
        Ok(StepReport { loss: report.loss, td_abs, q_mean: report.q_mean, grad_norm })
    }

    fn export(&self) -> Result<Network, LearnError> {
        let tensors = self.layout.tensors().into_iter().map(|(name, shape, start)| {
            let len = shape.iter().product::<usize>();
            Tensor::new(name, shape, self.online[start..start + len].to_vec())
        });
        Network::from_tensors(self.layout.spec(), tensors.collect())
            .map_err(|error| LearnError::new(LearnErrorKind::NotFinite, "exporting", error))
    }

    fn save(&self, dir: &Path) -> Result<(), LearnError> {
        let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        let state = json!({
            "parts": [bits(&self.online), bits(&self.target), bits(&self.m), bits(&self.v)],
            "steps": self.steps,
            "learning_rate": self.adam.learning_rate,
        });
        std::fs::write(dir.join("linear.json"), state.to_string())
            .map_err(|error| LearnError::new(LearnErrorKind::Io, "saving", error))
    }

    fn load(&mut self, dir: &Path) -> Result<(), LearnError> {
        let bad = |error: String| LearnError::new(LearnErrorKind::InvalidCheckpoint, "loading", error);
        let text = std::fs::read_to_string(dir.join("linear.json")).map_err(|error| bad(error.to_string()))?;
        let state: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let parts: Vec<Vec<u32>> = serde_json::from_value(state["parts"].clone()).map_err(|e| bad(e.to_string()))?;
        for (part, bits) in [&mut self.online, &mut self.target, &mut self.m, &mut self.v].into_iter().zip(parts) {
            *part = bits.into_iter().map(f32::from_bits).collect();
        }
        self.steps = state["steps"].as_u64().unwrap();
        self.adam.learning_rate = state["learning_rate"].as_f64().unwrap();
        Ok(())
    }

    fn steps(&self) -> u64 {
        self.steps
    }
}

impl TrainLearner for Linear {
    fn learning_rate(&self) -> f64 {
        self.adam.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.adam.learning_rate = learning_rate;
    }

    fn start_from(&mut self, network: &Network) -> Result<(), LearnError> {
        if network.spec() != self.layout.spec() {
            return Err(LearnError::new(LearnErrorKind::InvalidCheckpoint, "starting", "another shape"));
        }
        for (tensor, (_, _, start)) in network.tensors().iter().zip(self.layout.tensors()) {
            self.online[start..start + tensor.data.len()].copy_from_slice(&tensor.data);
        }
        self.target.copy_from_slice(&self.online);
        Ok(())
    }

    fn device(&self) -> &'static str {
        "cpu"
    }
}

/// Transitions straight out of `tank.transition`.
#[derive(Debug, Default)]
pub struct Plain;

impl Experience for Plain {
    fn accept(&mut self, event: &Event, out: &mut Vec<TransitionRow>) -> Result<(), ExperienceError> {
        if event.kind != kinds::TANK_TRANSITION {
            return Ok(());
        }
        let payload: tank::Transition =
            serde_json::from_str(event.payload.get()).map_err(|error| ExperienceError::Invalid(error.to_string()))?;
        out.extend(payload.tanks.into_iter().map(|tank| TransitionRow {
            lane: Lane { game_id: event.game_id.clone(), seat: tank.tank_id },
            tick: payload.tick,
            label: tank.label,
            map_key: payload.map_key.clone(),
            model: event.model.clone(),
            s: tank.s,
            a: tank.a.into(),
            r: tank.r,
            s2: tank.s2,
            done: tank.done,
            epsilon: tank.epsilon,
        }));
        Ok(())
    }

    fn ended(&self) -> Option<EpisodeRow> {
        None
    }
}

pub fn experience(system: System) -> Option<Box<dyn Experience>> {
    (system == System::Tank).then(|| Box::new(Plain) as Box<dyn Experience>)
}

/// One game of `steps` transitions of one seat, whose numbers follow from its name.
pub fn game(name: &str, steps: usize) -> Vec<TransitionRow> {
    let mut x = name.bytes().fold(17_u32, |x, byte| x.wrapping_mul(31).wrapping_add(byte.into()));
    let mut number = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut frames = vec![[0.0; 3]; SHAPE.stack - 1];
    frames.extend((0..=steps).map(|_| [number(), number(), number()]));
    (0..steps)
        .map(|t| TransitionRow {
            lane: Lane { game_id: GameId::new(name).unwrap(), seat: "1".to_owned() },
            tick: t as u64 + 1,
            label: "basic".to_owned(),
            map_key: "stage01".to_owned(),
            model: None,
            s: frames[t..t + SHAPE.stack].concat(),
            a: i16::from(frames[t][0] > 0.0),
            r: frames[t + SHAPE.stack][1],
            s2: frames[t + 1..t + 1 + SHAPE.stack].concat(),
            done: t + 1 == steps,
            epsilon: 0.1,
        })
        .collect()
}

/// The events that carry a game: one transition each.
pub fn events(rows: &[TransitionRow]) -> Vec<Event> {
    rows.iter()
        .enumerate()
        .map(|(seq, row)| {
            let tank = tank::TankTransition {
                tank_id: row.lane.seat.clone(),
                label: row.label.clone(),
                s: row.s.clone(),
                a: row.a as i8,
                r: row.r,
                s2: row.s2.clone(),
                done: row.done,
                epsilon: row.epsilon,
                reasons: Vec::new(),
            };
            let payload = tank::Transition { tick: row.tick, map_key: row.map_key.clone(), tanks: vec![tank] };
            Event::new(System::Tank, kinds::TANK_TRANSITION, row.lane.game_id.clone(), seq as u64, 0).payload(&payload)
        })
        .collect()
}

pub async fn append(log: &MemoryLog, rows: &[TransitionRow]) {
    let topic = Topic::new(System::Tank.topic());
    for event in events(rows) {
        let key = event.game_id.as_str().as_bytes().to_vec();
        let partition = topic.partition(partition_of(&key, PARTITIONS));
        log.append(&partition, vec![Record::new(key, event.encode())]).await.unwrap();
    }
}

pub async fn store(lake: &Lake, games: &[Vec<TransitionRow>]) {
    for game in games {
        let mut builder = TransitionsBuilder::new();
        for row in game {
            builder.push(System::Tank, row, &day_of(0), None, 1.0).unwrap();
        }
        lake.table(TableName::Transitions).append(vec![builder.finish()], &[]).await.unwrap();
    }
}

/// Remembers what it was told; stops the run when `stop_when` says so.
pub struct Memory {
    pub beats: Vec<Value>,
    pub candidates: Vec<Candidate>,
    pub outcomes: Vec<Result<ModelVersion, PublishError>>,
    pub stop_when: Box<dyn FnMut(&Value) -> Beat + Send>,
    pub fenced_at_checkpoint: bool,
    pub checkpoints: Vec<u64>,
    pub waiting: bool,
}

impl Memory {
    pub fn new(stop_when: impl FnMut(&Value) -> Beat + Send + 'static) -> Self {
        Self {
            beats: Vec::new(),
            candidates: Vec::new(),
            outcomes: Vec::new(),
            stop_when: Box::new(stop_when),
            fenced_at_checkpoint: false,
            checkpoints: Vec::new(),
            waiting: false,
        }
    }
}

impl Host for Memory {
    fn beat(&mut self, progress: &Value) -> Beat {
        self.beats.push(progress.clone());
        (self.stop_when)(progress)
    }

    fn confirm(&mut self) -> Beat {
        if self.fenced_at_checkpoint { Beat::Fenced } else { Beat::Continue }
    }

    fn checkpointed(&mut self, steps: u64, _uri: &str) -> Beat {
        self.checkpoints.push(steps);
        Beat::Continue
    }

    fn publish(&mut self, candidate: Candidate) {
        assert!(!self.waiting, "one at a time");
        self.waiting = true;
        self.candidates.push(candidate);
    }

    fn published(&mut self, _wait: bool) -> Option<Result<ModelVersion, PublishError>> {
        assert!(self.waiting);
        self.waiting = false;
        Some(self.outcomes.pop().unwrap_or(Ok(ModelVersion(self.candidates.len() as u64))))
    }
}

/// Everything that a session needs, in a folder of its own.
pub struct World {
    pub runtime: tokio::runtime::Runtime,
    pub log: Arc<MemoryLog>,
    pub sources: Sources,
    pub dir: tempfile::TempDir,
    pub cancel: CancellationToken,
    pub tasks: JoinSet<()>,
}

impl World {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = MemoryLog::new();
        runtime.block_on(log.create_topic(&Topic::new(System::Tank.topic()), PARTITIONS)).unwrap();
        let lake = Lake::local(dir.path().join("lake")).unwrap();
        let sources = Sources { log: log.clone(), lake };
        Self { runtime, log, sources, dir, cancel: CancellationToken::new(), tasks: JoinSet::new() }
    }

    pub fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    pub fn checkpoints(&self, run: &str) -> Checkpoints {
        Checkpoints::open(self.dir.path().join("runs").join(run)).unwrap()
    }

    pub fn session(
        &mut self,
        config: &TrainConfig,
        run: &str,
        host: Memory,
        origin: Origin,
    ) -> Result<Session<Linear, Memory>, TrainError> {
        let trainer = Trainer::new(config.clone(), SHAPE, Linear::new(&config.dqn(SHAPE)), experience);
        let (handle, checkpoints) = (self.handle(), self.checkpoints(run));
        Session::open(&handle, trainer, host, checkpoints, &self.sources, origin, (&mut self.tasks, &self.cancel))
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Small and quick, everything due at once.
pub fn config() -> TrainConfig {
    TrainConfig {
        hidden: Vec::new(),
        batch_size: 16,
        target_sync_steps: 10,
        n_step: 3,
        capacity: 2_000,
        min_size: 100,
        samples_per_insert: 1e6,
        sample_tolerance: 1e9,
        learning_rate: 1e-2,
        first_publish_steps: 50,
        publish_every: std::time::Duration::ZERO,
        publish_steps: 100,
        checkpoint_every: std::time::Duration::from_secs(3600),
        seed: 3,
        ..TrainConfig::default()
    }
}
