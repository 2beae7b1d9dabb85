use serde::Serialize;

/// How long rows were under way from the log to the buffer, over the newest of them.
#[derive(Debug)]
pub struct Freshness {
    /// Newest last, at most [`Freshness::KEPT`].
    window: Vec<u32>,
    next: usize,
    worst: u32,
    count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FreshnessReport {
    pub p50_ms: u32,
    pub p99_ms: u32,
    /// Over the whole run.
    pub max_ms: u32,
    pub rows: u64,
}

impl Default for Freshness {
    fn default() -> Self {
        Self { window: Vec::with_capacity(Self::KEPT), next: 0, worst: 0, count: 0 }
    }
}

impl Freshness {
    const KEPT: usize = 8_192;

    pub fn record(&mut self, ms: i64) {
        let ms = u32::try_from(ms.max(0)).unwrap_or(u32::MAX);
        if self.window.len() < Self::KEPT {
            self.window.push(ms);
        } else {
            self.window[self.next] = ms;
            self.next = (self.next + 1) % Self::KEPT;
        }
        self.worst = self.worst.max(ms);
        self.count += 1;
    }

    /// `None` before the first row.
    pub fn report(&self) -> Option<FreshnessReport> {
        let mut sorted = self.window.clone();
        sorted.sort_unstable();
        let at = |share: f64| sorted.get(((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1)).copied();
        Some(FreshnessReport { p50_ms: at(0.5)?, p99_ms: at(0.99)?, max_ms: self.worst, rows: self.count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_newest_rows_and_the_worst_is_remembered() {
        let mut freshness = Freshness::default();
        assert_eq!(freshness.report(), None);
        freshness.record(5_000);
        (0..Freshness::KEPT).for_each(|i| freshness.record((i % 100) as i64));
        let report = freshness.report().unwrap();
        assert_eq!((report.p50_ms, report.p99_ms, report.max_ms), (49, 98, 5_000));
        freshness.record(-3);
        assert_eq!(freshness.report().unwrap().max_ms, 5_000);
    }
}
