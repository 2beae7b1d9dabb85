//! Double DQN on libtorch: the only crate that links it, and only with the feature `torch`.
//!
//! A step is written out by hand rather than recorded by autograd: one pass of the online network over `s` and `s2`
//! together, one of the target network over `s2`, the loss and its gradient by action on the host (they are a few
//! thousand numbers), one pass back. Parameters, gradients and the optimiser's moments each lie in one flat tensor,
//! so that a checkpoint is four tensors and resuming gives the same bits on a CPU.
//!
//! Without the feature the crate still offers what needs no libtorch: the settings, the loss and the optimiser.

mod adam;
mod config;
mod layout;
mod loss;

#[cfg(feature = "torch")]
mod checkpoint;
#[cfg(feature = "torch")]
mod device;
#[cfg(feature = "torch")]
mod dqn;
#[cfg(any(feature = "torch", test))]
mod fused;

pub use adam::{Adam, adam_step, square_sum};
pub use config::{DeviceChoice, DqnConfig};
#[cfg(feature = "torch")]
pub use device::{DeviceError, DeviceFacts, device_facts, open_device};
#[cfg(feature = "torch")]
pub use dqn::TorchDqn;
pub use layout::Layout;
pub use loss::{DoubleDqnLoss, LossReport};
