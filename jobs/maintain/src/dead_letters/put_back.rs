//! Events back into the log, once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use arrow::{array::AsArray, datatypes::Int64Type};
use flywheel_lake::{Range, ScanOptions};
use flywheel_log::{EventLog, LogError, LogErrorKind, Offset, Position, ReadLimit, Record, Topic, TopicPartition};
use flywheel_tables::{DeadLetterRow, DeadLettersBuilder};
use futures::TryStreamExt;

use super::{DeadLetters, LetterId, REPLAY, ReplayError, ReplayReport};

/// Bytes of one append, at most (one letter may be larger).
const APPEND_BYTES: usize = 4 << 20;

/// A letter that decodes.
#[derive(Debug)]
pub(super) struct Ready {
    pub position: LetterId,
    pub system: String,
    pub game_id: String,
    pub seq: u64,
    pub raw: Vec<u8>,
}

/// Identity of an event.
type Key = (String, u64);

impl Ready {
    fn key(&self) -> Key {
        (self.game_id.clone(), self.seq)
    }

    fn lane(&self) -> TopicPartition {
        self.position.topic.partition(self.position.partition)
    }

    /// The row that says what became of it.
    fn mark(&self, now_ms: i64, what: &str) -> DeadLetterRow {
        DeadLetterRow {
            system: self.system.clone(),
            flow: REPLAY.to_owned(),
            topic: self.position.topic.to_string(),
            partition: self.position.partition,
            offset: self.position.offset,
            ingest_ms: now_ms,
            reason: "replayed".to_owned(),
            detail: format!("game `{}` seq {}: {what}", self.game_id, self.seq),
            raw: Vec::new(),
        }
    }
}

impl DeadLetters {
    pub(super) async fn put_back(
        &self,
        log: &Arc<dyn EventLog>,
        ready: Vec<Ready>,
        dry_run: bool,
        report: &mut ReplayReport,
    ) -> Result<(), ReplayError> {
        if ready.is_empty() {
            return Ok(());
        }
        let partitions: HashMap<Topic, u32> = log.topics().await?.into_iter().collect();
        let (ready, lost): (Vec<_>, Vec<_>) = ready
            .into_iter()
            .partition(|letter| partitions.get(&letter.position.topic).is_some_and(|n| letter.position.partition < *n));
        for letter in lost {
            let detail = format!("the log has no partition `{}` any more", letter.lane());
            report.stays(letter.position, "no_partition", detail);
        }
        let mut there = self.there(log, &ready).await?;
        let now_ms = now_ms();
        let mut marks = DeadLettersBuilder::new();
        let mut lanes: BTreeMap<TopicPartition, Vec<Ready>> = BTreeMap::new();
        for letter in ready {
            if there.insert(letter.key()) {
                report.restored += 1;
                lanes.entry(letter.lane()).or_default().push(letter);
            } else {
                report.there += 1;
                marks.push(&letter.mark(now_ms, "was there already"));
            }
        }
        if dry_run {
            return Ok(());
        }
        let mut failed = None;
        'lanes: for (lane, mut letters) in lanes {
            // As they came at first: a game's events in their order.
            letters.sort_by_key(|letter| letter.position.offset);
            let mut rest = letters.as_slice();
            while !rest.is_empty() {
                let (chunk, more) = rest.split_at(chunk_of(rest));
                rest = more;
                let records =
                    chunk.iter().map(|letter| Record::new(letter.game_id.clone(), letter.raw.clone())).collect();
                match log.append(&lane, records).await {
                    Ok(last) => {
                        let what = format!("appended to `{lane}` up to offset {last}");
                        chunk.iter().for_each(|letter| marks.push(&letter.mark(now_ms, &what)));
                    }
                    Err(error) => {
                        report.restored -= (chunk.len() + rest.len()) as u64;
                        failed = Some(error);
                        break 'lanes;
                    }
                }
            }
        }
        // Killed before this, or told nothing: the next replay finds the events where they are.
        if !marks.is_empty() {
            self.table.append(vec![marks.finish()], &[]).await?;
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Which of the letters' events are in table `events`, or in the log behind what the table holds.
    ///
    /// The position of `land` is read first, then the log from there to its end, then the table: what `land` commits
    /// meanwhile is seen twice, and nothing is overlooked.
    async fn there(&self, log: &Arc<dyn EventLog>, ready: &[Ready]) -> Result<HashSet<Key>, ReplayError> {
        let wanted: HashSet<Key> = ready.iter().map(Ready::key).collect();
        let mut there = HashSet::new();
        if wanted.is_empty() {
            return Ok(there);
        }
        let mut lanes: Vec<_> = ready.iter().map(Ready::lane).collect();
        lanes.sort();
        lanes.dedup();
        for lane in lanes {
            let landed = self.events.position(&format!("land/{}/{}", lane.topic, lane.partition)).await?;
            // A letter's own record, read again by the next `land`, may be a letter again.
            let own =
                ready.iter().filter(|letter| letter.lane() == lane).map(|letter| letter.position.offset).collect();
            self.behind(log, &lane, landed, &own, &wanted, &mut there).await?;
        }
        if self.events.version().await?.is_none() {
            return Ok(there);
        }
        let seqs = || wanted.iter().map(|(_, seq)| i64::try_from(*seq).unwrap_or(i64::MAX));
        let range = Range {
            column: "seq".to_owned(),
            low: seqs().min().expect("some are wanted"),
            high: seqs().max().expect("some are wanted"),
        };
        let mut options = ScanOptions::columns(["game_id", "seq"]);
        options.ranges.push(range);
        let games: HashSet<&str> = wanted.iter().map(|(game, _)| game.as_str()).collect();
        let mut batches = self.events.scan_stream(options).await?;
        while let Some(batch) = batches.try_next().await? {
            let column = |name| batch.column_by_name(name).expect("the scan asked for it");
            let (game_id, seq) = (column("game_id").as_string::<i32>(), column("seq").as_primitive::<Int64Type>());
            for row in 0..batch.num_rows() {
                if games.contains(game_id.value(row)) {
                    let key = (game_id.value(row).to_owned(), seq.value(row) as u64);
                    if wanted.contains(&key) {
                        there.insert(key);
                    }
                }
            }
        }
        Ok(there)
    }

    /// Which of the wanted events the partition holds after `landed`, beside the letters' `own` records.
    async fn behind(
        &self,
        log: &Arc<dyn EventLog>,
        lane: &TopicPartition,
        landed: Option<i64>,
        own: &HashSet<i64>,
        wanted: &HashSet<Key>,
        there: &mut HashSet<Key>,
    ) -> Result<(), LogError> {
        let bounds = log.bounds(lane).await?;
        let Some(last) = bounds.last else { return Ok(()) };
        let landed = landed.and_then(|offset| Offset::try_from(u64::try_from(offset).ok()?).ok());
        let mut position = landed.max(bounds.trimmed).map_or(Position::Start, Position::After);
        while position < Position::After(last) {
            let records = match log.read(lane, position, ReadLimit::default()).await {
                // Trimmed meanwhile, so it is in the table.
                Err(error) if error.kind() == LogErrorKind::Trimmed => {
                    let trimmed = log.bounds(lane).await?.trimmed;
                    position = position.max(trimmed.map_or(Position::Start, Position::After));
                    continue;
                }
                records => records?,
            };
            let Some(newest) = records.last() else { break };
            position = Position::After(newest.offset);
            for record in records.iter().filter(|record| !own.contains(&record.offset.as_i64())) {
                if let Ok(event) = (self.decode)(&record.value) {
                    let key = (event.game_id.into_owned(), event.seq);
                    if wanted.contains(&key) {
                        there.insert(key);
                    }
                }
            }
        }
        Ok(())
    }
}

/// How many of the letters go into one append.
fn chunk_of(letters: &[Ready]) -> usize {
    let mut bytes = 0;
    let fits = letters.iter().take_while(|letter| {
        bytes += letter.raw.len();
        bytes <= APPEND_BYTES
    });
    fits.count().max(1)
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
