//! The log in memory, and the wrappers around it, answer to the suite.

use std::sync::Arc;

use flywheel_log::{EventLog, Faults, Faulty, MemoryLog, Metered, Throttle, Throttled, conformance::LogFixture};

struct Memory;

impl LogFixture for Memory {
    async fn fresh(&self) -> Arc<dyn EventLog> {
        MemoryLog::new()
    }
}

/// Wrappers that have nothing to do change nothing.
struct Wrapped;

impl LogFixture for Wrapped {
    async fn fresh(&self) -> Arc<dyn EventLog> {
        let throttled = Throttled::new(MemoryLog::new(), Throttle::default());
        Metered::new(Faulty::new(throttled, Faults::default()))
    }
}

mod memory {
    flywheel_log::event_log_conformance!(super::Memory);
}

mod wrapped {
    flywheel_log::event_log_conformance!(super::Wrapped);
}
