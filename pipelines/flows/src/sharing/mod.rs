//! Several processes share the partitions of one topic: by lease, so that a dead one's move on, and by fence, so that
//! one that only seemed dead can commit nothing.
//!
//! Every process says on a topic of the log, a few times in each lease, that it lives and what it holds. All read the
//! same records in the same order, with the log's own times, so all agree who lives and who should have what; nobody
//! decides for the others and no clock of theirs matters. That is for liveness alone. What may be committed is decided
//! by the tables: see [`flywheel_lake::Advance::fence`].

mod assign;
mod beat;
mod member;
mod members;

use std::{collections::BTreeSet, time::Duration};

use flywheel_log::Topic;

pub use beat::Beat;
pub(crate) use member::{Confirmed, Member};
pub use members::{Owner, owners};

/// Where processes say that they live: one partition, trimmed by them.
pub const TOPIC: &str = "fw.owners";

/// How this process shares a flow with others.
#[derive(Debug, Clone)]
pub struct Sharing {
    /// Its name, unlike any other's also after a restart, such as `host:pid:random`.
    pub member: String,
    /// Only these partitions, whatever the others do; else a fair share of those that nobody has pinned.
    pub pins: Option<BTreeSet<u32>>,
    /// A process that was not heard of for so long is dead. It says that it lives four times in that time.
    pub lease: Duration,
}

/// The processes of one flow over one topic, such as `land/fw.tank.events`.
pub fn group(flow: &str, topic: &Topic) -> String {
    format!("{flow}/{topic}")
}

/// Under this id the tables keep who may commit for a partition.
pub fn fence_app_id(group: &str, partition: u32) -> String {
    format!("fence/{group}/{partition}")
}
