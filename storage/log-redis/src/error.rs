//! Redis' errors in the words of the log.

use std::fmt::Display;

use flywheel_log::{LogError, LogErrorKind};
use redis::RedisError;

pub fn failed(operation: &'static str, target: impl Display, error: RedisError) -> LogError {
    let code = error.code().unwrap_or_default().to_owned();
    let (kind, advice) = match code.as_str() {
        "LOADING" => (LogErrorKind::Unavailable, "the server is still loading its data; wait"),
        "READONLY" => (LogErrorKind::Unavailable, "this server is a replica; connect to the master"),
        "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => {
            (LogErrorKind::Unavailable, "the master is down; wait for the failover")
        }
        "OOM" => (LogErrorKind::Unavailable, "the server is at its `maxmemory`; raise it, or archive and trim"),
        "MISCONF" => (LogErrorKind::Unavailable, "the server cannot write to its disk; see its log"),
        "BUSY" => (LogErrorKind::Unavailable, "the server is busy with a script"),
        "NOAUTH" | "WRONGPASS" => (LogErrorKind::InvalidData, "set the password in the log's URL"),
        "NOPERM" => (LogErrorKind::InvalidData, "give this user the rights of the log's keys"),
        "WRONGTYPE" => (LogErrorKind::Conflict, "another program uses this key; choose another `?prefix=`"),
        "" => (LogErrorKind::Unavailable, "the server cannot be reached; is it running, and is the URL right?"),
        _ => (LogErrorKind::Internal, "the server refused the command"),
    };
    LogError::new(kind, operation, target, format!("{advice} ({error})"))
}
