//! Who should have which partition: a pure function of who lives, so that all who know the same decide the same.

use std::collections::{BTreeMap, BTreeSet};

/// A living process and what it has pinned.
pub(crate) type Living<'a> = (&'a str, Option<&'a BTreeSet<u32>>);

/// Pinned partitions go to one of those that pinned them. The others are shared among those that pinned nothing, as
/// evenly as they can be, and so that few move when somebody comes or goes.
pub(crate) fn assign<'a>(partitions: u32, living: &[Living<'a>]) -> BTreeMap<u32, &'a str> {
    let mut owners = BTreeMap::new();
    for partition in 0..partitions {
        let pinned = living.iter().filter(|(_, pins)| pins.is_some_and(|pins| pins.contains(&partition)));
        if let Some((member, _)) = pinned.max_by_key(|(member, _)| (liking(member, partition), *member)) {
            owners.insert(partition, *member);
        }
    }
    let sharers: Vec<&str> = living.iter().filter(|(_, pins)| pins.is_none()).map(|(member, _)| *member).collect();
    if sharers.is_empty() {
        return owners;
    }
    let free: Vec<u32> = (0..partitions).filter(|partition| !owners.contains_key(partition)).collect();
    let (share, mut larger) = (free.len() / sharers.len(), free.len() % sharers.len());
    let mut wishes: Vec<_> =
        free.iter().flat_map(|p| sharers.iter().map(move |member| (liking(member, *p), *p, *member))).collect();
    wishes.sort_unstable_by(|a, b| b.cmp(a));
    let mut has: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, partition, member) in wishes {
        let n = has.entry(member).or_default();
        let fits = *n < share || (*n == share && larger > 0);
        if !fits || owners.contains_key(&partition) {
            continue;
        }
        larger -= usize::from(*n == share);
        *n += 1;
        owners.insert(partition, member);
    }
    owners
}

/// How much a member would like a partition: the same for everybody who asks (rendezvous hashing).
fn liking(member: &str, partition: u32) -> u64 {
    let bytes = member.bytes().chain(partition.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // FNV's high bits hardly depend on the last bytes; this mixes them in (the finalizer of splitmix64).
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("host-{n}:{}", 4000 + 7 * n)).collect()
    }

    fn shared(partitions: u32, names: &[String]) -> BTreeMap<u32, &str> {
        let living: Vec<Living<'_>> = names.iter().map(|name| (name.as_str(), None)).collect();
        assign(partitions, &living)
    }

    #[test]
    fn every_partition_has_one_owner_and_no_share_is_larger_than_another_by_more_than_one() {
        for partitions in [1, 2, 7, 12, 64, 256] {
            for n in 1..9 {
                let names = names(n);
                let owners = shared(partitions, &names);
                assert_eq!(owners.len() as u32, partitions);
                let count = |name: &String| owners.values().filter(|owner| **owner == name).count();
                let counts: Vec<_> = names.iter().map(count).collect();
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{partitions}: {counts:?}");
            }
        }
    }

    #[test]
    fn who_asks_and_in_which_order_the_living_are_named_matters_not() {
        let mut names = names(5);
        let before: BTreeMap<u32, String> = shared(64, &names).into_iter().map(|(p, m)| (p, m.to_owned())).collect();
        names.reverse();
        assert_eq!(before, shared(64, &names).into_iter().map(|(p, m)| (p, m.to_owned())).collect());
    }

    #[test]
    fn few_partitions_of_the_living_move_when_one_of_them_dies() {
        let names = names(4);
        let (before, after) = (shared(64, &names), shared(64, &names[..3]));
        let moved = (0..64).filter(|p| before[p] != names[3] && before[p] != after[p]).count();
        // By rank modulo the number of members 32 of the 48 would move.
        assert!(moved <= 16, "{moved} of 48 moved");
    }

    #[test]
    fn pinned_partitions_go_to_who_pinned_them_and_to_nobody_else() {
        let pins: [BTreeSet<u32>; 2] = [BTreeSet::from([0, 3]), BTreeSet::from([3, 9])];
        let owners = assign(6, &[("a", Some(&pins[0])), ("b", Some(&pins[1])), ("c", None), ("d", None)]);
        assert_eq!(owners[&0], "a");
        assert!(["a", "b"].contains(&owners[&3]));
        assert!([1, 2, 4, 5].iter().all(|p| ["c", "d"].contains(&owners[p])), "{owners:?}");
        assert_eq!(owners.len(), 6, "a pin beyond the last partition is of nothing");
        let owners = assign(6, &[("a", Some(&pins[0]))]);
        assert_eq!(owners.keys().copied().collect::<Vec<_>>(), [0, 3], "nobody shares the others");
    }
}
