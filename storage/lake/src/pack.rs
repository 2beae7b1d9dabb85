//! zstd frames of pages of JSON texts: zstd's letters and codes, our [matches](crate::matches).

use std::{ffi::CStr, os::raw::c_int, ptr::NonNull, sync::Mutex};

use zstd_sys::{
    ZSTD_CCtx, ZSTD_CCtx_setParameter, ZSTD_cParameter as Parameter, ZSTD_compressBound, ZSTD_compressCCtx,
    ZSTD_compressSequencesAndLiterals, ZSTD_createCCtx, ZSTD_freeCCtx, ZSTD_getErrorName, ZSTD_isError,
    ZSTD_versionNumber,
};

use crate::matches::Finder;

/// Packs page after page, each a frame of its own.
pub(crate) struct Packer {
    context: NonNull<ZSTD_CCtx>,
    finder: Finder,
    ours: Vec<u8>,
    theirs: Vec<u8>,
    /// Whether this zstd is known to take our matches as they are meant.
    is_known: bool,
}

/// Who finds the matches of a frame.
///
/// Ours are found in half of the time where rows are new numbers under old names, and zstd's are more where the values
/// themselves come again: payloads of tank games take twice the bytes with ours. Which of the two a text is has to be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Us,
    Zstd,
}

// SAFETY: a context belongs to no thread, and nothing uses it but by `&mut`.
unsafe impl Send for Packer {}

/// zstd's, of its own matches and where it looks itself.
pub(crate) const LEVEL: c_int = 1;
/// Our matches lie no farther back than this; a longer text is left to zstd.
const WINDOW_LOG: u32 = 21;
/// 1.5.7, whose sources say what becomes of a sequence (docs/adr/0021). Another one finds all matches itself.
const KNOWN_VERSION: u32 = 10_507;

/// So much of a longer text is packed both ways to see which is better.
const SAMPLE_BYTES: usize = 64 << 10;

/// So many wait for the next page.
const MOST_IDLE: usize = 2;

/// What packers hold, a few MiB each, is used again: asked for anew, it would be cleared page by page.
static IDLE: Mutex<Vec<Packer>> = Mutex::new(Vec::new());

impl Packer {
    /// Does `what` with a packer that nobody uses now.
    pub fn idle<T>(what: impl FnOnce(&mut Self) -> T) -> T {
        let idle = || IDLE.lock().expect("nothing panics while it holds this");
        let found = idle().pop();
        let mut packer = found.unwrap_or_else(Self::new);
        let done = what(&mut packer);
        let mut idle = idle();
        if idle.len() < MOST_IDLE {
            idle.push(packer);
        }
        done
    }

    fn new() -> Self {
        // SAFETY: it takes nothing.
        let context = NonNull::new(unsafe { ZSTD_createCCtx() }).expect("memory for a context of zstd");
        // SAFETY: it takes nothing.
        let is_known = unsafe { ZSTD_versionNumber() } == KNOWN_VERSION;
        let mut packer = Self { context, finder: Finder::new(), ours: Vec::new(), theirs: Vec::new(), is_known };
        packer.set(Parameter::ZSTD_c_compressionLevel, LEVEL);
        packer.set(Parameter::ZSTD_c_windowLog, WINDOW_LOG as c_int);
        packer.set(Parameter::ZSTD_c_minMatch, 3);
        // In its header they are experimental parameters 11 (block delimiters: explicit) and 19 (repeated offsets: taken as
        // they are given).
        packer.set(Parameter::ZSTD_c_experimentalParam11, 1);
        packer.set(Parameter::ZSTD_c_experimentalParam19, 2);
        packer
    }

    fn set(&mut self, parameter: Parameter, value: c_int) {
        // SAFETY: the context lives as long as `self`.
        let result = unsafe { ZSTD_CCtx_setParameter(self.context.as_ptr(), parameter, value) };
        assert!(!is_error(result), "zstd knows this parameter: {}", name_of(result));
    }

    /// The frame of the first `len` bytes of `padded`, and whose matches it has; [`crate::places::PADDING`] bytes more must
    /// follow them. Ours are taken unseen only where they halve the text.
    pub fn pack(&mut self, padded: &[u8], len: usize, by: Option<By>) -> (&[u8], By) {
        let by = by.or_else(|| (len > SAMPLE_BYTES).then(|| self.better(padded, SAMPLE_BYTES)));
        let ours = if by == Some(By::Zstd) { None } else { self.with_own_matches(padded, len) };
        if by == Some(By::Us)
            && let Some(ours) = ours.filter(|ours| ours * 2 <= len)
        {
            return (&self.ours[..ours], By::Us);
        }
        let theirs = self.with_zstd_alone(&padded[..len]);
        match ours {
            Some(ours) if ours * 10 <= theirs * 11 => (&self.ours[..ours], By::Us),
            _ => (&self.theirs[..theirs], By::Zstd),
        }
    }

    /// Whose matches a text is packed with, by its first `len` bytes. Of a whole page ours make a little less than of its beginning.
    fn better(&mut self, padded: &[u8], len: usize) -> By {
        let ours = self.with_own_matches(padded, len);
        let theirs = self.with_zstd_alone(&padded[..len]);
        if ours.is_some_and(|ours| ours * 5 <= theirs * 6) { By::Us } else { By::Zstd }
    }

    /// The frame of what is no JSON.
    pub fn pack_as_it_is(&mut self, bytes: &[u8]) -> &[u8] {
        let n = self.with_zstd_alone(bytes);
        &self.theirs[..n]
    }

    /// `None` if zstd had better look itself.
    fn with_own_matches(&mut self, padded: &[u8], len: usize) -> Option<usize> {
        let takes = self.is_known && len <= 1 << WINDOW_LOG;
        let found = takes.then(|| self.finder.take_apart(padded, len))??;
        make_room(&mut self.ours, len);
        let (sequences, literals) = (found.sequences, found.literals);
        // SAFETY: every pointer is of a slice with the length beside it, and behind the literals lie as many bytes as are
        // said. The sequences are what `take_apart` promises: each block's add up to its bytes, the last of them without a
        // match; all literals are there; and each match repeats what lies within the text, before it.
        let result = unsafe {
            ZSTD_compressSequencesAndLiterals(
                self.context.as_ptr(),
                self.ours.as_mut_ptr().cast(),
                self.ours.len(),
                sequences.as_ptr(),
                sequences.len(),
                literals.as_ptr().cast(),
                literals.len(),
                literals.len() + found.spare,
                len,
            )
        };
        // A block that got larger than a block may be is an error, for one thing.
        (!is_error(result) && result < len).then_some(result)
    }

    fn with_zstd_alone(&mut self, text: &[u8]) -> usize {
        make_room(&mut self.theirs, text.len());
        // SAFETY: every pointer is of a slice with the length beside it.
        let result = unsafe {
            ZSTD_compressCCtx(
                self.context.as_ptr(),
                self.theirs.as_mut_ptr().cast(),
                self.theirs.len(),
                text.as_ptr().cast(),
                text.len(),
                LEVEL,
            )
        };
        assert!(!is_error(result), "zstd has the room that it asked for: {}", name_of(result));
        result
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and freed nowhere else.
        unsafe { ZSTD_freeCCtx(self.context.as_ptr()) };
    }
}

/// For the frame of a text of `len` bytes.
fn make_room(frame: &mut Vec<u8>, len: usize) {
    // SAFETY: it only calculates.
    let bound = unsafe { ZSTD_compressBound(len) };
    if frame.len() < bound {
        frame.resize(bound, 0);
    }
}

fn is_error(result: usize) -> bool {
    // SAFETY: it only looks at the number.
    unsafe { ZSTD_isError(result) != 0 }
}

fn name_of(result: usize) -> &'static str {
    // SAFETY: zstd gives a constant text for every number.
    unsafe { CStr::from_ptr(ZSTD_getErrorName(result)) }.to_str().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::places::PADDING;

    fn packed(packer: &mut Packer, text: &[u8]) -> Vec<u8> {
        let padded = [text, &[b'"'; PADDING]].concat();
        packer.pack(&padded, text.len(), None).0.to_vec()
    }

    /// The crate's own decoder is asked, and told not to accept more than there was.
    fn unpacked(packed: &[u8], len: usize) -> Vec<u8> {
        zstd::bulk::decompress(packed, len.max(1)).unwrap()
    }

    fn rows(row: impl Fn(u64) -> String) -> String {
        // Several blocks, and not a whole number of them.
        (0..12_345).map(row).collect()
    }

    /// New numbers under old names.
    fn numbers(n: u64) -> String {
        // As SplitMix64 mixes, so that no digit follows from those before it.
        let number = |of: u64| {
            let mixed = (n * 4 + of).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ mixed >> 27) >> 47
        };
        format!(
            "{{\"bot\":{},\"x\":{}.{:03},\"heading\":-{}.5,\"done\":false}}",
            n % 4,
            number(1),
            number(3) % 1000,
            number(2)
        )
    }

    /// Values that come again.
    fn states(n: u64) -> String {
        let place = |of: u64| (n / 7 * of) % 16 * 32 + 8;
        let mut tanks =
            (1..6).map(|tank| format!("[{tank},\"heavy_{}\",{},{},0,1,2,2]", tank % 3, place(tank), place(tank * 3)));
        format!("{{\"delta\":true,\"tick\":{n},\"upserts\":[{}]}}", tanks.by_ref().collect::<Vec<_>>().join(","))
    }

    #[test]
    fn new_numbers_are_packed_with_our_matches_and_take_no_more_bytes() {
        let mut packer = Packer::new();
        let text = rows(numbers);
        let padded = [text.as_bytes(), &[0; PADDING]].concat();
        for by in [None, Some(By::Us)] {
            let (ours, found_by) = packer.pack(&padded, text.len(), by);
            assert_eq!(found_by, By::Us);
            assert_eq!(unpacked(ours, text.len()), text.as_bytes());
            let theirs = zstd::bulk::compress(text.as_bytes(), LEVEL).unwrap();
            assert!(ours.len() <= theirs.len() * 11 / 10, "{} and {} bytes", ours.len(), theirs.len());
        }
        let (theirs, found_by) = packer.pack(&padded, text.len(), Some(By::Zstd));
        assert_eq!((unpacked(theirs, text.len()).as_slice(), found_by), (text.as_bytes(), By::Zstd));
    }

    #[test]
    fn lists_of_numbers_take_fewer_bytes_with_our_matches() {
        let list = |n: u64| {
            let number = |of: u64| {
                let mixed = (n * 32 + of).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let (sign, mixed) = (if mixed >> 63 == 0 { "" } else { "-" }, mixed >> 20);
                format!("{sign}{}.{:04}", mixed % 3, mixed / 3 % 10_000)
            };
            let numbers: Vec<_> = (0..32).map(number).collect();
            format!("{{\"tick\":{n},\"obs\":[{}]}}", numbers.join(","))
        };
        let text: String = (0..2000).map(list).collect();
        let padded = [text.as_bytes(), &[0; PADDING]].concat();
        let mut packer = Packer::new();
        let (ours, found_by) = packer.pack(&padded, text.len(), None);
        assert!(found_by == By::Us && unpacked(ours, text.len()) == text.as_bytes());
        let theirs = zstd::bulk::compress(text.as_bytes(), LEVEL).unwrap();
        assert!(ours.len() < theirs.len(), "{} and {} bytes", ours.len(), theirs.len());
    }

    #[test]
    fn long_stretches_and_texts_that_end_with_a_block_come_back_too() {
        let mut packer = Packer::new();
        let words = |letters: usize| -> String {
            let letter =
                |n: usize| char::from(b'a' + ((n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u8 % 26);
            std::iter::once('"').chain((1..letters).map(letter)).collect()
        };
        let payloads = rows(numbers);
        let cut = |len: usize| payloads.repeat(len / payloads.len() + 1)[..len].to_owned();
        let twice = |letters: usize| words(letters).repeat(2);
        let block = 128 << 10;
        let texts = [
            twice(70_000),
            twice(140_000),
            twice(300_000),
            cut(block),
            cut(block + 1),
            cut(1 << 21),
            cut((1 << 21) + 1),
        ];
        for text in &texts {
            let padded = [text.as_bytes(), &[b'0'; PADDING]].concat();
            let (packed, _) = packer.pack(&padded, text.len(), Some(By::Us));
            assert!(unpacked(packed, text.len()) == text.as_bytes(), "{} bytes", text.len());
            if let Some(ours) = packer.with_own_matches(&padded, text.len()) {
                assert!(unpacked(&packer.ours[..ours], text.len()) == text.as_bytes(), "{} bytes", text.len());
            }
        }
    }

    #[test]
    fn where_zstd_finds_more_it_is_left_to_zstd() {
        let mut packer = Packer::new();
        let prose =
            "{\"said\":\"the quick brown fox jumps over the lazy dog, and does so again and again\"}".repeat(99);
        let words: String =
            prose.bytes().enumerate().map(|(n, b)| char::from(b'a' + (b ^ (n / 7) as u8) % 26)).collect();
        let noise: Vec<u8> = (0..99_999u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let states = rows(states);
        for text in [states.as_bytes(), words.as_bytes(), &noise, b"", b"{}", b"0", &[b'7'; 300_000], &[b'x'; 300_000]]
        {
            let ours = packed(&mut packer, text);
            assert_eq!(unpacked(&ours, text.len()), text);
            let theirs = zstd::bulk::compress(text, LEVEL).unwrap();
            assert!(ours.len() <= theirs.len() * 11 / 10, "{} and {} bytes", ours.len(), theirs.len());
        }
        let padded = [states.as_bytes(), &[0; PADDING]].concat();
        assert_eq!(packer.pack(&padded, states.len(), None).1, By::Zstd);
    }

    /// Texts that repeat themselves in many ways, and are longer than a block now and then.
    fn texts() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[0-9.]{1,20}",
            "[a-z\",:{}\\[\\]-]{1,40}",
            Just("\"heading\":".to_owned()),
            Just("},{\"x\":1".to_owned()),
            Just("\u{e9}\u{1F600}0".to_owned()),
        ];
        let pieces = prop::collection::vec(piece, 1..40);
        (pieces, prop::collection::vec(any::<prop::sample::Index>(), 0..600), 1..60usize).prop_map(
            |(pieces, picks, times)| {
                let once: String = picks.iter().map(|pick| pick.get(&pieces).as_str()).collect();
                once.repeat(times).into_bytes()
            },
        )
    }

    proptest! {
        #[test]
        fn every_text_comes_back_as_it_was(texts in prop::collection::vec(texts(), 1..4)) {
            let mut packer = Packer::new();
            for text in texts {
                let padded = [&text[..], &[b'"'; PADDING]].concat();
                for by in [None, Some(By::Us), Some(By::Zstd)] {
                    let (packed, _) = packer.pack(&padded, text.len(), by);
                    prop_assert!(unpacked(packed, text.len()) == text);
                }
            }
        }
    }
}
