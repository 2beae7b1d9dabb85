//! This process among those that share: says that it lives, hears of the others, knows its share.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use flywheel_log::{EventLog, LogErrorKind, Offset, Position, ReadLimit, Record, StoredRecord, Topic, TopicPartition};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{Beat, Sharing, TOPIC, members::Members};

/// Beats are kept at least so long, so that a newcomer and `flywheel status` see who was there.
const KEPT_MS: i64 = 60_000;
/// Longest wait for the last word.
const FAREWELL: Duration = Duration::from_secs(2);

enum Ask {
    /// What is worked on now; said at once.
    Hold(BTreeMap<u32, i64>),
    /// The share, as of a beat that is said now.
    Confirm(oneshot::Sender<Confirmed>),
    Leave,
}

/// The share as of this moment, and for how long nobody has said to hold each partition.
pub(crate) type Confirmed = BTreeMap<u32, Option<Duration>>;

/// A process among those that share. Dropping it stops its signs of life; its lease runs out.
pub(crate) struct Member {
    pub group: String,
    share: watch::Receiver<BTreeSet<u32>>,
    asks: mpsc::Sender<Ask>,
    task: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Member {
    pub fn join(log: &Arc<dyn EventLog>, group: String, partitions: u32, sharing: Sharing) -> Self {
        let (tell, share) = watch::channel(BTreeSet::new());
        let (asks, asked) = mpsc::channel(16);
        let keeper = Keeper {
            log: Arc::clone(log),
            lane: Topic::new(TOPIC).partition(0),
            group: group.clone(),
            partitions,
            sharing,
            members: Members::default(),
            position: Position::Start,
            said: None,
            holds: BTreeMap::new(),
            claimed_by_another: BTreeMap::new(),
            kept: VecDeque::new(),
            confirms: Vec::new(),
            back: None,
            tell,
        };
        let task = tokio::spawn(keeper.run(asked));
        Self { group, share, asks, task }
    }

    /// The partitions that this process should have, and may claim.
    pub fn share(&mut self) -> BTreeSet<u32> {
        self.share.borrow_and_update().clone()
    }

    /// Returns when the share is another than `held`.
    pub async fn moved(&mut self, held: &BTreeSet<u32>) {
        while *self.share.borrow_and_update() == *held {
            if self.share.changed().await.is_err() {
                // The keeper ended, which it does only when told.
                return std::future::pending().await;
            }
        }
    }

    /// Tells the others what is worked on.
    pub async fn hold(&self, holds: BTreeMap<u32, i64>) {
        // Nobody hears it only when the keeper was told to end.
        let _ended = self.asks.send(Ask::Hold(holds)).await;
    }

    /// The share as of a record that is appended after this call; waits as long as the log does not answer.
    pub async fn confirm(&self) -> Confirmed {
        let (reply, confirmed) = oneshot::channel();
        let _ended = self.asks.send(Ask::Confirm(reply)).await;
        confirmed.await.unwrap_or_default()
    }

    /// Gives everything back at once.
    pub async fn leave(mut self) {
        let _ended = self.asks.send(Ask::Leave).await;
        if tokio::time::timeout(FAREWELL * 2, &mut self.task).await.is_err() {
            tracing::warn!(group = self.group, "the log does not take the farewell; the lease runs out instead");
        }
    }
}

struct Keeper {
    log: Arc<dyn EventLog>,
    lane: TopicPartition,
    group: String,
    partitions: u32,
    sharing: Sharing,
    members: Members,
    /// How far the topic is read.
    position: Position,
    /// The newest beat of ours that the log took.
    said: Option<Offset>,
    holds: BTreeMap<u32, i64>,
    /// Partitions that should be ours and that somebody living still holds, and since when.
    claimed_by_another: BTreeMap<u32, Instant>,
    /// Records that were read and not trimmed yet.
    kept: VecDeque<(Offset, i64)>,
    /// Who waits for the share as of a beat of ours.
    confirms: Vec<(Offset, oneshot::Sender<Confirmed>)>,
    /// When this process was heard of again after it was silent for longer than its lease.
    back: Option<Instant>,
    tell: watch::Sender<BTreeSet<u32>>,
}

impl Keeper {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        let interval = self.sharing.lease / 4;
        let mut due = Instant::now();
        let mut waiting: Vec<oneshot::Sender<Confirmed>> = Vec::new();
        loop {
            let limit = ReadLimit::waiting(interval);
            tokio::select! {
                biased;
                ask = asked.recv() => match ask {
                    Some(Ask::Hold(holds)) => {
                        self.holds = holds;
                        due = Instant::now();
                    }
                    Some(Ask::Confirm(reply)) => {
                        waiting.push(reply);
                        due = Instant::now();
                    }
                    Some(Ask::Leave) | None => return self.leave().await,
                },
                () = tokio::time::sleep_until(due) => {
                    due = Instant::now() + match self.beat(false).await {
                        Some(offset) => {
                            self.confirms.extend(waiting.drain(..).map(|reply| (offset, reply)));
                            interval
                        }
                        None => (interval / 4).min(Duration::from_millis(500)),
                    };
                    self.sweep().await;
                }
                read = self.log.read(&self.lane, self.position, limit), if self.said.is_some() => {
                    self.hear(read, interval).await;
                }
            }
        }
    }

    /// Says that this process lives. `None` if the log did not take it; it may be there all the same.
    async fn beat(&mut self, left: bool) -> Option<Offset> {
        let beat = Beat::new(&self.group, &self.sharing, &self.holds, left);
        let record = Record::new(self.group.clone(), beat.encode());
        let append = async {
            if self.said.is_none() {
                self.log.create_topic(&self.lane.topic, 1).await?;
            }
            self.log.append(&self.lane, vec![record]).await
        };
        match tokio::time::timeout(self.sharing.lease.min(FAREWELL), append).await {
            Ok(Ok(offset)) => {
                self.said = Some(offset);
                return Some(offset);
            }
            Ok(Err(error)) => {
                tracing::warn!(group = self.group, %error, "the log does not take a sign of life");
                if error.kind() == LogErrorKind::NotFound {
                    // The log has lost the topic: it is made again, and everybody is heard of anew.
                    self.said = None;
                }
            }
            Err(_) => tracing::warn!(group = self.group, "the log does not answer a sign of life in time"),
        }
        None
    }

    async fn leave(mut self) {
        self.holds.clear();
        if self.beat(true).await.is_some() {
            tracing::info!(group = self.group, member = self.sharing.member, "left; the others take over at once");
        }
    }

    async fn hear(&mut self, read: Result<Vec<StoredRecord>, flywheel_log::LogError>, pause: Duration) {
        match read {
            Ok(records) => {
                let before = self.members.heard_ms(&self.sharing.member);
                for record in &records {
                    self.members.hear(&self.group, record);
                    self.kept.push_back((record.offset, record.ingest_ms));
                }
                let lease_ms = i64::try_from(self.sharing.lease.as_millis()).unwrap_or(i64::MAX);
                match (before, self.members.heard_ms(&self.sharing.member)) {
                    // Either this process was stopped or the log was away. In the second case the others will be heard
                    // of in a moment, and it is not for the first to come back to take everything.
                    (Some(before), Some(now)) if now - before >= lease_ms => {
                        tracing::warn!(
                            group = self.group,
                            silent_ms = now - before,
                            "was silent for longer than its lease"
                        );
                        self.back = Some(Instant::now());
                    }
                    _ => {}
                }
                if let Some(last) = records.last() {
                    self.position = Position::After(last.offset);
                }
                self.decide();
            }
            Err(error) if error.kind() == LogErrorKind::Trimmed => {
                // Old beats, which decide nothing.
                match self.log.bounds(&self.lane).await.map(|bounds| bounds.trimmed) {
                    Ok(Some(trimmed)) => self.position = self.position.max(Position::After(trimmed)),
                    _ => tokio::time::sleep(pause).await,
                }
            }
            Err(error) => {
                tracing::warn!(group = self.group, %error, "the owners' topic cannot be read; trying again");
                tokio::time::sleep(pause.min(Duration::from_secs(1))).await;
            }
        }
    }

    /// What this process should have now, once it has read its own newest word.
    fn decide(&mut self) {
        let Position::After(read) = self.position else { return };
        if self.said.is_none_or(|said| said > read) {
            return;
        }
        let mine: BTreeSet<u32> = self
            .members
            .assigned(self.partitions)
            .into_iter()
            .filter(|(_, member)| *member == self.sharing.member)
            .map(|(partition, _)| partition)
            .collect();
        let elsewhere = self.members.held_beside(&self.sharing.member);
        let (now, lease) = (Instant::now(), self.sharing.lease);
        self.claimed_by_another.retain(|partition, _| mine.contains(partition) && elsewhere.contains(partition));
        let mut share = BTreeSet::new();
        for partition in mine {
            // Whoever holds it commits what it has and lets go. One that does not is fenced off after a lease.
            let waits = elsewhere.contains(&partition) && !self.holds.contains_key(&partition);
            if !waits || now.duration_since(*self.claimed_by_another.entry(partition).or_insert(now)) >= lease {
                share.insert(partition);
            }
        }
        if self.back.is_some_and(|back| back.elapsed() < lease / 4) {
            share.retain(|partition| self.holds.contains_key(partition));
        }
        let ready = self.confirms.extract_if(.., |(said, _)| *said <= read).map(|(_, reply)| reply);
        let confirmed: Confirmed =
            share.iter().map(|partition| (*partition, self.members.silent(*partition))).collect();
        for reply in ready {
            let _gave_up = reply.send(confirmed.clone());
        }
        let n_living = self.members.n_living();
        self.tell.send_if_modified(|known| {
            let other = *known != share;
            if other {
                tracing::info!(group = self.group, n_living, partitions = ?share, "this process' share");
                *known = share;
            }
            other
        });
    }

    /// Trims what no newcomer needs.
    async fn sweep(&mut self) {
        self.kept.truncate(10_000);
        if !self.members.is_first(&self.sharing.member) {
            return;
        }
        let oldest = self.members.now_ms() - KEPT_MS.max(self.members.longest_lease_ms().saturating_mul(4));
        let n_old = self.kept.iter().take_while(|(_, at_ms)| *at_ms < oldest).count();
        // Not for every record: a trim costs as much as an append.
        if n_old >= 64 {
            let up_to = self.kept[n_old - 1].0;
            match tokio::time::timeout(FAREWELL, self.log.trim(&self.lane, up_to)).await {
                Ok(Ok(())) => drop(self.kept.drain(..n_old)),
                _ => tracing::debug!(group = self.group, "old signs of life stay for now"),
            }
        }
    }
}
