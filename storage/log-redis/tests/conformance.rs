//! The suite of every log, unchanged, on a real server.

mod support;

use std::sync::{Arc, Mutex};

use flywheel_log::{
    EventLog,
    conformance::{DurableLogFixture, LogFixture},
};
use flywheel_log_redis::RedisLog;
use support::Server;

/// Servers live as long as the test. Where there is no server, it is the log in memory that is looked at, loudly.
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

impl DurableLogFixture for Redis {
    /// The server is killed and comes back on what it had written.
    async fn reopen(&self, log: Arc<dyn EventLog>) -> Arc<dyn EventLog> {
        let mut servers = self.0.lock().unwrap().pop();
        let Some(server) = &mut servers else { return log };
        drop(log);
        server.kill();
        server.run();
        let log = RedisLog::connect(&server.url()).await.unwrap();
        self.0.lock().unwrap().extend(servers);
        log
    }
}

flywheel_log::event_log_conformance!(Redis::default());
flywheel_log::durable_log_conformance!(Redis::default());
