//! Events on their way: memory, then the spool, and what became of them.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use flywheel_events::GameId;
use serde::Deserialize;

use crate::{EmitConfig, spool::Spool};

/// What an acknowledged event survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A crash of this process, nothing more.
    Memory,
    /// Loss of power on the log's machine.
    Fsynced,
    /// Loss of one of the log's machines.
    Replicated,
    /// A class that this version does not know.
    #[serde(other)]
    Other,
}

/// The answer to a batch.
#[derive(Debug, Deserialize)]
pub(crate) struct Ack {
    pub accepted: u64,
    pub repeated: u64,
    pub durability: Durability,
    #[serde(default)]
    pub games: BTreeMap<String, GameAck>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct GameAck {
    pub last_seq: u64,
}

/// What went through an emitter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub emitted: u64,
    /// Taken by the log, those from an earlier process' spool included.
    pub acknowledged: u64,
    /// Of them, those that the log had already.
    pub repeated: u64,
    pub spooled: u64,
    /// Named as malformed by the server and left out.
    pub refused: u64,
    /// Neither server, memory nor spool could take them.
    pub lost: u64,
    pub retries: u64,
    /// Events that wait in memory, and bytes that wait in the spool.
    pub waiting: u64,
    pub spool_bytes: u64,
    /// What the last acknowledgement survives.
    pub durability: Option<Durability>,
    /// Why the server is away, if it is.
    pub away: Option<String>,
    /// Last acknowledged `seq` of each game that is open here.
    pub last_seq: BTreeMap<String, u64>,
}

/// The oldest events, which stay where they are until they are acknowledged.
#[derive(Debug)]
pub(crate) struct Batch {
    /// One a line, each with its newline.
    pub lines: Vec<u8>,
    pub n: usize,
    from_spool: bool,
}

#[derive(Debug, Default)]
struct State {
    memory: VecDeque<Vec<u8>>,
    bytes: usize,
    spool: Option<Spool>,
    stats: Stats,
    /// How often each open game is open, and its last acknowledged `seq`.
    games: BTreeMap<String, (usize, Option<u64>)>,
    failures: u32,
    flushing: usize,
    closed: bool,
}

impl State {
    fn spooled(&self) -> u64 {
        self.spool.as_ref().map_or(0, Spool::pending)
    }

    fn drained(&self) -> bool {
        self.memory.is_empty() && self.spooled() == 0
    }

    fn clear_memory(&mut self) -> u64 {
        let n = self.memory.len() as u64;
        self.memory.clear();
        self.bytes = 0;
        n
    }

    /// Memory goes to the spool, in front where it is the older; all of it or nothing.
    fn put_away(&mut self) -> bool {
        let Some(spool) = &mut self.spool else { return false };
        let lines = self.memory.iter().map(Vec::as_slice);
        let taken = if spool.pending() == 0 { spool.append(lines) } else { spool.prepend(lines) };
        if taken {
            self.stats.spooled += self.clear_memory();
        }
        taken
    }
}

/// Shared by games, the sending thread, and whoever waits for it.
///
/// Memory is older than the spool, or empty: it is filled before the spool is, and emptied into it as a whole.
#[derive(Debug)]
pub(crate) struct Queue {
    config: EmitConfig,
    state: Mutex<State>,
    /// For the sending thread: there is something to do.
    work: Condvar,
    /// For who waits until all is acknowledged.
    done: Condvar,
}

impl Queue {
    pub fn new(config: EmitConfig, spool: Option<Spool>) -> Self {
        let state = Mutex::new(State { spool, ..State::default() });
        Self { config, state, work: Condvar::new(), done: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one event; false if the emitter is closed.
    pub fn push(&self, line: Vec<u8>) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.stats.emitted += 1;
        if state.spooled() > 0 || state.bytes + line.len() > self.config.memory_bytes {
            // Behind the spool queue all later events, so that order is kept.
            let taken = state.spool.as_mut().is_some_and(|spool| spool.append([line.as_slice()]));
            state.stats.spooled += u64::from(taken);
            state.stats.lost += u64::from(!taken);
        } else {
            state.bytes += line.len();
            state.memory.push_back(line);
        }
        self.work.notify_one();
        true
    }

    pub fn opened(&self, game: &GameId) {
        self.lock().games.entry(game.to_string()).or_default().0 += 1;
    }

    pub fn left(&self, game: &GameId) {
        let mut state = self.lock();
        if let Some((open, _)) = state.games.get_mut(game.as_str()) {
            *open -= 1;
            if *open == 0 {
                state.games.remove(game.as_str());
            }
        }
    }

    pub fn last_seq(&self, game: &GameId) -> Option<u64> {
        self.lock().games.get(game.as_str()).and_then(|(_, last)| *last)
    }

    pub fn stats(&self) -> Stats {
        let state = self.lock();
        Stats {
            waiting: state.memory.len() as u64,
            spool_bytes: state.spooled(),
            last_seq: state.games.iter().filter_map(|(game, (_, last))| Some((game.clone(), (*last)?))).collect(),
            ..state.stats.clone()
        }
    }

    /// Waits until everything is acknowledged; false if that took too long.
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        state.flushing += 1;
        self.work.notify_one();
        while !state.drained() && !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.flushing -= 1;
        state.drained()
    }

    /// No more events are taken, and the sending thread ends.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
        self.done.notify_all();
    }

    /// After the sending thread has ended: what is left goes to the spool, which is given up.
    pub fn finish(&self) -> Stats {
        let mut state = self.lock();
        if !state.memory.is_empty() && !state.put_away() {
            state.stats.lost += state.clear_memory();
        }
        drop(state);
        let stats = self.stats();
        self.lock().spool = None;
        stats
    }

    /// Waits for events, lets the first of them wait for others, and returns at most `at_most` of them. `None` once the
    /// emitter is closed.
    pub fn next(&self, at_most: usize) -> io::Result<Option<Batch>> {
        let mut state = self.lock();
        while state.drained() && !state.closed {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + self.config.linger;
        while !(state.closed
            || state.flushing > 0
            || state.spooled() > 0
            || state.bytes >= self.config.batch_bytes
            || state.memory.len() >= at_most)
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.closed {
            return Ok(None);
        }
        let (mut lines, mut n) = (Vec::new(), 0);
        for line in &state.memory {
            if n >= at_most || (n > 0 && lines.len() + line.len() > self.config.batch_bytes) {
                break;
            }
            lines.extend_from_slice(line);
            lines.push(b'\n');
            n += 1;
        }
        let from_spool = n == 0;
        if let (true, Some(spool)) = (from_spool, &mut state.spool) {
            (lines, n) = spool.peek(at_most, self.config.batch_bytes)?;
            if n == 0 {
                return Err(io::Error::other("the spool is shorter than it was"));
            }
        }
        Ok(Some(Batch { lines, n, from_spool }))
    }

    pub fn acknowledged(&self, batch: &Batch, ack: &Ack) -> io::Result<()> {
        let mut state = self.lock();
        state.failures = 0;
        state.stats.away = None;
        state.stats.acknowledged += ack.accepted + ack.repeated;
        state.stats.repeated += ack.repeated;
        state.stats.durability = Some(ack.durability);
        for (game, said) in &ack.games {
            if let Some((_, last)) = state.games.get_mut(game) {
                *last = Some(said.last_seq);
            }
        }
        self.taken(state, batch)
    }

    /// The batch is one event that nobody will ever take.
    pub fn refused(&self, batch: &Batch) -> io::Result<()> {
        let mut state = self.lock();
        state.stats.refused += batch.n as u64;
        self.taken(state, batch)
    }

    fn taken(&self, mut state: MutexGuard<'_, State>, batch: &Batch) -> io::Result<()> {
        let noted = match &mut state.spool {
            Some(spool) if batch.from_spool => spool.drop_front(batch.lines.len() as u64),
            _ => {
                let sent: usize = state.memory.drain(..batch.n).map(|line| line.len()).sum();
                state.bytes -= sent;
                Ok(())
            }
        };
        if state.drained() {
            self.done.notify_all();
        }
        noted
    }

    /// The server did not take them: what waits goes to the spool, so that it survives the end of this process, and the
    /// sending thread pauses. A pause grows with each failure, differs between producers, and ends when the emitter is
    /// closed.
    pub fn pause(&self, why: String, retry_after: Option<Duration>) {
        let ceiling =
            self.config.backoff.saturating_mul(1 << self.lock().failures.min(20)).min(self.config.backoff_max);
        let wait = ceiling.mul_f64(rand::random_range(0.5..=1.0));
        let until = Instant::now() + wait.max(retry_after.unwrap_or_default().min(self.config.backoff_max));
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.stats.retries += 1;
        state.stats.away = Some(why);
        if state.spooled() == 0 && !state.memory.is_empty() {
            // If it does not fit, memory keeps it, and stays the older of the two.
            state.put_away();
        }
        while !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
