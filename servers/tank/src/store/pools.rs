//! Free model keys, by map.

use std::collections::{HashMap, HashSet, VecDeque};

/// Free keys kept per map, and maps that have a pool. Callers name both, so both are bounded.
const MAX_FREE: usize = 4096;
const MAX_MAPS: usize = 4096;
/// Keys that may be out at a time.
const MAX_HELD: usize = 65_536;

#[derive(Debug, Default)]
struct Pool {
    free: VecDeque<String>,
    last_popped: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Pools {
    maps: HashMap<String, Pool>,
    /// Keys that were handed out and not released.
    held: HashSet<String>,
    last_stamp: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Allocation {
    Free(String),
    /// There is no free key; a new one gets a copy of this, if there was any.
    CopyOf(Option<String>),
}

impl Pools {
    fn pool(&mut self, map_key: &str) -> Option<&mut Pool> {
        if self.maps.len() >= MAX_MAPS && !self.maps.contains_key(map_key) {
            return None;
        }
        Some(self.maps.entry(map_key.to_owned()).or_default())
    }

    /// A key that was saved becomes free, unless somebody holds it or it is free already.
    pub fn add(&mut self, map_key: &str, key: &str) {
        if self.held.contains(key) {
            return;
        }
        if let Some(pool) = self.pool(map_key)
            && pool.free.len() < MAX_FREE
            && pool.free.iter().all(|free| free != key)
        {
            pool.free.push_back(key.to_owned());
        }
    }

    pub fn allocate(&mut self, map_key: &str) -> Allocation {
        let Some(pool) = self.pool(map_key) else { return Allocation::CopyOf(None) };
        match pool.free.pop_front() {
            Some(key) => {
                pool.last_popped = Some(key.clone());
                self.hold(&key);
                Allocation::Free(key)
            }
            None => Allocation::CopyOf(pool.last_popped.clone()),
        }
    }

    /// A key is out.
    pub fn hold(&mut self, key: &str) {
        if self.held.len() < MAX_HELD {
            self.held.insert(key.to_owned());
        }
    }

    pub fn release(&mut self, map_key: &str, key: &str) {
        self.held.remove(key);
        self.add(map_key, key);
    }

    /// A millisecond that was never given out before.
    pub fn stamp(&mut self, now_ms: u64) -> u64 {
        self.last_stamp = now_ms.max(self.last_stamp + 1);
        self.last_stamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_at_the_end_and_only_once_and_maps_do_not_mix() {
        let mut pools = Pools::default();
        pools.add("a", "k1");
        pools.add("a", "k2");
        assert_eq!(pools.allocate("a"), Allocation::Free("k1".into()));
        assert_eq!(pools.allocate("b"), Allocation::CopyOf(None));
        pools.add("a", "k1");
        pools.release("a", "k1");
        pools.release("a", "k1");
        assert_eq!(pools.allocate("a"), Allocation::Free("k2".into()));
        assert_eq!(pools.allocate("a"), Allocation::Free("k1".into()));
        assert_eq!(pools.allocate("a"), Allocation::CopyOf(Some("k1".into())));
        assert_eq!((pools.stamp(5), pools.stamp(5), pools.stamp(9)), (5, 6, 9));
    }
}
