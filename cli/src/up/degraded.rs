//! What the loop does without for now: since when, and why.

use flywheel_control::{Degraded, Lack};
use flywheel_flows::Away;

use super::view::{Look, Parts};

/// Something that is asked now and then and does not answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Silence(Option<Away>);

impl Silence {
    /// What came of asking it at `now_ms`: the error, if it did not answer.
    pub fn note(&mut self, now_ms: i64, error: Option<String>) {
        let since_ms = self.0.as_ref().map_or(now_ms, |away| away.since_ms);
        self.0 = error.map(|why| Away { since_ms, why });
    }

    pub fn away(&self) -> Option<Away> {
        self.0.clone()
    }
}

/// Everything that is away now. Of several witnesses the one is heard that noticed first.
pub fn degraded(parts: &Parts, now: &Look) -> Vec<Degraded> {
    let emitter = now.emitter.away.clone().filter(|_| !now.emitter.full);
    let witness = |(since_ms, why)| Away { since_ms, why };
    let disk = parts.reserve.as_ref().and_then(|reserve| reserve.shut());
    // A log that refuses for want of room is not away.
    let doors = now.doors.away.clone().filter(|_| disk.is_none());
    let log =
        [emitter.map(witness), doors.map(witness), parts.land.status.log_away(), parts.assemble.status.log_away()];
    let store = [parts.land.status.store_away(), parts.assemble.status.store_away(), now.registry_silence.away()];
    let disk = disk.map(|shut| Away { since_ms: shut.since_ms, why: shut.why });
    [
        (Lack::Log, first(log)),
        (Lack::Store, first(store)),
        (Lack::Catalog, now.catalog_silence.away()),
        (Lack::Disk, disk),
        (Lack::Archive, parts.cold.as_ref().and_then(|cold| cold.away())),
    ]
    .into_iter()
    .filter_map(|(what, away)| away.map(|away| Degraded::new(what, away.since_ms, away.why)))
    .collect()
}

fn first(witnesses: impl IntoIterator<Item = Option<Away>>) -> Option<Away> {
    witnesses.into_iter().flatten().min_by_key(|away| away.since_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(since_ms: i64, why: &str) -> Option<Away> {
        Some(Away { since_ms, why: why.to_owned() })
    }

    #[test]
    fn a_silence_lasts_from_its_first_failure_and_says_the_newest_reason() {
        let mut silence = Silence::default();
        silence.note(10, None);
        assert_eq!(silence.away(), None);
        silence.note(20, Some("locked".to_owned()));
        silence.note(30, Some("gone".to_owned()));
        assert_eq!(silence.away(), away(20, "gone"));
        silence.note(40, None);
        silence.note(50, Some("locked".to_owned()));
        assert_eq!(silence.away(), away(50, "locked"));
    }

    #[test]
    fn the_witness_who_noticed_first_is_heard() {
        assert_eq!(first([None, away(7, "later"), away(5, "sooner")]), away(5, "sooner"));
        assert_eq!(first([None, None]), None);
    }
}
