//! A histogram of durations: in total, and over the last minute.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Buckets per doubling: values are known to 1/32 of themselves.
const SUB: usize = 32;
const BUCKETS: usize = 40 * SUB;
const SLICES: usize = 6;
const SLICE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Buckets {
    counts: Box<[u64]>,
    total: u64,
}

impl Buckets {
    fn new() -> Self {
        Self { counts: vec![0; BUCKETS].into(), total: 0 }
    }

    fn clear(&mut self) {
        if self.total > 0 {
            self.counts.fill(0);
            self.total = 0;
        }
    }

    fn add(&mut self, nanos: u64) {
        self.counts[index_of(nanos)] += 1;
        self.total += 1;
    }
}

/// Small values have a bucket each; above, 32 buckets per doubling.
fn index_of(nanos: u64) -> usize {
    if nanos < SUB as u64 {
        return nanos as usize;
    }
    let doublings = nanos.ilog2() as usize - SUB.ilog2() as usize;
    let within = (nanos >> doublings) as usize - SUB;
    ((doublings + 1) * SUB + within).min(BUCKETS - 1)
}

/// Largest value of a bucket.
fn upper_of(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let doublings = index / SUB - 1;
    (((SUB + index % SUB + 1) as u64) << doublings) - 1
}

fn quantile(counts: impl Fn(usize) -> u64, total: u64, q: f64) -> Option<Duration> {
    if total == 0 {
        return None;
    }
    let wanted = ((total as f64 * q).ceil() as u64).clamp(1, total);
    let mut seen = 0;
    (0..BUCKETS).find_map(|index| {
        seen += counts(index);
        (seen >= wanted).then(|| Duration::from_nanos(upper_of(index)))
    })
}

#[derive(Debug)]
struct State {
    total: Buckets,
    slices: [Buckets; SLICES],
    current: u64,
}

/// Durations up to 18 minutes, to 3 %.
#[derive(Debug)]
pub struct Latency {
    born: Instant,
    state: Mutex<State>,
}

/// Quantiles of a [`Latency`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quantiles {
    pub count: u64,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl Latency {
    pub fn new() -> Self {
        let slices = std::array::from_fn(|_| Buckets::new());
        Self { born: Instant::now(), state: Mutex::new(State { total: Buckets::new(), slices, current: 0 }) }
    }

    pub fn record(&self, took: Duration) {
        self.record_at(took, Instant::now());
    }

    fn record_at(&self, took: Duration, now: Instant) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let mut state = self.state.lock();
        let at = self.turn(&mut state, now);
        state.slices[at].add(nanos);
        state.total.add(nanos);
    }

    /// Clears what has become too old and returns the slice of now.
    fn turn(&self, state: &mut State, now: Instant) -> usize {
        let slice = (now.saturating_duration_since(self.born).as_millis() / SLICE.as_millis()) as u64;
        let first = (state.current + 1).max(slice.saturating_sub(SLICES as u64 - 1));
        for old in first..=slice {
            state.slices[(old % SLICES as u64) as usize].clear();
        }
        state.current = state.current.max(slice);
        (state.current % SLICES as u64) as usize
    }

    /// Since the start.
    pub fn total(&self) -> Quantiles {
        let state = self.state.lock();
        quantiles(&[&state.total])
    }

    /// The last 50 to 60 seconds.
    pub fn recent(&self) -> Quantiles {
        let mut state = self.state.lock();
        self.turn(&mut state, Instant::now());
        quantiles(&state.slices.iter().collect::<Vec<_>>())
    }
}

fn quantiles(parts: &[&Buckets]) -> Quantiles {
    let count = parts.iter().map(|b| b.total).sum();
    let counts = |index: usize| parts.iter().map(|b| b.counts[index]).sum();
    let at = |q| quantile(counts, count, q).unwrap_or_default();
    Quantiles { count, p50: at(0.5), p99: at(0.99), max: at(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_a_sorted_list_to_three_percent() {
        let latency = Latency::new();
        let values: Vec<u64> = (1..=10_000).map(|i| i * i).collect();
        values.iter().for_each(|&v| latency.record(Duration::from_nanos(v)));
        let found = latency.total();
        assert_eq!(found.count, 10_000);
        for (found, exact) in [(found.p50, values[4_999]), (found.p99, values[9_899]), (found.max, values[9_999])] {
            let ratio = found.as_nanos() as f64 / exact as f64;
            assert!((1.0..1.032).contains(&ratio), "{found:?} for {exact}");
        }
        assert_eq!(latency.recent().count, 10_000);
    }

    #[test]
    fn the_window_forgets_and_the_total_does_not() {
        let latency = Latency::new();
        let at = |s: u64| latency.born + Duration::from_secs(s);
        latency.record_at(Duration::from_millis(9), at(1));
        latency.record_at(Duration::from_millis(1), at(45));
        let count = |now| {
            let mut state = latency.state.lock();
            latency.turn(&mut state, now);
            state.slices.iter().map(|s| s.total).sum::<u64>()
        };
        assert_eq!(count(at(59)), 2);
        assert_eq!(count(at(61)), 1);
        assert_eq!(count(at(3_600)), 0);
        assert_eq!(latency.total().count, 2);
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..200).chain((5..39).flat_map(|p| [(1 << p) - 1, 1 << p, (1 << p) + 1])) {
            let index = index_of(value);
            assert!(upper_of(index) >= value && (index == 0 || upper_of(index - 1) < value), "{value}");
        }
        assert_eq!(index_of(u64::MAX), BUCKETS - 1);
        assert_eq!(Latency::new().total(), Quantiles::default());
    }
}
