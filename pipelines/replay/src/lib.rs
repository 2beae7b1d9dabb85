//! What a learner samples: transitions kept in memory, drawn evenly or by priority.
//!
//! Two buffers share the same sampler. [`ReplayBuffer`] takes transitions of *lanes* (one seat of one game),
//! keeps every frame of a stacked observation once, rebuilds the stacks and sums n-step returns when a batch is
//! drawn. [`RowBuffer`] keeps whole rows side by side, for observations that share nothing with each other.
//!
//! Guarantees: memory is bounded and known ([`ReplayBuffer::memory_bytes`]); what is sampled is bit-equal to what
//! was inserted; the same inserts, draws and seed give the same batches on every machine; priorities of rows that
//! have been overwritten are never touched.
//!
//! ```
//! use flywheel_policy::TrainingBatch;
//! use flywheel_replay::{Insert, ReplayBuffer, ReplayConfig};
//!
//! let mut buffer = ReplayBuffer::new(ReplayConfig { capacity: 100, frame_len: 2, stack: 1, n_step: 2, ..Default::default() });
//! buffer.insert(Insert::new(7, &[0.0, 1.0], 3, 0.5, &[1.0, 1.0])).unwrap();
//! buffer.insert(Insert { done: true, ..Insert::new(7, &[1.0, 1.0], 3, 2.0, &[2.0, 1.0]) }).unwrap();
//! let mut batch = TrainingBatch::default();
//! buffer.sample_uniform(16, &mut batch).unwrap();
//! assert!(batch.discount.iter().all(|&discount| discount == 0.0), "both rows reach the end within two steps");
//! ```

mod buffer;
mod config;
mod frames;
mod limiter;
mod rows;
mod sampler;
mod slab;
mod tree;

pub use buffer::{Insert, ReplayBuffer, Staleness};
pub use config::{ReplayConfig, ReplayError};
pub use limiter::{Limit, RateLimiter};
pub use rows::{RowBatch, RowBuffer, RowBufferConfig, Rows};
pub use sampler::SamplerState;
pub use tree::SumTree;
