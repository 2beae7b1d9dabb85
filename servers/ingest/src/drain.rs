//! From the spool into the log, in order, once the log is back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use flywheel_events::System;
use flywheel_kit::spill::Item;
use flywheel_log::Topic;
use metrics::counter;
use tokio::time::Instant;

use crate::{
    Door,
    door::{Lane, game_of, lanes_of},
    metrics::DRAINED,
    spool::{RETRY_MAX, RETRY_MIN, Spool},
};

/// Bytes of one round of appends.
const ROUND_BYTES: usize = 4 << 20;
/// With no more than this left, requests wait for a moment until it is in the log: else the spool would never be empty
/// while events keep coming.
const LAST_BYTES: u64 = 2 << 20;
/// The longest such moment.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// A segment on its way.
#[derive(Debug, Default)]
struct Segment {
    number: u64,
    rest: VecDeque<Item>,
    /// Taken from the front of `rest` and not in the log yet.
    round: Vec<Item>,
}

impl Segment {
    fn is_done(&self) -> bool {
        self.rest.is_empty() && self.round.is_empty()
    }

    fn fill(&mut self) {
        let mut bytes: usize = self.round.iter().map(Item::size).sum();
        while bytes < ROUND_BYTES
            && let Some(item) = self.rest.pop_front()
        {
            bytes += item.size();
            self.round.push(item);
        }
    }
}

/// Drains the spool whenever the log answers; after `closing` for a last while.
pub(crate) async fn drain(door: Arc<Door>, spool: Arc<Spool>) {
    let (mut now, mut pause, mut until) = (None, RETRY_MIN, None);
    loop {
        let result = step(&door, &spool, &mut now).await;
        if door.closing.is_cancelled() && until.is_none() {
            until = Some(Instant::now() + door.config.append_wait());
        }
        let wait = match result {
            Ok(true) => {
                pause = RETRY_MIN;
                continue;
            }
            Ok(false) => None,
            Err(why) => {
                spool.away(why);
                let wait = pause;
                pause = (pause * 2).min(RETRY_MAX);
                Some(wait)
            }
        };
        match (wait, until) {
            // Nothing waits, and nothing more will come.
            (None, Some(_)) => return,
            (Some(_), Some(until)) if Instant::now() >= until => return,
            _ => {}
        }
        tokio::select! {
            biased;
            () = door.closing.cancelled(), if until.is_none() => pause = RETRY_MIN,
            () = spool.woken(), if wait.is_none() => {}
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
    }
}

/// One round; false if nothing waits.
async fn step(door: &Door, spool: &Spool, now: &mut Option<Segment>) -> Result<bool, String> {
    let Some(segment) = now else {
        *now = next(spool).await?;
        return Ok(now.is_some());
    };
    if !segment.is_done() {
        segment.fill();
        round(door, spool, segment, door.config.append_wait()).await?;
        return Ok(true);
    }
    // All of it is in the log, which answers: the little that came meanwhile goes while requests wait.
    let mut files = spool.remove(spool.hold().await, segment.number).await;
    *now = None;
    let until = Instant::now() + LAST_WAIT;
    while !files.is_empty() && files.bytes() <= LAST_BYTES && Instant::now() < until {
        let oldest;
        (files, oldest) = spool.oldest(files).await;
        let Some(spilled) = oldest.map_err(|error| unreadable(&error))? else { break };
        let segment = now.insert(Segment { number: spilled.segment, rest: spilled.items.into(), round: Vec::new() });
        while !segment.is_done() {
            segment.fill();
            round(door, spool, segment, LAST_WAIT.min(door.config.append_wait())).await?;
        }
        files = spool.remove(files, segment.number).await;
        *now = None;
    }
    Ok(true)
}

async fn next(spool: &Spool) -> Result<Option<Segment>, String> {
    let (_files, oldest) = spool.oldest(spool.hold().await).await;
    let spilled = oldest.map_err(|error| unreadable(&error))?;
    Ok(spilled.map(|spilled| Segment { number: spilled.segment, rest: spilled.items.into(), round: Vec::new() }))
}

fn unreadable(error: &std::io::Error) -> String {
    format!("the spool of the doors cannot be read: {error}; its events wait")
}

/// Appends a round. What a partition did not take stays in it, in its order.
async fn round(door: &Door, spool: &Spool, segment: &mut Segment, wait: Duration) -> Result<(), String> {
    let mut counts = BTreeMap::new();
    for item in &segment.round {
        // Made by this program from a system's topic; what is none would be of a later version.
        let Some(system) = system_of(&item.topic) else { return Err(format!("`{}` is no system's topic", item.topic)) };
        // It was promised to be kept, so it is never left out.
        if game_of(item).is_none() {
            return Err(format!("an event of `{}` in the spool is of no game", item.topic));
        }
        if let std::collections::btree_map::Entry::Vacant(entry) = counts.entry(system) {
            entry.insert(door.partitions(system).await.map_err(|problem| problem.detail.clone())?);
        }
    }
    let lanes = lanes_of(&segment.round, |system| counts[&system]);
    let appends = lanes.into_iter().map(|((system, partition), lane)| async move {
        let Lane { records, fresh, .. } = lane;
        let n_events = records.len() as u64;
        let to = Topic::new(system.topic()).partition(partition);
        let why = match tokio::time::timeout(wait, door.log.append(&to, records)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                door.forget_partitions(&error, system);
                Some(error.to_string())
            }
            Err(_) => Some(format!("the log did not answer within {} ms", wait.as_millis())),
        };
        ((system, partition), n_events, fresh, why)
    });
    let (mut left, mut failed) = (Vec::new(), None);
    for (lane, n_events, fresh, why) in futures::future::join_all(appends).await {
        match why {
            None => {
                spool.drained(n_events);
                counter!(DRAINED).increment(n_events);
                door.accepted.fetch_add(n_events, Ordering::Relaxed);
                if !spool.is_own(segment.number) {
                    door.recall(fresh);
                }
            }
            Some(why) => {
                left.push(lane);
                failed = Some(why);
            }
        }
    }
    let Some(why) = failed else {
        segment.round.clear();
        spool.back();
        return Ok(());
    };
    segment.round.retain(|item| {
        let lane =
            system_of(&item.topic).map(|system| (system, flywheel_log::partition_of(&item.key, counts[&system])));
        lane.is_some_and(|lane| left.contains(&lane))
    });
    Err(why)
}

pub(crate) fn system_of(topic: &Topic) -> Option<System> {
    System::ALL.into_iter().find(|system| system.topic() == topic.as_str())
}
