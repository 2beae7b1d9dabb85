use std::sync::Mutex;

use serde::Serialize;

use crate::land::now_ms;

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

/// What a flow can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Lake,
    Log,
}

#[derive(Debug, Default)]
struct Inner {
    /// `None` while it runs; else why it failed, if it did.
    ended: Option<Option<String>>,
    lake: Option<Away>,
    log: Option<Away>,
}

/// Something that a flow needs is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Milliseconds since 1970-01-01 UTC.
    pub since_ms: i64,
    /// What was tried last, and how it failed.
    pub why: String,
}

/// What a flow does, and why when it does nothing.
#[derive(Debug)]
pub struct FlowStatus {
    inner: Mutex<Inner>,
    gauge: &'static str,
}

impl FlowStatus {
    pub(crate) fn new(gauge: &'static str) -> Self {
        Self { inner: Mutex::new(Inner { ended: Some(None), ..Inner::default() }), gauge }
    }

    pub fn state(&self) -> FlowState {
        let inner = self.inner.lock().expect("no panic while holding it");
        match &inner.ended {
            Some(Some(_)) => FlowState::Failed,
            Some(None) => FlowState::Stopped,
            None if inner.lake.is_some() || inner.log.is_some() => FlowState::Waiting,
            None => FlowState::Running,
        }
    }

    /// Why it waits or failed, for a person.
    pub fn why(&self) -> Option<String> {
        let inner = self.inner.lock().expect("no panic while holding it");
        let away = inner.lake.as_ref().or(inner.log.as_ref());
        inner.ended.clone().flatten().or_else(|| away.map(|away| away.why.clone()))
    }

    /// The tables' store, if it does not answer.
    pub fn store_away(&self) -> Option<Away> {
        self.inner.lock().expect("no panic while holding it").lake.clone()
    }

    /// The log, if it cannot be read.
    pub fn log_away(&self) -> Option<Away> {
        self.inner.lock().expect("no panic while holding it").log.clone()
    }

    /// Something is away, or (`None`) there again. One need says nothing of the other.
    pub(crate) fn needs(&self, need: Need, why: Option<String>) {
        let mut inner = self.inner.lock().expect("no panic while holding it");
        inner.ended = None;
        let away = match need {
            Need::Lake => &mut inner.lake,
            Need::Log => &mut inner.log,
        };
        let since_ms = away.as_ref().map_or_else(now_ms, |away| away.since_ms);
        *away = why.map(|why| Away { since_ms, why });
        let waiting = inner.lake.is_some() || inner.log.is_some();
        metrics::gauge!(self.gauge).set(f64::from(u8::from(waiting)));
    }

    pub(crate) fn end(&self, failure: Option<String>) {
        *self.inner.lock().expect("no panic while holding it") = Inner { ended: Some(failure), ..Inner::default() };
        metrics::gauge!(self.gauge).set(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_answers_does_not_hide_a_lake_that_does_not() {
        let status = FlowStatus::new("flywheel_land_waiting");
        assert_eq!(status.state(), FlowState::Stopped);
        status.needs(Need::Lake, Some("full".into()));
        status.needs(Need::Log, None);
        assert_eq!((status.state(), status.why().as_deref()), (FlowState::Waiting, Some("full")));
        let since = status.store_away().unwrap().since_ms;
        status.needs(Need::Lake, Some("fuller".into()));
        assert_eq!(status.store_away(), Some(Away { since_ms: since, why: "fuller".into() }));
        assert_eq!(status.log_away(), None);
        status.needs(Need::Lake, None);
        assert_eq!((status.state(), status.why(), status.store_away()), (FlowState::Running, None, None));
        status.end(Some("too new".into()));
        assert_eq!((status.state(), status.why().as_deref()), (FlowState::Failed, Some("too new")));
    }
}
