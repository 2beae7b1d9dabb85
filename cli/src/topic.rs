//! The topic of the events that this program lands, and why it cannot be made.

use std::error::Error as _;

use flywheel_events::System;
use flywheel_log::{EventLog, LogError, LogErrorKind, PartitionsDiffer, Topic};

use crate::exit::{Code, Failure};

/// Makes the topic where it is not there yet.
///
/// # Errors
/// If it is there with another number of partitions, or the log lets us not make it: with what to do about it.
pub async fn create(log: &dyn EventLog, partitions: u32) -> Result<Topic, Failure> {
    let topic = Topic::new(System::Tank.topic());
    match log.create_topic(&topic, partitions).await {
        Ok(()) => Ok(topic),
        Err(error) => Err(refused(&topic, partitions, error)),
    }
}

fn refused(topic: &Topic, partitions: u32, error: LogError) -> Failure {
    let differ = error.source().and_then(|source| source.downcast_ref::<PartitionsDiffer>()).copied();
    let (code, hint) = match (differ, error.kind()) {
        (Some(PartitionsDiffer { known, .. }), _) if known > 0 => (
            Code::Conflict,
            format!("the number of partitions is fixed once there are events; set `stream.partitions = {known}`"),
        ),
        (_, LogErrorKind::Unavailable | LogErrorKind::Full) => {
            (Code::Unreachable, "do what the message says, or name another log in `stream.url`".to_owned())
        }
        _ => (
            Code::Conflict,
            format!(
                "let the user of `stream.url` make topics there, correct what the message names in `stream.url`, or \
                 make `{topic}` there by hand with {partitions} partitions"
            ),
        ),
    };
    Failure::new(code, error).hint(hint)
}

#[cfg(test)]
mod tests {
    use flywheel_log::MemoryLog;

    use super::*;

    #[tokio::test]
    async fn only_another_number_of_partitions_is_answered_with_the_number_to_set() {
        let log = MemoryLog::new();
        create(log.as_ref(), 3).await.unwrap();
        create(log.as_ref(), 3).await.unwrap();
        let failure = create(log.as_ref(), 5).await.unwrap_err();
        assert_eq!(failure.code(), Code::Conflict);
        let said = failure.to_string();
        assert!(said.contains("3 partitions") && said.contains("`stream.partitions`"), "{said}");
        assert!(failure.hinted().unwrap().contains("set `stream.partitions = 3`"), "{failure:?}");

        let topic = Topic::new("t");
        for (kind, why, code) in [
            (LogErrorKind::Internal, "Broker: Policy violation", Code::Conflict),
            (LogErrorKind::Internal, "Broker: Invalid replication factor", Code::Conflict),
            (LogErrorKind::InvalidData, "NOPERM: give this user the rights of the log's keys", Code::Conflict),
            (LogErrorKind::Conflict, "WRONGTYPE: choose another `prefix=`", Code::Conflict),
            (LogErrorKind::Unavailable, "the user may not do this; grant it by `kafka-acls`", Code::Unreachable),
        ] {
            let failure = refused(&topic, 5, LogError::new(kind, "creating", &topic, why));
            assert_eq!(failure.code(), code, "{why}");
            assert!(failure.to_string().contains(why), "the server's words are kept: {failure}");
            let hint = failure.hinted().unwrap();
            assert!(!hint.contains("stream.partitions") && hint.contains("`stream.url`"), "{why}: {hint}");
        }
    }
}
