//! The learning loop without I/O: rows in, steps, what to report.

use std::{
    hash::Hasher,
    time::{Duration, Instant},
};

use flywheel_events::ModelVersion;
use flywheel_game_api::{Lane, TransitionRow};
use flywheel_log::StoredRecord;
use flywheel_policy::{LearnError, LearnErrorKind, Learner, Network, TrainingBatch};
use flywheel_replay::{Insert, Limit, RateLimiter, ReplayBuffer, ReplayError};
use serde_json::{Value, json};

use crate::{
    ExperienceFactory, Freshness, Games, Shape, TrainConfig,
    checkpoint::{Checkpoint, TrainerState},
};

/// A learner that a run can steer.
pub trait TrainLearner: Learner {
    fn learning_rate(&self) -> f64;
    fn set_learning_rate(&mut self, learning_rate: f64);
    /// Takes over the weights of a network of the same shape.
    ///
    /// # Errors
    /// If the shape is another.
    fn start_from(&mut self, network: &Network) -> Result<(), LearnError>;
    /// `cpu` or `cuda`.
    fn device(&self) -> &'static str;
}

/// What one step brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub step: u64,
    pub loss: f32,
    pub q_mean: f32,
    pub grad_norm: f32,
}

/// Replay buffer, learner and what joins them. One thread owns it.
#[derive(Debug)]
pub struct Trainer<L> {
    config: TrainConfig,
    learner: L,
    buffer: ReplayBuffer,
    limiter: RateLimiter,
    games: Games,
    batch: TrainingBatch,
    /// Running means, for people; decay 1 %.
    loss: Option<f64>,
    q_mean: f64,
    grad_norm: f64,
    freshness: Freshness,
    /// Rows taken from the log and the table.
    seen: u64,
    refused: u64,
    /// Batches that gave numbers that are not finite.
    not_finite: u64,
    version: u64,
    rate: StepRate,
}

/// Steps per second over the last few seconds.
#[derive(Debug)]
struct StepRate {
    since: Instant,
    steps: u64,
    value: f64,
}

impl StepRate {
    fn step(&mut self) {
        self.steps += 1;
        self.roll();
    }

    fn roll(&mut self) -> f64 {
        let elapsed = self.since.elapsed();
        if elapsed >= Duration::from_secs(2) {
            self.value = self.steps as f64 / elapsed.as_secs_f64();
            self.since = Instant::now();
            self.steps = 0;
        }
        self.value
    }
}

impl<L: TrainLearner> Trainer<L> {
    /// # Panics
    /// If the config has problems; see [`TrainConfig::problems`].
    pub fn new(config: TrainConfig, shape: Shape, learner: L, experience: ExperienceFactory) -> Self {
        let problems = config.problems(shape);
        assert!(problems.is_empty(), "train: {}", problems.join("; "));
        Self {
            buffer: ReplayBuffer::new(config.replay(shape)),
            limiter: RateLimiter::new(config.samples_per_insert, config.min_size, config.sample_tolerance),
            games: Games::new(config.system, experience),
            batch: TrainingBatch::default(),
            loss: None,
            q_mean: 0.0,
            grad_norm: 0.0,
            freshness: Freshness::default(),
            seen: 0,
            refused: 0,
            not_finite: 0,
            version: 0,
            rate: StepRate { since: Instant::now(), steps: 0, value: 0.0 },
            learner,
            config,
        }
    }

    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    pub fn learner(&self) -> &L {
        &self.learner
    }

    pub fn learner_mut(&mut self) -> &mut L {
        &mut self.learner
    }

    pub fn buffer(&self) -> &ReplayBuffer {
        &self.buffer
    }

    pub fn steps(&self) -> u64 {
        self.learner.steps()
    }

    /// The newest version that this run knows; rows of older ones count as stale.
    pub fn set_version(&mut self, version: ModelVersion) {
        self.version = self.version.max(version.0);
    }

    /// Rows of a game that the table holds whole. Their events in the log will be left out.
    ///
    /// # Errors
    /// If a row does not fit the buffer: the table is of another system or shape.
    pub fn load(&mut self, row: &TransitionRow) -> Result<(), ReplayError> {
        self.games.loaded(&row.lane.game_id);
        self.insert(row)
    }

    /// Records of the log, in order. Rows that cannot be used are counted, never an error.
    /// `now_ms` is the time at which they become sampleable; records appended before `live_from_ms` were waiting
    /// already when the run began and say nothing about freshness.
    pub fn ingest(&mut self, records: &[StoredRecord], live_from_ms: i64, now_ms: impl Fn() -> i64) {
        for record in records {
            let taken = self.games.take(record);
            for row in &taken.rows {
                match self.insert(row) {
                    Ok(()) if record.ingest_ms >= live_from_ms => self.freshness.record(now_ms() - record.ingest_ms),
                    Ok(()) => {}
                    Err(_) => self.refused += 1,
                }
            }
        }
    }

    fn insert(&mut self, row: &TransitionRow) -> Result<(), ReplayError> {
        let mut r = row.r * self.config.reward_scale;
        if self.config.reward_clip > 0.0 {
            r = r.clamp(-self.config.reward_clip, self.config.reward_clip);
        }
        let own = row.model.as_ref().filter(|model| model.base_key == self.config.base_key);
        let insert = Insert {
            done: row.done,
            model_version: own.map_or(0, |model| model.version.0),
            ..Insert::new(lane_number(&row.lane), &row.s, row.a.into(), r, &row.s2)
        };
        self.buffer.insert(insert)?;
        self.limiter.inserted(1);
        self.seen += 1;
        metrics::counter!(crate::metrics::TRANSITIONS).increment(1);
        Ok(())
    }

    /// Why no step can be made now, if so.
    pub fn waiting(&self) -> Option<Limit> {
        self.limiter.check(self.config.batch_size as u64).err()
    }

    /// One step, unless the limiter holds it back (`None`).
    ///
    /// # Errors
    /// `NotFinite` if the batch gave such a loss or gradient: the learner is as it was, and the caller decides.
    pub fn step(&mut self) -> Result<Option<Step>, LearnError> {
        let n = self.config.batch_size;
        if self.waiting().is_some() {
            self.rate.roll();
            return Ok(None);
        }
        let progress = self.steps() as f32 / self.config.beta_steps as f32;
        self.buffer.set_beta(self.config.beta + (1.0 - self.config.beta) * progress.min(1.0));
        let prioritised = self.config.alpha > 0.0;
        let drawn = if prioritised {
            self.buffer.sample_prioritised(n, &mut self.batch)
        } else {
            self.buffer.sample_uniform(n, &mut self.batch)
        };
        if drawn.is_err() {
            // `min_size` of zero and no rows yet.
            return Ok(None);
        }
        let report = match self.learner.step(&self.batch) {
            Ok(report) => report,
            Err(error) => {
                self.not_finite += 1;
                return Err(error);
            }
        };
        self.limiter.sampled(n as u64);
        if prioritised {
            self.buffer.update_priorities(&self.batch.index, &self.batch.generation, &report.td_abs);
        }
        let blend = |mean: f64, new: f32| mean + (f64::from(new) - mean) * 0.01;
        self.q_mean = if self.loss.is_some() { blend(self.q_mean, report.q_mean) } else { f64::from(report.q_mean) };
        self.grad_norm =
            if self.loss.is_some() { blend(self.grad_norm, report.grad_norm) } else { f64::from(report.grad_norm) };
        self.loss = Some(self.loss.map_or(f64::from(report.loss), |loss| blend(loss, report.loss)));
        self.rate.step();
        metrics::counter!(crate::metrics::STEPS).increment(1);
        Ok(Some(Step { step: self.steps(), loss: report.loss, q_mean: report.q_mean, grad_norm: report.grad_norm }))
    }

    /// What a run row and a card say about the learning.
    pub fn progress(&mut self) -> Value {
        let freshness = self.freshness.report();
        let staleness = self.buffer.staleness(self.version);
        let waiting = self.waiting().map(|limit| limit.to_string());
        let rate = self.rate.roll();
        metrics::gauge!(crate::metrics::STEP_RATE).set(rate);
        metrics::gauge!(crate::metrics::BUFFER_ROWS).set(self.buffer.len() as f64);
        metrics::gauge!(crate::metrics::STALENESS).set(staleness.sampled_mean);
        if let Some(loss) = self.loss {
            metrics::gauge!(crate::metrics::LOSS).set(loss);
        }
        json!({
            "stage": "train",
            "device": self.learner.device(),
            "steps": self.steps(),
            "steps_per_s": (rate * 10.0).round() / 10.0,
            "loss": self.loss,
            "q_mean": self.q_mean,
            "grad_norm": self.grad_norm,
            "learning_rate": self.learner.learning_rate(),
            "buffer_len": self.buffer.len(),
            "buffer_bytes_max": self.buffer.memory_bytes(),
            "min_size": self.limiter.min_size(),
            "transitions_seen": self.seen,
            "transitions_refused": self.refused,
            "samples_per_insert": (self.limiter.ratio() * 100.0).round() / 100.0,
            "staleness": staleness.sampled_mean,
            "staleness_buffer": staleness.mean,
            "not_finite": self.not_finite,
            "games": self.games.stats(),
            "waiting": waiting,
            "sample_freshness_p50_ms": freshness.map(|f| f.p50_ms),
            "sample_freshness_p99_ms": freshness.map(|f| f.p99_ms),
            "sample_freshness_max_ms": freshness.map(|f| f.max_ms),
        })
    }

    pub(crate) fn state(&self) -> TrainerState {
        TrainerState {
            steps: self.steps(),
            sampled: self.limiter.total_sampled(),
            inserted: self.limiter.total_inserted(),
            sampler: self.buffer.sampler_state(),
            loss: self.loss,
            q_mean: self.q_mean,
            grad_norm: self.grad_norm,
            version: self.version,
        }
    }

    /// The priorities, oldest row first, where the data is the same when the run is resumed.
    pub(crate) fn priorities(&self) -> Option<Vec<f32>> {
        (!self.config.follow).then(|| self.buffer.priorities())
    }

    /// Goes on from a checkpoint. Call it after the table has been loaded.
    ///
    /// # Errors
    /// If the checkpoint is of another network; the trainer is unchanged then.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<(), LearnError> {
        self.learner.load(&checkpoint.dir)?;
        let state = &checkpoint.state;
        let bad = |error: ReplayError| LearnError::new(LearnErrorKind::InvalidCheckpoint, "resuming", error);
        self.buffer.restore_sampler(&state.sampler).map_err(bad)?;
        if let Some(priorities) = &checkpoint.priorities {
            self.buffer.restore_priorities(priorities).map_err(bad)?;
        }
        // Rows of the table have been inserted again; they do not pay for new samples twice.
        let inserted =
            if self.config.follow { state.inserted.max(self.limiter.total_inserted()) } else { state.inserted };
        self.limiter.restore(inserted, state.sampled);
        self.loss = state.loss;
        self.q_mean = state.q_mean;
        self.grad_norm = state.grad_norm;
        self.version = self.version.max(state.version);
        Ok(())
    }

    /// After numbers that were not finite: back to the last checkpoint's weights, with a smaller learning rate.
    ///
    /// # Errors
    /// If the checkpoint cannot be read any more.
    pub(crate) fn back_to(&mut self, checkpoint: Option<&Checkpoint>) -> Result<f64, LearnError> {
        let learning_rate = self.learner.learning_rate() / 2.0;
        if let Some(checkpoint) = checkpoint {
            self.learner.load(&checkpoint.dir)?;
        }
        self.learner.set_learning_rate(learning_rate);
        Ok(learning_rate)
    }
}

/// The number of a lane: FNV-1a of game and seat, fixed so that the same data gives the same buffer.
fn lane_number(lane: &Lane) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    hasher.write(lane.game_id.as_str().as_bytes());
    hasher.write_u8(b'/');
    hasher.write(lane.seat.as_bytes());
    hasher.finish()
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
