//! What an entry of a stream says as a record, whoever wrote it.

use bytes::Bytes;
use flywheel_log::{Offset, StoredRecord};
use redis::Value;

use crate::ids;

/// The field `event` is the value, the field `key` the key. Without `event`, a single other field is the value, whatever
/// its name; several are the value together, as a JSON object: what does not decode becomes a dead letter that can be read.
pub(crate) fn record(offset: Offset, fields: Vec<Value>) -> StoredRecord {
    let (mut key, mut event, mut others) = (Bytes::new(), None, Vec::new());
    let mut fields = fields.into_iter().map(bytes_of);
    while let (Some(name), Some(content)) = (fields.next(), fields.next()) {
        match &name[..] {
            b"key" => key = content,
            b"event" => event = Some(content),
            _ => others.push((name, content)),
        }
    }
    let value = match event {
        Some(event) => event,
        None if others.len() == 1 => others.remove(0).1,
        None => object(&others).into(),
    };
    StoredRecord { offset, ingest_ms: ids::ms_of(offset), key, value }
}

fn bytes_of(value: Value) -> Bytes {
    match value {
        Value::BulkString(bytes) => bytes.into(),
        Value::SimpleString(text) => text.into(),
        _ => Bytes::new(),
    }
}

fn object(fields: &[(Bytes, Bytes)]) -> String {
    let text = |bytes: &Bytes| serde_json::Value::String(String::from_utf8_lossy(bytes).into_owned());
    let pairs: Vec<_> = fields.iter().map(|(name, content)| format!("{}:{}", text(name), text(content))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[&str]) -> (Bytes, Bytes) {
        let fields = fields.iter().map(|field| Value::BulkString(field.as_bytes().to_vec())).collect();
        let record = record(Offset::from_raw(1 << 21), fields);
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
