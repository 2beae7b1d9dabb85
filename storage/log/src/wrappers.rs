//! Logs around other logs: one that fails on purpose, one that is slow, one that counts, one that leaves
//! room on its volume.

mod faulty;
mod metered;
mod reserved;
mod throttled;

pub use faulty::{FaultCounts, Faults, Faulty};
pub use metered::Metered;
pub use reserved::Reserved;
pub use throttled::{Throttle, Throttled};
