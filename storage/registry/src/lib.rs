//! Model versions, where they came from, and which of them is champion.
//!
//! Everything is an object that is written once: `blobs/{sha256}`, `models/{base}/versions/{n}.json` (the card),
//! `models/{base}/aliases/{alias}/{revision}.json`. The newest revision is the alias; moving it is creating the
//! next one, which only one writer can. So compare-and-set works alike on a disk, in memory and on S3.
//!
//! Guarantees: whoever sees a card or an alias can read its blob; a version that fails hash, shape or finite-number
//! check is never returned; a publisher killed between any two steps leaves the old state or the new one. A
//! published version survives what the store's writes survive: `object_store`'s own file system does not flush to
//! the disk, so a power cut may take back the last ones; the data folder is opened through one that does.
//!
//! [`CheckpointStore`] keeps checkpoints of training runs in the same way: files written once, and numbered entries that
//! say which of them count, created under the run's fence.
//!
//! ```
//! # async fn turn(weights: Vec<u8>) -> Result<(), flywheel_registry::RegistryError> {
//! use flywheel_events::{BaseKey, ModelRef};
//! use flywheel_registry::{NewVersion, Registry};
//! use serde_json::{Value, json};
//!
//! let registry = Registry::open(std::sync::Arc::new(object_store::memory::InMemory::new()), "", None);
//! let base = BaseKey::new("tank-ai-dqn").expect("letters and hyphens");
//! let (parent, data_range, metrics, metadata) = (None, None, json!({}), Value::Null);
//! let new = NewVersion {
//!     base_key: base.clone(), weights, parent, train_job_id: "train-1".into(), data_range, metrics, metadata,
//! };
//! let card = registry.publish(new).await?;
//! registry.promote(&base, "champion", card.version, Some(0), "the first").await?;
//! let (card, network) = registry.fetch(&ModelRef::new(base, card.version)).await?;
//! assert_eq!(*network.spec(), card.network);
//! # Ok(())
//! # }
//! ```

mod card;
mod checkpoints;
mod error;
mod objects;
mod registry;
mod watch;

pub use card::{AliasState, Card, NewVersion};
pub use checkpoints::{CheckpointStore, RunCheckpoints, StoredCheckpoint};
pub use error::{RegistryError, RegistryErrorKind};
pub use registry::Registry;

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
