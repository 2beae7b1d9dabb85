//! The owner's side of the socket.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flywheel_log::{EventLog, GroupMember, LogError, LogErrorKind, Position, TopicPartition};
use parking_lot::Mutex;
use tokio::{
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    EmbeddedLog,
    path::Reachable,
    wire::{self, Answer, Ask, Frame, Limit, PROTOCOL},
};

/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 256;
/// Requests of one connection under way at once; more wait in the socket.
const MAX_REQUESTS: usize = 64;
/// Reads of one connection that wait for a record at once, beside the requests under way; of more, each waits as one of
/// those, for [`CROWDED_WAIT`] at most.
const MAX_WAITING: usize = 4096;
const CROWDED_WAIT: Duration = Duration::from_millis(50);
/// A member's poll waits this long at most, so that one that its client gave up is over soon. Clients ask again.
pub(crate) const POLL_WAIT: Duration = Duration::from_millis(500);

impl EmbeddedLog {
    /// Serves the log on the socket until told to stop. Only this user may connect.
    ///
    /// # Errors
    /// If the socket cannot be bound.
    pub fn serve(
        self: &Arc<Self>,
        socket: &Path,
        cancel: CancellationToken,
    ) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        // The lock on the log is held, so whoever bound this path before is gone.
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(Reachable::new(socket)?.path())?;
        std::fs::set_permissions(socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(accept(Arc::clone(self), listener, socket.to_owned(), cancel))
    }
}

async fn accept(log: Arc<EmbeddedLog>, listener: UnixListener, path: PathBuf, cancel: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let (log, cancel) = (Arc::clone(&log), cancel.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection(log, stream, cancel).await {
                            debug!(%error, "a client of the log was cut off");
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "accepting on the log's socket");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
        }
    }
    connections.shutdown().await;
    let _already_gone = std::fs::remove_file(path);
}

type Members = Arc<Mutex<HashMap<u64, Arc<tokio::sync::Mutex<Box<dyn GroupMember>>>>>>;

async fn connection(log: Arc<EmbeddedLog>, stream: UnixStream, cancel: CancellationToken) -> io::Result<()> {
    static NEXT_MEMBER: AtomicU64 = AtomicU64::new(1);
    let (mut reader, writer) = stream.into_split();
    let (answers, queue) = mpsc::channel(MAX_REQUESTS);
    let mut tasks = JoinSet::new();
    tasks.spawn(write_answers(writer, queue));
    let members = Members::default();
    let (slots, waiting) = (Arc::new(Semaphore::new(MAX_REQUESTS)), Arc::new(Semaphore::new(MAX_WAITING)));
    loop {
        while tasks.try_join_next().is_some() {}
        let slot = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot.expect("the semaphore is never closed"),
        };
        let frame = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            frame = wire::read::<Ask>(&mut reader) => frame?,
        };
        let Some(Frame { id, body }) = frame else { break };
        let (log, members, answers) = (Arc::clone(&log), Arc::clone(&members), answers.clone());
        let (slots, waiting) = (Arc::clone(&slots), Arc::clone(&waiting));
        let work = async move {
            let mut slot = Some(slot);
            let body = match body {
                Ask::Read { from, position, limit } if limit.waits() => {
                    read_waiting(&*log, &from, position, limit, &mut slot, &slots, &waiting).await
                }
                body => handle(&log, &members, body, &NEXT_MEMBER).await,
            };
            let _client_gone = answers.send(Frame { id, body: body.unwrap_or_else(Answer::from) }).await;
            drop(slot);
        };
        tasks.spawn(work);
    }
    // Dropping the tasks drops the members: a client that is gone has left its groups.
    tasks.shutdown().await;
    Ok(())
}

/// A read that may wait gives its place among the requests under way to others meanwhile: readers at the end of the log
/// must not hold up the appends that they wait for.
async fn read_waiting(
    log: &dyn EventLog,
    from: &TopicPartition,
    position: Position,
    limit: Limit,
    slot: &mut Option<OwnedSemaphorePermit>,
    slots: &Arc<Semaphore>,
    waiting: &Arc<Semaphore>,
) -> Result<Answer, LogError> {
    let until = tokio::time::Instant::now() + limit.max_wait();
    loop {
        let found = log.read(from, position, limit.waiting(Duration::ZERO).into()).await?;
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if !found.is_empty() || left.is_zero() {
            return Ok(Answer::Records(found.into_iter().map(Into::into).collect()));
        }
        if let Ok(_place) = Arc::clone(waiting).try_acquire_owned() {
            *slot = None;
            log.read(from, position, limit.one().waiting(left).into()).await?;
            *slot = Some(Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed"));
        } else {
            log.read(from, position, limit.one().waiting(left.min(CROWDED_WAIT)).into()).await?;
        }
    }
}

async fn write_answers(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Frame<Answer>>) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = wire::write(&mut writer, &frame).await {
            debug!(%error, "answering a client of the log");
            return;
        }
    }
}

async fn handle(log: &EmbeddedLog, members: &Members, ask: Ask, next: &AtomicU64) -> Result<Answer, LogError> {
    let member = |id: u64| {
        let found = members.lock().get(&id).cloned();
        found.ok_or_else(|| {
            LogError::new(LogErrorKind::Fenced, "asking for", format!("member {id}"), "it has left the group")
        })
    };
    Ok(match ask {
        Ask::Hello { protocol } if protocol == PROTOCOL => {
            Answer::Hello { protocol, durability: log.durability(), log: log.identity().to_owned() }
        }
        Ask::Hello { protocol } => {
            let why = format!(
                "the client speaks protocol {protocol}, this process {PROTOCOL}; use the same flywheel for both"
            );
            return Err(LogError::new(LogErrorKind::InvalidData, "connecting to", "the log", why));
        }
        Ask::CreateTopic { topic, partitions } => {
            log.create_topic(&topic, partitions).await?;
            Answer::Done
        }
        Ask::Topics => Answer::Topics(log.topics().await?),
        Ask::Append { to, records } => Answer::Offset(log.append(&to, wire::to_records(records)).await?),
        Ask::Read { from, position, limit } => {
            Answer::Records(log.read(&from, position, limit.into()).await?.into_iter().map(Into::into).collect())
        }
        Ask::Bounds { of } => log.bounds(&of).await?.into(),
        Ask::Trim { of, up_to } => {
            log.trim(&of, up_to).await?;
            Answer::Done
        }
        Ask::Join { topic, group, member } => {
            let joined = log.join(&topic, &group, &member).await?;
            let id = next.fetch_add(1, Ordering::Relaxed);
            members.lock().insert(id, Arc::new(tokio::sync::Mutex::new(joined)));
            Answer::Member(id)
        }
        Ask::Assigned { member: id } => Answer::Lanes(member(id)?.lock().await.assigned().await?),
        Ask::Poll { member: id, limit } => {
            let polled = member(id)?.lock().await.poll(limit.waiting(POLL_WAIT).into()).await?;
            Answer::Polled(polled.into_iter().map(|(lane, record)| (lane, record.into())).collect())
        }
        Ask::Commit { member: id, of, offset } => {
            member(id)?.lock().await.commit(&of, offset).await?;
            Answer::Done
        }
        Ask::Leave { member: id } => {
            members.lock().remove(&id);
            Answer::Done
        }
    })
}
