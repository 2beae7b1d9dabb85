//! Network ids: short base-36 names for tanks and bullets, unique within a session.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Name of a tank or a bullet on the wire: `1`, `2`, … `a`, … `10`. Never reused within a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetId(pub u64);

/// The id of a tank.
pub type TankId = NetId;

impl NetId {
    /// `None` unless `text` is one to twelve digits of lower-case base 36.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > 12 || text.bytes().any(|b| !b.is_ascii_digit() && !b.is_ascii_lowercase()) {
            return None;
        }
        u64::from_str_radix(text, 36).ok().map(Self)
    }
}

impl fmt::Display for NetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0u8; 13];
        let (mut at, mut rest) = (digits.len(), self.0);
        loop {
            at -= 1;
            digits[at] = DIGITS[(rest % 36) as usize];
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        f.write_str(std::str::from_utf8(&digits[at..]).expect("base-36 digits are ASCII"))
    }
}

impl fmt::Debug for NetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

impl Serialize for NetId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NetId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a base-36 network id")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_in_base_36() {
        let names: Vec<String> = [1, 9, 10, 35, 36, 71, 1296].into_iter().map(|n| NetId(n).to_string()).collect();
        assert_eq!(names, ["1", "9", "a", "z", "10", "1z", "100"]);
        for n in 0..5000 {
            assert_eq!(NetId::parse(&NetId(n).to_string()), Some(NetId(n)));
        }
        for bad in ["", "A", "-1", "+1", "1.0", "zzzzzzzzzzzzz", "ü"] {
            assert_eq!(NetId::parse(bad), None, "{bad}");
        }
    }
}
