//! What the scenarios of `tests/` share: they start the real programs on loopback, and end only what they started.
//!
//! The programs are those that `cargo build --workspace --bins` has put beside the tests, or the one that
//! `FLYWHEEL_BIN` names. Where there is none, a scenario says `SKIPPED` and passes, unless `FLYWHEEL_REQUIRE` lists
//! `programs`.

mod command;
mod http;
mod journal;
mod kafka;
mod looping;
mod redis;

pub use command::{Finished, command, flywheel, flywheel_reads, program, python, requires};
pub use http::{get, post, post_as};
pub use journal::{Promises, promises};
pub use kafka::{Kafka, Producer};
pub use looping::{Loop, Scratch, signal, wait_for};
pub use redis::{Appender, Redis};
