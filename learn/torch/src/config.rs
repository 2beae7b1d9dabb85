use std::{fmt, str::FromStr};

use flywheel_policy::NetworkSpec;
use serde::{Deserialize, Serialize};

/// Where a learner computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// A GPU if one can be used, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// A GPU, or an error that says why there is none.
    Cuda,
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

impl FromStr for DeviceChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(format!("`{text}` is not a device; use auto, cpu or cuda")),
        }
    }
}

/// A double DQN (van Hasselt et al. 2016) with Huber loss and Adam.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DqnConfig {
    pub network: NetworkSpec,
    #[serde(default = "defaults::learning_rate")]
    pub learning_rate: f64,
    /// Steps between two copies of the online network into the target network.
    #[serde(default = "defaults::target_sync_steps")]
    pub target_sync_steps: u64,
    /// Errors beyond this count linearly.
    #[serde(default = "defaults::huber_delta")]
    pub huber_delta: f32,
    /// Gradients longer than this are scaled down to it; infinity leaves them alone.
    #[serde(default = "defaults::max_grad_norm")]
    pub max_grad_norm: f64,
    #[serde(default)]
    pub device: DeviceChoice,
    /// Of the first weights.
    #[serde(default)]
    pub seed: u64,
}

mod defaults {
    pub(super) fn learning_rate() -> f64 {
        5e-4
    }
    pub(super) fn target_sync_steps() -> u64 {
        500
    }
    pub(super) fn huber_delta() -> f32 {
        1.0
    }
    pub(super) fn max_grad_norm() -> f64 {
        10.0
    }
}

impl DqnConfig {
    pub fn new(network: NetworkSpec) -> Self {
        Self {
            network,
            learning_rate: defaults::learning_rate(),
            target_sync_steps: defaults::target_sync_steps(),
            huber_delta: defaults::huber_delta(),
            max_grad_norm: defaults::max_grad_norm(),
            device: DeviceChoice::default(),
            seed: 0,
        }
    }

    /// Every setting that makes no sense, in words; empty if there is none.
    pub fn problems(&self) -> Vec<String> {
        let mut found: Vec<String> = self.network.validate().err().map(|error| error.to_string()).into_iter().collect();
        let mut check = |ok: bool, what: &str| {
            if !ok {
                found.push(what.to_owned());
            }
        };
        check(self.learning_rate > 0.0 && self.learning_rate < 1.0, "`learning_rate` must lie between 0 and 1");
        check(self.target_sync_steps > 0, "`target_sync_steps` must be above zero");
        check(self.huber_delta > 0.0 && self.huber_delta.is_finite(), "`huber_delta` must be above zero");
        check(self.max_grad_norm > 0.0, "`max_grad_norm` must be above zero");
        found
    }
}
