//! Stream ids `ms-seq` and offsets, one to one: 42 bits of milliseconds (to the year 2109), 21 of sequence.

use flywheel_log::Offset;

const SEQ_BITS: u32 = 21;
/// Largest sequence within a millisecond that an offset can name.
pub const MAX_SEQ: u64 = (1 << SEQ_BITS) - 1;
const MAX_MS: u64 = (1 << 42) - 1;

/// The offset of an id, or `None` if it is not an id or does not fit.
pub fn offset_of(id: &str) -> Option<Offset> {
    let (ms, seq) = id.split_once('-')?;
    let (ms, seq) = (ms.parse::<u64>().ok()?, seq.parse::<u64>().ok()?);
    (ms <= MAX_MS && seq <= MAX_SEQ).then(|| Offset::from_raw(ms << SEQ_BITS | seq))
}

pub fn id_of(offset: Offset) -> String {
    format!("{}-{}", ms_of(offset), offset.raw() & MAX_SEQ)
}

pub fn ms_of(offset: Offset) -> i64 {
    (offset.raw() >> SEQ_BITS) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_offsets_are_one_to_one_and_in_the_same_order() {
        let ids = ["0-1", "0-2097151", "1-0", "1763712000000-7", "4398046511103-2097151"];
        let offsets: Vec<_> = ids.iter().map(|id| offset_of(id).unwrap()).collect();
        assert!(offsets.is_sorted());
        assert_eq!(offsets.iter().map(|offset| id_of(*offset)).collect::<Vec<_>>(), ids);
        assert_eq!(offsets[4].as_i64(), i64::MAX);
        for beyond in ["4398046511104-0", "1-2097152", "1", "x-1", ""] {
            assert_eq!(offset_of(beyond), None, "{beyond}");
        }
    }
}
