//! The other process's side of the socket: the same contract, over one connection that is made again when it breaks.

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flywheel_log::{
    Bounds, Durability, EventLog, GroupMember, LogError, LogErrorKind, Offset, Position, ReadLimit, Record,
    StoredRecord, Topic, TopicPartition, check_batch,
};
use parking_lot::Mutex;
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    path::Reachable,
    wire::{self, Answer, Ask, Frame, PROTOCOL},
};

mod member;

/// Frames that wait for the socket; more wait in their callers.
const QUEUE: usize = 16;
/// Longest wait for the other process to say hello.
const HELLO: Duration = Duration::from_secs(5);

/// A log that another process of this machine holds.
///
/// When that process goes, calls fail as `Unavailable`, and the next one connects anew. A call that is given up leaves
/// the connection whole: its frame is sent in full or not at all.
pub struct RemoteLog {
    socket: PathBuf,
    durability: Mutex<Durability>,
    /// The log's name, once somebody has answered.
    id: Mutex<String>,
    next_id: AtomicU64,
    next_connection: AtomicU64,
    connection: tokio::sync::Mutex<Option<Connection>>,
    this: Weak<Self>,
}

/// Who waits for which answer; `None` once no answer will come any more.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

struct Connection {
    number: u64,
    frames: mpsc::Sender<Vec<u8>>,
    waiting: Waiting,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
        self.waiting.lock().take();
    }
}

/// A caller's place among those that wait; left when the call is given up.
struct Place {
    waiting: Waiting,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(waiting) = &mut *self.waiting.lock() {
            waiting.remove(&self.id);
        }
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
        let log = Arc::new_cyclic(|this| Self {
            socket: socket.to_owned(),
            durability: Mutex::new(Durability::Memory),
            id: Mutex::default(),
            next_id: AtomicU64::new(1),
            next_connection: AtomicU64::new(1),
            connection: tokio::sync::Mutex::new(None),
            this: this.clone(),
        });
        let connection = log.connected().await?;
        *log.connection.lock().await = Some(connection);
        Ok(log)
    }

    /// The name of the log that the other process holds, see [`crate::EmbeddedLog::identity`].
    pub fn identity(&self) -> String {
        self.id.lock().clone()
    }

    fn odd(&self, answer: &Answer) -> LogError {
        LogError::new(
            LogErrorKind::Internal,
            "asking",
            self.socket.display(),
            format!("an answer that does not fit: {answer:?}"),
        )
    }

    fn failed(&self, answer: Answer) -> Result<Answer, LogError> {
        match answer {
            Answer::Failed { kind, message } => {
                Err(LogError::new(kind.into(), "asking the log at", self.socket.display(), message))
            }
            answer => Ok(answer),
        }
    }

    /// A connection to whoever holds the log now, once both sides have said which protocol they speak.
    async fn connected(&self) -> Result<Connection, LogError> {
        let hello = async {
            let mut stream = UnixStream::connect(Reachable::new(&self.socket)?.path()).await?;
            wire::write(&mut stream, &Frame { id: 0, body: Ask::Hello { protocol: PROTOCOL } }).await?;
            let answer = wire::read::<Answer>(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            io::Result::Ok((stream, answer.body))
        };
        let (stream, answer) = tokio::time::timeout(HELLO, hello)
            .await
            .map_err(|_| away(&self.socket, format!("it did not say hello within {HELLO:?}")))?
            .map_err(|error| away(&self.socket, error))?;
        match self.failed(answer)? {
            Answer::Hello { durability, log, .. } => {
                let mut known = self.id.lock();
                if !known.is_empty() && *known != log {
                    let why = format!("it holds another log than before ({log}, not {known}); start this process anew");
                    return Err(LogError::new(LogErrorKind::Conflict, "connecting to", self.socket.display(), why));
                }
                *known = log;
                *self.durability.lock() = durability;
            }
            other => return Err(self.odd(&other)),
        }
        Ok(Connection::over(stream, self.next_connection.fetch_add(1, Ordering::Relaxed)))
    }

    async fn ask(&self, body: Ask) -> Result<Answer, LogError> {
        self.ask_over(None, body).await.map(|(_, answer)| answer)
    }

    /// Asks over the present connection, or over a new one if there is none; over connection `only` or not at all if
    /// the other side would not know what is meant otherwise. Returns the connection's number too.
    async fn ask_over(&self, only: Option<u64>, body: Ask) -> Result<(u64, Answer), LogError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = wire::encode(&Frame { id, body }).map_err(|error| {
            LogError::new(LogErrorKind::InvalidData, "asking the log at", self.socket.display(), error)
        })?;
        let (number, frames, _place, answer) = {
            let mut slot = self.connection.lock().await;
            loop {
                if let Some(connection) = &*slot
                    && let Some((place, answer)) = connection.enter(id)
                {
                    break (connection.number, connection.frames.clone(), place, answer);
                }
                *slot = None;
                *slot = Some(self.connected().await?);
            }
        };
        if only.is_some_and(|only| only != number) {
            let why = "the connection was made anew since it joined";
            return Err(LogError::new(LogErrorKind::Fenced, "asking as a member at", self.socket.display(), why));
        }
        let broke = || away(&self.socket, "the connection broke before the answer came");
        frames.send(frame).await.map_err(|_| broke())?;
        let answer = answer.await.map_err(|_| broke())?;
        Ok((number, self.failed(answer)?))
    }
}

impl Connection {
    fn over(stream: UnixStream, number: u64) -> Self {
        let (mut reader, mut writer) = stream.into_split();
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let answered = Arc::clone(&waiting);
        let (frames, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
        let read = async move {
            while let Ok(Some(Frame { id, body })) = wire::read::<Answer>(&mut reader).await {
                let sender = answered.lock().as_mut().and_then(|waiting| waiting.remove(&id));
                if let Some(sender) = sender {
                    let _caller_gone = sender.send(body);
                }
            }
            // Whoever still waits learns that no answer will come, and whoever comes now connects anew.
            answered.lock().take();
        };
        let write = async move {
            while let Some(frame) = queue.recv().await {
                if writer.write_all(&frame).await.is_err() {
                    return;
                }
            }
        };
        let ended = Arc::clone(&waiting);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = read => {}
                () = write => {}
            }
            ended.lock().take();
        });
        Self { number, frames, waiting, task }
    }

    /// A place for the answer, unless no answer can come any more.
    fn enter(&self, id: u64) -> Option<(Place, oneshot::Receiver<Answer>)> {
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().as_mut()?.insert(id, sender);
        Some((Place { waiting: Arc::clone(&self.waiting), id }, answer))
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
        let log = self.this.upgrade().expect("a method runs on a log that is alive");
        member::join(log, topic, group, member).await
    }

    fn durability(&self) -> Durability {
        *self.durability.lock()
    }
}
