//! Which version a model key means now.

use std::collections::HashMap;

use flywheel_events::ModelRef;

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub model: ModelRef,
    pub map_key: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub updated_at: i64,
}

#[derive(Debug, Default)]
pub(super) struct Index(HashMap<String, Entry>);

impl Index {
    /// Keeps the newest version of a key.
    pub fn put(&mut self, key: String, entry: Entry) {
        match self.0.get_mut(&key) {
            Some(known) if known.model.version > entry.model.version => {}
            Some(known) => *known = entry,
            None => {
                self.0.insert(key, entry);
            }
        }
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.0.get(key)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn oldest_first(&self) -> Vec<(&str, &Entry)> {
        let mut all: Vec<_> = self.0.iter().map(|(key, entry)| (key.as_str(), entry)).collect();
        all.sort_by(|a, b| (a.1.updated_at, a.0).cmp(&(b.1.updated_at, b.0)));
        all
    }
}
