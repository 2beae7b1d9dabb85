//! Walks JSON text in one pass without building anything: what the decoder of events is made of.
//!
//! It knows plain JSON only and says `None` to everything else, also to what is legal and rare (escapes in a name,
//! very deep nesting). `None` is never a refusal: the caller then asks `serde_json`, whose word counts. So whatever is
//! accepted here must be accepted there, with the same value; property tests hold the two together.

/// Objects and lists nested deeper than this are left to others. Kinds of open brackets are bits of one word.
pub(crate) const MAX_OPEN: u32 = 60;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// A place in a text.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The byte here; 0, which JSON has nowhere, at the end.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// The first byte that is no white space.
    #[inline(always)]
    pub fn next_token(&mut self) -> u8 {
        loop {
            let byte = self.peek();
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return byte;
            }
            self.at += 1;
        }
    }

    /// Passes `byte`, after white space.
    #[inline(always)]
    pub fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next_token() == byte).then(|| self.at += 1)
    }

    pub fn is_at_end(&mut self) -> bool {
        self.next_token() == 0 && self.at == self.text.len()
    }

    /// A string without escapes, as it stands between its quotes.
    #[inline(always)]
    pub fn plain_string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        self.at = special(self.text.as_bytes(), start);
        let text = self.text.get(start..self.at)?;
        (self.peek() == b'"').then(|| self.at += 1)?;
        Some(text)
    }

    /// A string without escapes, or `null`.
    #[inline(always)]
    #[expect(clippy::option_option, reason = "the outer one is `not plain`, the inner one the value")]
    pub fn plain_string_or_null(&mut self) -> Option<Option<&'a str>> {
        if self.next_token() == b'n' {
            self.word(b"null")?;
            return Some(None);
        }
        self.plain_string().map(Some)
    }

    /// A whole number of at most 16 digits, without a sign; what follows it ends a value.
    #[inline(always)]
    pub fn number(&mut self) -> Option<u64> {
        let first = self.next_token();
        let start = self.at;
        let mut value = self.up_to_eight_digits()?;
        if self.at - start == 8 {
            let before = self.at;
            let low = self.up_to_eight_digits()?;
            value = value * POWERS[self.at - before] + low;
        }
        let is_number = self.at > start && (first != b'0' || self.at - start == 1);
        // A fraction, an exponent or more digits are a number still, though not one that is read here.
        (is_number && matches!(self.peek(), b',' | b'}' | b' ' | b'\n' | b'\t' | b'\r')).then_some(value)
    }

    /// The value of the digits here, at most eight of them; `None` if the text ends too soon to tell.
    #[inline(always)]
    fn up_to_eight_digits(&mut self) -> Option<u64> {
        let word = word_at(self.text.as_bytes(), self.at)?;
        let digits = others(word).trailing_zeros() / 8;
        if digits == 0 {
            return Some(0);
        }
        self.at += digits as usize;
        // The first digit is lowest; zeros move in before it. Then pairs, fours and all eight are put together.
        let word = (word ^ (u64::from(b'0') * ONES)) << (64 - 8 * digits);
        let word = word.wrapping_mul(10 * 256 + 1) >> 8 & 0x00ff_00ff_00ff_00ff;
        let word = word.wrapping_mul(100 * 65_536 + 1) >> 16 & 0x0000_ffff_0000_ffff;
        Some(word.wrapping_mul(10_000 * (1 << 32) + 1) >> 32)
    }

    /// Passes `text` if that is what comes next.
    #[inline(always)]
    pub fn takes(&mut self, text: &[u8]) -> bool {
        let is_next = self.text.as_bytes()[self.at..].starts_with(text);
        if is_next {
            self.at += text.len();
        }
        is_next
    }

    /// The text of an object, whose every byte was looked at.
    #[inline(always)]
    pub fn object(&mut self) -> Option<&'a str> {
        if self.next_token() != b'{' {
            return None;
        }
        let start = self.at;
        self.skip_value()?;
        self.text.get(start..self.at)
    }

    /// Passes any value, after white space.
    pub fn skip_value(&mut self) -> Option<()> {
        // The last bit is the innermost bracket: 1 for an object.
        let (mut open, mut kinds) = (0u32, 0u64);
        loop {
            match self.next_token() {
                b'"' => self.skip_string()?,
                byte @ (b'{' | b'[') => {
                    self.at += 1;
                    if open == MAX_OPEN {
                        return None;
                    }
                    let is_object = byte == b'{';
                    // `]` and `}` are two bytes after the bracket that they close.
                    if self.next_token() == byte + 2 {
                        self.at += 1;
                    } else {
                        (open, kinds) = (open + 1, (kinds << 1) | u64::from(is_object));
                        if is_object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.skip_number()?,
            }
            // After a value.
            loop {
                if open == 0 {
                    return Some(());
                }
                let is_object = kinds & 1 == 1;
                match self.next_token() {
                    b',' => {
                        self.at += 1;
                        if is_object {
                            self.skip_key()?;
                        }
                        break;
                    }
                    b'}' if is_object => {}
                    b']' if !is_object => {}
                    _ => return None,
                }
                self.at += 1;
                (open, kinds) = (open - 1, kinds >> 1);
            }
        }
    }

    #[inline(always)]
    fn skip_key(&mut self) -> Option<()> {
        self.next_token();
        self.skip_string()?;
        self.expect(b':')
    }

    #[inline(always)]
    fn skip_string(&mut self) -> Option<()> {
        if self.peek() != b'"' {
            return None;
        }
        self.at += 1;
        loop {
            self.at = special(self.text.as_bytes(), self.at);
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.skip_escape()?,
                // A control character, or the end.
                _ => return None,
            }
        }
    }

    #[cold]
    fn skip_escape(&mut self) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = match rest.get(1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' if rest.get(2..6)?.iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return None,
        };
        self.at += length;
        Some(())
    }

    /// Most numbers lie within eight bytes: their end is found there without a loop.
    #[inline(always)]
    fn skip_number(&mut self) -> Option<()> {
        let start = self.at + usize::from(self.peek() == b'-');
        if let Some(word) = word_at(self.text.as_bytes(), start) {
            let others = others(word);
            let whole = others.trailing_zeros() / 8;
            let after = |end: u32| (word >> (8 * end)) as u8;
            if (1..8).contains(&whole) && (after(0) != b'0' || whole == 1) {
                let fraction = (others & (others - 1)).trailing_zeros() / 8;
                let end = if after(whole) == b'.' { fraction } else { whole };
                if end < 8 && end != whole + 1 && after(end) | 0x20 != b'e' {
                    self.at = start + end as usize;
                    return Some(());
                }
            }
        }
        self.skip_any_number()
    }

    #[inline(never)]
    fn skip_any_number(&mut self) -> Option<()> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        let first = self.peek();
        let digits = self.skip_digits()?;
        if first == b'0' && digits > 1 {
            return None;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.skip_digits()?;
        }
        if self.peek() | 0x20 == b'e' {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Some(())
    }

    /// How many digits there are; none is `None`.
    fn skip_digits(&mut self) -> Option<usize> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        (self.at > start).then(|| self.at - start)
    }

    #[inline(always)]
    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.takes(word).then_some(())
    }
}

const POWERS: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// The high bit of every byte that is no digit.
#[inline(always)]
fn others(word: u64) -> u64 {
    // Digits become 0..=9, which sets no high bit when the rest to 0x80 is added to it.
    let word = word ^ (u64::from(b'0') * ONES);
    (((word & !HIGHS) + 0x76 * ONES) | word) & HIGHS
}

/// Eight bytes, the first one lowest.
#[inline(always)]
fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..).and_then(<[u8]>::first_chunk::<8>).map(|chunk| u64::from_le_bytes(*chunk))
}

/// The first place from `at` on of a quote, a backslash, a control character, or the end: eight bytes at a time.
#[inline(always)]
fn special(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = word_at(bytes, at) {
        // Subtracting borrows from the next byte only where this one is found: the lowest bit is right.
        let equals = |byte: u8| {
            let differences = word ^ (u64::from(byte) * ONES);
            differences.wrapping_sub(ONES) & !differences
        };
        let controls = word.wrapping_sub(0x20 * ONES) & !word;
        let found = (equals(b'"') | equals(b'\\') | controls) & HIGHS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn accepts(text: &str) -> bool {
        let mut cursor = Cursor::new(text);
        cursor.skip_value().is_some() && cursor.is_at_end()
    }

    /// Not the other way round: what is refused here is asked there.
    fn agree(text: &str) {
        if accepts(text) {
            serde_json::from_str::<IgnoredAny>(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[test]
    fn plain_json_is_walked_and_nothing_else() {
        for text in [
            "0",
            "-0",
            "10",
            "-1.5",
            "1e9",
            "1E-09",
            "123456789012345678901234567890.123456789012345678901234567890",
            "\"\"",
            "\"a\\u00e9\\n\"",
            "\"0123456\"",
            "\"01234567\"",
            "\"012345678\\\"\"",
            "true",
            "false",
            "null",
            "[]",
            "{}",
            " [ ] ",
            "[1,[2,{\"a\":[]}],{}]",
            "{\"a\" : 1 , \"b\":\t{\"c\":\r\n[]}}",
            "\"\u{e9}\u{1F600}0123456789\"",
        ] {
            assert!(accepts(text), "{text}");
            agree(text);
        }
        for text in [
            "",
            " ",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "--1",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            "\"a\nb\"",
            "\"0123456789\u{1}\"",
            "tru",
            "nulll",
            "[",
            "[1",
            "[1,]",
            "[,]",
            "[1 2]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":1]",
            "[1}",
            "{1:2}",
            "1 2",
            "[]]",
            "\u{e9}",
            "\0",
            "1\0",
            "{\"a\" 1}",
        ] {
            assert!(!accepts(text), "{text}");
        }
        let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(accepts(&nested(MAX_OPEN as usize)) && !accepts(&nested(MAX_OPEN as usize + 1)));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<Option<bool>>().prop_map(|b| b.map_or(serde_json::Value::Null, Into::into)),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map(".*", inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_serde_json_writes_is_walked_to_its_end(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            prop_assert!(accepts(&text), "{}", text);
        }

        #[test]
        fn damaged_json_is_walked_only_if_serde_json_takes_it(
            value in json(),
            damages in prop::collection::vec((any::<prop::sample::Index>(), 0u8..128), 1..3),
        ) {
            let mut bytes = serde_json::to_vec(&value).unwrap();
            for (at, with) in damages {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            if let Ok(text) = std::str::from_utf8(&bytes) { agree(text) }
        }

        #[test]
        fn text_made_of_the_letters_of_json_is_walked_only_if_serde_json_takes_it(text in "[\\[\\]{}:,\"\\\\ 019.eE+\\-tfnu]{0,12}") {
            agree(&text);
        }

        #[test]
        fn whole_numbers_are_read_as_serde_json_reads_them(text in "-?[0-9]{0,22}(\\.[0-9]|e1)?[,} x]") {
            if let Some(number) = Cursor::new(&text).number() {
                let digits = text.trim_end_matches([',', '}', ' ']);
                prop_assert_eq!(number, serde_json::from_str::<u64>(digits).unwrap());
            }
        }
    }
}
