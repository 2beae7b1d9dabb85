//! Events from a game to the server, without the game ever waiting.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use flywheel_events::{GameId, System};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
};
use tracing::warn;

use crate::{
    ClientError, ClientErrorKind, EmitConfig, Game, Stats,
    http::{Failure, Http},
    queue::{Ack, Batch, Queue},
    spool::Spool,
};

/// The way of events to `POST /v1/events`. Shared by reference between threads.
///
/// Dropping it closes it with the patience of its settings.
#[derive(Debug)]
pub struct Emitter {
    queue: Arc<Queue>,
    stop: Arc<Notify>,
    close_patience: Duration,
    thread: Option<JoinHandle<()>>,
}

impl Emitter {
    /// Opens the spool and starts the sending thread; a server that is away is no error.
    ///
    /// # Errors
    /// `Setting` or `Spool`, naming what to mend.
    pub fn start(config: EmitConfig) -> Result<Self, ClientError> {
        config.check()?;
        let http = Http::new(&config.url, config.timeout)?.with_key(config.key.as_deref())?;
        let spool = config.spool.as_deref().map(|path| Spool::open(path, config.spool_bytes)).transpose()?;
        let (queue, stop) = (Arc::new(Queue::new(config.clone(), spool)), Arc::new(Notify::new()));
        let close_patience = config.close_patience;
        let sender = Sender { queue: queue.clone(), stop: stop.clone(), http, config };
        let thread = start_thread("flywheel-emitter", move |runtime| sender.run(&runtime))?;
        Ok(Self { queue, stop, close_patience, thread: Some(thread) })
    }

    /// A new game: its first event has `seq` 0.
    pub fn game(&self, system: System, game_id: GameId) -> Game {
        self.resume(system, game_id, 0)
    }

    /// A game that goes on, in a server that was started again, with `next_seq`.
    pub fn resume(&self, system: System, game_id: GameId, next_seq: u64) -> Game {
        Game::new(self.queue.clone(), system, game_id, next_seq)
    }

    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }

    /// Waits until everything is acknowledged; false if that took longer than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        self.queue.flush(patience)
    }

    /// Sends what it can within `patience`; the rest stays in the spool, and goes first at the next start.
    pub fn close(mut self, patience: Duration) -> Stats {
        self.end(patience)
    }

    fn end(&mut self, patience: Duration) -> Stats {
        self.queue.flush(patience);
        self.queue.close();
        self.stop.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the emitter's thread panicked; what it had not sent goes to the spool");
        }
        self.queue.finish()
    }
}

impl Drop for Emitter {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end(self.close_patience);
        }
    }
}

/// A named thread with a runtime of its own, so that a game server needs none, or may have any.
pub(crate) fn start_thread(
    name: &'static str,
    run: impl FnOnce(Runtime) + Send + 'static,
) -> Result<JoinHandle<()>, ClientError> {
    let failed = |error: std::io::Error| {
        ClientError::new(ClientErrorKind::Setting, "starting the thread", name, &error).caused_by(error)
    };
    let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(failed)?;
    thread::Builder::new().name(name.to_owned()).spawn(move || run(runtime)).map_err(failed)
}

struct Sender {
    queue: Arc<Queue>,
    stop: Arc<Notify>,
    http: Http,
    config: EmitConfig,
}

impl Sender {
    fn run(self, runtime: &Runtime) {
        let all = self.config.batch_events;
        let mut at_most = all;
        loop {
            let batch = match self.queue.next(at_most) {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(error) => {
                    self.queue.pause(format!("the spool cannot be read: {error}"), None);
                    continue;
                }
            };
            let sent = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = self.stop.notified() => Err(Failure::away("the emitter was closed")),
                    sent = self.http.post_lines::<Ack>(&batch.lines, self.config.compression) => sent,
                }
            });
            let noted = match sent {
                Ok(ack) => {
                    at_most = all;
                    self.queue.acknowledged(&batch, &ack)
                }
                Err(Failure::Away { why, retry_after }) => {
                    self.queue.pause(why, retry_after);
                    Ok(())
                }
                Err(Failure::Refused(problem)) => match at_fault(&batch, problem.index) {
                    0 => {
                        at_most = all;
                        let event = batch.lines.strip_suffix(b"\n").unwrap_or(&batch.lines);
                        warn!(%problem, "the server refuses an event for good; it is left out");
                        if let Some(told) = &self.config.on_refused
                            && catch_unwind(AssertUnwindSafe(|| told(event, &problem))).is_err()
                        {
                            warn!("`on_refused` panicked; sending goes on");
                        }
                        self.queue.refused(&batch)
                    }
                    before => {
                        at_most = before;
                        Ok(())
                    }
                },
            };
            if let Err(error) = noted {
                // What was acknowledged is sent again by the next start, and recognised.
                warn!(%error, "the spool could not be told what was acknowledged");
            }
        }
    }
}

/// How many events to try next. The server took nothing and says which one is to blame: those before it go first, so
/// that what is left begins with it, and then it goes alone. Without a name smaller batches find it, or are short
/// enough. 0: the batch is the one to blame.
fn at_fault(batch: &Batch, index: Option<usize>) -> usize {
    match index {
        _ if batch.n == 1 => 0,
        Some(0) => 1,
        Some(index) if index < batch.n => index,
        _ => batch.n / 2,
    }
}
