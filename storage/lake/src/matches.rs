//! Where JSON repeats itself: what zstd is told instead of looking for it.
//!
//! A match finder that knows nothing asks at every byte whether what follows came before. Payloads of events answer that
//! by their shape: between two numbers stand the names of members, the same ones row after row, and the digits are new each
//! time. So it is asked only at some [places](crate::places): where a run of other letters follows a number, at quotes that no match
//! covers, and in lists where a number begins. What is found is given to zstd as sequences, and what it writes is a frame like
//! any other.
//!
//! On the payloads of `flywheel bench ingest` zstd 1 takes 0.29 and 1.18 µs a row with its own finder, a MiB at a time. With this
//! one, 256 KiB at a time, it takes 0.20 to 0.21 and 0.9 µs, of which 0.10 to 0.12 and 0.4 are finding, to 0.88 and 0.97 times
//! the bytes. Where values come again, in the ticks of tank
//! games, it finds less; so [`crate::pack`] tries both.

use zstd_sys::ZSTD_Sequence as Sequence;

use crate::places::{LONGEST_RUN, PADDING, PART_BYTES, Place, Places};

/// A frame is made of blocks of at most so many bytes, and a sequence lies in one of them.
pub(crate) const BLOCK_BYTES: usize = 128 << 10;
/// Shorter ones cost as much as the letters.
const MIN_MATCH: usize = 4;
/// A comma, a digit and a point; zstd knows no shorter ones.
const MIN_IN_LIST: usize = 3;
const TABLE_BITS: u32 = 12;
/// So many offsets are remembered, and these are the first ones.
const REPEATS: u32 = 3;
const FAR: [u32; 3] = [1, 4, 8];
const LITERALS_AT_ONCE: usize = 32;
const STEP: usize = 32;
/// How far is looked before it is known whether a match covers the place already. Few are longer.
const FORESEEN: usize = 2 * STEP;

/// Finds what was there before. Used again for text after text; each stands for itself.
pub(crate) struct Finder {
    places: Places,
    /// What was there before at each place behind a number.
    before: Vec<Match>,
    /// Where a run of letters that begins in this way was last, by its hash, plus one.
    last: Box<[u32; 1 << TABLE_BITS]>,
    sequences: Vec<Sequence>,
    /// Where a number of a list was last that begins with this sign and digit, from its comma on, plus one.
    listed: [u32; 32],
    /// The letters that no match covers, one after another, and room behind them.
    literals: Vec<u8>,
    n_literals: usize,
    /// How far back the last three matches were that were not alike, as whoever unpacks knows it.
    far: [u32; 3],
    /// Letters of runs that no match at their place covers.
    missed: usize,
}

/// From where on so many bytes, and more if there are [`FORESEEN`], are what they are at a place.
#[derive(Debug, Clone, Copy)]
struct Match {
    from: u32,
    length: u32,
}

/// A text as zstd wants it.
pub(crate) struct Found<'a> {
    /// Those of a block end with one whose match is empty.
    pub sequences: &'a [Sequence],
    pub literals: &'a [u8],
    /// Letters that may be read behind the literals.
    pub spare: usize,
}

impl Finder {
    pub fn new() -> Self {
        let last = vec![0; 1 << TABLE_BITS].try_into().expect("its size is the table's");
        Self {
            places: Places::new(),
            before: Vec::new(),
            last,
            sequences: Vec::new(),
            listed: [0; 32],
            literals: Vec::new(),
            n_literals: 0,
            far: FAR,
            missed: 0,
        }
    }

    /// Takes a text apart. `padded` is the text of `len` bytes and [`PADDING`] more of no matter what.
    ///
    /// `None` if too little was found where it was looked for: whoever asks at every byte then finds more.
    pub fn take_apart(&mut self, padded: &[u8], len: usize) -> Option<Found<'_>> {
        assert!(
            padded.len() >= len + PADDING && u32::try_from(len).is_ok(),
            "whole words are read, and places are 32 bits"
        );
        self.last.fill(0);
        self.listed = [0; 32];
        self.sequences.clear();
        (self.n_literals, self.far, self.missed) = (0, FAR, 0);
        // Room for all of it, and for what is written beyond.
        self.literals.resize(len + PADDING, 0);
        let mut done = 0;
        for start in (0..len).step_by(PART_BYTES) {
            let until = len.min(start + PART_BYTES);
            let end = len.min((start / BLOCK_BYTES + 1) * BLOCK_BYTES);
            self.places.find(padded, start, until);
            self.find_before(padded, end);
            let n = self.before.len();
            let place = |finder: &Self, nth: usize| finder.places.behind_numbers().get(nth).copied();
            // A run may go on from the part before.
            let first = place(self, 0).map_or(until, |place| place.at as usize);
            if done < first {
                done = self.push_at_quotes(padded, done, start, first, end);
                done = self.push_in_lists(padded, done, done.max(start), first, end);
            }
            for nth in 0..n {
                let (Some(Place { at, run }), Match { from, length }) = (place(self, nth), self.before[nth]) else {
                    unreachable!("one of each")
                };
                let (at, length) = (at as usize, length as usize);
                let is_covered = at < done;
                if !is_covered && length >= MIN_MATCH {
                    let from = from as usize;
                    let length = if length < FORESEEN { length } else { alike_longer(padded, from, at, end) };
                    self.push(padded, done, at, at - from, length);
                    done = at + length;
                }
                let next = place(self, nth + 1).map_or(until, |place| place.at as usize);
                // Hardly ever: names are where they were.
                if done < at + run as usize || run == LONGEST_RUN {
                    if !is_covered {
                        self.missed += (run as usize).min(end - at).saturating_sub(length);
                    }
                    done = self.push_at_quotes(padded, done, at, next, end);
                }
                if self.places.has_lists() {
                    done = self.push_in_lists(padded, done, done.max(at), next, end);
                }
            }
            // Matches end with a block too.
            if until == end {
                self.push(padded, done, end, 0, 0);
                done = end;
            }
        }
        (self.missed <= len / 8).then_some(())?;
        let Self { sequences, literals, n_literals, .. } = self;
        Some(Found { sequences, literals: &literals[..*n_literals], spare: literals.len() - *n_literals })
    }

    /// Looks what was there before at every place behind a number, whether another match covers it or not: so nothing waits
    /// for the length of the match before it. It does not look far, or a text that repeats itself would be compared as often
    /// as it has places.
    #[inline(never)]
    fn find_before(&mut self, padded: &[u8], end: usize) {
        let Self { places, before, last, .. } = self;
        before.clear();
        before.extend(places.behind_numbers().iter().map(|&place| {
            let at = place.at as usize;
            let Some(from) = came_before(last, padded, place) else { return Match { from: 0, length: 0 } };
            let foreseen = end.min(at + FORESEEN);
            Match { from: from as u32, length: alike(padded, from, at, foreseen) as u32 }
        }));
    }

    /// Goes on to `to` with what came before at quotes that no match covers, and says how far it came.
    #[inline(never)]
    fn push_at_quotes(&mut self, padded: &[u8], mut done: usize, mut from: usize, to: usize, end: usize) -> usize {
        while let Some(quote) = self.places.quote(from.max(done), to) {
            let at = quote.at as usize;
            // Places behind this one are known already.
            let before = came_before(&mut self.last, padded, quote).filter(|before| *before < at);
            let length = before.map_or(0, |before| alike(padded, before, at, end));
            self.missed += (quote.run as usize).min(end - at).saturating_sub(length);
            if let Some(before) = before
                && length >= MIN_MATCH
            {
                self.push(padded, done, at, at - before, length);
                done = at + length;
            }
            from = at + 1;
        }
        done
    }

    /// Goes on to `to` with how numbers of lists begin, comma, sign, digit and point, and perhaps more: as the last one that
    /// began so.
    ///
    /// That leaves the fractions' digits as literals, and these alone: then a digit takes little more than the 3.3 bits of one
    /// of ten.
    #[inline(never)]
    fn push_in_lists(&mut self, padded: &[u8], mut done: usize, from: usize, to: usize, end: usize) -> usize {
        if to <= from {
            return done;
        }
        let Self { places, listed, sequences, literals, n_literals, far, .. } = self;
        let mut offsets = *far;
        for (base, mut commas) in places.lists(from, to) {
            while commas != 0 {
                let at = base + commas.trailing_zeros() as usize;
                commas &= commas - 1;
                let letters = eight(padded, at);
                let is_negative = letters >> 8 & 0xff == u64::from(b'-');
                let digit = letters >> if is_negative { 16 } else { 8 } & 0xf;
                let last = &mut listed[digit as usize | usize::from(is_negative) << 4];
                let before = std::mem::replace(last, at as u32 + 1);
                if before == 0 || at < done {
                    continue;
                }
                let before = before as usize - 1;
                let differs = letters ^ eight(padded, before);
                let length = match differs {
                    0 => alike(padded, before, at, end),
                    _ => (differs.trailing_zeros() as usize / 8).min(end - at),
                };
                if length < MIN_IN_LIST {
                    continue;
                }
                let n = push_literals(literals, n_literals, padded, done, at);
                // Not one of the last three: which one of them it is would take longer to find than it saves bits.
                let offset = (at - before) as u32;
                offsets = [offset, offsets[0], offsets[1]];
                sequences.push(Sequence { offset, litLength: n, matchLength: length as u32, rep: 0 });
                done = at + length;
            }
        }
        *far = offsets;
        done
    }

    /// The text from `done` to `place` as literals, and a match behind it; without a length the end of a block.
    #[inline(always)]
    fn push(&mut self, padded: &[u8], done: usize, place: usize, offset: usize, length: usize) {
        let n = push_literals(&mut self.literals, &mut self.n_literals, padded, done, place);
        let offset = if length == 0 { 0 } else { self.offset(offset as u32, n == 0) };
        self.sequences.push(Sequence { offset, litLength: n, matchLength: length as u32, rep: 0 });
    }

    /// How a match is written that lies so far back: as one of the last three if it is as far as that, which takes a few bits.
    ///
    /// zstd adds three to what it is given, for 1, 2 and 3 mean those, and can look for them itself, which took 8 % of a
    /// lander's time. So they are given as what becomes 1, 2 and 3. Source: "Repeat offsets" of RFC 8878.
    #[inline(always)]
    fn offset(&mut self, offset: u32, is_next: bool) -> u32 {
        let [first, second, third] = self.far;
        // Right behind a match the three mean others. No branch: which of them it is cannot be foreseen.
        let is = |far: u32| offset == far && !is_next;
        let (is_first, is_second, is_third) = (is(first), is(second), is(third));
        let nth = |nth: u32| nth.wrapping_sub(REPEATS);
        let written = if is_third { nth(3) } else { offset };
        let written = if is_second { nth(2) } else { written };
        let written = if is_first { nth(1) } else { written };
        let second_next = if is_first { second } else { first };
        self.far = [offset, second_next, if is_first | is_second { third } else { second }];
        written
    }
}

/// The text from `done` to `place` behind the literals, with room for more behind them, and how many these are.
#[inline(always)]
fn push_literals(literals: &mut [u8], n_literals: &mut usize, padded: &[u8], done: usize, place: usize) -> u32 {
    let n = place - done;
    let literals = &mut literals[*n_literals..];
    if n <= LITERALS_AT_ONCE {
        // A fixed number of them is two instructions; what is too much is written over by the next.
        literals[..LITERALS_AT_ONCE].copy_from_slice(&padded[done..][..LITERALS_AT_ONCE]);
    } else {
        literals[..n].copy_from_slice(&padded[done..place]);
    }
    *n_literals += n;
    n as u32
}

/// Where the letters of a place may have been before; from now on they are here.
#[inline(always)]
fn came_before(last: &mut [u32; 1 << TABLE_BITS], padded: &[u8], place: Place) -> Option<usize> {
    let at = place.at as usize;
    let letters = eight(padded, at);
    // The digits that follow are not what it is known by.
    let letters = letters << (64 - 8 * place.run.clamp(1, 8));
    let hash = letters.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TABLE_BITS);
    let last = &mut last[hash as usize];
    let before = last.checked_sub(1);
    *last = place.at + 1;
    before.map(|before| before as usize)
}

/// How many bytes from `place` on are those from `before` on, none of them at `end` or behind it.
#[inline(always)]
fn alike(padded: &[u8], before: usize, place: usize, end: usize) -> usize {
    let alike = equal(step(padded, before), step(padded, place));
    if alike < STEP { alike.min(end - place) } else { alike_longer(padded, before, place, end) }
}

/// The same where more than a step is.
#[inline(never)]
fn alike_longer(padded: &[u8], before: usize, place: usize, end: usize) -> usize {
    let room = end - place;
    let mut length = STEP;
    while length < room {
        let alike = equal(step(padded, before + length), step(padded, place + length));
        length += alike;
        if alike < STEP {
            break;
        }
    }
    length.min(room)
}

#[inline(always)]
fn eight(padded: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(padded[at..at + 8].try_into().expect("eight bytes"))
}

#[inline(always)]
fn step(padded: &[u8], at: usize) -> &[u8; STEP] {
    padded[at..at + STEP].try_into().expect("as many as a step has")
}

/// How many bytes are equal before the first that is not.
#[cfg(target_feature = "avx2")]
#[inline(always)]
pub(crate) fn equal(one: &[u8; 32], other: &[u8; 32]) -> usize {
    use std::arch::x86_64::{_mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8};
    // SAFETY: this is compiled for machines that have these instructions, and both have the 32 bytes that are loaded.
    let equal = unsafe {
        let (one, other) = (_mm256_loadu_si256(one.as_ptr().cast()), _mm256_loadu_si256(other.as_ptr().cast()));
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(one, other))
    };
    equal.trailing_ones() as usize
}

#[cfg(not(target_feature = "avx2"))]
pub(crate) fn equal(one: &[u8; 32], other: &[u8; 32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slow and obvious reader of sequences.
    fn put_together(found: &Found<'_>) -> Vec<u8> {
        let (mut text, mut literals, mut far) = (Vec::new(), found.literals, FAR);
        for sequence in found.sequences {
            let (own, rest) = literals.split_at(sequence.litLength as usize);
            text.extend_from_slice(own);
            literals = rest;
            if sequence.matchLength == 0 {
                continue;
            }
            let repeat = sequence.offset.wrapping_add(REPEATS);
            let offset = match repeat {
                1..=3 => {
                    assert!(!own.is_empty(), "right behind a match they mean others");
                    let offset = far.remove_at(repeat as usize - 1);
                    far = [offset, far[0], far[1]];
                    offset
                }
                _ => {
                    far = [sequence.offset, far[0], far[1]];
                    sequence.offset
                }
            };
            for _ in 0..sequence.matchLength {
                text.push(text[text.len() - offset as usize]);
            }
        }
        assert!(literals.is_empty());
        text
    }

    trait RemoveAt {
        fn remove_at(&mut self, nth: usize) -> u32;
    }

    impl RemoveAt for [u32; 3] {
        /// What comes behind it moves up.
        fn remove_at(&mut self, nth: usize) -> u32 {
            let removed = self[nth];
            self.copy_within(nth + 1.., nth);
            removed
        }
    }

    #[test]
    fn what_was_taken_apart_can_be_put_together() {
        let mut finder = Finder::new();
        let names = |n: u64| format!("{{\"x\":{}.25,\"y\":-{},\"on\":{}}}", n * 7 % 800, n % 1000, n.is_multiple_of(3));
        let lists = |n: u64| format!("{{\"seen\":[1.{n},0.{},-{}.5,-0.1{n}]}}", n % 7, n % 3);
        for (rows, nth) in [0, 1, 2, 50, 9000].into_iter().flat_map(|rows| [(rows, 0), (rows, 1)]) {
            let text: String = (0..rows).map(|n| if nth == 0 { names(n) } else { lists(n) }).collect();
            let padded = [text.as_bytes(), &[b'9'; PADDING]].concat();
            let Some(found) = finder.take_apart(&padded, text.len()) else {
                assert!(rows < 50, "{rows} rows are much alike");
                continue;
            };
            assert_eq!(put_together(&found), text.as_bytes(), "{rows} rows");
            let blocks = found.sequences.iter().filter(|sequence| sequence.matchLength == 0).count();
            assert_eq!(blocks, text.len().div_ceil(BLOCK_BYTES));
            let repeats = found.sequences.iter().filter(|sequence| sequence.offset > u32::MAX - REPEATS).count();
            assert!(
                rows < 50 || nth == 1 || repeats > found.sequences.len() / 4,
                "{repeats} of {}",
                found.sequences.len()
            );
            let in_lists = found.sequences.iter().filter(|sequence| matches!(sequence.matchLength, 3 | 4)).count();
            assert!(rows < 50 || nth == 0 || in_lists > rows as usize, "{in_lists} of {rows}");
        }
    }

    #[test]
    fn a_text_that_repeats_itself_is_compared_once_and_not_at_every_place() {
        let mut finder = Finder::new();
        for row in ["{\"t\":0},", "abcd1", "0.5,-1.25,", &"\"x\":12.5,".repeat(12)] {
            let text = row.repeat(300_000 / row.len());
            let padded = [text.as_bytes(), &[b'9'; PADDING]].concat();
            let found = finder.take_apart(&padded, text.len()).unwrap();
            assert_eq!(put_together(&found), text.as_bytes());
            assert!(found.sequences.len() < 20, "{} for {row}", found.sequences.len());
            assert!(finder.before.iter().all(|before| before.length as usize <= FORESEEN));
        }
    }

    #[test]
    fn what_is_alike_ends_where_it_differs_or_at_the_end() {
        let text: Vec<u8> = [&[b'a'; 100][..], b"b", &[b'a'; 100], b"c", &[0; PADDING]].concat();
        assert_eq!((alike(&text, 0, 101, 201), alike(&text, 0, 101, 190), alike(&text, 1, 101, 201)), (100, 89, 99));
        for n in 0..32 {
            let mut other = [b'a'; 32];
            other[n] = b'x';
            assert_eq!(equal(&[b'a'; 32], &other), n);
        }
        assert_eq!(equal(&[b'a'; 32], &[b'a'; 32]), 32);
    }
}
