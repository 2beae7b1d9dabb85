//! What the beats say: who lives, who holds what, who should.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flywheel_log::{EventLog, LogError, LogErrorKind, Position, ReadLimit, StoredRecord, Topic};
use serde::Serialize;

use super::{
    TOPIC,
    assign::{Living, assign},
    beat::Beat,
};

/// After so many leases of silence a member is forgotten.
const REMEMBERED: i64 = 10;

#[derive(Debug)]
struct Heard {
    beat: Beat,
    at_ms: i64,
}

impl Heard {
    fn lease_ms(&self) -> i64 {
        i64::try_from(self.beat.lease_ms).unwrap_or(i64::MAX)
    }
}

/// One group, as its beats tell it.
#[derive(Debug, Default)]
pub(crate) struct Members {
    heard: BTreeMap<String, Heard>,
    /// When somebody last said to hold a partition.
    held_ms: BTreeMap<u32, i64>,
    now_ms: i64,
}

impl Members {
    /// The log's time goes on with every record, whosever it is.
    pub fn hear(&mut self, group: &str, record: &StoredRecord) {
        self.now_ms = self.now_ms.max(record.ingest_ms);
        if let Some(beat) = Beat::decode(&record.value).filter(|beat| beat.group == group) {
            self.held_ms.extend(beat.holds.keys().map(|partition| (*partition, record.ingest_ms)));
            if beat.left {
                self.heard.remove(&beat.member);
            } else {
                self.heard.insert(beat.member.clone(), Heard { beat, at_ms: record.ingest_ms });
            }
        }
        let now_ms = self.now_ms;
        self.heard.retain(|_, heard| now_ms - heard.at_ms < heard.lease_ms().saturating_mul(REMEMBERED));
    }

    fn living(&self) -> impl Iterator<Item = &Heard> {
        self.heard.values().filter(|heard| self.now_ms - heard.at_ms < heard.lease_ms())
    }

    /// Who should have which partition, as of the newest record.
    pub fn assigned(&self, partitions: u32) -> BTreeMap<u32, &str> {
        let living: Vec<Living<'_>> =
            self.living().map(|heard| (heard.beat.member.as_str(), heard.beat.pins.as_ref())).collect();
        assign(partitions, &living)
    }

    /// What living members other than `member` say to hold.
    pub fn held_beside(&self, member: &str) -> BTreeSet<u32> {
        let others = self.living().filter(|heard| heard.beat.member != member);
        others.flat_map(|heard| heard.beat.holds.keys().copied()).collect()
    }

    /// The first of the living sweeps up behind all.
    pub fn is_first(&self, member: &str) -> bool {
        self.living().next().is_some_and(|heard| heard.beat.member == member)
    }

    pub fn n_living(&self) -> usize {
        self.living().count()
    }

    /// For how long nobody has said to hold the partition; `None` if nobody ever did.
    pub fn silent(&self, partition: u32) -> Option<Duration> {
        let at_ms = self.held_ms.get(&partition)?;
        Some(Duration::from_millis(u64::try_from(self.now_ms - at_ms).unwrap_or(0)))
    }

    /// When a member last said that it lives.
    pub fn heard_ms(&self, member: &str) -> Option<i64> {
        self.heard.get(member).map(|heard| heard.at_ms)
    }

    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// The longest lease that somebody living has, in milliseconds.
    pub fn longest_lease_ms(&self) -> i64 {
        self.living().map(Heard::lease_ms).max().unwrap_or(0)
    }
}

/// A process that shares a flow, as the log tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Such as `land/fw.tank.events`.
    pub group: String,
    pub member: String,
    /// Partitions that it holds, each with its fence.
    pub holds: BTreeMap<u32, i64>,
    pub pins: Option<BTreeSet<u32>>,
    /// Since its last sign of life.
    pub silent_ms: i64,
    pub lease_ms: u64,
    /// It was silent for longer than its lease.
    pub is_dead: bool,
}

/// Who shares what over this log, by group and name. `now_ms` is the time of the one who asks.
///
/// # Errors
/// If the log cannot be read. Where nobody has ever shared anything, the answer is empty.
pub async fn owners(log: &dyn EventLog, now_ms: i64) -> Result<Vec<Owner>, LogError> {
    let lane = Topic::new(TOPIC).partition(0);
    let (mut position, mut members) = (Position::Start, BTreeMap::<(String, String), Heard>::new());
    loop {
        let records = match log.read(&lane, position, ReadLimit::default()).await {
            Ok(records) => records,
            Err(error) if error.kind() == LogErrorKind::NotFound => break,
            Err(error) if error.kind() == LogErrorKind::Trimmed => {
                position = log.bounds(&lane).await?.trimmed.map_or(Position::Start, Position::After);
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(last) = records.last() else { break };
        position = Position::After(last.offset);
        for record in &records {
            let Some(beat) = Beat::decode(&record.value) else { continue };
            let key = (beat.group.clone(), beat.member.clone());
            if beat.left {
                members.remove(&key);
            } else {
                members.insert(key, Heard { beat, at_ms: record.ingest_ms });
            }
        }
    }
    let told = members.into_values().filter_map(|heard| {
        let (silent_ms, lease_ms) = ((now_ms - heard.at_ms).max(0), heard.lease_ms());
        (silent_ms < lease_ms.saturating_mul(REMEMBERED)).then_some(Owner {
            is_dead: silent_ms >= lease_ms,
            group: heard.beat.group,
            member: heard.beat.member,
            holds: heard.beat.holds,
            pins: heard.beat.pins,
            silent_ms,
            lease_ms: heard.beat.lease_ms,
        })
    });
    Ok(told.collect())
}

#[cfg(test)]
mod tests {
    use flywheel_log::Offset;

    use super::*;

    const GROUP: &str = "land/t";

    fn beat(member: &str, holds: &[u32], left: bool) -> Beat {
        let holds = holds.iter().map(|partition| (*partition, 1)).collect();
        Beat { v: 1, group: GROUP.into(), member: member.into(), lease_ms: 1000, pins: None, holds, left }
    }

    fn say(members: &mut Members, at_ms: i64, beat: &Beat) {
        let (key, value) = (bytes::Bytes::new(), beat.encode().into());
        members.hear(GROUP, &StoredRecord { offset: Offset::from_raw(at_ms as u64), ingest_ms: at_ms, key, value });
    }

    #[test]
    fn who_is_silent_for_a_lease_is_dead_by_the_logs_own_time() {
        let mut members = Members::default();
        say(&mut members, 0, &beat("a", &[0, 1], false));
        say(&mut members, 10, &beat("b", &[], false));
        assert_eq!((members.n_living(), members.held_beside("b")), (2, BTreeSet::from([0, 1])));
        say(&mut members, 999, &beat("b", &[], false));
        assert_eq!(members.n_living(), 2);
        // Another group's record tells the time too.
        say(&mut members, 1000, &Beat { group: "assemble/t".into(), ..beat("c", &[9], false) });
        assert_eq!((members.n_living(), members.held_beside("b")), (1, BTreeSet::new()));
        assert!(members.assigned(2).values().all(|owner| *owner == "b"));
        assert_eq!(members.silent(0), Some(Duration::from_secs(1)));
        // It was only stopped: it counts again from its next sign of life.
        say(&mut members, 1001, &beat("a", &[0], false));
        assert_eq!((members.n_living(), members.held_beside("b")), (2, BTreeSet::from([0])));
    }

    #[test]
    fn who_leaves_is_gone_at_once_and_who_is_long_dead_is_forgotten() {
        let mut members = Members::default();
        say(&mut members, 0, &beat("a", &[0], false));
        say(&mut members, 1, &beat("b", &[1], false));
        assert!(members.is_first("a"));
        say(&mut members, 2, &beat("a", &[], true));
        assert!(members.is_first("b") && members.n_living() == 1);
        say(&mut members, 10_001, &beat("c", &[], false));
        assert_eq!(members.heard.keys().collect::<Vec<_>>(), ["c"]);
        assert_eq!(members.silent(7), None);
    }

    #[test]
    fn what_is_no_beat_of_ours_is_passed_over() {
        let mut members = Members::default();
        for value in ["", "{}", "null", r#"{"v":2,"group":"land/t","member":"z","lease_ms":1,"holds":{}}"#] {
            let (key, value) = (bytes::Bytes::new(), value.into());
            members.hear(GROUP, &StoredRecord { offset: Offset::from_raw(1), ingest_ms: 5, key, value });
        }
        assert_eq!((members.n_living(), members.now_ms()), (0, 5));
        let said = beat("a", &[3, 11], false);
        assert_eq!(Beat::decode(&said.encode()), Some(said));
    }
}
