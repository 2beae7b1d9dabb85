use std::sync::Mutex;

use serde::Serialize;

/// What a flow does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    Running,
    /// Something it needs is away; it tries again.
    Waiting,
    /// As told.
    Stopped,
    Failed,
}

/// What a flow does, and why when it does nothing.
#[derive(Debug)]
pub struct FlowStatus {
    inner: Mutex<(FlowState, Option<String>)>,
    gauge: &'static str,
}

impl FlowStatus {
    pub(crate) fn new(gauge: &'static str) -> Self {
        Self { inner: Mutex::new((FlowState::Stopped, None)), gauge }
    }

    pub fn state(&self) -> FlowState {
        self.inner.lock().expect("no panic while holding it").0
    }

    /// Why it waits or failed, for a person.
    pub fn why(&self) -> Option<String> {
        self.inner.lock().expect("no panic while holding it").1.clone()
    }

    pub(crate) fn set(&self, state: FlowState, why: Option<String>) {
        metrics::gauge!(self.gauge).set(f64::from(u8::from(state == FlowState::Waiting)));
        *self.inner.lock().expect("no panic while holding it") = (state, why);
    }

    pub(crate) fn running(&self) {
        if self.state() != FlowState::Running {
            self.set(FlowState::Running, None);
        }
    }
}
