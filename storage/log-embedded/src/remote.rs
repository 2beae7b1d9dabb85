//! The other process's side of the socket: the same contract, over one connection that is made again when it breaks.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition, check_batch,
};
use parking_lot::Mutex;
use tokio::{
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::oneshot,
    task::JoinHandle,
};

use crate::wire::{self, Answer, Ask, Frame, PROTOCOL};

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A log that another process of this machine holds.
///
/// When that process goes, calls fail as `Unavailable`, and the next one connects anew.
pub struct RemoteLog {
    socket: PathBuf,
    durability: Durability,
    next_id: AtomicU64,
    connection: tokio::sync::Mutex<Option<Connection>>,
    this: Weak<Self>,
}

struct Connection {
    writer: OwnedWriteHalf,
    waiting: Waiting,
    reader: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl fmt::Debug for RemoteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteLog").field("socket", &self.socket).finish_non_exhaustive()
    }
}

fn away(socket: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LogError {
    LogError::new(LogErrorKind::Unavailable, "asking the process that holds", socket.display(), why)
}

impl RemoteLog {
    /// # Errors
    /// `Unavailable` if nobody answers on the socket, `InvalidData` if it is another version of the protocol.
    pub async fn connect(socket: &Path) -> Result<Arc<Self>, LogError> {
        let mut log = Self {
            socket: socket.to_owned(),
            durability: Durability::Memory,
            next_id: AtomicU64::new(1),
            connection: tokio::sync::Mutex::new(None),
            this: Weak::new(),
        };
        match log.ask(Ask::Hello { protocol: PROTOCOL }).await? {
            Answer::Hello { durability, .. } => log.durability = durability,
            other => return Err(log.odd(&other)),
        }
        Ok(Arc::new_cyclic(|this| {
            log.this = this.clone();
            log
        }))
    }

    fn odd(&self, answer: &Answer) -> LogError {
        LogError::new(
            LogErrorKind::Internal,
            "asking",
            self.socket.display(),
            format!("an answer that does not fit: {answer:?}"),
        )
    }

    async fn ask(&self, body: Ask) -> Result<Answer, LogError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut slot = self.connection.lock().await;
            if slot.as_ref().is_none_or(|connection| connection.reader.is_finished()) {
                let stream = UnixStream::connect(&self.socket).await.map_err(|error| away(&self.socket, error))?;
                *slot = Some(Connection::over(stream));
            }
            let connection = slot.as_mut().expect("made just above");
            connection.waiting.lock().insert(id, sender);
            if let Err(error) = wire::write(&mut connection.writer, &Frame { id, body }).await {
                *slot = None;
                return Err(away(&self.socket, error));
            }
        }
        match answer.await {
            Ok(Answer::Failed { kind, message }) => {
                Err(LogError::new(kind.into(), "asking the log at", self.socket.display(), message))
            }
            Ok(answer) => Ok(answer),
            Err(_) => Err(away(&self.socket, "the connection broke before the answer came")),
        }
    }
}

impl Connection {
    fn over(stream: UnixStream) -> Self {
        let (mut reader, writer) = stream.into_split();
        let waiting: Waiting = Arc::default();
        let answered = Arc::clone(&waiting);
        let reader = tokio::spawn(async move {
            while let Ok(Some(Frame { id, body })) = wire::read::<Answer>(&mut reader).await {
                if let Some(sender) = answered.lock().remove(&id) {
                    let _caller_gone = sender.send(body);
                }
            }
            // Whoever still waits learns that no answer will come.
            answered.lock().clear();
        });
        Self { writer, waiting, reader }
    }
}

#[async_trait]
impl EventLog for RemoteLog {
    async fn create_topic(&self, topic: &Topic, partitions: u32) -> Result<(), LogError> {
        self.ask(Ask::CreateTopic { topic: topic.clone(), partitions }).await.map(drop)
    }

    async fn topics(&self) -> Result<Vec<(Topic, u32)>, LogError> {
        match self.ask(Ask::Topics).await? {
            Answer::Topics(topics) => Ok(topics),
            other => Err(self.odd(&other)),
        }
    }

    async fn append(&self, to: &TopicPartition, records: Vec<Record>) -> Result<Offset, LogError> {
        check_batch(to, &records)?;
        let records = records.into_iter().map(|record| (record.key, record.value)).collect();
        match self.ask(Ask::Append { to: to.clone(), records }).await? {
            Answer::Offset(offset) => Ok(offset),
            other => Err(self.odd(&other)),
        }
    }

    async fn read(
        &self,
        from: &TopicPartition,
        position: Position,
        limit: ReadLimit,
    ) -> Result<Vec<StoredRecord>, LogError> {
        match self.ask(Ask::Read { from: from.clone(), position, limit: limit.into() }).await? {
            Answer::Records(records) => Ok(records.into_iter().map(Into::into).collect()),
            other => Err(self.odd(&other)),
        }
    }

    async fn bounds(&self, of: &TopicPartition) -> Result<Bounds, LogError> {
        match self.ask(Ask::Bounds { of: of.clone() }).await? {
            Answer::Bounds { first, last, trimmed } => Ok(Bounds { first, last, trimmed }),
            other => Err(self.odd(&other)),
        }
    }

    async fn trim(&self, of: &TopicPartition, up_to: Offset) -> Result<(), LogError> {
        self.ask(Ask::Trim { of: of.clone(), up_to }).await.map(drop)
    }

    async fn join(&self, topic: &Topic, group: &str, member: &str) -> Result<Box<dyn GroupMember>, LogError> {
        let ask = Ask::Join { topic: topic.clone(), group: group.to_owned(), member: member.to_owned() };
        match self.ask(ask).await? {
            Answer::Member(id) => {
                let log = self.this.upgrade().expect("a method runs on a log that is alive");
                Ok(Box::new(RemoteMember { log, id }))
            }
            other => Err(self.odd(&other)),
        }
    }

    fn durability(&self) -> Durability {
        self.durability
    }
}

#[derive(Debug)]
struct RemoteMember {
    log: Arc<RemoteLog>,
    id: u64,
}

impl Drop for RemoteMember {
    fn drop(&mut self) {
        let (log, member) = (Arc::clone(&self.log), self.id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // If the connection is gone, the owner has dropped the member already.
                let _left = log.ask(Ask::Leave { member }).await;
            });
        }
    }
}

#[async_trait]
impl GroupMember for RemoteMember {
    async fn assigned(&self) -> Result<Vec<TopicPartition>, LogError> {
        match self.log.ask(Ask::Assigned { member: self.id }).await? {
            Answer::Lanes(lanes) => Ok(lanes),
            other => Err(self.log.odd(&other)),
        }
    }

    async fn poll(&mut self, limit: ReadLimit) -> Result<Vec<(TopicPartition, StoredRecord)>, LogError> {
        match self.log.ask(Ask::Poll { member: self.id, limit: limit.into() }).await? {
            Answer::Polled(polled) => Ok(polled.into_iter().map(|(lane, record)| (lane, record.into())).collect()),
            other => Err(self.log.odd(&other)),
        }
    }

    async fn commit(&mut self, of: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        self.log.ask(Ask::Commit { member: self.id, of: of.clone(), offset }).await.map(drop)
    }
}
