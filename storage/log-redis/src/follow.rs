//! The follower: one connection that waits at the ends of all partitions that somebody waits on.
//!
//! It only tells that there is something: each reader then looks for itself. So a follower that was lost costs a moment
//! and no record.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Value, aio::MultiplexedConnection};
use tokio::sync::{Notify, watch};

use crate::connection::Connection;

/// A partition that somebody began to wait on is followed after at most this long.
const TURN: Duration = Duration::from_millis(100);
/// A follower that nobody waits on for this long ends.
const IDLE: Duration = Duration::from_secs(10);
/// After this long a reader looks for itself, whatever the follower says.
const AT_LEAST: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Place {
    /// Something after this id is waited for.
    after: String,
    waiting: Vec<watch::Sender<bool>>,
}

type Places = HashMap<String, Place>;

#[derive(Debug, Default)]
struct Shared {
    places: Mutex<Places>,
    added: Notify,
}

#[derive(Debug)]
pub(crate) struct Follower {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

impl Follower {
    pub fn new(connection: Arc<Connection>) -> Self {
        Self { connection, shared: Arc::default(), task: Mutex::default() }
    }

    /// Waits until one of `places` (a stream, and the id after which nothing was found) has something, and at most until
    /// `until`; may return early.
    pub async fn wait(&self, places: &[(String, String)], until: tokio::time::Instant) {
        let until = until.min(tokio::time::Instant::now() + AT_LEAST);
        let (told, mut tell) = watch::channel(false);
        {
            let mut followed = self.shared.places.lock();
            for (stream, after) in places {
                let place = followed
                    .entry(stream.clone())
                    .or_insert_with(|| Place { after: after.clone(), waiting: Vec::new() });
                place.waiting.push(told.clone());
                if crate::ids::before(after, &place.after) {
                    place.after.clone_from(after);
                }
            }
        }
        drop(told);
        self.shared.added.notify_one();
        self.run();
        // An error is a follower that forgot this place: look again.
        let _late_or_told = tokio::time::timeout_at(until, tell.wait_for(|told| *told)).await;
    }

    /// Starts the follower, unless it runs.
    fn run(&self) {
        let mut task = self.task.lock();
        if task.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            *task = Some(tokio::spawn(follow(Arc::downgrade(&self.shared), Arc::downgrade(&self.connection))));
        }
    }
}

async fn follow(shared: Weak<Shared>, connection: Weak<Connection>) {
    let mut own: Option<MultiplexedConnection> = None;
    while let (Some(shared), Some(connection)) = (shared.upgrade(), connection.upgrade()) {
        let asked = ask(&mut shared.places.lock());
        let Some((streams, command)) = asked else {
            if tokio::time::timeout(IDLE, shared.added.notified()).await.is_err() {
                return;
            }
            continue;
        };
        let answer = turn(&mut own, &connection, &command).await;
        // After an error all of them look, and see for themselves what is wrong.
        let found = answer.as_ref().unwrap_or(&streams);
        found.iter().for_each(|stream| tell(&mut shared.places.lock(), stream));
        if let Err(error) = answer {
            tracing::debug!(%error, "the follower connects anew");
            own = None;
            tokio::time::sleep(TURN).await;
        }
    }
}

/// Whoever waits on `stream` looks; who finds nothing there will come again.
fn tell(places: &mut Places, stream: &str) {
    for waiting in places.remove(stream).into_iter().flat_map(|place| place.waiting) {
        waiting.send_replace(true);
    }
}

/// The places that somebody still waits on.
fn ask(places: &mut Places) -> Option<(Vec<String>, redis::Cmd)> {
    places.retain(|_, place| {
        place.waiting.retain(|waiting| !waiting.is_closed());
        !place.waiting.is_empty()
    });
    if places.is_empty() {
        return None;
    }
    let (streams, after): (Vec<_>, Vec<_>) =
        places.iter().map(|(stream, place)| (stream.clone(), place.after.clone())).unzip();
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(1).arg("BLOCK").arg(TURN.as_millis() as u64).arg("STREAMS").arg(&streams).arg(after);
    Some((streams, command))
}

/// The streams that have something.
async fn turn(
    own: &mut Option<MultiplexedConnection>,
    connection: &Connection,
    command: &redis::Cmd,
) -> redis::RedisResult<Vec<String>> {
    if own.is_none() {
        *own = Some(connection.another(TURN + connection.config.timeout).await?);
    }
    let own = own.as_mut().expect("it was just made");
    let found: Option<Vec<(String, Value)>> = command.query_async(own).await?;
    Ok(found.unwrap_or_default().into_iter().map(|(stream, _)| stream).collect())
}
