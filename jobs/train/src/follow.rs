//! Reads the partitions of a topic into one bounded channel.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flywheel_log::{EventLog, LogErrorKind, Position, ReadLimit, StoredRecord, Topic, TopicPartition};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Batches waiting for the learner, at most; readers wait then, the log keeps the rest.
const QUEUED: usize = 16;
/// A read waits so long for a record before it asks again whether to stop.
const READ_WAIT: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(500);

/// Records of one partition, in order.
#[derive(Debug)]
pub struct Batch {
    pub partition: u32,
    pub records: Vec<StoredRecord>,
}

/// Follows every partition from its position on until cancelled. Errors that may pass are waited out.
pub fn follow(
    tasks: &mut JoinSet<()>,
    log: &Arc<dyn EventLog>,
    topic: &Topic,
    from: &BTreeMap<u32, Position>,
    cancel: &CancellationToken,
) -> mpsc::Receiver<Batch> {
    let (sender, receiver) = mpsc::channel(QUEUED);
    for (&partition, &position) in from {
        let reader =
            Reader { log: Arc::clone(log), from: topic.partition(partition), position, sender: sender.clone() };
        let cancel = cancel.clone();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = reader.run() => {}
            }
        });
    }
    receiver
}

struct Reader {
    log: Arc<dyn EventLog>,
    from: TopicPartition,
    position: Position,
    sender: mpsc::Sender<Batch>,
}

impl Reader {
    async fn run(mut self) {
        let limit = ReadLimit { max_records: 2_000, max_bytes: 4 << 20, max_wait: READ_WAIT };
        let mut failing = false;
        loop {
            match self.log.read(&self.from, self.position, limit).await {
                Ok(records) => {
                    failing = false;
                    let Some(last) = records.last() else { continue };
                    self.position = Position::After(last.offset);
                    if self.sender.send(Batch { partition: self.from.partition, records }).await.is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == LogErrorKind::Trimmed => {
                    // What was trimmed cannot be learned from any more; go on with what is kept.
                    let bounds = self.log.bounds(&self.from).await;
                    let trimmed = bounds.ok().and_then(|bounds| bounds.trimmed);
                    warn!(partition = %self.from, "records were trimmed before they were read");
                    self.position = trimmed.map_or(Position::Start, Position::After);
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    // One line for each outage, not for each attempt.
                    if !failing {
                        warn!(partition = %self.from, %error, "cannot read the log, trying again");
                    }
                    failing = true;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}
