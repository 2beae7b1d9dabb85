//! Which partitions a flow works on now, and with which fences.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use flywheel_lake::{Advance, LakeError, LakeErrorKind, Table};
use flywheel_log::{EventLog, Topic};

use crate::sharing::{Confirmed, Member, Sharing, fence_app_id, group};

/// The names under which a flow tells of its partitions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    pub flow: &'static str,
    pub partitions: &'static str,
    pub fenced: &'static str,
    pub takeover: &'static str,
}

/// Where the shared part of a flow's state is counted.
#[derive(Debug, Default)]
pub struct OwnedStats {
    /// Partitions that this process works on now.
    pub partitions: AtomicU64,
    /// Commits of this process that were refused because another one had taken over.
    pub fenced: AtomicU64,
}

/// The partitions of one run: all of the topic, or this process' share.
pub(crate) struct Owned {
    member: Option<Member>,
    all: u32,
    names: Names,
    /// What this process holds, each with its fence; empty where nothing is shared.
    fences: BTreeMap<u32, i64>,
    stats: Arc<OwnedStats>,
}

impl Owned {
    pub fn new(
        log: &Arc<dyn EventLog>,
        topic: &Topic,
        all: u32,
        sharing: Option<&Sharing>,
        names: Names,
        stats: Arc<OwnedStats>,
    ) -> Self {
        let join = |sharing: &Sharing| Member::join(log, group(names.flow, topic), all, sharing.clone());
        Self { member: sharing.map(join), all, names, fences: BTreeMap::new(), stats }
    }

    /// The partitions that this process should work on.
    pub fn share(&mut self) -> BTreeSet<u32> {
        self.member.as_mut().map_or_else(|| (0..self.all).collect(), Member::share)
    }

    /// Returns when the share is another than `held`.
    pub async fn moved(&mut self, held: &BTreeSet<u32>) {
        match &mut self.member {
            Some(member) => member.moved(held).await,
            None => std::future::pending().await,
        }
    }

    /// Claims what is new of `wanted` in all `tables`, the first of which hands out the numbers. Gives what is this
    /// process' now; positions that are read after this are moved by nobody else.
    ///
    /// # Errors
    /// `Fenced` if another process claimed in between; nothing is ours then.
    pub async fn claim(&mut self, wanted: &BTreeSet<u32>, tables: &[&Table]) -> Result<BTreeSet<u32>, LakeError> {
        let Some(member) = &self.member else { return Ok(wanted.clone()) };
        let [first, rest @ ..] = tables else { unreachable!("a flow writes to some table") };
        let ids: BTreeMap<u32, String> = wanted.iter().map(|p| (*p, fence_app_id(&member.group, *p))).collect();
        // The numbers first, then whether the partitions are ours: whoever is stopped between the two, or after them,
        // finds other numbers when it claims.
        let found = first.fences(&ids.values().cloned().collect::<Vec<_>>()).await?;
        let confirmed = member.confirm().await;
        let seen: Vec<_> = ids
            .into_iter()
            .zip(found)
            .filter(|((partition, _), _)| confirmed.contains_key(partition))
            .map(|((partition, id), number)| (partition, (id, number)))
            .collect();
        if seen.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (partitions, seen): (Vec<u32>, Vec<_>) = seen.into_iter().unzip();
        first.claim(&seen).await?;
        let claimed: Vec<_> = seen.into_iter().map(|(id, number)| (id, number + 1)).collect();
        for table in rest {
            table.raise(&claimed).await?;
        }
        let fences: BTreeMap<u32, i64> =
            partitions.into_iter().zip(claimed.into_iter().map(|(_, number)| number)).collect();
        self.tell_takeover(&fences, &confirmed);
        let ours = fences.keys().copied().collect();
        self.fences.extend(fences);
        Ok(ours)
    }

    fn tell_takeover(&self, fences: &BTreeMap<u32, i64>, confirmed: &Confirmed) {
        let histogram = metrics::histogram!(self.names.takeover);
        let silent: Vec<Duration> = fences.keys().filter_map(|partition| confirmed[partition]).collect();
        silent.iter().for_each(|silent| histogram.record(silent.as_secs_f64()));
        let silent_ms = silent.iter().max().map_or(0, Duration::as_millis);
        tracing::info!(flow = self.names.flow, ?fences, silent_ms = silent_ms as u64, "took partitions over");
    }

    /// Tells the others that this process works on `held` and nothing else.
    pub async fn hold(&mut self, held: &BTreeSet<u32>) {
        self.stats.partitions.store(held.len() as u64, Relaxed);
        metrics::gauge!(self.names.partitions).set(held.len() as f64);
        self.fences.retain(|partition, _| held.contains(partition));
        if let Some(member) = &self.member {
            member.hold(self.fences.clone()).await;
        }
    }

    /// Without these a commit for `partitions` would be a zombie's for all that the table knows.
    pub fn fences(&self, partitions: impl IntoIterator<Item = u32>) -> Vec<Advance> {
        let Some(member) = &self.member else { return Vec::new() };
        let fence = |partition| {
            let number = *self.fences.get(&partition).expect("what is worked on was claimed");
            Advance::fence(fence_app_id(&member.group, partition), number)
        };
        partitions.into_iter().map(fence).collect()
    }

    /// A commit was refused: another process has claimed something that this one wrote for.
    pub fn refused(&self, error: &LakeError) {
        debug_assert_eq!(error.kind(), LakeErrorKind::Fenced);
        self.stats.fenced.fetch_add(1, Relaxed);
        metrics::counter!(self.names.fenced).increment(1);
        tracing::warn!(flow = self.names.flow, %error, "a commit was refused: another process took over; starting again");
    }

    /// Gives everything back, with what was read committed.
    pub async fn leave(mut self) {
        self.hold(&BTreeSet::new()).await;
        if let Some(member) = self.member.take() {
            member.leave().await;
        }
    }
}
