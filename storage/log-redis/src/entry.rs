//! What an entry of a stream says as a record, whoever wrote it.

use bytes::{Bytes, BytesMut};
use flywheel_log::{Offset, StoredRecord};

use crate::ids;

/// The field `event` is the value, the field `key` the key. Without `event`, a single other field is the value, whatever
/// its name; several are the value together, as a JSON object: what does not decode becomes a dead letter that can be read.
///
/// The record has bytes of its own: whoever keeps it does not keep the answer that it came with.
pub(crate) fn record<'a>(offset: Offset, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> StoredRecord {
    let (mut key, mut event, mut others): (&[u8], _, Vec<_>) = (&[], None, Vec::new());
    for (name, content) in fields {
        match name {
            b"key" => key = content,
            b"event" => event = Some(content),
            _ => others.push((name, content)),
        }
    }
    let together;
    let value = match (event, &others[..]) {
        (Some(event), _) => event,
        (None, [(_, only)]) => only,
        (None, others) => {
            together = object(others);
            together.as_bytes()
        }
    };
    let (key, value) = owned(key, value);
    StoredRecord { offset, ingest_ms: ids::ms_of(offset), key, value }
}

/// Both in one allocation.
fn owned(key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
    if key.is_empty() {
        return (Bytes::new(), Bytes::copy_from_slice(value));
    }
    let mut both = BytesMut::with_capacity(key.len() + value.len());
    both.extend_from_slice(key);
    both.extend_from_slice(value);
    let mut key_and_value = both.freeze();
    let value = key_and_value.split_off(key.len());
    (key_and_value, value)
}

fn object(fields: &[(&[u8], &[u8])]) -> String {
    let text = |bytes: &[u8]| serde_json::Value::String(String::from_utf8_lossy(bytes).into_owned());
    let pairs: Vec<_> = fields.iter().map(|(name, content)| format!("{}:{}", text(name), text(content))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[&str]) -> (Bytes, Bytes) {
        let pairs = fields.chunks(2).map(|pair| (pair[0].as_bytes(), pair[1].as_bytes()));
        let record = record(Offset::from_raw(1 << 21), pairs);
        (record.key, record.value)
    }

    #[test]
    fn every_entry_is_a_record() {
        assert_eq!(of(&["key", "k", "event", "{}"]), ("k".into(), "{}".into()));
        assert_eq!(of(&["event", "{}", "colour", "red"]), ("".into(), "{}".into()));
        assert_eq!(of(&["data", "{\"id\":1}"]), ("".into(), "{\"id\":1}".into()));
        assert_eq!(of(&["a", "1", "b", "\"\n"]), ("".into(), "{\"a\":\"1\",\"b\":\"\\\"\\n\"}".into()));
        assert_eq!(of(&["key", "k"]), ("k".into(), "{}".into()));
    }
}
