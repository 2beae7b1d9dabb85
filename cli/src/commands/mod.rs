//! One module a verb: its arguments and its `run`.

pub mod archive;
pub mod assemble;
pub mod audit;
pub mod bench;
pub mod completions;
pub mod config;
pub mod dlq;
pub mod doctor;
pub mod emit;
pub mod judge;
pub mod key;
pub mod land;
pub mod log;
pub mod model;
pub mod restore;
pub mod run;
pub mod schema;
pub mod status;
pub mod table;
pub mod torture;
pub mod up;
