//! When sessions decide: spread evenly over the decision period, instead of whenever their games happened to begin.
//!
//! Decisions that fall on one moment wait for each other, and leave a long silence in which a new version is not
//! played by anybody.

use std::time::{Duration, Instant};

/// Fractional part of the golden ratio: its multiples fill a circle evenly, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// The moments at which one session's transitions fall.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beat {
    epoch: Instant,
    phase: Duration,
    period: Duration,
}

impl Beat {
    /// Of the `n`-th session since `epoch`, with a transition every `period`.
    pub fn new(epoch: Instant, n: u64, period: Duration) -> Self {
        let period = period.max(Duration::from_micros(1));
        Self { epoch, phase: period.mul_f64((n as f64 * GOLDEN).fract()), period }
    }

    /// The first moment from `earliest` on such that what comes `ahead` of it falls on the beat; less than a period later.
    pub fn align(&self, earliest: Instant, ahead: Duration) -> Instant {
        let period = self.period.as_nanos();
        let now = (earliest + ahead).saturating_duration_since(self.epoch).as_nanos() % period;
        let wait = (self.phase.as_nanos() + period - now) % period;
        earliest + Duration::from_nanos(wait as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(132);

    #[test]
    fn decisions_of_sessions_that_began_at_once_are_spread_over_the_period() {
        let epoch = Instant::now();
        for sessions in [2_u64, 6, 16, 64] {
            let mut moments: Vec<_> = (0..sessions)
                .map(|n| Beat::new(epoch, n, PERIOD).align(epoch + Duration::from_secs(9), Duration::from_millis(99)))
                .map(|first| (first + Duration::from_millis(99)).duration_since(epoch).as_nanos() % PERIOD.as_nanos())
                .collect();
            moments.sort_unstable();
            moments.push(moments[0] + PERIOD.as_nanos());
            let widest = moments.windows(2).map(|pair| pair[1] - pair[0]).max().expect("two sessions");
            let even = PERIOD.as_nanos() / u128::from(sessions);
            assert!(widest < even * 5 / 2, "{sessions} sessions leave {widest} ns without a decision");
        }
    }

    #[test]
    fn no_game_waits_longer_than_a_period() {
        let epoch = Instant::now();
        for (n, ms) in [(0, 0), (1, 5), (7, 131), (9, 132), (1 << 40, 100_003)] {
            let earliest = epoch + Duration::from_millis(ms);
            let first = Beat::new(epoch, n, PERIOD).align(earliest, Duration::ZERO);
            assert!(first >= earliest && first - earliest < PERIOD, "session {n} begins {:?} late", first - earliest);
        }
    }
}
