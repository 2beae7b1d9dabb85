//! Logs around other logs: one that fails on purpose, one that is slow, one that counts.

mod faulty;
mod metered;
mod throttled;

pub use faulty::{FaultCounts, Faults, Faulty};
pub use metered::Metered;
pub use throttled::{Throttle, Throttled};
