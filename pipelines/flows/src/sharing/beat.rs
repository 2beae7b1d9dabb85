use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The layout of beats; those of a later one are passed over.
const VERSION: u32 = 1;

/// One sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    pub v: u32,
    /// Those who share, such as `land/fw.tank.events`.
    pub group: String,
    pub member: String,
    pub lease_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pins: Option<BTreeSet<u32>>,
    /// The partitions that it works on, each with its fence in the tables.
    pub holds: BTreeMap<u32, i64>,
    /// It goes in good order, and holds nothing any more.
    #[serde(default)]
    pub left: bool,
}

impl Beat {
    pub(crate) fn new(group: &str, sharing: &super::Sharing, holds: &BTreeMap<u32, i64>, left: bool) -> Self {
        Self {
            v: VERSION,
            group: group.to_owned(),
            member: sharing.member.clone(),
            lease_ms: u64::try_from(sharing.lease.as_millis()).unwrap_or(u64::MAX),
            pins: sharing.pins.clone(),
            holds: holds.clone(),
            left,
        }
    }

    /// `None` for what is no beat, or one of a later layout.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|beat: &Self| beat.v == VERSION)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a beat serialises")
    }
}
