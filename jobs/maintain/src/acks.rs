use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use flywheel_events::GameId;
use serde::Deserialize;

/// A journal of acknowledgements that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AckJournalError {
    #[error("reading the journal of acknowledgements {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("line {line} of the journal of acknowledgements {path} is not one: {source}", path = path.display())]
    Line { path: PathBuf, line: usize, source: serde_json::Error },
}

#[derive(Deserialize)]
struct Ack {
    game: GameId,
    seq: u64,
}

/// For each game the highest `seq` that its producer was told is durable, from lines `{"game":…,"seq":…}`. A last
/// line that was cut by a crash promised nothing and is passed over.
///
/// # Errors
/// If the file cannot be read or a whole line is not an acknowledgement.
pub fn acknowledged(path: &Path) -> Result<BTreeMap<GameId, u64>, AckJournalError> {
    let io = |source| AckJournalError::Io { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let mut acks = BTreeMap::new();
    let (mut text, mut line) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut text).map_err(io)? > 0 {
        line += 1;
        let whole = text.ends_with(b"\n");
        match serde_json::from_slice::<Ack>(text.trim_ascii()) {
            Ok(ack) => {
                let highest = acks.entry(ack.game).or_insert(ack.seq);
                *highest = ack.seq.max(*highest);
            }
            Err(_) if !whole || text.trim_ascii().is_empty() => {}
            Err(source) => return Err(AckJournalError::Line { path: path.to_owned(), line, source }),
        }
        text.clear();
    }
    Ok(acks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_gives_the_highest_promise_and_forgives_a_cut_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acks.jsonl");
        std::fs::write(
            &path,
            "{\"game\":\"a\",\"seq\":4}\n{\"game\":\"b\",\"seq\":0}\n{\"game\":\"a\",\"seq\":9}\n{\"ga",
        )
        .unwrap();
        let acks = acknowledged(&path).unwrap();
        assert_eq!(
            acks.into_iter().map(|(g, s)| (g.to_string(), s)).collect::<Vec<_>>(),
            [("a".into(), 9), ("b".into(), 0)]
        );
        std::fs::write(&path, "{\"game\":\"a\",\"seq\":4}\nnonsense\n").unwrap();
        assert!(acknowledged(&path).unwrap_err().to_string().starts_with("line 2 of"));
    }
}
