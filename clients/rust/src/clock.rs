//! Waits of any length: whoever says `Duration::MAX` means "for ever".

use std::time::{Duration, Instant};

/// As good as never, and still a moment that every clock has.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The moment `wait` from now.
pub(crate) fn after(wait: Duration) -> Instant {
    let now = Instant::now();
    now + wait.min(NEVER)
}

/// Between a half and all of `pause`, so that producers do not come back together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.min(NEVER).mul_f64(rand::random_range(0.5..=1.0))
}
