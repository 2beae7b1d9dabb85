use std::time::Duration;

use flywheel_events::{BaseKey, System};
use flywheel_policy::{Head, NetworkSpec};
use flywheel_replay::ReplayConfig;
use flywheel_torch::{DeviceChoice, DqnConfig};
use serde::{Deserialize, Serialize};

/// How a training run learns, publishes and keeps itself.
///
/// Everything here goes into the card of each version it publishes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    pub system: System,
    /// The slot that it trains for.
    pub base_key: BaseKey,
    pub seed: u64,
    pub device: DeviceChoice,
    pub hidden: Vec<usize>,
    pub head: Head,
    pub learning_rate: f64,
    pub batch_size: usize,
    /// Learner steps between two copies into the target network.
    pub target_sync_steps: u64,
    pub huber_delta: f32,
    pub max_grad_norm: f64,
    /// Longest return, in decisions.
    pub n_step: usize,
    pub discount: f32,
    /// Transitions kept in memory.
    pub capacity: usize,
    /// Transitions wanted before the first step.
    pub min_size: u64,
    /// Rows sampled for each row inserted, at most.
    pub samples_per_insert: f64,
    /// Rows that sampling may run ahead of `samples_per_insert`.
    pub sample_tolerance: f64,
    /// 0 draws evenly and does without priorities.
    pub alpha: f32,
    /// At the first step; rises to 1 over `beta_steps`.
    pub beta: f32,
    pub beta_steps: u64,
    /// Rewards are multiplied by this.
    pub reward_scale: f32,
    /// Then cut to this size; 0 leaves them.
    pub reward_clip: f32,
    /// The first version is published after so many steps.
    pub first_publish_steps: u64,
    /// Later ones so long after the one before ...
    #[serde(with = "seconds")]
    pub publish_every: Duration,
    /// ... and after so many steps.
    pub publish_steps: u64,
    #[serde(with = "seconds")]
    pub checkpoint_every: Duration,
    /// Stops by itself after so many steps.
    pub max_steps: Option<u64>,
    /// Read the log after the table. Without it the data is the table's pinned version alone, and a resumed run
    /// repeats an undisturbed one step for step.
    pub follow: bool,
    /// Begin from the champion if there is one of this shape.
    pub warm_start: bool,
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(value.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            system: System::Tank,
            base_key: BaseKey::new("tank-ai-dqn").expect("a valid key"),
            seed: 0,
            device: DeviceChoice::Auto,
            hidden: vec![128],
            head: Head::Plain,
            learning_rate: 5e-4,
            batch_size: 128,
            target_sync_steps: 500,
            huber_delta: 1.0,
            max_grad_norm: 10.0,
            n_step: 5,
            discount: 0.98,
            capacity: 400_000,
            min_size: 5_000,
            samples_per_insert: 16.0,
            sample_tolerance: 100_000.0,
            alpha: 0.6,
            beta: 0.4,
            beta_steps: 50_000,
            reward_scale: 1.0,
            reward_clip: 0.0,
            first_publish_steps: 1_500,
            publish_every: Duration::from_secs(15),
            publish_steps: 500,
            checkpoint_every: Duration::from_secs(20),
            max_steps: None,
            follow: true,
            warm_start: true,
        }
    }
}

/// What a system's observations and actions look like to a learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub frame_len: usize,
    pub stack: usize,
    pub actions: usize,
}

impl Shape {
    /// `None` for systems that no learner of ours plays yet.
    pub fn of(system: System) -> Option<Self> {
        match system {
            System::Tank => Some(Self {
                frame_len: flywheel_tank::STATE_LEN,
                stack: flywheel_tank::STACK,
                actions: flywheel_tank::ACTIONS,
            }),
            _ => None,
        }
    }
}

impl TrainConfig {
    pub fn dqn(&self, shape: Shape) -> DqnConfig {
        let network = NetworkSpec {
            inputs: shape.frame_len * shape.stack,
            hidden: self.hidden.clone(),
            outputs: shape.actions,
            head: self.head,
        };
        DqnConfig {
            learning_rate: self.learning_rate,
            target_sync_steps: self.target_sync_steps,
            huber_delta: self.huber_delta,
            max_grad_norm: self.max_grad_norm,
            device: self.device,
            seed: self.seed,
            ..DqnConfig::new(network)
        }
    }

    pub fn replay(&self, shape: Shape) -> ReplayConfig {
        ReplayConfig {
            capacity: self.capacity,
            frame_len: shape.frame_len,
            stack: shape.stack,
            n_step: self.n_step,
            discount: self.discount,
            alpha: self.alpha,
            beta: self.beta,
            // Weights and draws have generators of their own.
            seed: self.seed ^ 0x5a3f_17c2_9be4_d801,
            ..ReplayConfig::default()
        }
    }

    /// Every setting that makes no sense, in words; empty if there is none.
    pub fn problems(&self, shape: Shape) -> Vec<String> {
        let mut found = self.dqn(shape).problems();
        found.extend(self.replay(shape).problems());
        let mut check = |ok: bool, what: &str| {
            if !ok {
                found.push(what.to_owned());
            }
        };
        check((1..=65_536).contains(&self.batch_size), "`batch_size` must lie within 1..=65536");
        check(self.min_size <= self.capacity as u64, "`min_size` must not exceed `capacity`");
        check(self.samples_per_insert > 0.0, "`samples_per_insert` must be above zero");
        check(
            self.sample_tolerance >= self.batch_size as f64 && self.sample_tolerance.is_finite(),
            "`sample_tolerance` must be at least `batch_size`",
        );
        check(self.reward_scale.is_finite(), "`reward_scale` must be finite");
        check(self.reward_clip >= 0.0 && self.reward_clip.is_finite(), "`reward_clip` must not be negative");
        check(self.beta_steps > 0, "`beta_steps` must be above zero");
        found
    }
}
