//! Stream ids `ms-seq` and offsets, one to one: 42 bits of milliseconds, 21 of sequence.
//!
//! Ids of the year 2100 and later, and sequences beyond 21 bits, are no offsets. Only a stranger can have given them to
//! an entry; such entries are numbered anew before anybody reads them.

use flywheel_log::Offset;

const SEQ_BITS: u32 = 21;
/// Largest sequence within a millisecond that an offset can name.
const MAX_SEQ: u64 = (1 << SEQ_BITS) - 1;
/// 2100-01-01. What room is left above keeps appends going after an id from just before.
const FAR_MS: u64 = 4_102_444_800_000;

/// The offset of an id, or `None` if it is not an id or does not fit.
pub(crate) fn offset_of(id: &str) -> Option<Offset> {
    let (ms, seq) = id.split_once('-')?;
    let (ms, seq) = (ms.parse::<u64>().ok()?, seq.parse::<u64>().ok()?);
    (ms < FAR_MS && seq <= MAX_SEQ).then(|| Offset::from_raw(ms << SEQ_BITS | seq))
}

pub(crate) fn id_of(offset: Offset) -> String {
    format!("{}-{}", offset.raw() >> SEQ_BITS, offset.raw() & MAX_SEQ)
}

pub(crate) fn ms_of(offset: Offset) -> i64 {
    (offset.raw() >> SEQ_BITS) as i64
}

/// Whether the id `one` comes before `other`.
pub(crate) fn before(one: &str, other: &str) -> bool {
    let parts = |id: &str| id.split_once('-').map(|(ms, seq)| (ms.parse::<u64>().ok(), seq.parse::<u64>().ok()));
    parts(one) < parts(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_offsets_are_one_to_one_and_in_the_same_order() {
        let ids = ["0-1", "0-2097151", "1-0", "1763712000000-7", "4102444799999-2097151"];
        let offsets: Vec<_> = ids.iter().map(|id| offset_of(id).unwrap()).collect();
        assert!(offsets.is_sorted());
        assert_eq!(offsets.iter().map(|offset| id_of(*offset)).collect::<Vec<_>>(), ids);
        for beyond in ["4102444800000-0", "18446744073709551615-1", "1-2097152", "1", "x-1", ""] {
            assert_eq!(offset_of(beyond), None, "{beyond}");
        }
        assert_eq!(id_of(Offset::from_raw(i64::MAX as u64)), "4398046511103-2097151");
    }
}
