//! The suite of every log, unchanged, on a real server.

mod support;

use std::sync::{Arc, Mutex};

use flywheel_log::{EventLog, conformance::LogFixture};
use flywheel_log_redis::RedisLog;
use support::Server;

/// Servers live as long as the test.
#[derive(Default)]
struct Redis(Mutex<Vec<Server>>);

impl LogFixture for Redis {
    async fn fresh(&self) -> Arc<dyn EventLog> {
        if !support::is_there() {
            return flywheel_log::MemoryLog::new();
        }
        let server = Server::start("always");
        let log = RedisLog::connect(&server.url()).await.unwrap();
        assert_eq!(log.durability(), flywheel_log::Durability::Fsynced);
        self.0.lock().unwrap().push(server);
        log
    }
}

flywheel_log::event_log_conformance!(Redis::default());
