//! Results of live games, read off the log: what decides whether a new champion stays.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flywheel_events::{Event, ModelRef, kinds, tank};
use flywheel_judge::LiveGame;
use flywheel_log::{EventLog, Position, ReadLimit, Topic};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// A version gets a game to its name if it made at least this share of its decisions.
const MAJORITY: f64 = 0.6;
/// Live games followed at once; there are at most 64 sessions.
const MAX_GAMES: usize = 1024;

/// Live games seen to their end.
#[derive(Debug, Default)]
pub struct LiveResults {
    pub games: AtomicU64,
    pub wins: AtomicU64,
}

/// Follows one partition of the tank topic from its end.
pub async fn follow(
    log: Arc<dyn EventLog>,
    topic: Topic,
    partition: u32,
    results: Arc<LiveResults>,
    judge: mpsc::Sender<LiveGame>,
    cancel: CancellationToken,
) {
    let lane = topic.partition(partition);
    // Games of an earlier process are over without a result.
    let mut position = match log.bounds(&lane).await {
        Ok(bounds) => bounds.last.map_or(Position::Start, Position::After),
        Err(_) => Position::Start,
    };
    let mut games: HashMap<Bytes, BTreeMap<ModelRef, u32>> = HashMap::new();
    while !cancel.is_cancelled() {
        let read = log.read(&lane, position, ReadLimit::waiting(Duration::from_millis(500)));
        let records = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            records = read => records,
        };
        let records = match records {
            Ok(records) => records,
            Err(error) => {
                debug!(%error, "live results wait for the log");
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        for record in records {
            position = Position::After(record.offset);
            // The kind stands at the head of what our emitter writes; farm games are most of the log and are not
            // decoded here.
            let head = &record.value[..record.value.len().min(96)];
            let says = |kind: &str| head.windows(kind.len()).any(|window| window == kind.as_bytes());
            if says(kinds::TANK_SESSION_OPENED) {
                let opened = Event::decode(&record.value).ok();
                let opened = opened.as_ref().and_then(|event| event.payload_as::<tank::SessionOpened>().ok());
                if opened.is_some_and(|opened| opened.source != "farm") && games.len() < MAX_GAMES {
                    games.insert(record.key, BTreeMap::new());
                }
                continue;
            }
            let Some(models) = games.get_mut(&record.key) else { continue };
            if says(kinds::TANK_TRANSITION) {
                if let Some(model) = Event::decode(&record.value).ok().and_then(|event| event.model) {
                    *models.entry(model).or_default() += 1;
                }
            } else if says(kinds::TANK_EPISODE_ENDED) {
                let models = games.remove(&record.key).unwrap_or_default();
                let event = Event::decode(&record.value).ok();
                let ended = event.as_ref().and_then(|event| event.payload_as::<tank::EpisodeEnded>().ok());
                let Some(ended) = ended else { continue };
                let won = ended.outcome > 0;
                results.games.fetch_add(1, Ordering::Relaxed);
                results.wins.fetch_add(u64::from(won), Ordering::Relaxed);
                if let Some(version) = majority(&models).map(|model| model.version) {
                    // The judge is busy with a trial and its queue is full: this game does not count.
                    let _full = judge.try_send(LiveGame { version, won });
                }
            } else if says(kinds::TANK_SESSION_CLOSED) {
                games.remove(&record.key);
            }
        }
    }
}

fn majority(models: &BTreeMap<ModelRef, u32>) -> Option<&ModelRef> {
    let total: u32 = models.values().sum();
    let (model, n) = models.iter().max_by_key(|(_, n)| **n)?;
    (f64::from(*n) >= MAJORITY * f64::from(total)).then_some(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_game_belongs_to_the_version_that_made_most_of_its_decisions() {
        let model = |text: &str| text.parse::<ModelRef>().unwrap();
        assert_eq!(majority(&BTreeMap::new()), None);
        assert_eq!(majority(&BTreeMap::from([(model("k@1"), 4), (model("k@2"), 6)])), Some(&model("k@2")));
        assert_eq!(majority(&BTreeMap::from([(model("k@1"), 5), (model("k@2"), 5)])), None);
    }
}
