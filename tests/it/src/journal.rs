//! The journal of acknowledgements that `flywheel up --ack-journal FILE` writes: what senders were promised.

use std::{collections::BTreeMap, fs, path::Path};

/// For each game, the last `seq` whose append was acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Promises {
    pub last_seq: BTreeMap<String, u64>,
    /// Lines that a kill cut short.
    pub torn: usize,
}

impl Promises {
    /// Events promised; a game's are those from 0 to its last.
    pub fn events(&self) -> u64 {
        self.last_seq.values().map(|last| last + 1).sum()
    }
}

/// Reads a journal; one that was never written promises nothing.
pub fn promises(journal: &Path) -> Promises {
    let mut promises = Promises::default();
    for line in fs::read_to_string(journal).unwrap_or_default().lines().filter(|line| !line.is_empty()) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let (Some(game), Some(seq)) = (value["game"].as_str(), value["seq"].as_u64()) else {
            promises.torn += 1;
            continue;
        };
        let last = promises.last_seq.entry(game.to_owned()).or_default();
        *last = seq.max(*last);
    }
    promises
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_with_its_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("acks");
        fs::write(
            &file,
            "{\"game\":\"a\",\"seq\":3}\n{\"game\":\"b\",\"s{\"game\":\"a\",\"seq\":9}\n{\"game\":\"b\",\"seq\":0}\n",
        )
        .unwrap();
        let read = promises(&file);
        assert_eq!((read.last_seq["a"], read.last_seq["b"], read.torn, read.events()), (3, 0, 1, 5));
        assert_eq!(promises(&dir.path().join("none")), Promises::default());
    }
}
