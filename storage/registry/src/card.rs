use flywheel_events::{BaseKey, ModelVersion};
use flywheel_policy::NetworkSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a publisher hands over.
#[derive(Debug, Clone)]
pub struct NewVersion {
    pub base_key: BaseKey,
    /// A safetensors file, see [`flywheel_policy::Network::to_safetensors`].
    pub weights: Vec<u8>,
    /// The version from which training went on.
    pub parent: Option<ModelVersion>,
    pub train_job_id: String,
    /// First and last event positions that it learned from.
    pub data_range: Option<Value>,
    pub metrics: Value,
    /// Table versions, rows, seed, configuration, code; a model store's `modelKey`.
    pub metadata: Value,
}

/// Where a version came from and what it is. Immutable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    pub base_key: BaseKey,
    pub version: ModelVersion,
    /// `safetensors`.
    pub format: String,
    /// Of the weight file, hexadecimal.
    pub sha256: String,
    pub size_bytes: u64,
    pub parent_version: Option<ModelVersion>,
    pub train_job_id: String,
    pub data_range: Option<Value>,
    pub metrics: Value,
    pub published_at_ms: i64,
    /// `candidate` when it was published; what it is now is said by the aliases.
    pub status: String,
    pub metadata: Value,
    pub network: NetworkSpec,
}

/// Which version an alias names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasState {
    pub alias: String,
    pub version: ModelVersion,
    /// What it named before.
    pub previous: Option<ModelVersion>,
    /// Number of this move, from 1.
    pub revision: u64,
    pub moved_at_ms: i64,
    pub reason: String,
}
