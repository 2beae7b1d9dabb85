use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Buckets are exact below 64 and at most 1/32 wide of their value above.
const LINEAR: u64 = 64;
const STEPS: u64 = 32;
const BUCKETS: usize = (LINEAR + (42 - 6) * STEPS) as usize;

/// Counts whole numbers (milliseconds, mostly) and tells their quantiles, 3 % exact; never blocks.
pub struct Histogram {
    counts: Box<[AtomicU64]>,
    total: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let counts = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { counts, total: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    pub fn record_many(&self, value: u64, times: u64) {
        self.counts[bucket(value)].fetch_add(times, Relaxed);
        self.total.fetch_add(times, Relaxed);
        self.max.fetch_max(value, Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.total.load(Relaxed)
    }

    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// The smallest value such that a share `q` (0..=1) of all recorded ones is not larger; 0 if there are none.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (self.count() as f64 * q).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count.load(Relaxed);
            if seen >= rank {
                return highest(index).min(self.max());
            }
        }
        self.max()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quantiles = (self.quantile(0.5), self.quantile(0.99), self.max());
        f.debug_struct("Histogram").field("count", &self.count()).field("p50_p99_max", &quantiles).finish()
    }
}

fn bucket(value: u64) -> usize {
    if value < LINEAR {
        return value as usize;
    }
    let log = u64::from(value.ilog2());
    let index = LINEAR + (log - 6) * STEPS + ((value >> (log - 5)) & (STEPS - 1));
    (index as usize).min(BUCKETS - 1)
}

fn highest(index: usize) -> u64 {
    let index = index as u64;
    if index < LINEAR {
        return index;
    }
    let (log, step) = (6 + (index - LINEAR) / STEPS, (index - LINEAR) % STEPS);
    ((STEPS + step + 1) << (log - 5)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_sorting_within_a_bucket() {
        let histogram = Histogram::default();
        let mut values: Vec<u64> = (0..10_000u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44).collect();
        values.iter().for_each(|v| histogram.record(*v));
        values.sort_unstable();
        for q in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let exact = values[((values.len() as f64 * q).ceil() as usize).max(1) - 1];
            let told = histogram.quantile(q);
            assert!(told >= exact && told as f64 <= exact as f64 * 1.04 + 1.0, "{q}: {told} for {exact}");
        }
        histogram.record(u64::MAX);
        assert_eq!(histogram.max(), u64::MAX);
    }
}
