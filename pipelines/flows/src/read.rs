//! One task for each partition reads ahead, a bounded distance.

use std::{sync::Arc, time::Duration};

use flywheel_log::{EventLog, LogErrorKind, Offset, Position, ReadLimit, StoredRecord, TopicPartition};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    retry::Backoff,
    status::{FlowStatus, Need},
};

/// Records of one partition, in order, never empty.
pub(crate) struct Chunk {
    pub partition: u32,
    pub records: Vec<StoredRecord>,
    /// Records before these had been trimmed from the log before they were read.
    pub lost: bool,
}

/// Reads every partition after its position. Dropping it ends the tasks.
pub(crate) struct Readers {
    pub chunks: mpsc::Receiver<Chunk>,
    _tasks: JoinSet<()>,
}

pub(crate) struct ReadFrom {
    pub partition: TopicPartition,
    /// `None` is the start.
    pub after: Option<i64>,
}

impl Readers {
    pub fn start(
        log: &Arc<dyn EventLog>,
        from: Vec<ReadFrom>,
        read_bytes: usize,
        backoff: &Backoff,
        status: &Arc<FlowStatus>,
        cancel: &CancellationToken,
    ) -> Self {
        let (send, chunks) = mpsc::channel(from.len().max(1) * 2);
        let mut tasks = JoinSet::new();
        for from in from {
            tasks.spawn(read(
                Arc::clone(log),
                from,
                read_bytes,
                backoff.clone(),
                Arc::clone(status),
                send.clone(),
                cancel.clone(),
            ));
        }
        Self { chunks, _tasks: tasks }
    }
}

async fn read(
    log: Arc<dyn EventLog>,
    from: ReadFrom,
    read_bytes: usize,
    mut backoff: Backoff,
    status: Arc<FlowStatus>,
    send: mpsc::Sender<Chunk>,
    cancel: CancellationToken,
) {
    let mut position = position(from.after);
    let mut lost = false;
    if !reached(&*log, &from.partition, position, &mut backoff, &status, &cancel).await {
        return;
    }
    let limit = ReadLimit { max_records: 10_000, max_bytes: read_bytes, max_wait: Duration::from_secs(1) };
    loop {
        let read = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            read = log.read(&from.partition, position, limit) => read,
        };
        match read {
            Ok(records) => {
                backoff.reset();
                status.needs(Need::Log, None);
                let Some(last) = records.last() else { continue };
                position = Position::After(last.offset);
                let chunk = Chunk { partition: from.partition.partition, records, lost };
                lost = false;
                if send.send(chunk).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == LogErrorKind::Trimmed => {
                // What was trimmed before it was read is gone: say so, loudly, and go on with what there is.
                match log.bounds(&from.partition).await.map(|bounds| bounds.trimmed) {
                    Ok(Some(trimmed)) if Position::After(trimmed) > position => {
                        tracing::error!(partition = %from.partition, %error, "records were trimmed before they were read");
                        (position, lost) = (Position::After(trimmed), true);
                    }
                    _ if !backoff.pause(&cancel).await => return,
                    _ => {}
                }
            }
            Err(error) => {
                tracing::warn!(partition = %from.partition, %error, "the log cannot be read; trying again");
                status.needs(Need::Log, Some(error.to_string()));
                if !backoff.pause(&cancel).await {
                    return;
                }
            }
        }
    }
}

/// Waits while the log ends before `position`, which it has not since somebody read that far: it lost what the tables
/// have, or it is another log. What it takes until it gets there would be taken for landed, so that is said, loudly.
/// `false` if told to stop meanwhile.
async fn reached(
    log: &dyn EventLog,
    of: &TopicPartition,
    position: Position,
    backoff: &mut Backoff,
    status: &FlowStatus,
    cancel: &CancellationToken,
) -> bool {
    let mut told = false;
    loop {
        // What cannot be asked is told by the read.
        let Ok(bounds) = log.bounds(of).await else { return true };
        let end = bounds.last.max(bounds.trimmed).map_or(Position::Start, Position::After);
        if position <= end {
            return true;
        }
        let why = format!(
            "`{of}` of the log ends before what the tables have of it: it lost records, or is not the log that they were \
             written from; see \"which log the tables are of\" in docs/delivery.md"
        );
        if !std::mem::replace(&mut told, true) {
            tracing::error!(partition = %of, ?position, ?end, "the tables are ahead of the log");
        }
        status.needs(Need::Log, Some(why));
        if !backoff.pause(cancel).await {
            return false;
        }
    }
}

pub(crate) fn position(after: Option<i64>) -> Position {
    match after.and_then(|offset| u64::try_from(offset).ok()) {
        Some(offset) => Position::After(Offset::from_raw(offset)),
        None => Position::Start,
    }
}
