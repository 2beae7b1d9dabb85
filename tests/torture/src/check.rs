//! The promises against the table.

use std::collections::HashMap;

use anyhow::Context;
use arrow::{
    array::AsArray,
    datatypes::{Int32Type, Int64Type},
};
use flywheel_lake::{Lake, ScanOptions, TableName};
use flywheel_log::Durability;
use futures::TryStreamExt;
use serde::Serialize;

use crate::{
    book::{Book, Game},
    letter,
};

/// Acknowledged events without a row, by what their acknowledgement promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Promised to survive a loss of power, or of a machine.
    pub durable: u64,
    /// Promised to survive the producer, nothing more.
    pub memory: u64,
}

/// What the table says about the promises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub acknowledged: u64,
    /// Acknowledged events with a row.
    pub in_table: u64,
    pub lost: Lost,
    pub doubled: u64,
    pub out_of_order: u64,
    pub changed: u64,
    pub invented: u64,
    /// Events without an acknowledgement that are there all the same; nothing is wrong with that.
    pub unpromised: u64,
    pub dead_letters: u64,
    /// The first few findings, for people.
    pub findings: Vec<String>,
}

const FINDINGS: usize = 12;

impl Verdict {
    fn find(&mut self, what: impl FnOnce() -> String) {
        if self.findings.len() < FINDINGS {
            self.findings.push(what());
        }
    }
}

/// Rows of one game: partition and offset of the record, and number.
type Rows = Vec<(i32, i64, u64)>;

/// Reads the whole table once.
pub async fn check(lake: &Lake, seed: u64, books: &[Book]) -> anyhow::Result<Verdict> {
    let games: Vec<&Game> = books.iter().flat_map(|book| &book.games).collect();
    let places: HashMap<String, usize> =
        games.iter().enumerate().map(|(place, game)| (letter::game_id(seed, game.number), place)).collect();
    let ours = letter::prefix(seed);
    let mut rows: Vec<Rows> = vec![Vec::new(); games.len()];
    let mut verdict = Verdict::default();
    let events = lake.table(TableName::Events);
    if events.version().await?.is_some() {
        let options = ScanOptions::columns(["game_id", "seq", "partition", "offset", "payload"]);
        let mut batches = events.scan_stream(options).await.context("reading the table of events")?;
        while let Some(batch) = batches.try_next().await.context("reading the table of events")? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let (id, payload) = (column("game_id").as_string::<i32>(), column("payload").as_string::<i32>());
            let (seq, offset) =
                (column("seq").as_primitive::<Int64Type>(), column("offset").as_primitive::<Int64Type>());
            let partition = column("partition").as_primitive::<Int32Type>();
            for row in 0..batch.num_rows() {
                let (id, number) = (id.value(row), seq.value(row) as u64);
                let place = places.get(id).copied().filter(|place| number < games[*place].sent);
                let Some(place) = place else {
                    if id.starts_with(&ours) {
                        verdict.invented += 1;
                        verdict.find(|| format!("{id}/{number} is in the table and was never sent"));
                    }
                    continue;
                };
                if !letter::is_payload_of(payload.value(row), seed, games[place].number, number) {
                    verdict.changed += 1;
                    verdict.find(|| format!("{id}/{number} has the payload {}", payload.value(row)));
                }
                rows[place].push((partition.value(row), offset.value(row), number));
            }
        }
    }
    for (game, rows) in games.iter().zip(&mut rows) {
        weigh(seed, game, rows, &mut verdict);
    }
    let dead = lake.table(TableName::DeadLetters);
    if dead.version().await?.is_some() {
        verdict.dead_letters = dead.rows().await?;
    }
    Ok(verdict)
}

/// One game against its rows.
fn weigh(seed: u64, game: &Game, rows: &mut Rows, verdict: &mut Verdict) {
    let id = || letter::game_id(seed, game.number);
    rows.sort_unstable();
    // Offsets of two partitions say nothing about each other.
    if let (Some(first), Some(last)) = (rows.first(), rows.last())
        && first.0 != last.0
    {
        verdict.out_of_order += 1;
        verdict.find(|| format!("{} lies in the partitions {} and {}", id(), first.0, last.0));
    }
    // Where each number was sent; behind all others if it was never acknowledged.
    let mut sent_as: Vec<u32> = vec![u32::MAX; game.sent as usize];
    for (place, promise) in game.acknowledged.iter().enumerate() {
        sent_as[promise.seq as usize] = place as u32;
    }
    let mut there = vec![false; game.sent as usize];
    let mut furthest = None;
    for &(_, offset, seq) in rows.iter() {
        let slot = &mut there[seq as usize];
        if *slot {
            verdict.doubled += 1;
            verdict.find(|| format!("{}/{seq} is in the table twice, once from offset {offset}", id()));
            continue;
        }
        *slot = true;
        let place = sent_as[seq as usize];
        if place == u32::MAX {
            verdict.unpromised += 1;
            continue;
        }
        if furthest.is_some_and(|furthest| place < furthest) {
            verdict.out_of_order += 1;
            verdict.find(|| format!("{}/{seq} lies behind what was sent after it", id()));
        } else {
            furthest = Some(place);
        }
    }
    for promise in &game.acknowledged {
        verdict.acknowledged += 1;
        if there[promise.seq as usize] {
            verdict.in_table += 1;
            continue;
        }
        match promise.durability {
            Durability::Memory => verdict.lost.memory += 1,
            Durability::Fsynced | Durability::Replicated => verdict.lost.durable += 1,
        }
        verdict.find(|| format!("{}/{} was acknowledged as {} and is lost", id(), promise.seq, promise.durability));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Promise;

    fn game(order: &[u32], sent: u64) -> Game {
        let acknowledged = order.iter().map(|&seq| Promise { seq, durability: Durability::Fsynced }).collect();
        Game { number: 1, sent, acknowledged }
    }

    fn verdict(game: &Game, rows: &[(i64, u64)]) -> Verdict {
        let mut verdict = Verdict::default();
        weigh(7, game, &mut rows.iter().map(|&(offset, seq)| (0, offset, seq)).collect(), &mut verdict);
        verdict
    }

    #[test]
    fn a_game_that_is_there_as_it_was_sent_has_no_findings() {
        // 2 and 3 were sent before 0 and 1; 4 was never acknowledged.
        let found = verdict(&game(&[2, 3, 0, 1], 5), &[(10, 2), (11, 3), (14, 0), (15, 1), (16, 4)]);
        assert_eq!((found.acknowledged, found.in_table, found.unpromised), (4, 4, 1));
        assert!(found.findings.is_empty(), "{found:?}");
    }

    #[test]
    fn what_is_lost_doubled_or_out_of_order_is_found_and_named() {
        let found = verdict(&game(&[0, 1, 2], 3), &[(1, 0), (2, 2)]);
        assert_eq!((found.lost.durable, found.in_table), (1, 2));
        assert_eq!(found.findings, ["torture-7-1/1 was acknowledged as fsynced and is lost"]);
        assert_eq!(verdict(&game(&[0, 1], 2), &[(1, 0), (2, 0), (3, 1)]).doubled, 1);
        let turned = verdict(&game(&[0, 1, 2], 3), &[(1, 2), (2, 0), (3, 1)]);
        assert_eq!((turned.out_of_order, turned.lost.durable, turned.doubled), (2, 0, 0));
    }

    #[test]
    fn a_loss_is_counted_by_what_was_promised() {
        let mut weak = game(&[0], 1);
        weak.acknowledged[0].durability = Durability::Memory;
        assert_eq!(verdict(&weak, &[]).lost, Lost { durable: 0, memory: 1 });
    }
}
