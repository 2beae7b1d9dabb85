//! A member of a group in the process that holds the log.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use flywheel_log::{GroupMember, LogError, LogErrorKind, Offset, ReadLimit, StoredRecord, Topic, TopicPartition};
use tokio::{sync::Mutex, time::Instant};

use super::RemoteLog;
use crate::wire::{Answer, Ask};

/// Over which connection a member joined, and what the other side calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seat {
    connection: u64,
    member: u64,
}

/// Joins again when the connection was made anew; then it is given what the group has not committed.
#[derive(Debug)]
struct RemoteMember {
    place: Arc<Place>,
    /// A poll's answer has not come: what it gave, if anything, is to be given again.
    unanswered: AtomicBool,
}

#[derive(Debug)]
struct Place {
    log: Arc<RemoteLog>,
    topic: Topic,
    group: String,
    name: String,
    /// `None` while no seat is held for certain.
    seat: Mutex<Option<Seat>>,
}

/// Runs to its end even if the caller gives up, lest the other side keeps a member that nobody knows of.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub(super) async fn join(
    log: Arc<RemoteLog>,
    topic: &Topic,
    group: &str,
    name: &str,
) -> Result<Box<dyn GroupMember>, LogError> {
    let (topic, group, name) = (topic.clone(), group.to_owned(), name.to_owned());
    let place = Arc::new(Place { log, topic, group, name, seat: Mutex::new(None) });
    let joined = to_the_end(async move {
        place.sit_down().await?;
        Ok(RemoteMember { place, unanswered: AtomicBool::new(false) })
    });
    Ok(Box::new(joined.await?))
}

impl Place {
    /// Leaves the seat held so far, if any, and takes another.
    async fn sit_down(&self) -> Result<Seat, LogError> {
        let mut seat = self.seat.lock().await;
        if let Some(old) = seat.take() {
            leave(&self.log, old).await;
        }
        let ask = Ask::Join { topic: self.topic.clone(), group: self.group.clone(), member: self.name.clone() };
        match self.log.ask_over(None, ask).await? {
            (connection, Answer::Member(member)) => Ok(*seat.insert(Seat { connection, member })),
            (_, other) => Err(self.log.odd(&other)),
        }
    }
}

impl RemoteMember {
    async fn ask(&self, ask: impl Fn(u64) -> Ask) -> Result<Answer, LogError> {
        let place = &self.place;
        let Some(seat) = *place.seat.lock().await else {
            let why = "its seat went with the connection";
            return Err(LogError::new(LogErrorKind::Fenced, "asking as a member of", &place.group, why));
        };
        Ok(place.log.ask_over(Some(seat.connection), ask(seat.member)).await?.1)
    }

    async fn rejoin(&self) -> Result<(), LogError> {
        let place = Arc::clone(&self.place);
        to_the_end(async move { place.sit_down().await }).await.map(drop)
    }

    /// Like [`RemoteMember::ask`], once more after joining again if the other side does not know this member.
    async fn ask_again(&self, ask: impl Fn(u64) -> Ask) -> Result<Answer, LogError> {
        match self.ask(&ask).await {
            Err(error) if error.kind() == LogErrorKind::Fenced => {
                self.rejoin().await?;
                self.ask(&ask).await
            }
            result => result,
        }
    }
}

/// If the connection is gone, the other side has dropped the member already.
async fn leave(log: &RemoteLog, seat: Seat) {
    let _left = log.ask_over(Some(seat.connection), Ask::Leave { member: seat.member }).await;
}

impl Drop for RemoteMember {
    fn drop(&mut self) {
        let place = Arc::clone(&self.place);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Some(seat) = place.seat.lock().await.take() {
                    leave(&place.log, seat).await;
                }
            });
        }
    }
}

#[async_trait]
impl GroupMember for RemoteMember {
    async fn assigned(&self) -> Result<Vec<TopicPartition>, LogError> {
        match self.ask_again(|member| Ask::Assigned { member }).await? {
            Answer::Lanes(lanes) => Ok(lanes),
            other => Err(self.place.log.odd(&other)),
        }
    }

    async fn poll(&mut self, limit: ReadLimit) -> Result<Vec<(TopicPartition, StoredRecord)>, LogError> {
        let until = Instant::now() + limit.max_wait;
        loop {
            if self.unanswered.swap(true, Ordering::Relaxed) {
                self.rejoin().await?;
            }
            let max_wait = until.saturating_duration_since(Instant::now());
            let limit = ReadLimit { max_wait, ..limit };
            let answer = self.ask_again(|member| Ask::Poll { member, limit: limit.into() }).await?;
            self.unanswered.store(false, Ordering::Relaxed);
            match answer {
                // The other side waits for a part of the time only.
                Answer::Polled(polled) if polled.is_empty() && Instant::now() < until => {}
                Answer::Polled(polled) => {
                    return Ok(polled.into_iter().map(|(lane, record)| (lane, record.into())).collect());
                }
                other => return Err(self.place.log.odd(&other)),
            }
        }
    }

    async fn commit(&mut self, of: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        self.ask(|member| Ask::Commit { member, of: of.clone(), offset }).await.map(drop)
    }
}
