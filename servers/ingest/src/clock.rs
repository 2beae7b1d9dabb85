//! What the clocks of producers say, and what they cannot say.
//!
//! `ts_ms` is the producer's clock, so it may be wrong. The past is always taken: archives are replayed, and a spool is
//! drained after a week. A time before 1970, or further ahead of this machine's clock than [`IngestConfig::max_ahead_ms`],
//! is no time at which anything happened, and is refused as `bad_time`. A clock that jumps within a game, forth or back,
//! is taken as it is and counted: order is that of `seq`, never that of the clock.
//!
//! [`IngestConfig::max_ahead_ms`]: crate::IngestConfig::max_ahead_ms

use crate::Refusal;

/// Two events that follow one another in a game and whose clocks differ by more than this are a jump.
pub const JUMP_MS: u64 = 3_600_000;

/// The clock of a game's producer, as of the event with the highest `seq` so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    pub seq: u64,
    pub ts_ms: i64,
}

/// What is seen of a game's clock while a request of it is taken.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub clock: Option<Clock>,
    pub jumps: u64,
}

impl Seen {
    /// An event comes that was not there; `before` is what earlier requests showed. What comes late says nothing: it was
    /// earlier.
    pub fn see(&mut self, before: Option<Clock>, seq: u64, ts_ms: i64) {
        let before = self.clock.or(before);
        if before.is_some_and(|before| seq <= before.seq) {
            return;
        }
        self.jumps += u64::from(before.is_some_and(|before| before.ts_ms.abs_diff(ts_ms) > JUMP_MS));
        self.clock = Some(Clock { seq, ts_ms });
    }
}

/// Whether something can have happened then.
///
/// # Errors
/// `bad_time`.
pub(crate) fn check(ts_ms: i64, now_ms: i64, max_ahead_ms: u64) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new("bad_time", "ts_ms", format!("`ts_ms` {ts_ms} {why}")));
    if ts_ms < 0 {
        return refuse("lies before 1970".to_owned());
    }
    let ahead = ts_ms.saturating_sub(now_ms);
    if ahead > 0 && ahead.unsigned_abs() > max_ahead_ms {
        return refuse(format!(
            "is {} s ahead of this machine's clock, more than the {} s of `ingest.max_ahead`; is it in milliseconds, \
             and is the producer's clock right?",
            ahead / 1000,
            max_ahead_ms / 1000
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_taken_and_what_cannot_have_happened_yet_is_not() {
        let now = 1_700_000_000_000;
        for good in [0, 1, now - 1, now, now + 1000] {
            assert_eq!(check(good, now, 1000), Ok(()), "{good}");
        }
        for (bad, why) in [
            (-1, "before 1970"),
            (i64::MIN, "before 1970"),
            (now + 1001, "ahead"),
            (now * 1000, "milliseconds"),
            (i64::MAX, "ahead"),
        ] {
            let refusal = check(bad, now, 1000).unwrap_err();
            assert_eq!((refusal.reason, refusal.field.as_deref()), ("bad_time", Some("ts_ms")));
            assert!(refusal.detail.contains(why), "{refusal:?}");
        }
        assert_eq!(check(i64::MAX, i64::MIN, u64::MAX), Ok(()), "no overflow");
    }

    #[test]
    fn a_jump_is_counted_forth_and_back_and_what_comes_late_is_none() {
        const HOUR: i64 = JUMP_MS as i64;
        let mut seen = Seen::default();
        let mut jumps = |seq, ts_ms| {
            let before = seen.jumps;
            seen.see(Some(Clock { seq: 4, ts_ms: 10 * HOUR }), seq, ts_ms);
            seen.jumps - before
        };
        assert_eq!(jumps(5, 11 * HOUR), 0, "an hour may pass");
        assert_eq!(jumps(6, 12 * HOUR + 1), 1);
        assert_eq!(jumps(7, 12 * HOUR), 0, "a clock that is set back a little");
        assert_eq!(jumps(8, 0), 1);
        assert_eq!(jumps(3, 20 * HOUR), 0, "it comes late");
        assert_eq!(jumps(9, 1), 0);
        assert_eq!(seen.clock, Some(Clock { seq: 9, ts_ms: 1 }));
    }
}
