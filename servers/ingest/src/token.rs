//! Keys as text: `fw_<env>_<id>_<secret>_<crc>`, made here and read here.
//!
//! The secret is 32 random bytes in base 62, so that its SHA-256 alone needs to be kept: there is nothing to guess that
//! a slow hash would protect. The prefix lets scanners find keys that were published by mistake, the checksum tells a
//! typing error from a wrong key without a look into the database.

use std::{fmt, str::FromStr};

use rand::{TryRngCore, rngs::OsRng};
use sha2::{Digest, Sha256};

/// What stands for the environment in keys that are made here.
pub const ENVIRONMENT: &str = "live";
const ID_CHARS: usize = 12;
/// 62^43 > 2^256.
const SECRET_CHARS: usize = 43;
/// 62^6 > 2^32.
const CRC_CHARS: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key with its secret. Shown once, when it is made; neither `Debug` nor any error shows the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    environment: String,
    id: String,
    secret: String,
}

/// The text is no key: what is wrong with it, without repeating it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("that is no key of the form `fw_<env>_<id>_<secret>_<crc>`: {0}")]
pub struct NotAToken(pub &'static str);

impl Token {
    /// A new one, from the system's source of randomness.
    ///
    /// # Errors
    /// If the system has none.
    pub fn generate() -> std::io::Result<Self> {
        let mut random = [0; 32 + 9];
        OsRng.try_fill_bytes(&mut random).map_err(std::io::Error::other)?;
        let (secret, id) = random.split_at(32);
        Ok(Self { environment: ENVIRONMENT.to_owned(), id: base62(id, ID_CHARS), secret: base62(secret, SECRET_CHARS) })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is kept of the secret.
    pub fn secret_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_bytes()).into()
    }

    /// The whole key, to be shown to who may have it.
    pub fn reveal(&self) -> String {
        let body = format!("fw_{}_{}_{}", self.environment, self.id, self.secret);
        format!("{body}_{}", checksum(&body))
    }
}

fn checksum(body: &str) -> String {
    base62(&crc32c::crc32c(body.as_bytes()).to_be_bytes(), CRC_CHARS)
}

/// A big-endian number in base 62, with leading zeros; higher digits than there is room for are left out.
fn base62(bytes: &[u8], digits: usize) -> String {
    let mut number = bytes.to_vec();
    let mut out = vec![0; digits];
    for digit in out.iter_mut().rev() {
        let mut rest = 0_u32;
        for byte in &mut number {
            let value = rest * 256 + u32::from(*byte);
            (*byte, rest) = ((value / 62) as u8, value % 62);
        }
        *digit = DIGITS[rest as usize];
    }
    String::from_utf8(out).expect("digits are ASCII")
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let (body, crc) = text.rsplit_once('_').ok_or(NotAToken("it has no parts"))?;
        let parts: Vec<&str> = body.split('_').collect();
        let ["fw", environment, id, secret] = parts[..] else { return Err(NotAToken("it has other parts")) };
        let fits = |part: &str, chars: usize| part.len() == chars && part.bytes().all(|b| b.is_ascii_alphanumeric());
        if !(1..=16).contains(&environment.len()) || !environment.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(NotAToken("its environment is none"));
        }
        if !fits(id, ID_CHARS) || !fits(secret, SECRET_CHARS) || !fits(crc, CRC_CHARS) {
            return Err(NotAToken("a part has another length or other characters"));
        }
        if checksum(body) != crc {
            return Err(NotAToken("its checksum is wrong; was it copied in full?"));
        }
        Ok(Self { environment: environment.to_owned(), id: id.to_owned(), secret: secret.to_owned() })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(fw_{}_{}_…)", self.environment, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_base_62_are_those_of_paper() {
        assert_eq!(base62(&[0], 3), "000");
        assert_eq!(base62(&[61], 1), "z");
        assert_eq!(base62(&[62], 2), "10");
        assert_eq!(base62(&[1, 0], 4), "0048", "256 = 4 · 62 + 8");
        assert_eq!(base62(&[0xff; 4], 6), "4gfFC3");
        assert_eq!(base62(&[0xff; 32], 43).len(), 43);
        assert_ne!(base62(&[0xff; 32], 43).as_bytes()[0], b'0', "43 digits are just enough");
    }

    #[test]
    fn a_key_is_read_back_and_no_two_are_the_same() {
        let made: Vec<_> = (0..100).map(|_| Token::generate().unwrap()).collect();
        for token in &made {
            let text = token.reveal();
            let read: Token = text.parse().unwrap();
            assert!(read == *token && read.secret_sha256() == token.secret_sha256());
            assert!(text.starts_with("fw_live_") && text.len() == 8 + 12 + 1 + 43 + 1 + 6, "{text}");
            assert!(!format!("{token:?}").contains(&token.secret));
        }
        let ids: std::collections::HashSet<_> = made.iter().map(Token::id).collect();
        let secrets: std::collections::HashSet<_> = made.iter().map(Token::secret_sha256).collect();
        assert_eq!((ids.len(), secrets.len()), (100, 100));
    }

    #[test]
    fn every_change_of_one_character_is_seen_before_the_database_is_asked() {
        let text = Token::generate().unwrap().reveal();
        for at in 0..text.len() {
            for other in ["0", "z", "_", "", "é"] {
                let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                assert!(changed == text || changed.parse::<Token>().is_err(), "{changed}");
            }
        }
    }

    #[test]
    fn whatever_is_no_key_is_refused_and_not_repeated() {
        let text = Token::generate().unwrap().reveal();
        let long = "x".repeat(100_000);
        for wrong in ["", "_", "fw", "fw____", "fw_live_a_b_c", "Bearer x", &text[1..], &format!("{text}x"), &long] {
            let error = wrong.parse::<Token>().unwrap_err().to_string();
            assert!(error.len() < 200 && error.contains("fw_<env>_<id>_<secret>_<crc>"), "{error}");
        }
    }
}
