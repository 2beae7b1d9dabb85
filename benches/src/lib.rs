//! The benches behind `flywheel bench`: each prints medians of several windows per CPU-second, and beside
//! them the peer measured in the same run.

mod folder;
pub mod infer;
pub mod ingest;
mod lander;
mod lines;
mod pin;
pub mod race;
pub mod replay;
pub mod sim;
pub mod streams;
pub mod swap;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;

/// What the command line asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Run the named peer in the same run.
    pub peer: bool,
    /// Length of one measuring window; three are taken after a warm-up of a sixth of it.
    pub window: Duration,
    /// The Python that has the peers installed; `make bench` creates it in `.venv`.
    pub python: PathBuf,
    /// Where `benches/peers` lies.
    pub peers: PathBuf,
}

/// One measured figure; with `--json` one object a line.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub bench: &'static str,
    pub metric: String,
    /// Median of the windows.
    pub value: f64,
    pub unit: &'static str,
    pub peer: Option<String>,
    pub peer_value: Option<f64>,
    /// How many times better than the peer, also for times.
    pub ratio: Option<f64>,
    /// Smallest and largest window.
    pub spread: [f64; 2],
    /// Load average of the last minute when the figure was taken.
    pub load: f64,
}

impl Figure {
    pub fn new(bench: &'static str, metric: impl Into<String>, unit: &'static str, windows: &[f64]) -> Self {
        let mut sorted = windows.to_vec();
        sorted.sort_by(f64::total_cmp);
        let value = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
        let spread = [sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN)];
        Self {
            bench,
            metric: metric.into(),
            value,
            unit,
            peer: None,
            peer_value: None,
            ratio: None,
            spread,
            load: load_average(),
        }
    }

    /// Sets the peer's figure. `higher_is_better` decides which way the ratio goes.
    pub fn against(mut self, peer: impl Into<String>, peer_value: f64, higher_is_better: bool) -> Self {
        self.peer = Some(peer.into());
        self.peer_value = Some(peer_value);
        self.ratio = Some(if higher_is_better { self.value / peer_value } else { peer_value / self.value });
        self
    }
}

/// Calls `work` (which returns how many units it did) in three windows and returns units per CPU-second of this
/// thread for each.
pub fn per_cpu_second(window: Duration, mut work: impl FnMut() -> u64) -> Vec<f64> {
    let warm = Instant::now();
    while warm.elapsed() < window / 6 {
        work();
    }
    (0..3)
        .map(|_| {
            let (wall, cpu, mut units) = (Instant::now(), thread_cpu_seconds(), 0);
            while wall.elapsed() < window {
                units += work();
            }
            units as f64 / (thread_cpu_seconds() - cpu)
        })
        .collect()
}

/// CPU time of the calling thread.
pub fn thread_cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call fills in.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// CPU time of the whole process.
pub fn process_cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call fills in.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Load average of the last minute; NaN where `/proc` is absent.
pub fn load_average() -> f64 {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next().and_then(|first| first.parse().ok()))
        .unwrap_or(f64::NAN)
}
