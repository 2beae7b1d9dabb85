//! The answers of a server, walked in the buffer that they came into (RESP2).
//!
//! `redis` makes a value of every part of an answer, with an allocation each. That is right for all answers but one: a
//! piece of a stream has seven parts an event, and making values of them was a third of what an event cost a lander.

/// One part of an answer. A list is followed by its parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Text(&'a [u8]),
    /// Of one line: a status or a number.
    Line(&'a [u8]),
    /// The whole line, its `-` too.
    Error(&'a [u8]),
    List(usize),
    Nil,
}

/// What came is no answer of a Redis server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not in Redis' protocol")]
pub(crate) struct Odd;

/// Longer headers are none.
const LONGEST_LINE: usize = 64 << 10;

/// A place in an answer.
#[derive(Debug, Clone)]
pub(crate) struct Parts<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parts<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next part; `None`, and no step further, if not all of it is there.
    #[inline]
    pub fn next(&mut self) -> Result<Option<Part<'a>>, Odd> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') else {
            return if rest.len() < LONGEST_LINE { Ok(None) } else { Err(Odd) };
        };
        let line = rest[..end].strip_suffix(b"\r").ok_or(Odd)?;
        let (kind, said) = line.split_first().ok_or(Odd)?;
        let mut length = end + 1;
        let part = match kind {
            b'$' | b'*' if said == b"-1" => Part::Nil,
            b'*' => Part::List(number(said)?),
            b'$' => {
                let from = length;
                length = number(said)?.checked_add(from + 2).ok_or(Odd)?;
                let Some(text) = rest.get(from..length) else { return Ok(None) };
                Part::Text(text.strip_suffix(b"\r\n").ok_or(Odd)?)
            }
            b'+' | b':' => Part::Line(said),
            b'-' => Part::Error(line),
            _ => return Err(Odd),
        };
        self.at += length;
        Ok(Some(part))
    }
}

/// A length: digits, and few enough of them.
fn number(text: &[u8]) -> Result<usize, Odd> {
    if text.is_empty() || text.len() > 12 {
        return Err(Odd);
    }
    text.iter().try_fold(0, |n: usize, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 { Ok(n * 10 + usize::from(digit)) } else { Err(Odd) }
    })
}

/// How far the answers to some commands have come.
#[derive(Debug)]
pub(crate) struct Progress {
    at: usize,
    missing: usize,
}

impl Progress {
    /// Nothing is there of `answers` answers.
    pub fn of(answers: usize) -> Self {
        Self { at: 0, missing: answers }
    }

    /// Whether all answers are in `bytes`, which begins as it did before; what comes behind them is [`Odd`].
    pub fn is_complete(&mut self, bytes: &[u8]) -> Result<bool, Odd> {
        let mut parts = Parts { bytes, at: self.at };
        while self.missing > 0 {
            let Some(part) = parts.next()? else { return Ok(false) };
            self.missing -= 1;
            if let Part::List(more) = part {
                self.missing = self.missing.checked_add(more).ok_or(Odd)?;
            }
            self.at = parts.at;
        }
        if self.at == bytes.len() { Ok(true) } else { Err(Odd) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis::Value;

    use super::*;

    /// The value that the parts are of, as `redis` would make it.
    fn value(parts: &mut Parts<'_>) -> Option<Value> {
        Some(match parts.next().ok()?? {
            Part::Nil => Value::Nil,
            Part::Text(text) => Value::BulkString(text.to_vec()),
            Part::Line(b"OK") => Value::Okay,
            Part::Line(line) => match std::str::from_utf8(line).ok()?.parse() {
                Ok(number) => Value::Int(number),
                Err(_) => Value::SimpleString(String::from_utf8(line.to_vec()).ok()?),
            },
            Part::List(n) => Value::Array((0..n).map(|_| value(parts)).collect::<Option<_>>()?),
            Part::Error(_) => return None,
        })
    }

    fn written(value: &Value) -> Vec<u8> {
        match value {
            Value::Nil => b"$-1\r\n".to_vec(),
            Value::Okay => b"+OK\r\n".to_vec(),
            Value::Int(n) => format!(":{n}\r\n").into(),
            Value::SimpleString(line) => format!("+{line}\r\n").into(),
            Value::BulkString(text) => [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat(),
            Value::Array(all) => [format!("*{}\r\n", all.len()).into_bytes()]
                .into_iter()
                .chain(all.iter().map(written))
                .flatten()
                .collect(),
            other => unreachable!("{other:?}"),
        }
    }

    fn answers() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            "[A-Z]{1,9}x".prop_map(Value::SimpleString),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::BulkString),
        ];
        leaf.prop_recursive(4, 60, 8, |inner| prop::collection::vec(inner, 0..8).prop_map(Value::Array))
    }

    proptest! {
        #[test]
        fn an_answer_is_what_the_redis_crate_takes_it_for_and_complete_at_its_last_byte_only(answer in answers()) {
            let bytes = written(&answer);
            prop_assert_eq!(&redis::parse_redis_value(&bytes).unwrap(), &answer);
            prop_assert_eq!(value(&mut Parts::new(&bytes)), Some(answer));
            let mut progress = Progress::of(1);
            for end in 0..bytes.len() {
                prop_assert_eq!(progress.is_complete(&bytes[..end]), Ok(false));
            }
            prop_assert_eq!(progress.is_complete(&bytes), Ok(true));
            prop_assert_eq!(Progress::of(1).is_complete(&[&bytes[..], b"+"].concat()), Err(Odd));
        }

        #[test]
        fn whatever_comes_is_walked_without_a_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'*'), Just(b'$'), Just(b'1'), Just(b'\r'), Just(b'\n')], 0..60)) {
            let mut progress = Progress::of(4);
            let _any = progress.is_complete(&bytes);
            let mut parts = Parts::new(&bytes);
            while let Ok(Some(_)) = parts.next() {}
        }
    }

    #[test]
    fn what_is_no_answer_is_told_from_what_is_none_yet() {
        for odd in
            ["HTTP/1.1 400\r\n", "\r\n", "+x\n", "*x\r\n", "$-2\r\n", "$1\r\nab\r\n", "$99999999999999999999\r\n"]
        {
            assert_eq!(Progress::of(1).is_complete(odd.as_bytes()), Err(Odd), "{odd:?}");
        }
        for partial in ["", "*", "*2\r", "$5\r\nabc", "*1\r\n", "*2\r\n$-1\r\n"] {
            assert_eq!(Progress::of(1).is_complete(partial.as_bytes()), Ok(false), "{partial:?}");
        }
        assert_eq!(Progress::of(1).is_complete(&[b'+'; LONGEST_LINE]), Err(Odd));
        assert_eq!(Parts::new(b"-ERR no\r\n").next(), Ok(Some(Part::Error(b"-ERR no"))));
    }
}
