//! Networks that decide: their shapes, their files, their arithmetic, and their exchange while games run.
//!
//! A [`Network`] is checked when it is made (shapes, finite numbers, bounded sizes) and immutable from then on.
//! Its arithmetic is plain Rust with AVX2 and FMA where the machine has them. A row's answer has the same bits
//! alone and in any batch, so a replayed decision is the recorded one. [`LivePolicy`] holds the version that
//! decides now; taking it once a decision makes every decision the work of one named version. There is no I/O
//! here: bytes come in, bytes go out.
//!
//! ```
//! use flywheel_policy::{Network, NetworkSpec, Scratch, argmax};
//!
//! let network = Network::random(&NetworkSpec::new(108, [128], 10), 7, 0.01)?;
//! let network = Network::from_safetensors(&network.to_safetensors())?;
//! let (mut values, mut scratch) = ([0.0; 10], Scratch::new());
//! network.evaluate(&[0.5; 108], &mut values, &mut scratch);
//! assert!(argmax(&values) < 10);
//! # Ok::<(), flywheel_policy::PolicyError>(())
//! ```

mod error;
mod file;
mod kernel;
mod learner;
mod live;
mod network;
mod online;
mod spec;
mod store_form;
#[cfg(test)]
mod tests;

pub use error::PolicyError;
pub use file::{MAX_FILE_BYTES, MAX_HEADER_BYTES, SPEC_KEY};
pub use learner::{LearnError, LearnErrorKind, Learner, StepReport, TrainingBatch};
pub use live::{LivePolicy, Policy, VersionedNetwork};
pub use network::{Network, Scratch, Tensor, argmax};
pub use online::{OnlineQ, OnlineTransition, OnlineUpdate};
pub use spec::{Head, MAX_HIDDEN_LAYERS, MAX_PARAMETERS, MAX_WIDTH, NetworkSpec};
pub use store_form::StoreForm;
