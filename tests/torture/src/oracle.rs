//! A second opinion: Python's `deltalake` and DuckDB read the table, and judge it with no code of ours.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::{book::Book, check::Verdict, letter};

const SCRIPT: &str = include_str!("oracle.py");

/// What the others found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opinion {
    pub reader: String,
    /// `count(*)`, and `count(distinct (game_id, seq))`.
    pub rows: u64,
    pub distinct: u64,
    pub games: u64,
    pub acknowledged: u64,
    pub lost: u64,
    pub doubled: u64,
    /// By the columns `partition` and `offset`.
    pub out_of_order: u64,
}

impl Opinion {
    /// What the two readers do not agree about.
    pub fn differs(&self, verdict: &Verdict) -> Option<String> {
        let lost = verdict.lost.durable + verdict.lost.memory;
        let ours = [verdict.acknowledged, lost, verdict.doubled, verdict.out_of_order];
        let theirs = [self.acknowledged, self.lost, self.doubled, self.out_of_order];
        let distinct = verdict.in_table + verdict.unpromised + verdict.invented;
        let same = ours == theirs && distinct == self.distinct;
        (!same).then(|| {
            format!(
                "our reader finds {ours:?} acknowledged, lost, doubled and out of order, and {distinct} events; {} {theirs:?}, and {}",
                self.reader, self.distinct
            )
        })
    }
}

/// A Python that reads tables: `FLYWHEEL_PYTHON`, else the project's own; why there is none.
async fn python() -> Result<PathBuf, String> {
    let path = std::env::var_os("FLYWHEEL_PYTHON").map_or_else(|| PathBuf::from(".venv/bin/python"), PathBuf::from);
    let reads = Command::new(&path).args(["-c", "import deltalake, duckdb"]).output().await;
    match reads {
        Ok(output) if output.status.success() => Ok(path),
        _ => Err(format!(
            "`{}` has no deltalake and duckdb; `make venv` gets them, or set FLYWHEEL_PYTHON",
            path.display()
        )),
    }
}

/// Asks for it. The inner error says why there is none to be had on this machine.
///
/// # Errors
/// If those who were asked could not read the table.
pub async fn ask(table: &Path, seed: u64, books: &[Book], folder: &Path) -> anyhow::Result<Result<Opinion, String>> {
    let python = match python().await {
        Ok(python) => python,
        Err(why) => return Ok(Err(why)),
    };
    let mut promises = String::new();
    for game in books.iter().flat_map(|book| &book.games) {
        promises.push_str(&letter::game_id(seed, game.number));
        for promise in &game.acknowledged {
            write!(promises, " {}", promise.seq).expect("memory takes every byte");
        }
        promises.push('\n');
    }
    let file = folder.join("promises.txt");
    std::fs::write(&file, promises).with_context(|| format!("writing {}", file.display()))?;
    let asked = Command::new(python)
        .args(["-c", SCRIPT])
        .arg(table)
        .arg(letter::prefix(seed))
        .arg(&file)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = asked.await.context("starting the second reader")?;
    if !output.status.success() {
        bail!("the second reader cannot read the table: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(Ok(serde_json::from_slice(&output.stdout).context("what the second reader said")?))
}

#[cfg(test)]
mod tests {
    use flywheel_events::{Event, GameId, System};
    use flywheel_lake::{Lake, TableName};
    use flywheel_log::Durability;
    use flywheel_tables::EventsBuilder;

    use super::*;
    use crate::{
        book::{Game, Promise},
        check,
    };

    /// Rows of games 1 to 3: partition, offset, number.
    async fn judged(rows: [&[(u32, i64, u64)]; 3]) -> Option<(Verdict, Opinion)> {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::local(dir.path()).unwrap();
        let mut builder = EventsBuilder::new();
        for (game, rows) in (1..).zip(rows) {
            for &(partition, offset, seq) in rows {
                let mut line = Vec::new();
                letter::write(&mut line, 7, game, seq, 1_700_000_000_000);
                builder.push(&Event::decode(&line).unwrap(), partition, offset, 1_700_000_000_000);
            }
        }
        // Somebody else's.
        let other = Event::new(System::Tank, "tank.tick", GameId::new("other").unwrap(), 0, 0);
        builder.push(&other, 0, 99, 1_700_000_000_000);
        lake.table(TableName::Events).append(vec![builder.finish()], &[]).await.unwrap();
        let acknowledged = [2, 0, 1].map(|seq| Promise { seq, durability: Durability::Fsynced }).to_vec();
        let games = (1..=3).map(|number| Game { number, sent: 4, acknowledged: acknowledged.clone() }).collect();
        let books = [Book { games, ..Book::default() }];
        let verdict = check::check(&lake, 7, &books).await.unwrap();
        match ask(&dir.path().join("events"), 7, &books, dir.path()).await.unwrap() {
            Ok(opinion) => Some((verdict, opinion)),
            Err(why) => {
                let required = std::env::var("FLYWHEEL_REQUIRE").unwrap_or_default();
                assert!(!required.split(',').any(|name| name == "python"), "{why}");
                eprintln!("SKIPPED: {why}");
                None
            }
        }
    }

    #[tokio::test]
    async fn two_readers_agree_about_a_table_that_is_well_and_about_one_that_is_not() {
        let well: &[(u32, i64, u64)] = &[(0, 1, 2), (0, 2, 0), (0, 3, 1), (0, 4, 3)];
        let Some((verdict, opinion)) = judged([well; 3]).await else { return };
        assert_eq!(opinion.differs(&verdict), None);
        assert_eq!((opinion.rows, opinion.distinct, opinion.games, opinion.acknowledged), (12, 12, 3, 9));
        // Lost and doubled; turned round; in two partitions.
        let ill: [&[(u32, i64, u64)]; 3] = [
            &[(0, 1, 2), (0, 2, 0), (0, 7, 0)],
            &[(1, 5, 0), (1, 6, 2), (1, 7, 1)],
            &[(0, 1, 2), (1, 2, 0), (1, 3, 1)],
        ];
        let (verdict, opinion) = judged(ill).await.unwrap();
        assert_eq!((opinion.lost, opinion.doubled, opinion.out_of_order), (1, 1, 2));
        assert_eq!(opinion.differs(&verdict), None);
        let wrong = Opinion { lost: 0, ..opinion };
        assert!(wrong.differs(&verdict).unwrap().contains("deltalake"));
    }
}
