use jiff::{Timestamp, tz::TimeZone};

const DAY_MS: i64 = 86_400_000;

/// The UTC day of a time, as the tables' `dt`: `2026-11-21`. Times outside the calendar are clamped.
pub fn day_of(ms: i64) -> String {
    let ms = ms.clamp(Timestamp::MIN.as_millisecond() + DAY_MS, Timestamp::MAX.as_millisecond() - DAY_MS);
    let at = Timestamp::from_millisecond(ms).expect("clamped into the calendar");
    at.to_zoned(TimeZone::UTC).date().to_string()
}

/// Remembers the last day, since neighbours in a log almost always share it.
#[derive(Debug, Default)]
pub(crate) struct DayCache {
    day: i64,
    text: String,
}

/// Days since 1970-01-01, UTC.
pub(crate) fn day_number(ms: i64) -> i64 {
    ms.div_euclid(DAY_MS)
}

impl DayCache {
    pub(crate) fn day_of(&mut self, ms: i64) -> &str {
        let day = day_number(ms);
        if self.text.is_empty() || day != self.day {
            self.day = day;
            self.text = day_of(ms);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_the_utc_day_also_at_its_edges() {
        // date -u -d @0 +%F; date -u -d @1700006399 +%F; date -u -d @1700006400 +%F
        assert_eq!(day_of(0), "1970-01-01");
        assert_eq!(day_of(1_700_006_399_999), "2023-11-14");
        assert_eq!(day_of(1_700_006_400_000), "2023-11-15");
        assert_eq!(day_of(-1), "1969-12-31");
        let mut cache = DayCache::default();
        for ms in [0, -1, 1_700_006_399_999, 1_700_006_400_000, 1_700_006_400_001, i64::MAX, i64::MIN, 0] {
            assert_eq!(cache.day_of(ms), day_of(ms));
        }
    }
}
