//! Walks JSON text in one pass without building anything: what the decoder of events is made of.
//!
//! It knows plain JSON only and says `None` to everything else, also to what is legal and rare (escapes in a name,
//! very deep nesting). `None` is never a refusal: the caller then asks `serde_json`, whose word counts. So whatever is
//! accepted here must be accepted there, with the same value; property tests hold the two together.

use crate::{masks::Masks, numbers::after_numbers};

/// Objects and lists nested deeper than this are left to others. Kinds of open brackets are bits of one word.
pub(crate) const MAX_OPEN: u32 = 60;

/// A place in a text. Of the 64 bytes around it is known which are special; the next ones are looked at when it gets there.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Where the block begins that the masks are of: never after `at`.
    block: usize,
    masks: Masks,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, block: 0, masks: Masks::of(text.as_bytes(), 0) }
    }

    /// The masks of the bytes from here on, the first of them lowest; never all of a block behind.
    #[inline(always)]
    fn look(&mut self) -> Masks {
        if self.at - self.block >= 64 {
            self.block = self.at;
            self.masks = Masks::of(self.text.as_bytes(), self.at);
        }
        let into = self.at - self.block;
        Masks { special: self.masks.special >> into, other: self.masks.other >> into }
    }

    /// Goes on to a quote, a backslash, a control character or the end.
    #[inline(always)]
    fn find_special(&mut self) {
        loop {
            let special = self.look().special;
            if special != 0 {
                self.at += special.trailing_zeros() as usize;
                return;
            }
            self.at = self.block + 64;
            if self.at >= self.text.len() {
                self.at = self.text.len();
                return;
            }
        }
    }

    /// Goes on to what is no digit, or the end.
    #[inline(always)]
    fn skip_digits(&mut self) {
        loop {
            let other = self.look().other;
            if other != 0 {
                self.at += other.trailing_zeros() as usize;
                return;
            }
            self.at = self.block + 64;
            if self.at >= self.text.len() {
                self.at = self.text.len();
                return;
            }
        }
    }

    /// The byte here; 0, which JSON has nowhere, at the end.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// The first byte that is no white space.
    #[inline(always)]
    pub fn next_token(&mut self) -> u8 {
        let byte = self.peek();
        // Above it is everything that a token may begin with.
        if byte > b' ' { byte } else { self.skip_space() }
    }

    #[inline(always)]
    fn skip_space(&mut self) -> u8 {
        while matches!(self.peek(), b' ' | b'\n' | b'\t' | b'\r') {
            self.at += 1;
        }
        self.peek()
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
        self.find_special();
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
        self.skip_digits();
        let digits = &self.text.as_bytes()[start..self.at];
        let value = match digits.len() {
            1 => u64::from(first - b'0'),
            2..=8 if first != b'0' => eight_digits(self.text.as_bytes(), start, digits.len())?,
            9..=16 if first != b'0' => {
                let more = digits.len() - 8;
                eight_digits(self.text.as_bytes(), start, 8)? * POWERS[more]
                    + eight_digits(self.text.as_bytes(), start + 8, more)?
            }
            _ => return None,
        };
        // A fraction, an exponent or more digits are a number still, though not one that is read here.
        matches!(self.peek(), b',' | b'}' | b' ' | b'\n' | b'\t' | b'\r').then_some(value)
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
    #[inline(always)]
    pub fn skip_value(&mut self) -> Option<()> {
        // By value, there and in the caller the fields stay in registers: a third of the instructions.
        *self = self.clone().after_value()?;
        Some(())
    }

    #[inline(never)]
    fn after_value(mut self) -> Option<Self> {
        // The last bit is the innermost bracket: 1 for an object.
        let (mut open, mut kinds) = (0u32, 0u64);
        loop {
            match self.next_token() {
                // Most values are numbers. What else lies between, a point and a slash, begins none, and is refused as one: a
                // sign that comes as it likes shall be no branch.
                byte @ b'-'..=b'9' => self.skip_number(byte)?,
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
                            self.expect(b'"')?;
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => return None,
            }
            // After a value.
            loop {
                if open == 0 {
                    return Some(self);
                }
                let is_object = kinds & 1 == 1;
                // As nearly everybody writes it.
                if is_object && self.takes(b",\"") {
                    self.skip_key()?;
                    break;
                }
                match self.next_token() {
                    b',' => {
                        self.at += 1;
                        if is_object {
                            self.expect(b'"')?;
                            self.skip_key()?;
                        } else if self.is_between_numbers() {
                            self.at = after_numbers(self.text.as_bytes(), self.at);
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

    /// Right behind a comma: whether there is a number before it, and perhaps another behind it.
    #[inline(always)]
    fn is_between_numbers(&self) -> bool {
        let before = self.text.as_bytes()[self.at - 2];
        before.is_ascii_digit() && matches!(self.peek(), b'-' | b'0'..=b'9')
    }

    /// The name of a member behind its first quote, and the colon.
    #[inline(always)]
    fn skip_key(&mut self) -> Option<()> {
        self.find_special();
        if !self.takes(b"\":") {
            *self = self.clone().after_odd_key()?;
        }
        Some(())
    }

    #[inline(never)]
    fn after_odd_key(mut self) -> Option<Self> {
        self.skip_rest_of_string()?;
        self.expect(b':')?;
        Some(self)
    }

    /// A string whose first quote is here.
    #[inline(always)]
    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        self.skip_rest_of_string()
    }

    #[inline(always)]
    fn skip_rest_of_string(&mut self) -> Option<()> {
        loop {
            self.find_special();
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.at += escape(&self.text.as_bytes()[self.at..])?,
                // A control character, or the end.
                _ => return None,
            }
        }
    }

    #[inline(always)]
    fn skip_number(&mut self, first: u8) -> Option<()> {
        // No branch: signs come as they like.
        self.at += usize::from(first == b'-');
        let other = self.look().other;
        let mut ends = self.ends_of_number(other);
        if ends.1 == 64 {
            (self.block, self.masks) = (self.at, Masks::of(self.text.as_bytes(), self.at));
            ends = self.ends_of_number(self.masks.other);
        }
        let (whole, all) = ends;
        if all == 64 {
            *self = self.clone().after_long_number()?;
            return Some(());
        }
        // A digit at least before the point and, if there is one, behind it; a zero first only if it is alone.
        if whole == 0 || (whole > 1 && self.peek() == b'0') || all == whole + 1 {
            return None;
        }
        self.at += all;
        if self.peek() | 0x20 == b'e' { self.skip_exponent() } else { Some(()) }
    }

    /// How many digits come from here, and how many of digits, point and digits; 64 if that is not known. `other` is the
    /// mask from here on.
    #[inline(always)]
    fn ends_of_number(&self, other: u64) -> (usize, usize) {
        let whole = other.trailing_zeros() as usize;
        if self.text.as_bytes().get(self.at + whole) == Some(&b'.') {
            (whole, (other & other.wrapping_sub(1)).trailing_zeros() as usize)
        } else {
            (whole, whole)
        }
    }

    /// Behind a number that begins here, after its sign.
    #[inline(never)]
    fn after_long_number(mut self) -> Option<Self> {
        let (first, start) = (self.peek(), self.at);
        self.skip_digits();
        if self.at == start || (first == b'0' && self.at - start > 1) {
            return None;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.skip_some_digits()?;
        }
        if self.peek() | 0x20 == b'e' {
            self.skip_exponent()?;
        }
        Some(self)
    }

    #[inline(always)]
    fn skip_some_digits(&mut self) -> Option<()> {
        let start = self.at;
        self.skip_digits();
        (self.at > start).then_some(())
    }

    #[inline(always)]
    fn skip_exponent(&mut self) -> Option<()> {
        self.at += 1;
        if matches!(self.peek(), b'+' | b'-') {
            self.at += 1;
        }
        self.skip_some_digits()
    }

    #[inline(always)]
    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.takes(word).then_some(())
    }
}

/// The length of the escape that begins here.
#[inline(never)]
fn escape(rest: &[u8]) -> Option<usize> {
    match rest.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' if rest.get(2..6)?.iter().all(u8::is_ascii_hexdigit) => Some(6),
        _ => None,
    }
}

const POWERS: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// The value of 1 to 8 digits; `None` if the text ends too soon to read eight bytes.
#[inline(always)]
fn eight_digits(bytes: &[u8], at: usize, digits: usize) -> Option<u64> {
    let word = u64::from_le_bytes(*bytes[at..].first_chunk::<8>()?);
    // The first digit is lowest; what is not of the number moves out and zeros move in before it. Then pairs, fours and all
    // eight are put together.
    let word = (word ^ 0x3030_3030_3030_3030) << (64 - 8 * digits);
    let word = word.wrapping_mul(10 * 256 + 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let word = word.wrapping_mul(100 * 65_536 + 1) >> 16 & 0x0000_ffff_0000_ffff;
    Some(word.wrapping_mul(10_000 * (1 << 32) + 1) >> 32)
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
        fn numbers_are_walked_wherever_they_stand(
            numbers in prop::collection::vec("-?(0|[1-9][0-9]{0,3}|[1-9][0-9]{60,70})(\\.[0-9]{1,5}|\\.[0-9]{60,70})?([eE][+-]?[0-9]{1,3})?", 1..40),
            odd in "[-0-9.eE]{1,6}",
            at in any::<prop::sample::Index>(),
        ) {
            let mut numbers = numbers;
            let text = format!("[{}]", numbers.join(","));
            prop_assert!(accepts(&text), "{}", text);
            let at = at.index(numbers.len());
            numbers[at] = odd;
            let text = format!("[{}]", numbers.join(","));
            // What is no number is refused too, wherever it stands.
            prop_assert_eq!(accepts(&text), serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{}", text);
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
