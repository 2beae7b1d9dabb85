use serde::{Deserialize, Serialize};

/// Keeps the learner from running ahead of its data: at most `samples_per_insert` rows are sampled for each row
/// inserted once `min_size` rows are there.
///
/// Allowed samples are `samples_per_insert * (inserted - min_size) + tolerance`; an unlimited ratio is
/// `f64::INFINITY`. Inserts are never held up: the stream does not wait for a learner. After Reverb's
/// `SampleToInsertRatio` (Cassirer et al. 2021), without its other bound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateLimiter {
    samples_per_insert: f64,
    min_size: u64,
    tolerance: f64,
    inserted: u64,
    sampled: u64,
}

/// Why sampling must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Fewer than `min_size` rows have been inserted.
    Filling { inserted: u64, min_size: u64 },
    /// As many samples as the inserts so far pay for have been drawn; `rows` more would pay for the next batch.
    Ahead { rows: u64 },
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Filling { inserted, min_size } => {
                write!(f, "{} of {} transitions", thousands(inserted), thousands(min_size))
            }
            Self::Ahead { rows } => write!(f, "ahead of the data: {} more transitions wanted", thousands(rows)),
        }
    }
}

/// `12400` as `12,400`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl RateLimiter {
    /// # Panics
    /// If `samples_per_insert` is not above zero or `tolerance` is negative or not finite.
    pub fn new(samples_per_insert: f64, min_size: u64, tolerance: f64) -> Self {
        assert!(samples_per_insert > 0.0, "`samples_per_insert` must be above zero");
        assert!(tolerance >= 0.0 && tolerance.is_finite(), "`tolerance` must be finite and not negative");
        Self { samples_per_insert, min_size, tolerance, inserted: 0, sampled: 0 }
    }

    pub fn inserted(&mut self, rows: u64) {
        self.inserted += rows;
    }

    pub fn sampled(&mut self, rows: u64) {
        self.sampled += rows;
    }

    /// May `rows` rows be sampled now?
    ///
    /// # Errors
    /// What is waited for.
    pub fn check(&self, rows: u64) -> Result<(), Limit> {
        if self.inserted < self.min_size {
            return Err(Limit::Filling { inserted: self.inserted, min_size: self.min_size });
        }
        let allowed = self.samples_per_insert * (self.inserted - self.min_size) as f64 + self.tolerance;
        let wanted = (self.sampled + rows) as f64;
        if wanted > allowed {
            let rows = ((wanted - allowed) / self.samples_per_insert).ceil().max(1.0) as u64;
            return Err(Limit::Ahead { rows });
        }
        Ok(())
    }

    /// Samples drawn for each insert so far; 0 before the first insert.
    pub fn ratio(&self) -> f64 {
        if self.inserted == 0 { 0.0 } else { self.sampled as f64 / self.inserted as f64 }
    }

    pub fn total_inserted(&self) -> u64 {
        self.inserted
    }

    pub fn total_sampled(&self) -> u64 {
        self.sampled
    }

    pub fn min_size(&self) -> u64 {
        self.min_size
    }

    /// Goes on from counts of an earlier run.
    pub fn restore(&mut self, inserted: u64, sampled: u64) {
        self.inserted = inserted;
        self.sampled = sampled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sampled_before_the_buffer_holds_its_minimum() {
        let mut limiter = RateLimiter::new(4.0, 20_000, 256.0);
        limiter.inserted(12_400);
        assert_eq!(limiter.check(256).unwrap_err().to_string(), "12,400 of 20,000 transitions");
    }

    #[test]
    fn the_ratio_of_samples_to_inserts_is_never_exceeded() {
        let mut limiter = RateLimiter::new(2.5, 100, 64.0);
        let mut steps = 0;
        for _ in 0..2_000 {
            limiter.inserted(3);
            while limiter.check(64).is_ok() {
                limiter.sampled(64);
                steps += 1;
            }
            let over = limiter.total_inserted().saturating_sub(100) as f64;
            assert!(limiter.total_sampled() as f64 <= 2.5 * over + 64.0);
        }
        assert_eq!(steps, ((2.5 * 5_900.0 + 64.0) / 64.0) as u64);
    }

    #[test]
    fn it_says_how_many_rows_would_pay_for_the_next_batch() {
        let mut limiter = RateLimiter::new(2.0, 0, 0.0);
        limiter.inserted(10);
        let Err(Limit::Ahead { rows }) = limiter.check(64) else { panic!("ten rows do not pay for 64 samples") };
        limiter.inserted(rows - 1);
        assert!(limiter.check(64).is_err());
        limiter.inserted(1);
        assert!(limiter.check(64).is_ok());
    }
}
