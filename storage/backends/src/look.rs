//! What a person is told of a log on servers before anything rests on it.

use anyhow::Context;
use flywheel_log::Durability;
use flywheel_log_redis::{Persistence, RedisLog};

use crate::{BackendUrls, kafka_log};

/// A log on servers, as it answered just now. Nothing was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFound {
    /// Where it is, without user and password.
    pub place: String,
    /// What its acknowledgements survive.
    pub durability: Durability,
    /// The settings of the server that this follows from, where it tells them.
    pub settings: Option<String>,
    /// What may go wrong with them, each with what to set.
    pub risks: Vec<String>,
}

impl BackendUrls {
    /// Connects to the log, where it is one on servers.
    ///
    /// # Errors
    /// If it cannot be reached or lets us not in: the message says what to do about it.
    pub async fn look_at_log(&self) -> anyhow::Result<Option<LogFound>> {
        if self.log.starts_with("redis:") || self.log.starts_with("rediss:") {
            let log = RedisLog::connect(&self.log).await.context("opening the event log on Redis")?;
            return Ok(Some(of_redis(log.place(), &log.persistence())));
        }
        Ok(kafka_log(&self.log).await?.map(|(log, name)| {
            let durability = log.durability();
            let risks = match durability {
                Durability::Memory => vec![
                    "acknowledged records may be lost with a broker: set the topic's `replication.factor` to 3 and \
                     `min.insync.replicas` to 2"
                        .to_owned(),
                ],
                Durability::Fsynced | Durability::Replicated => Vec::new(),
            };
            LogFound { place: name.place, durability, settings: None, risks }
        }))
    }
}

fn of_redis(place: String, found: &Persistence) -> LogFound {
    let mut risks = Vec::new();
    if found.durability() < Durability::Fsynced {
        risks.push(
            "acknowledged records may be lost at a power cut: set `appendonly yes`, `appendfsync always` and \
             `no-appendfsync-on-rewrite no` in the server's configuration"
                .to_owned(),
        );
    }
    if found.may_evict() {
        risks.push(format!(
            "the server may evict whole streams (`maxmemory-policy {}`): set `maxmemory-policy noeviction`",
            found.maxmemory_policy
        ));
    }
    LogFound { place, durability: found.durability(), settings: Some(found.to_string()), risks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_may_lose_records_are_risks_that_say_what_to_set() {
        let safe = Persistence {
            appendonly: "yes".into(),
            appendfsync: "always".into(),
            no_appendfsync_on_rewrite: "no".into(),
            maxmemory: "0".into(),
            maxmemory_policy: "noeviction".into(),
            ..Persistence::default()
        };
        let found = of_redis("redis://h:1/0".to_owned(), &safe);
        assert_eq!((found.durability, found.risks.len()), (Durability::Fsynced, 0), "{found:?}");
        assert!(found.settings.unwrap().contains("appendfsync always"));
        let lax = Persistence {
            appendfsync: "everysec".into(),
            maxmemory: "1000".into(),
            maxmemory_policy: "allkeys-lru".into(),
            ..safe
        };
        let found = of_redis("redis://h:1/0".to_owned(), &lax);
        assert_eq!(found.durability, Durability::Memory);
        assert!(found.risks[0].contains("`appendfsync always`") && found.risks[1].contains("noeviction"), "{found:?}");
        assert!(found.settings.unwrap().contains("appendfsync everysec"));
    }
}
