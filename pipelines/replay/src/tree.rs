/// Sums of priorities over a 16-ary tree: one node is one cache line, a million leaves are five levels.
///
/// Nodes are recomputed from their children, never adjusted by differences, so that errors do not add up. Draws
/// carry their remainder in `f64` and compare in `f32` within one node, so that each leaf is met in proportion to
/// its value even where the total is far larger than a leaf.
#[derive(Debug, Clone)]
pub struct SumTree {
    /// `levels[0]` holds the leaves; the last level is one node. All lengths are multiples of 16.
    levels: Vec<Vec<Node>>,
    len: usize,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Node([f32; 16]);

impl Node {
    /// Four lanes are added first, then their sums: a fixed order, the same on every machine.
    #[inline]
    fn sum(&self) -> f32 {
        let v = &self.0;
        let lane = |i: usize| (v[i] + v[i + 4]) + (v[i + 8] + v[i + 12]);
        (lane(0) + lane(1)) + (lane(2) + lane(3))
    }

    /// The first child whose running sum exceeds `target`, and the sum before it. Never a child of value zero
    /// unless all are.
    #[inline]
    fn find(&self, target: f64) -> (usize, f64) {
        let v = &self.0;
        let mut groups = [0.0_f64; 4];
        for (g, sum) in groups.iter_mut().enumerate() {
            let c = &v[4 * g..4 * g + 4];
            *sum = (f64::from(c[0]) + f64::from(c[1])) + (f64::from(c[2]) + f64::from(c[3]));
        }
        let ends = [groups[0], groups[0] + groups[1], groups[0] + groups[1] + groups[2]];
        let group = usize::from(target >= ends[0]) + usize::from(target >= ends[1]) + usize::from(target >= ends[2]);
        let before = if group == 0 { 0.0 } else { ends[group - 1] };
        let c = &v[4 * group..4 * group + 4];
        let inner = [
            before + f64::from(c[0]),
            before + f64::from(c[0]) + f64::from(c[1]),
            before + f64::from(c[0]) + f64::from(c[1]) + f64::from(c[2]),
        ];
        let child = usize::from(target >= inner[0]) + usize::from(target >= inner[1]) + usize::from(target >= inner[2]);
        let found = 4 * group + child;
        if v[found] > 0.0 {
            return (found, if child == 0 { before } else { inner[child - 1] });
        }
        self.nearest(found)
    }

    /// Rounding led past the last child: takes the nearest one that has a value.
    #[cold]
    fn nearest(&self, found: usize) -> (usize, f64) {
        let left = (0..found).rev().find(|&i| self.0[i] > 0.0);
        let child = left.or_else(|| (found..16).find(|&i| self.0[i] > 0.0)).unwrap_or(found);
        (child, self.0[..child].iter().map(|&v| f64::from(v)).sum())
    }
}

impl SumTree {
    /// A tree of `len` leaves, all zero.
    ///
    /// # Panics
    /// If `len` is zero.
    pub fn new(len: usize) -> Self {
        assert!(len > 0, "a sum tree has leaves");
        let mut levels = Vec::new();
        let mut nodes = len.div_ceil(16);
        loop {
            levels.push(vec![Node::default(); nodes]);
            if nodes == 1 {
                return Self { levels, len };
            }
            nodes = nodes.div_ceil(16);
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn total(&self) -> f32 {
        self.levels[self.levels.len() - 1][0].sum()
    }

    pub fn get(&self, leaf: usize) -> f32 {
        assert!(leaf < self.len, "leaf {leaf} of {}", self.len);
        self.levels[0][leaf / 16].0[leaf % 16]
    }

    pub fn memory_bytes(&self) -> usize {
        self.levels.iter().map(|level| level.len() * 64).sum()
    }

    /// Sets one leaf.
    pub fn set(&mut self, leaf: usize, value: f32) {
        self.set_leaf(leaf, value);
        let mut node = leaf / 16;
        for level in 1..self.levels.len() {
            self.refresh(level, node);
            node /= 16;
        }
    }

    /// Sets `count` leaves from `first` to one value; cheap for runs, since each node above is summed once.
    pub fn fill(&mut self, first: usize, count: usize, value: f32) {
        if count == 0 {
            return;
        }
        for leaf in first..first + count {
            self.set_leaf(leaf, value);
        }
        let (mut low, mut high) = (first / 16, (first + count - 1) / 16);
        for level in 1..self.levels.len() {
            for node in low..=high {
                self.refresh(level, node);
            }
            (low, high) = (low / 16, high / 16);
        }
    }

    /// Sets many leaves; of a repeated one the last value stays. Leaves in rising order cost least.
    ///
    /// # Panics
    /// If the lengths differ or a leaf does not exist.
    pub fn set_many(&mut self, leaves: &[u32], values: &[f32]) {
        assert_eq!(leaves.len(), values.len(), "one value for each leaf");
        for (&leaf, &value) in leaves.iter().zip(values) {
            self.set_leaf(leaf as usize, value);
        }
        for level in 1..self.levels.len() {
            let shift = 4 * level as u32;
            let mut last = u32::MAX;
            for &leaf in leaves {
                let node = leaf >> shift;
                if node != last {
                    self.refresh(level, node as usize);
                    last = node;
                }
            }
        }
    }

    /// For each target within `0.0..total`, the leaf whose interval holds it. Goes level by level and asks for the
    /// next level's lines ahead, so that many draws wait for memory together.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn find_many(&self, targets: &mut [f64], leaves: &mut [u32]) {
        assert_eq!(leaves.len(), targets.len(), "one leaf for each target");
        leaves.fill(0);
        for level in (0..self.levels.len()).rev() {
            let nodes = &self.levels[level];
            let below = level.checked_sub(1).map(|level| self.levels[level].as_slice());
            for (node, target) in leaves.iter_mut().zip(targets.iter_mut()) {
                let (child, before) = nodes[*node as usize].find(*target);
                *target = (*target - before).max(0.0);
                *node = *node * 16 + child as u32;
                if let Some(below) = below {
                    prefetch(below, *node as usize);
                }
            }
        }
    }

    /// The leaf whose interval holds `target`.
    pub fn find(&self, target: f64) -> usize {
        let (mut targets, mut leaves) = ([target], [0]);
        self.find_many(&mut targets, &mut leaves);
        leaves[0] as usize
    }

    #[inline]
    fn set_leaf(&mut self, leaf: usize, value: f32) {
        assert!(leaf < self.len, "leaf {leaf} of {}", self.len);
        debug_assert!(value.is_finite() && value >= 0.0, "priorities are finite and not negative");
        self.levels[0][leaf / 16].0[leaf % 16] = value;
    }

    /// Recomputes the entry of `level` that sums node `child` of the level below.
    #[inline]
    fn refresh(&mut self, level: usize, child: usize) {
        let sum = self.levels[level - 1][child].sum();
        self.levels[level][child / 16].0[child % 16] = sum;
    }
}

#[inline]
fn prefetch(nodes: &[Node], node: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint and reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(nodes.as_ptr().wrapping_add(node).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (nodes, node);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_tree_has_no_weight_and_one_leaf_has_all() {
        let mut tree = SumTree::new(1);
        assert_eq!(tree.total(), 0.0);
        tree.set(0, 3.5);
        assert_eq!((tree.total(), tree.find(0.0), tree.find(3.4)), (3.5, 0, 0));
    }

    #[test]
    fn a_leaf_without_weight_is_never_found() {
        let mut tree = SumTree::new(5_000);
        tree.set(17, 0.25);
        tree.set(4_999, 0.75);
        for i in 0..1_000 {
            let found = tree.find(f64::from(i) / 1_000.0);
            assert_eq!(found, if i < 250 { 17 } else { 4_999 });
        }
        // Beyond the total, as rounding may bring about: still a leaf that has weight.
        assert_eq!(tree.find(1.0), 4_999);
        assert_eq!(tree.find(7.0), 4_999);
    }

    #[test]
    fn small_leaves_of_a_heavy_tree_are_met_in_proportion() {
        // A million leaves of one: targets half-way into a leaf must find exactly that leaf.
        let mut tree = SumTree::new(1 << 20);
        tree.fill(0, 1 << 20, 1.0);
        for leaf in (0..1 << 20).step_by(997) {
            assert_eq!(tree.find(f64::from(leaf) + 0.5), leaf as usize);
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_list_of_numbers(
            len in 1_usize..700,
            writes in prop::collection::vec((any::<prop::sample::Index>(), 0_u16..50), 1..200),
            runs in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u16..9), 0..4),
            draws in prop::collection::vec(0.0_f64..1.0, 1..50),
        ) {
            // Multiples of 1/8 below 2^24: sums are exact, so the slow model must agree to the leaf.
            let (mut tree, mut model) = (SumTree::new(len), vec![0.0_f32; len]);
            for (from, to, value) in runs {
                let (a, b) = (from.index(len), to.index(len));
                let (first, count) = (a.min(b), a.abs_diff(b) + 1);
                tree.fill(first, count, f32::from(value) / 8.0);
                model[first..first + count].fill(f32::from(value) / 8.0);
            }
            let (one, many) = writes.split_at(writes.len() / 2);
            for (leaf, value) in one {
                tree.set(leaf.index(len), f32::from(*value) / 8.0);
                model[leaf.index(len)] = f32::from(*value) / 8.0;
            }
            let leaves: Vec<u32> = many.iter().map(|(leaf, _)| leaf.index(len) as u32).collect();
            let values: Vec<f32> = many.iter().map(|&(_, value)| f32::from(value) / 8.0).collect();
            tree.set_many(&leaves, &values);
            for (&leaf, &value) in leaves.iter().zip(&values) {
                model[leaf as usize] = value;
            }
            for (leaf, &value) in model.iter().enumerate() {
                prop_assert_eq!(tree.get(leaf), value);
            }
            let total: f32 = model.iter().sum();
            prop_assert_eq!(tree.total(), total);
            if total > 0.0 {
                for draw in draws {
                    let target = draw * f64::from(total);
                    let mut before = 0.0_f64;
                    let slow = model.iter().position(|&value| { before += f64::from(value); target < before }).unwrap();
                    prop_assert_eq!(tree.find(target), slow);
                }
            }
        }
    }
}
