//! What a lander costs beside its speed, in `bench ingest`: how soon it commits after a start with a long table behind it,
//! and how much memory it takes from a log that always has more.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use flywheel_events::{Event, GameId, System};
use flywheel_flows::{CancellationToken, Land, LandConfig, land_app_id};
use flywheel_lake::{Advance, Lake, TableName};
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, MemoryLog, Offset, Position, ReadLimit, Record, StoredRecord,
    Topic, TopicPartition, take_within,
};
use flywheel_tables::EventsBuilder;

use crate::{Figure, lines::FIRST_MS};

const BENCH: &str = "ingest";
const GAMES: i64 = 64;
const PAYLOAD: &str = r#"{"action":2,"bot":3,"done":false,"energy":65.09,"gun":26.08,"heading":192.92,"reward":-0.27,"speed":-7.07,"tick":17,"type":"scan","x":171.76,"y":51.57}"#;
/// Beside its own settings, what a lander may take.
const ALLOWED_MB: f64 = 64.0;

/// One partition of events that are made when they are read: however fast a lander is, there is more, up to `end`.
#[derive(Debug)]
struct Made {
    topic: Topic,
    end: i64,
    others: Arc<MemoryLog>,
}

impl Made {
    fn new(topic: Topic, end: i64) -> Arc<Self> {
        Arc::new(Self { topic, end, others: MemoryLog::new() })
    }

    fn record(number: i64) -> StoredRecord {
        let (game, seq, ts_ms) = (number % GAMES, number / GAMES, FIRST_MS + number / 1000);
        let value = format!(
            r#"{{"v":1,"system":"tank","kind":"tank.tick","game_id":"t{game:03}-00001","seq":{seq},"ts_ms":{ts_ms},"actor":"server","model":null,"payload":{PAYLOAD}}}"#
        );
        StoredRecord {
            offset: Offset::from_raw(number as u64),
            ingest_ms: ts_ms,
            key: bytes::Bytes::new(),
            value: value.into(),
        }
    }
}

#[async_trait]
impl EventLog for Made {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.others.create_topic(topic, partitions).await
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        self.others.topics().await
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        self.others.append(to, records).await
    }

    async fn read(&self, of: &TopicPartition, at: Position, limit: ReadLimit) -> Result<Vec<StoredRecord>, LogError> {
        if of.topic != self.topic {
            return self.others.read(of, at, limit).await;
        }
        let from = match at {
            Position::Start => 0,
            Position::After(offset) => offset.as_i64() + 1,
        };
        let found = take_within((from..self.end).map(Self::record), limit);
        if found.is_empty() {
            tokio::time::sleep(limit.max_wait).await;
        }
        Ok(found)
    }

    async fn bounds(&self, _of: &TopicPartition) -> Result<Bounds, LogError> {
        Ok(Bounds {
            first: Some(Offset::from_raw(0)),
            last: u64::try_from(self.end - 1).ok().map(Offset::from_raw),
            trimmed: None,
        })
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.others.trim(of, up_to).await
    }

    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        self.others.join(topic, group, member).await
    }

    fn durability(&self) -> Durability {
        self.others.durability()
    }
}

/// A lander starts with `behind` events in its table, all of them recent, and a few new ones in the log: milliseconds
/// until these are committed.
pub(crate) async fn restart(folder: &Path, behind: i64) -> anyhow::Result<Figure> {
    const NEW: i64 = 1000;
    let topic = Topic::new(System::Tank.topic());
    let place = folder.join("restart");
    let app_id = land_app_id(&topic, 0);
    {
        let table = Lake::local(&place)?.table(TableName::Events);
        let (mut rows, mut committed) = (EventsBuilder::new(), None);
        let games = (0..GAMES).map(|game| GameId::new(format!("t{game:03}-00001"))).collect::<Result<Vec<_>, _>>()?;
        let payload: serde_json::Value = serde_json::from_str(PAYLOAD)?;
        let mut events: Vec<_> = games
            .into_iter()
            .map(|game| Event::new(System::Tank, "tank.tick", game, 0, 0).actor("server").payload(&payload))
            .collect();
        for number in 0..behind {
            let event = &mut events[(number % GAMES) as usize];
            (event.seq, event.ts_ms) = ((number / GAMES) as u64, FIRST_MS + number / 1000);
            rows.push(event, 0, number, event.ts_ms);
            if rows.len() == 50_000 || number == behind - 1 {
                table.append_from(vec![rows.finish()], &[Advance::new(&app_id, committed, number)]).await?;
                committed = Some(number);
            }
        }
    }
    // Nothing of this process is known to it any more, as after a kill.
    let land = Land::new(Made::new(topic.clone(), behind + NEW), Lake::local(&place)?, LandConfig::new(topic, 1));
    let (stats, cancel) = (land.stats(), CancellationToken::new());
    let started = Instant::now();
    let landing = tokio::spawn({
        let cancel = cancel.clone();
        async move { land.run(cancel).await }
    });
    while stats.commits.load(Relaxed) == 0 {
        ensure!(started.elapsed() < Duration::from_secs(120), "nothing was committed within two minutes");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = started.elapsed();
    cancel.cancel();
    landing.await.context("the task of land")??;
    let landed = stats.events.load(Relaxed);
    ensure!(landed == NEW as u64, "{landed} events were landed after the restart, not the {NEW} new ones");
    std::fs::remove_dir_all(&place).context("removing the table")?;
    Ok(Figure::new(BENCH, "restart_to_first_commit", "ms", &[took.as_secs_f64() * 1000.0]))
}

/// The memory that a lander takes at most while its log has far more than it can land, against what its settings say;
/// `None` where `/proc` does not tell.
pub(crate) async fn memory(folder: &Path, window: Duration) -> anyhow::Result<Option<Figure>> {
    let topic = Topic::new(System::Tank.topic());
    let place = folder.join("memory");
    let config = LandConfig::new(topic.clone(), 1);
    // The batch, and two chunks that wait beside the one that is read.
    let settings_mb = (config.max_batch_bytes + 3 * config.read_bytes) as f64 / 1e6;
    let log = Made::new(topic, i64::MAX);
    let Some(before) = memory_mb("VmRSS:") else { return Ok(None) };
    // From now on the peak is that of what follows.
    if std::fs::write("/proc/self/clear_refs", "5").is_err() {
        return Ok(None);
    }
    let land = Land::new(log, Lake::local(&place)?, config);
    let (stats, cancel) = (land.stats(), CancellationToken::new());
    let landing = tokio::spawn({
        let cancel = cancel.clone();
        async move { land.run(cancel).await }
    });
    tokio::time::sleep(window.max(Duration::from_secs(3))).await;
    cancel.cancel();
    landing.await.context("the task of land")??;
    let peak = memory_mb("VmHWM:").context("reading the peak of the memory")?;
    ensure!(stats.commits.load(Relaxed) > 2, "hardly anything was landed");
    std::fs::remove_dir_all(&place).context("removing the table")?;
    let figure = Figure::new(BENCH, "lander_memory", "MB", &[peak - before]);
    Ok(Some(figure.against("its settings + 64 MB", settings_mb + ALLOWED_MB, false)))
}

fn memory_mb(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restarted_lander_lands_what_is_new_and_nothing_else() {
        let folder = Folder::new("restart").unwrap();
        assert!(restart(folder.path(), 2000).await.unwrap().value > 0.0);
    }

    #[test]
    fn made_events_are_events() {
        let event = Event::decode(&Made::record(129).value).unwrap();
        assert_eq!((event.game_id.as_str(), event.seq, event.payload.get()), ("t001-00001", 2, PAYLOAD));
    }
}
