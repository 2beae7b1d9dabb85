//! The log on Apache Kafka, and the only crate that links librdkafka.
//!
//! Guarantees: an append that returned was acknowledged by all replicas in sync (`acks=all`), and what that is worth is
//! read from the cluster ([`flywheel_log::EventLog::durability`]); an append lies in one record batch, so readers see all
//! of it or nothing, whatever dies; records of a partition keep their order over the producer's retries (idempotence);
//! a group's position moves only by [`flywheel_log::GroupMember::commit`].
//!
//! ```no_run
//! # async fn example() -> Result<(), flywheel_log::LogError> {
//! let log = flywheel_log_kafka::KafkaLog::connect("kafka://127.0.0.1:9092?timeout=5s").await?;
//! # Ok(()) }
//! ```

mod client;
mod cluster;
mod config;
mod fetch;
mod follow;
mod group;
mod heard;
mod lane;
mod log;
mod writer;

pub use config::{ConfigError, KafkaConfig};
pub use log::KafkaLog;
