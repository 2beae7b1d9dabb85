//! Sets of sequence numbers of one game: few ranges, however many numbers.

/// Sorted, disjoint ranges `from..to` that do not touch. A whole game is one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seqs {
    ranges: Vec<(u64, u64)>,
    len: u64,
}

impl Seqs {
    /// Whether it was not there yet.
    ///
    /// # Panics
    /// If `seq` is the largest number there is: no table holds it.
    pub fn insert(&mut self, seq: u64) -> bool {
        assert!(seq < u64::MAX, "the end of its range is a number too");
        // The first range that ends at or after `seq`: it holds it, may grow by it, or lies behind it.
        let at = self.ranges.partition_point(|(_, to)| *to < seq);
        match self.ranges.get_mut(at) {
            Some((from, to)) if (*from..*to).contains(&seq) => return false,
            Some((_, to)) if *to == seq => {
                *to += 1;
                if self.ranges.get(at + 1).is_some_and(|next| next.0 == seq + 1) {
                    let (_, to) = self.ranges.remove(at + 1);
                    self.ranges[at].1 = to;
                }
            }
            Some((from, _)) if *from == seq + 1 => *from = seq,
            _ => self.ranges.insert(at, (seq, seq + 1)),
        }
        self.len += 1;
        true
    }

    /// The stretches `from..to`, ascending.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Adds whole stretches, ascending and disjoint among themselves.
    pub fn extend(&mut self, others: &[(u64, u64)]) {
        let mut all: Vec<_> = self.ranges.iter().chain(others).copied().collect();
        all.sort_unstable();
        self.ranges.clear();
        for (from, to) in all {
            match self.ranges.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => self.ranges.push((from, to)),
            }
        }
        self.len = self.ranges.iter().map(|(from, to)| to - from).sum();
    }

    #[cfg(test)]
    fn contains(&self, seq: u64) -> bool {
        self.ranges.get(self.ranges.partition_point(|(_, to)| *to <= seq)).is_some_and(|(from, _)| *from <= seq)
    }

    /// How many of the numbers from 0 to `last` are neither here nor in `other`.
    pub fn missing_to(&self, last: u64, other: &Self) -> u64 {
        let mut all: Vec<_> = self.ranges.iter().chain(&other.ranges).copied().collect();
        all.sort_unstable();
        let (end, mut reached, mut missing) = (last.saturating_add(1), 0, 0);
        for (from, to) in all {
            missing += from.min(end).saturating_sub(reached);
            reached = reached.max(to.min(end));
        }
        missing + end.saturating_sub(reached)
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn last(&self) -> Option<u64> {
        self.ranges.last().map(|(_, to)| to - 1)
    }

    /// How many of these are not in `other`.
    pub fn missing_in(&self, other: &Self) -> u64 {
        let (mut common, mut theirs) = (0, other.ranges.iter().peekable());
        for (from, to) in &self.ranges {
            while let Some((start, end)) = theirs.peek() {
                common += (*to.min(end)).saturating_sub(*from.max(start));
                if end > to {
                    break;
                }
                theirs.next();
            }
        }
        self.len - common
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_agrees_with_a_plain_set_whatever_is_inserted_in_which_order() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for below in [1, 5, 40, 200] {
            let mut sets = [(Seqs::default(), BTreeSet::new()), (Seqs::default(), BTreeSet::new())];
            for _ in 0..150 {
                let (seqs, plain) = &mut sets[random(2) as usize];
                let seq = random(below);
                assert_eq!(seqs.insert(seq), plain.insert(seq));
                assert_eq!((seqs.len(), seqs.last()), (plain.len() as u64, plain.last().copied()));
                assert!((0..=below).all(|seq| seqs.contains(seq) == plain.contains(&seq)));
                assert!(seqs.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", seqs.ranges);
                let [(a, plain_a), (b, plain_b)] = &sets;
                assert_eq!(a.missing_in(b), plain_a.difference(plain_b).count() as u64);
                assert_eq!(b.missing_in(a), plain_b.difference(plain_a).count() as u64);
                let last = random(below + 2);
                let missing = (0..=last).filter(|seq| !plain_a.contains(seq) && !plain_b.contains(seq)).count();
                assert_eq!(a.missing_to(last, b), missing as u64);
                let mut both = a.clone();
                both.extend(b.ranges());
                assert_eq!(both.len(), plain_a.union(plain_b).count() as u64);
                assert!(both.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", both.ranges);
            }
        }
    }

    #[test]
    fn the_largest_numbers_that_a_table_holds_are_counted() {
        let mut seqs = Seqs::default();
        assert!(seqs.insert(i64::MAX as u64) && !seqs.insert(i64::MAX as u64));
        assert_eq!((seqs.len(), seqs.last()), (1, Some(i64::MAX as u64)));
        assert_eq!(seqs.missing_to(u64::MAX, &Seqs::default()), u64::MAX - 1);
    }

    #[test]
    fn a_whole_game_is_one_range() {
        let mut seqs = Seqs::default();
        assert!((0..10_000).rev().chain(10_000..20_000).all(|seq| seqs.insert(seq)));
        assert_eq!(seqs.ranges, [(0, 20_000)]);
    }
}
