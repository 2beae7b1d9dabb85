//! Redis' errors in the words of the log: what was attempted, where, why, what to do.

use std::fmt::Display;

use flywheel_log::{LogError, LogErrorKind};
use redis::{ErrorKind, RedisError};

/// The server's own word for what is wrong, also where it came from a command within a transaction; empty if it said none.
pub(crate) fn code_of(error: &RedisError) -> String {
    match error.code() {
        Some(code) if code != "EXECABORT" => code.to_owned(),
        own => {
            let inner = error.clone().into_server_errors().and_then(|all| Some(all.first()?.1.code().to_owned()));
            inner.or_else(|| own.map(str::to_owned)).unwrap_or_default()
        }
    }
}

/// What an error means, and what to do.
fn meaning(error: &RedisError) -> (LogErrorKind, &'static str) {
    use LogErrorKind::{Conflict, Corrupt, Internal, InvalidData, Unavailable};
    const PASSWORD: &str = "the server wants another user or password; set `password.env=NAME` or `password.file=PATH` \
                            in the log's URL, and the user before its host";
    match code_of(error).as_str() {
        "LOADING" => (Unavailable, "the server is still loading its data; wait"),
        "READONLY" => (Unavailable, "this server is a replica; the next call connects anew and finds the master"),
        "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => (Unavailable, "the master is down; wait for the failover"),
        "NOREPLICAS" => (Unavailable, "too few replicas are in sync (`min-replicas-to-write`); wait or lower that"),
        "OOM" => (Unavailable, "the server is at its `maxmemory`; raise that, or archive and trim"),
        "MISCONF" => (Unavailable, "the server cannot write to its disk; see the server's own log"),
        "BUSY" => (Unavailable, "the server is busy with a script; wait"),
        "MOVED" | "ASK" | "CROSSSLOT" => (
            InvalidData,
            "this is a node of a Redis Cluster, which is not supported; name a single server or its master",
        ),
        "NOAUTH" | "WRONGPASS" => (InvalidData, PASSWORD),
        "NOPERM" => (InvalidData, "give this user the rights of the log's keys and of scripts"),
        "WRONGTYPE" => (Conflict, "another program uses this key; choose another `prefix=` in the log's URL"),
        "FLYWHEELFULL" => (Conflict, "no record can come after it; move the producer to another partition or topic"),
        "" => match error.kind() {
            ErrorKind::AuthenticationFailed => (InvalidData, PASSWORD),
            ErrorKind::InvalidClientConfig => (InvalidData, "the log's URL cannot be used"),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                (Corrupt, "the answer is none that Redis gives; is another program at this address?")
            }
            _ if error.is_timeout() => {
                (Unavailable, "no answer in time; is it overloaded? `timeout=` in the URL says when")
            }
            _ => (Unavailable, "it cannot be reached; start the server, or correct host and port in the log's URL"),
        },
        _ if error.to_string().contains("max number of clients") => {
            (Unavailable, "the server has too many clients; raise its `maxclients`")
        }
        _ if error.to_string().contains("invalid DB index") || error.to_string().contains("out of range") => {
            (InvalidData, "the server has no such database; correct the number in the log's URL")
        }
        _ => (Internal, "the server refused the command"),
    }
}

/// `server` is where: without user and password.
pub(crate) fn failed(operation: &'static str, target: impl Display, server: &str, error: &RedisError) -> LogError {
    let (kind, advice) = meaning(error);
    let unknown = if operation == "appending" && kind == LogErrorKind::Unavailable && code_of(error).is_empty() {
        "; the records may be there"
    } else {
        ""
    };
    LogError::new(kind, operation, target, format!("{server}: {error}: {advice}{unknown}"))
}

/// Whether the same may be asked again after a while.
pub(crate) fn passes(error: &RedisError) -> bool {
    meaning(error).0.is_retryable()
}

/// Whether the connection that gave this is of no use any more.
pub(crate) fn breaks_connection(error: &RedisError) -> bool {
    let of_a_server_that_is_no_master = matches!(
        code_of(error).as_str(),
        "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "NOAUTH" | "WRONGPASS" | "UNBLOCKED"
    );
    of_a_server_that_is_no_master || error.is_io_error() || error.is_unrecoverable_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str) -> (LogErrorKind, String) {
        let text = format!("-{code} because\r\n");
        let error = redis::parse_redis_value(text.as_bytes()).and_then(redis::Value::extract_error).unwrap_err();
        let error = failed("appending", "t/0", "redis://h:1", &error);
        (error.kind(), error.to_string())
    }

    #[test]
    fn what_passes_by_itself_may_be_tried_again_and_the_rest_may_not() {
        for code in ["LOADING", "READONLY", "MASTERDOWN", "OOM", "MISCONF", "BUSY", "NOREPLICAS"] {
            let (kind, text) = said(code);
            assert!(kind.is_retryable(), "{code}: {text}");
            assert!(text.contains("t/0") && text.contains("redis://h:1") && text.contains("because"), "{text}");
        }
        for (code, kind, hint) in [
            ("NOAUTH", LogErrorKind::InvalidData, "password.env"),
            ("WRONGPASS", LogErrorKind::InvalidData, "password.env"),
            ("NOPERM", LogErrorKind::InvalidData, "rights"),
            ("MOVED", LogErrorKind::InvalidData, "Cluster"),
            ("WRONGTYPE", LogErrorKind::Conflict, "prefix="),
            ("ERR", LogErrorKind::Internal, "refused"),
        ] {
            let (got, text) = said(code);
            assert_eq!(got, kind, "{code}");
            assert!(text.contains(hint), "{text}");
        }
    }
}
