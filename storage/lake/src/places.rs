//! Where in JSON it is worth asking whether what follows came before.

/// What must follow a text, so that it can be read in whole words.
pub(crate) const PADDING: usize = 128;
/// So much of a text is looked at before anything is made of it: the steps after it depend on nothing that is found there, so
/// that a processor works on many places at once.
pub(crate) const PART_BYTES: usize = 4096;
/// The longest run that is told; one that is as long may be longer.
pub(crate) const LONGEST_RUN: u32 = WORD as u32;
const WORD: usize = 64;
const WORDS: usize = PART_BYTES / WORD;
/// Places are written down so many at once, as many as there are or not.
const AT_ONCE: usize = 8;

/// Where a run of other letters follows a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub at: u32,
    /// How many letters it has before the next number.
    pub run: u32,
}

/// The places of a part of a text, each with three more letters behind it that are of no number; and its lists.
pub(crate) struct Places {
    behind_numbers: Box<[Place; PART_BYTES / 4]>,
    n_behind_numbers: usize,
    /// Quotes that stand at no such place, a bit for each byte of the part.
    quotes: [u64; WORDS],
    /// Commas before a digit and a point, with a sign between them or without: how numbers begin of which observations are
    /// lists. (Another letter or point may stand for the sign and the digit: whoever asks compares.)
    lists: [u64; WORDS],
    has_lists: bool,
    /// What is of no number, also in the word behind the part.
    others: [u64; WORDS + 1],
    start: usize,
    /// Whether the byte before the next part is of a number.
    after_number: bool,
}

impl Places {
    pub fn new() -> Self {
        Self {
            behind_numbers: vec![Place::default(); PART_BYTES / 4].try_into().expect("as many as there is room for"),
            n_behind_numbers: 0,
            quotes: [0; WORDS],
            lists: [0; WORDS],
            has_lists: false,
            others: [0; WORDS + 1],
            start: 0,
            after_number: true,
        }
    }

    /// Looks at the bytes from `start` up to `end`, a part at most; what lies before was looked at last. A text begins at 0,
    /// as if behind a number. [`PADDING`] bytes of no matter what must follow `end`.
    #[inline(never)]
    pub fn find(&mut self, padded: &[u8], start: usize, end: usize) {
        self.start = start;
        let mut after_number = start == 0 || self.after_number;
        let mut here = Letters::of(word(padded, start));
        let (mut n, mut in_lists) = (0, 0);
        for (nth, at) in (start..end).step_by(WORD).enumerate() {
            let next = Letters::of(word(padded, at + WORD));
            let (other, more) = (!here.numbers, !next.numbers);
            let follows = |n: u32| (other >> n) | (more << (64 - n));
            let within = if end - at < WORD { (1 << (end - at)) - 1 } else { u64::MAX };
            let long = other & follows(1) & follows(2) & follows(3) & within;
            let mut places = long & !(other << 1 | u64::from(!after_number));
            self.quotes[nth] = long & here.quotes & !places;
            let is_point = |n: u32| (here.points >> n) | (next.points << (64 - n));
            let one_digit = !follows(1) & is_point(2) | follows(1) & !follows(2) & is_point(3);
            self.lists[nth] = here.commas & one_digit & within;
            in_lists |= self.lists[nth];
            (self.others[nth], self.others[nth + 1]) = (other, more);
            (here, after_number) = (next, other >> 63 == 0);
            let n_here = places.count_ones() as usize;
            let mut to = n;
            // Lists of numbers have none.
            while places != 0 {
                for place in &mut self.behind_numbers[to..to + AT_ONCE] {
                    let into = places.trailing_zeros() % 64;
                    places &= places.wrapping_sub(1);
                    *place = Place { at: at as u32 + into, run: run(other, more, into) };
                }
                to += AT_ONCE;
            }
            n += n_here;
        }
        self.n_behind_numbers = n;
        (self.after_number, self.has_lists) = (after_number, in_lists != 0);
    }

    pub fn behind_numbers(&self) -> &[Place] {
        &self.behind_numbers[..self.n_behind_numbers]
    }

    pub fn has_lists(&self) -> bool {
        self.has_lists
    }

    /// Commas of lists from `from` on and before `to`, both in the part: where each word begins, and a bit for each of its bytes.
    #[inline(always)]
    pub fn lists(&self, from: usize, to: usize) -> impl Iterator<Item = (usize, u64)> {
        let within = move |base: usize| {
            let behind = u64::MAX << from.saturating_sub(base).min(63);
            if to - base < WORD { behind & ((1 << (to - base)) - 1) } else { behind }
        };
        let first = (from - self.start) / WORD;
        let words = self.lists[first..].iter().zip((self.start + first * WORD..to).step_by(WORD));
        words.map(move |(commas, base)| (base, commas & within(base)))
    }

    /// The first quote that is a place, from `from` on and before `to`, both in the part.
    pub fn quote(&self, from: usize, to: usize) -> Option<Place> {
        let mut at = from;
        while at < to {
            let (nth, into) = ((at - self.start) / WORD, ((at - self.start) % WORD) as u32);
            let quotes = self.quotes[nth] >> into << into;
            let base = self.start + nth * WORD;
            if quotes != 0 {
                let into = quotes.trailing_zeros();
                let at = base + into as usize;
                let run = run(self.others[nth], self.others[nth + 1], into);
                return (at < to).then_some(Place { at: at as u32, run });
            }
            at = base + WORD;
        }
        None
    }
}

/// How many bits are set from `into` on.
#[inline(always)]
fn run(other: u64, more: u64, into: u32) -> u32 {
    (other >> into | (more << 1) << (63 - into)).trailing_ones()
}

#[inline(always)]
fn word(padded: &[u8], at: usize) -> &[u8; WORD] {
    padded[at..at + WORD].try_into().expect("as many bytes as a word has")
}

/// What the bytes of a word are, one bit for each, the first byte lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Letters {
    /// Digits and points.
    numbers: u64,
    quotes: u64,
    commas: u64,
    points: u64,
}

impl Letters {
    #[cfg(target_feature = "avx2")]
    #[inline(always)]
    fn of(word: &[u8; WORD]) -> Self {
        use std::arch::x86_64::{
            _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_max_epu8, _mm256_movemask_epi8, _mm256_or_si256,
            _mm256_set1_epi8, _mm256_sub_epi8,
        };
        let of_half = |half: &[u8; 32]| {
            // SAFETY: this is compiled for machines that have these instructions, and `half` has the 32 bytes that are loaded.
            unsafe {
                let bytes = _mm256_loadu_si256(half.as_ptr().cast());
                let is = |byte: u8| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte as i8));
                let nine = _mm256_set1_epi8(9);
                let from_zero = _mm256_sub_epi8(bytes, _mm256_set1_epi8(b'0' as i8));
                let digits = _mm256_cmpeq_epi8(_mm256_max_epu8(from_zero, nine), nine);
                let points = is(b'.');
                [_mm256_or_si256(digits, points), is(b'"'), is(b','), points].map(|bytes| _mm256_movemask_epi8(bytes))
            }
        };
        let halves: &[[u8; 32]] = word.as_chunks().0;
        let (low, high) = (of_half(&halves[0]), of_half(&halves[1]));
        let [numbers, quotes, commas, points] = std::array::from_fn(|nth| both(low[nth], high[nth]));
        Self { numbers, quotes, commas, points }
    }

    #[cfg(not(target_feature = "avx2"))]
    fn of(word: &[u8; WORD]) -> Self {
        Self::of_each(word)
    }

    #[cfg(any(test, not(target_feature = "avx2")))]
    fn of_each(word: &[u8; WORD]) -> Self {
        let mask = |is: fn(&u8) -> bool| word.iter().rev().fold(0, |mask, byte| mask << 1 | u64::from(is(byte)));
        Self {
            numbers: mask(|byte| matches!(byte, b'.' | b'0'..=b'9')),
            quotes: mask(|byte| *byte == b'"'),
            commas: mask(|byte| *byte == b','),
            points: mask(|byte| *byte == b'.'),
        }
    }
}

/// One mask of two halves.
#[cfg(target_feature = "avx2")]
#[inline(always)]
fn both(low: i32, high: i32) -> u64 {
    u64::from(high as u32) << 32 | u64::from(low as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Byte by byte: places behind numbers, and quotes, each with its run.
    fn slowly(text: &[u8], padded: &[u8]) -> (Vec<Place>, Vec<Place>) {
        let is_other = |at: usize| !matches!(padded[at], b'.' | b'0'..=b'9');
        let run = |at: usize| (at..at + WORD).take_while(|at| is_other(*at)).count() as u32;
        let place = |at: usize| Place { at: at as u32, run: run(at) };
        let long = (0..text.len()).filter(|at| (*at..at + 4).all(is_other));
        let (behind, others): (Vec<_>, Vec<_>) = long.partition(|at| *at == 0 || !is_other(at - 1));
        (
            behind.into_iter().map(place).collect(),
            others.into_iter().filter(|at| text[*at] == b'"').map(place).collect(),
        )
    }

    proptest! {
        #[test]
        fn places_are_found_as_byte_by_byte(
            pieces in prop::collection::vec("[0-9.]{1,3}|[a-z\",:]{1,9}|[a-z\"]{60,140}|(,-?[0-9.]{2,5}){1,30}", 0..900),
            padding in any::<u8>(),
            middle in any::<prop::sample::Index>(),
        ) {
            let text = pieces.concat().into_bytes();
            let padded = [&text[..], &[padding; PADDING]].concat();
            let mut places = Places::new();
            let (mut behind, mut quotes, mut lists) = (Vec::new(), Vec::new(), Vec::new());
            for start in (0..text.len()).step_by(PART_BYTES) {
                let end = text.len().min(start + PART_BYTES);
                places.find(&padded, start, end);
                behind.extend_from_slice(places.behind_numbers());
                // In two steps that meet anywhere.
                let middle = start + middle.index(end - start);
                let before = lists.len();
                for (base, commas) in places.lists(start, middle).chain(places.lists(middle, end)) {
                    lists.extend((0..WORD).filter(|n| commas >> n & 1 == 1).map(|n| base + n));
                }
                prop_assert_eq!(places.has_lists(), lists.len() > before);
                let mut from = start;
                while let Some(quote) = places.quote(from, end) {
                    quotes.push(quote);
                    from = quote.at as usize + 1;
                }
            }
            prop_assert_eq!((behind, quotes), slowly(&text, &padded));
            let is_number = |at: usize| matches!(padded[at], b'.' | b'0'..=b'9');
            let one_digit = |at: usize| is_number(at) && padded[at + 1] == b'.';
            let is_in_list = |at: usize| text[at] == b',' && (one_digit(at + 1) || !is_number(at + 1) && one_digit(at + 2));
            let slowly: Vec<_> = (0..text.len()).filter(|at| is_in_list(*at)).collect();
            prop_assert_eq!(lists, slowly);
        }
    }

    #[test]
    fn letters_are_known_wherever_they_stand() {
        for byte in 0..=255 {
            for at in 0..WORD {
                let mut word = [b'a'; WORD];
                word[at] = byte;
                assert_eq!(Letters::of(&word), Letters::of_each(&word), "{byte} at {at}");
            }
        }
    }
}
