//! The buffer's first rows: the newest of the table, at a pinned version.

use std::collections::BTreeMap;

use flywheel_flows::assemble_low_app_id;
use flywheel_lake::{Lake, ScanOptions};
use flywheel_log::{Offset, Position, Topic};
use flywheel_tables::{TableName, transitions_from};
use futures::TryStreamExt;

use crate::{TrainError, TrainLearner, Trainer};

/// What was read, and where the log goes on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// `None` if there is no table yet.
    pub version: Option<u64>,
    pub rows: u64,
    /// Rows of the table that were older than what the buffer keeps.
    pub older: u64,
    /// For each partition: reading after it gives every game that the table does not hold.
    pub log_from: BTreeMap<u32, Position>,
}

/// Fills the trainer's buffer from `transitions`, oldest row first.
///
/// Positions are read before the rows: a game that the table gained in between comes twice, once from each, and the
/// second time is left out by its id. The other way round it would not come at all.
///
/// `pinned` is the version a resumed run began with; without one it is the newest.
///
/// # Errors
/// If the table cannot be read, or is of another system or shape.
pub async fn load_table<L: TrainLearner>(
    lake: &Lake,
    partitions: u32,
    pinned: Option<u64>,
    trainer: &mut Trainer<L>,
) -> Result<Loaded, TrainError> {
    let table = lake.table(TableName::Transitions);
    let topic = Topic::new(trainer.config().system.topic());
    let mut loaded = Loaded::default();
    for partition in 0..partitions {
        let low = table.position(&assemble_low_app_id(&topic, partition)).await?;
        let offset = low.and_then(|low| u64::try_from(low).ok());
        loaded.log_from.insert(partition, offset.map_or(Position::Start, |low| Position::After(Offset::from_raw(low))));
    }
    let newest = table.version().await?;
    let Some(version) = pinned.or(newest) else { return Ok(loaded) };
    loaded.version = Some(version);

    // Files come oldest first; those wholly older than what fits are skipped by their day.
    let system = trainer.config().system.as_str().to_owned();
    let mut files = table.files_at(Some(version)).await?;
    files.retain(|file| file.system == system);
    let total: u64 = files.iter().map(|file| file.rows).sum();
    let mut surplus = total.saturating_sub(trainer.config().capacity as u64);
    let mut before = 0;
    let mut dt_from = None;
    for file in &files {
        if before + file.rows > surplus {
            dt_from = Some(file.dt.clone());
            break;
        }
        before += file.rows;
    }
    // Earlier files of the same day are read after all.
    let same_day = |dt: &String| files.iter().take_while(|file| file.dt < *dt).map(|file| file.rows).sum::<u64>();
    surplus -= dt_from.as_ref().map_or(0, same_day);
    loaded.older = total.saturating_sub(trainer.config().capacity as u64);

    let options = ScanOptions { version: Some(version), system: Some(system), dt_from, ..ScanOptions::default() };
    let mut batches = table.scan_stream(options).await?;
    while let Some(batch) = batches.try_next().await? {
        let rows = batch.num_rows() as u64;
        let skip = surplus.min(rows);
        surplus -= skip;
        let kept = batch.slice(skip as usize, (rows - skip) as usize);
        for row in transitions_from(&kept) {
            trainer.load(&row?).map_err(TrainError::Row)?;
            loaded.rows += 1;
        }
    }
    Ok(loaded)
}
