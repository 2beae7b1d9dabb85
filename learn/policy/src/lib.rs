//! Policies: networks described and evaluated in pure Rust, exchanged while they decide, and the seam to learners.
//!
//! Guarantees: an answer for an observation is the same bits in any batch; a file is checked for size, shape and
//! finite numbers before anything is evaluated; nothing here does I/O but a learner's own checkpoints.
//!
//! ```
//! use flywheel_policy::{Network, NetworkSpec, Scratch, argmax};
//!
//! let network = Network::random(&NetworkSpec::new(108, [128], 10), 7, 0.01);
//! let network = Network::from_safetensors(&network.to_safetensors()).unwrap();
//! let mut values = [0.0; 10];
//! network.evaluate(&[0.1; 108], &mut values, &mut Scratch::default());
//! assert!(argmax(&values) < 10);
//! ```

mod error;
mod kernel;
mod learn;
mod live;
mod network;
mod spec;
#[cfg(test)]
mod tests;

pub use error::PolicyError;
pub use learn::{LearnError, Learner, StepReport, TrainingBatch};
pub use live::{LivePolicy, Policy, VersionedNetwork, warm};
pub use network::{MAX_FILE_BYTES, MAX_HEADER_BYTES, Network, SPEC_KEY, Scratch, argmax};
pub use spec::{Head, MAX_HIDDEN_LAYERS, MAX_PARAMETERS, MAX_WIDTH, NetworkSpec};
