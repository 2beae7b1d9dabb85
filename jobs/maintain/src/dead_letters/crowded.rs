//! Games of which `land` gave records up because too many stretches of their numbers were missing.

use std::collections::HashMap;

use arrow::{array::AsArray, datatypes::Int64Type};
use flywheel_flows::{Added, SeqSet};
use flywheel_lake::{LakeError, ScanOptions};
use futures::TryStreamExt;

use super::{DeadLetters, LAND, TOO_MANY_GAPS};

/// By game: what table `events` holds of it, and what was let in since.
#[derive(Debug, Default)]
pub(super) struct Crowded(HashMap<String, SeqSet>);

impl Crowded {
    /// Whether `land` would take this event by now.
    pub fn has_room(&mut self, game_id: &str, seq: u64) -> bool {
        self.0.get_mut(game_id).is_none_or(|seen| seen.insert(seq) != Added::Refused)
    }
}

impl DeadLetters {
    /// The games of all such letters. Takes 8 bytes for each event that the table holds of them.
    pub(super) async fn crowded(&self, version: u64) -> Result<Crowded, LakeError> {
        let mut found: HashMap<String, Vec<u64>> = HashMap::new();
        let mut options = ScanOptions::columns(["flow", "reason", "raw"]);
        options.version = Some(version);
        let mut letters = self.table.scan_stream(options).await?;
        while let Some(batch) = letters.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let (flow, reason) = (column("flow").as_string::<i32>(), column("reason").as_string::<i32>());
            let raw = column("raw").as_binary::<i32>();
            for row in 0..batch.num_rows() {
                if flow.value(row) == LAND
                    && reason.value(row) == TOO_MANY_GAPS
                    && let Ok(event) = (self.decode)(raw.value(row))
                {
                    found.entry(event.game_id.into_owned()).or_default();
                }
            }
        }
        if found.is_empty() || self.events.version().await?.is_none() {
            return Ok(Crowded::default());
        }
        let mut events = self.events.scan_stream(ScanOptions::columns(["game_id", "seq"])).await?;
        while let Some(batch) = events.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let (game_id, seq) = (column("game_id").as_string::<i32>(), column("seq").as_primitive::<Int64Type>());
            for row in 0..batch.num_rows() {
                if let Some(seqs) = found.get_mut(game_id.value(row)) {
                    seqs.push(seq.value(row) as u64);
                }
            }
        }
        let games = found.into_iter().map(|(game_id, mut seqs)| {
            // In order, so that no more stretches are counted than there are.
            seqs.sort_unstable();
            let mut seen = SeqSet::default();
            for seq in seqs {
                seen.insert(seq);
            }
            (game_id, seen)
        });
        Ok(Crowded(games.collect()))
    }
}
