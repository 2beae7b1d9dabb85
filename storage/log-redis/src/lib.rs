//! The log on Redis Streams: one stream for each partition, readable and writable by programs that never heard of us.
//!
//! Guarantees: a batch is one script, so readers and the append-only file have all of it or nothing; ids rise also
//! when the server's clock falls; only [`flywheel_log::EventLog::trim`] removes records, and what it removed is told
//! to readers. What an acknowledgement survives is what the server's own settings say ([`RedisLog::connect`]).
//!
//! The stream of partition 0 of `fw.tank.events` is `flywheel:{fw.tank.events:0}`. An entry is a record: its field
//! `event` is the value, its field `key`, if there is one, the key. `XADD … * event <json>` is enough. Whatever else
//! another program adds is a record too, if need be one that does not decode and becomes a dead letter; an entry whose id
//! fits no offset is given another before anybody reads it.

mod config;
mod connection;
mod entry;
mod error;
mod follow;
mod group;
mod ids;
mod piece;
mod redis_log;
mod resp;
mod scripts;

pub use config::{ConfigError, RedisConfig};
pub use connection::Persistence;
pub use redis_log::RedisLog;

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
