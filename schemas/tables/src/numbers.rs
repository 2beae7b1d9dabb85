//! Numbers in a row, as lists of observations have them: checked 64 bytes at a time, all of these at once.
//!
//! Walked one after another, they and what little else such an event has took 21 in 100 samples of a lander; so they take 12.

#[cfg(target_feature = "avx2")]
use crate::masks::both;
#[cfg(any(test, not(target_feature = "avx2")))]
use crate::masks::mask;

/// The beginning of a row goes on as long as a block has so many bytes of it.
const WORTH_ANOTHER: usize = 32;

/// Goes on from `at`, where a number may begin, behind as many as there are with a comma right behind them; not behind
/// all of them where that is not plain to see.
#[inline(never)]
pub(crate) fn after_numbers(bytes: &[u8], mut at: usize) -> usize {
    loop {
        let rest = &bytes[at..];
        let passed = match rest.first_chunk() {
            Some(block) => Block::of(block).whole_numbers(),
            None => Block::of_last(rest).whole_numbers(),
        };
        at += passed;
        if passed < WORTH_ANOTHER {
            return at;
        }
    }
}

/// What the bytes of a block are, one bit for each, the first byte lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    digits: u64,
    zeros: u64,
    points: u64,
    signs: u64,
    commas: u64,
}

impl Block {
    /// How many bytes the numbers that begin here have with their commas; 0 if any of them is none.
    #[inline(always)]
    fn whole_numbers(self) -> usize {
        let Self { digits, zeros, points, signs, commas } = self;
        let row = (digits | points | signs | commas).trailing_ones();
        let ends = commas & u64::MAX.checked_shr(64 - row).unwrap_or(0);
        let len = 64 - ends.leading_zeros();
        // Up to the last comma: so whatever a number has lies within these.
        let within = u64::MAX.checked_shr(64 - len).unwrap_or(0);
        let [digits, points, signs, commas] = [digits, points, signs, commas].map(|mask| mask & within);
        let begins = (1 | commas << 1) & within;
        let first_digits = (begins & !signs) | signs << 1;
        let fractions = points << 1;
        // An addition carries from the first digit of a fraction to what is behind its last.
        let behind_fractions = digits.wrapping_add(fractions) & !digits;
        let wrong = signs & !begins
            | (first_digits | fractions) & !digits
            | (points | commas) & !(digits << 1)
            | behind_fractions & points
            // A zero is first only if it is alone.
            | (first_digits & zeros) << 1 & digits;
        if wrong == 0 { len as usize } else { 0 }
    }

    /// Where fewer than 64 bytes are left.
    #[inline(always)]
    fn of_last(rest: &[u8]) -> Self {
        let mut block = [0; 64];
        block[..rest.len()].copy_from_slice(rest);
        Self::of(&block)
    }

    #[cfg(target_feature = "avx2")]
    #[inline(always)]
    fn of(block: &[u8; 64]) -> Self {
        use std::arch::x86_64::{
            _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_max_epu8, _mm256_movemask_epi8, _mm256_set1_epi8,
            _mm256_sub_epi8,
        };
        let of_half = |half: &[u8; 32]| {
            // SAFETY: this is compiled for machines that have these instructions, and `half` has the 32 bytes that are loaded.
            unsafe {
                let bytes = _mm256_loadu_si256(half.as_ptr().cast());
                let are =
                    |byte: u8| _mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte as i8))) as u32;
                let nine = _mm256_set1_epi8(9);
                let from_zero = _mm256_sub_epi8(bytes, _mm256_set1_epi8(b'0' as i8));
                let digits = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(from_zero, nine), nine)) as u32;
                [digits, are(b'0'), are(b'.'), are(b'-'), are(b',')]
            }
        };
        let halves: &[[u8; 32]] = block.as_chunks().0;
        let (low, high) = (of_half(&halves[0]), of_half(&halves[1]));
        let [digits, zeros, points, signs, commas] = std::array::from_fn(|nth| both(low[nth], high[nth]));
        Self { digits, zeros, points, signs, commas }
    }

    #[cfg(not(target_feature = "avx2"))]
    fn of(block: &[u8; 64]) -> Self {
        Self::of_each(block)
    }

    #[cfg(any(test, not(target_feature = "avx2")))]
    fn of_each(block: &[u8; 64]) -> Self {
        Self {
            digits: mask(block, |byte| byte.is_ascii_digit()),
            zeros: mask(block, |byte| byte == b'0'),
            points: mask(block, |byte| byte == b'.'),
            signs: mask(block, |byte| byte == b'-'),
            commas: mask(block, |byte| byte == b','),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether serde_json takes each of the texts between commas for a number.
    fn are_numbers(passed: &str) -> bool {
        let numbers = passed.strip_suffix(',').expect("they end with a comma").split(',');
        numbers.map(serde_json::from_str::<serde_json::Number>).all(|number| number.is_ok())
    }

    #[test]
    fn what_bytes_are_is_known_wherever_they_stand() {
        for byte in 0..=255 {
            for at in 0..64 {
                let mut block = [b'a'; 64];
                block[at] = byte;
                assert_eq!(Block::of(&block), Block::of_each(&block), "{byte} at {at}");
            }
        }
    }

    #[test]
    fn a_row_is_passed_up_to_its_last_comma() {
        let row = |numbers: &str| after_numbers(numbers.as_bytes(), 0);
        for (numbers, passed) in [
            ("1,-0.25,0,10.01,-7]", 16),
            ("1]", 0),
            ("", 0),
            ("1,", 2),
            ("1,2e5,3]", 2),
            ("1, 2,3]", 2),
            ("1,\"a\",3]", 2),
            ("/,", 0),
            ("1,/,", 2),
        ] {
            assert_eq!(row(numbers), passed, "{numbers}");
        }
        for none in ["01,", "-,", "-01,", "1.,", ".5,", "1.2.3,", "--1,", "1-2,", "-.5,", ",", "1,,", "00,", "1..2,"] {
            assert_eq!(row(none), 0, "{none}");
            assert_eq!(row(&format!("1,2,{none}")), 0, "{none} behind others");
        }
        // Nothing of one block is taken for a part of the next.
        for len in 1..200 {
            let numbers = format!("{},", "0.5,-1.25,".repeat(20))[..len].to_owned();
            let last = numbers.rfind(',').map_or(0, |at| at + 1);
            let passed = row(&numbers);
            assert_eq!(passed, last, "{numbers}");
        }
    }

    proptest! {
        #[test]
        fn rows_are_passed_only_where_serde_json_takes_each_number(
            numbers in prop::collection::vec("-?(0|[1-9][0-9]{0,3}|[0-9]{1,70})(\\.[0-9]{1,7})?", 0..40),
            damages in prop::collection::vec((any::<prop::sample::Index>(), "[-0-9.,e]"), 0..3),
        ) {
            let mut row: Vec<u8> = (numbers.join(",") + "]").into_bytes();
            for (at, with) in damages {
                let at = at.index(row.len());
                row[at] = with.as_bytes()[0];
            }
            let passed = after_numbers(&row, 0);
            prop_assert!(passed == 0 || are_numbers(std::str::from_utf8(&row[..passed]).unwrap()));
        }

        #[test]
        fn plain_rows_are_passed_whole(numbers in prop::collection::vec("-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,7})?", 2..40)) {
            let row = numbers.join(",");
            prop_assert_eq!(Some(after_numbers(row.as_bytes(), 0)), row.rfind(',').map(|at| at + 1));
        }
    }
}
