//! What the bytes of a text are, 64 at a time: what the walk over JSON goes by.

/// What the bytes of a block are, one bit for each, the first byte lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Masks {
    /// Quotes, backslashes, control characters.
    pub special: u64,
    /// All but digits.
    pub other: u64,
}

impl Masks {
    /// Of the 64 bytes from `at` on. What is beyond the end is a control character.
    #[inline(never)]
    pub fn of(bytes: &[u8], at: usize) -> Self {
        match bytes[at..].first_chunk() {
            Some(block) => Self::of_block(block),
            None => Self::of_last(bytes, at),
        }
    }

    /// Where fewer than 64 bytes are left.
    #[inline(always)]
    fn of_last(bytes: &[u8], at: usize) -> Self {
        let Some(block) = bytes.last_chunk::<64>() else { return Self::of_short(bytes, at) };
        let Self { special, other } = Self::of_block(block);
        let before = 64 - (bytes.len() - at) as u32;
        let beyond = !u64::MAX.checked_shr(before).unwrap_or(0);
        let from_here = |mask: u64| mask.checked_shr(before).unwrap_or(0) | beyond;
        Self { special: from_here(special), other: from_here(other) }
    }

    #[cold]
    fn of_short(bytes: &[u8], at: usize) -> Self {
        let mut block = [0; 64];
        block[..bytes.len() - at].copy_from_slice(&bytes[at..]);
        Self::of_block(&block)
    }

    #[cfg(target_feature = "avx2")]
    #[inline(always)]
    fn of_block(block: &[u8; 64]) -> Self {
        use std::arch::x86_64::{
            _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_max_epu8, _mm256_movemask_epi8, _mm256_or_si256,
            _mm256_set1_epi8, _mm256_sub_epi8,
        };
        let of_half = |half: &[u8; 32]| {
            // SAFETY: this is compiled for machines that have these instructions, and `half` has the 32 bytes that are loaded.
            unsafe {
                let bytes = _mm256_loadu_si256(half.as_ptr().cast());
                let is = |byte: u8| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte as i8));
                let up_to = |bytes, most: u8| {
                    let most = _mm256_set1_epi8(most as i8);
                    _mm256_cmpeq_epi8(_mm256_max_epu8(bytes, most), most)
                };
                let specials = _mm256_or_si256(_mm256_or_si256(is(b'"'), is(b'\\')), up_to(bytes, 0x1f));
                let digits = up_to(_mm256_sub_epi8(bytes, _mm256_set1_epi8(b'0' as i8)), 9);
                (_mm256_movemask_epi8(specials) as u32, _mm256_movemask_epi8(digits) as u32)
            }
        };
        let halves: &[[u8; 32]] = block.as_chunks().0;
        let (low, high) = (of_half(&halves[0]), of_half(&halves[1]));
        Self { special: both(low.0, high.0), other: !both(low.1, high.1) }
    }

    #[cfg(not(target_feature = "avx2"))]
    fn of_block(block: &[u8; 64]) -> Self {
        Self::of_each(block)
    }

    #[cfg(any(test, not(target_feature = "avx2")))]
    fn of_each(block: &[u8; 64]) -> Self {
        Self {
            special: mask(block, |byte| matches!(byte, b'"' | b'\\' | 0..0x20)),
            other: mask(block, |byte| !byte.is_ascii_digit()),
        }
    }
}

/// Which bytes of a block something is true of, asked one by one.
#[cfg(any(test, not(target_feature = "avx2")))]
pub(crate) fn mask(block: &[u8; 64], is: fn(u8) -> bool) -> u64 {
    block.iter().rev().fold(0, |mask, byte| mask << 1 | u64::from(is(*byte)))
}

/// One mask of two halves.
///
/// Written out: LLVM 22 takes two such masks for vectors, and moves them there and back, which took four times as long.
#[cfg(target_feature = "avx2")]
#[inline(always)]
pub(crate) fn both(low: u32, high: u32) -> u64 {
    let mut both = u64::from(high);
    // SAFETY: it shifts and joins two registers.
    unsafe {
        std::arch::asm!(
            "shl {both}, 32", "or {both}, {low}",
            both = inout(reg) both, low = in(reg) u64::from(low), options(pure, nomem, nostack)
        );
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_tell_of_every_byte_what_it_is() {
        for byte in 0..=255 {
            for at in 0..64 {
                let mut block = [b'5'; 64];
                block[at] = byte;
                assert_eq!(Masks::of_block(&block), Masks::of_each(&block), "{byte} at {at}");
            }
        }
        assert_eq!(Masks::of(b"a7", 0), Masks { special: !3, other: !2 });
        assert_eq!(Masks::of(b"a7\"", 2), Masks { special: !0, other: !0 });
        let text: Vec<u8> = (0..150).map(|n| b"7a\"\\"[n * n % 11 % 4]).collect();
        for at in 0..=text.len() {
            let mut block = [0; 64];
            let n = (text.len() - at).min(64);
            block[..n].copy_from_slice(&text[at..at + n]);
            assert_eq!(Masks::of(&text, at), Masks::of_each(&block), "from {at}");
        }
    }
}
