//! The log on Redis Streams: one stream for each partition, readable and writable by programs that never heard of us.
//!
//! Guarantees: a batch is one script, so readers and the append-only file have all of it or nothing; ids rise also
//! when the server's clock falls; only [`flywheel_log::EventLog::trim`] removes records, and what it removed is told
//! to readers. What an acknowledgement survives is what the server's own settings say ([`RedisLog::connect`]).
//!
//! The stream of partition 0 of `fw.tank.events` is `flywheel:{fw.tank.events:0}`. An entry is a record: its field
//! `event` is the value, its field `key`, if there is one, the key. `XADD … * event <json>` is enough.

/// Asks the server with a command or a pipeline, within the time that the connection allows.
macro_rules! ask {
    ($connection:expr, $operation:expr, $target:expr, $command:expr) => {{
        let answer = match $connection.get().await {
            Ok(mut connection) => $command.query_async(&mut connection).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => answer,
            Err(error) => return Err($connection.failed($operation, $target, error).await),
        }
    }};
}
/// Runs a script, which is sent in full where the server does not know it.
macro_rules! invoke {
    ($connection:expr, $operation:expr, $target:expr, $call:expr) => {{
        let answer = match $connection.get().await {
            Ok(mut connection) => $call.invoke_async(&mut connection).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => answer,
            Err(error) => return Err($connection.failed($operation, $target, error).await),
        }
    }};
}

mod connection;
mod error;
mod group;
mod ids;
mod redis_log;

pub use redis_log::RedisLog;
