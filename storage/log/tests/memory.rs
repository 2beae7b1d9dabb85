use std::sync::Arc;

use flywheel_log::{EventLog, MemoryLog, conformance::LogFixture};

struct Memory;

impl LogFixture for Memory {
    async fn fresh(&self) -> Arc<dyn EventLog> {
        MemoryLog::new()
    }
}

flywheel_log::event_log_conformance!(Memory);
