//! The last part of a volume, which new records may not take.
//!
//! A log, the tables behind it and the files that commit them share a volume. If new events took the last of it, what
//! is stored could not be brought to its end: landed, compacted, trimmed. So they are refused before.

use std::{
    fmt, io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::{LogError, LogErrorKind};

/// How long a look at the volumes is believed.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What of a volume can be used by who runs this program, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub free: u64,
    pub total: u64,
}

/// How much of a volume stays free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReserveLimits {
    /// Share of the volume.
    pub share: f64,
    /// Bytes, if they are more than the share.
    pub bytes: u64,
}

/// Why nothing is taken, and since when (milliseconds since 1970-01-01 UTC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    pub since_ms: i64,
    pub why: String,
}

type Probe = Box<dyn Fn() -> io::Result<Space> + Send + Sync>;

struct Volume {
    place: String,
    probe: Probe,
}

/// Says whether new records may be taken: not while less than the reserve is free on some volume, and then not before an
/// eighth more than the reserve is free, so that it does not flutter.
///
/// A volume that cannot be looked at counts as having room.
pub struct Reserve {
    limits: ReserveLimits,
    volumes: Vec<Volume>,
    look_every: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    shut: Option<Shut>,
}

impl fmt::Debug for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserve").field("limits", &self.limits).field("shut", &self.shut()).finish_non_exhaustive()
    }
}

impl Reserve {
    /// # Panics
    /// If the share lies outside `0.0..1.0`.
    pub fn new(limits: ReserveLimits) -> Self {
        assert!((0.0..1.0).contains(&limits.share), "{} is not a share of a volume", limits.share);
        Self { limits, volumes: Vec::new(), look_every: LOOK_EVERY, state: Mutex::default() }
    }

    /// One more volume; `place` is how people know it.
    #[must_use]
    pub fn watching(
        mut self,
        place: impl Into<String>,
        probe: impl Fn() -> io::Result<Space> + Send + Sync + 'static,
    ) -> Self {
        self.volumes.push(Volume { place: place.into(), probe: Box::new(probe) });
        self
    }

    /// How long a look is believed; zero looks each time.
    #[must_use]
    pub fn looking_every(mut self, time: Duration) -> Self {
        self.look_every = time;
        self
    }

    /// Why nothing may be taken now, if so. Cheap: the volumes are looked at a few times a second.
    pub fn shut(&self) -> Option<Shut> {
        let mut state = self.state.lock();
        if state.looked.is_none_or(|at| at.elapsed() >= self.look_every) {
            let short = self.volumes.iter().find_map(|volume| self.short(volume, state.shut.is_some()));
            state.shut = match (short, state.shut.take()) {
                (None, _) => None,
                (Some(why), Some(before)) => Some(Shut { why, ..before }),
                (Some(why), None) => Some(Shut { since_ms: now_ms(), why }),
            };
            state.looked = Some(Instant::now());
        }
        state.shut.clone()
    }

    /// # Errors
    /// `Full` if nothing may be taken now; nothing was done then.
    pub fn admit(&self, operation: &'static str, target: impl fmt::Display) -> Result<(), LogError> {
        match self.shut() {
            None => Ok(()),
            Some(shut) => Err(LogError::new(LogErrorKind::Full, operation, target, shut.why)),
        }
    }

    /// What is wrong with a volume that has too little room.
    fn short(&self, volume: &Volume, was_shut: bool) -> Option<String> {
        let space = (volume.probe)().ok()?;
        let reserve = ((space.total as f64 * self.limits.share) as u64).max(self.limits.bytes);
        let needed = if was_shut { reserve.saturating_add(reserve / 8) } else { reserve };
        (space.free < needed).then(|| {
            format!(
                "the disk of `{}` is nearly full ({} MB free, new events are taken from {} MB on): free some space",
                volume.place,
                space.free >> 20,
                needed.div_ceil(1 << 20)
            )
        })
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    };

    use super::*;

    fn reserve(share: f64, bytes: u64) -> (Reserve, Arc<AtomicU64>) {
        let free = Arc::new(AtomicU64::new(1000 << 20));
        let seen = Arc::clone(&free);
        let reserve = Reserve::new(ReserveLimits { share, bytes })
            .looking_every(Duration::ZERO)
            .watching("roomy", || Ok(Space { free: u64::MAX, total: u64::MAX }))
            .watching("data", move || Ok(Space { free: seen.load(SeqCst), total: 1000 << 20 }));
        (reserve, free)
    }

    #[test]
    fn the_door_shuts_below_the_reserve_and_opens_a_little_above_it() {
        for (share, bytes) in [(0.05, 0), (0.0, 50 << 20), (0.05, 1)] {
            let (reserve, free) = reserve(share, bytes);
            assert_eq!(reserve.shut(), None);
            free.store(50 << 20, SeqCst);
            assert_eq!(reserve.shut(), None, "all but the reserve may be taken");
            free.store((50 << 20) - 1, SeqCst);
            let shut = reserve.shut().unwrap();
            assert!(shut.why.contains("`data`") && shut.why.contains("49 MB free"), "{}", shut.why);
            let error = reserve.admit("appending", "t/0").unwrap_err();
            assert_eq!((error.kind(), error.kind().is_retryable()), (LogErrorKind::Full, true));
            free.store(52 << 20, SeqCst);
            assert_eq!(reserve.shut().unwrap().since_ms, shut.since_ms, "it does not flutter");
            free.store(57 << 20, SeqCst);
            assert_eq!(reserve.shut(), None);
            reserve.admit("appending", "t/0").unwrap();
        }
    }

    #[test]
    fn a_volume_that_cannot_be_looked_at_has_room() {
        let reserve = Reserve::new(ReserveLimits { share: 0.5, bytes: u64::MAX })
            .watching("gone", || Err(io::Error::from(io::ErrorKind::NotFound)));
        assert_eq!(reserve.shut(), None);
    }

    #[test]
    fn looks_are_believed_for_a_while() {
        let looks = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&looks);
        let probe = move || {
            seen.fetch_add(1, SeqCst);
            Ok(Space { free: 0, total: 100 })
        };
        let reserve = Reserve::new(ReserveLimits { share: 0.5, bytes: 0 })
            .looking_every(Duration::from_secs(3600))
            .watching("data", probe);
        for _ in 0..1000 {
            assert!(reserve.shut().is_some());
        }
        assert_eq!(looks.load(SeqCst), 1);
    }
}
