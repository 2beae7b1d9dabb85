//! `flywheel torture`: producers send numbered events through the real door while the process that takes them is
//! killed, or loses power, again and again; at the end every acknowledged event is looked for in the table.
//!
//! # What it can see
//! - **lost**: acknowledged, and not in the table; told apart by the durability that the acknowledgement named.
//! - **doubled**: rows with the same `(game_id, seq)`.
//! - **out of order**: of one game, an event whose record lies behind one that was sent after it was acknowledged.
//! - **changed, invented, dead**: rows whose content is not what was sent, that nobody sent, that did not decode.
//!
//! Where a Python with `deltalake` and DuckDB is to be had, these read the table too and judge it by a program of their own
//! ([`Opinion`]); a run in which the two disagree is not well.
//!
//! With [`Plan::faults`] log and store also refuse, forget to answer and are slow, in every life.
//!
//! # How it is set up
//! The process under test is this very program, started as a child ([`serve`]): the doors of `flywheel-ingest`, a log,
//! `Land`, compaction and trimming. Producers send duplicates, swapped batches and shuffled events on purpose, drop
//! requests in the middle, and send what was not acknowledged until it is. A run is bounded by its number of kills and
//! cuts, and every wait has an end.
//!
//! `kill -9` says nothing about missing syncs, because the page cache survives the process. So a cut of power also takes
//! back what was not synced: `flywheel-powercut`, loaded into the processes, keeps a journal of their changes; see
//! [`cut`].

mod book;
mod check;
pub mod cut;
mod faults;
mod letter;
mod node;
mod oracle;
mod plan;
mod producer;
mod redis;
mod report;
mod run;
mod serve;

pub use oracle::Opinion;
pub use plan::{LogChoice, Plan, RedisSync, apart};
pub use report::{Lost, Report};
pub use run::{Progress, run, sweep};
pub use serve::{Served, serve};
