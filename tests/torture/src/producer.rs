//! A producer that keeps numbered events coming and never forgets what was not acknowledged.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use flywheel_log::Durability;
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    book::{Book, Game, Promise},
    letter,
};

/// Games that a producer has open at once.
const GAMES: usize = 4;
/// A game ends after so many events.
const GAME_EVENTS: u64 = 4000;
const ANSWER: Duration = Duration::from_secs(15);
/// Acknowledged batches that may be sent again on purpose.
const REMEMBERED: usize = 16;
/// So many complaints say enough.
const COMPLAINTS: usize = 5;

/// Where the doors are now; empty while nobody serves.
pub type Address = watch::Receiver<Option<String>>;

#[derive(Debug)]
pub struct Settings {
    pub seed: u64,
    pub index: u32,
    pub producers: u32,
    pub rate: u32,
    /// Set once no further events are to be made; what waits is still sent.
    pub finish: CancellationToken,
    /// Set once nothing more is to be sent.
    pub give_up: CancellationToken,
    /// Of all producers together.
    pub acknowledged: Arc<AtomicU64>,
}

struct Batch {
    /// Index into the book's games, and the numbers in the order of the request.
    parts: Vec<(usize, Vec<u32>)>,
    body: Bytes,
    events: u64,
}

#[derive(Deserialize)]
struct Ack {
    accepted: u64,
    repeated: u64,
    durability: Durability,
    /// From the spool of the doors, because the log did not take it.
    #[serde(default)]
    spooled: bool,
}

pub async fn produce(settings: Settings, mut address: Address) -> Book {
    let mut producer = Producer::new(&settings);
    let batch_events = (u64::from(settings.rate) / u64::from(settings.producers) / 20).clamp(1, 500);
    let pause = Duration::from_secs_f64(batch_events as f64 * f64::from(settings.producers) / f64::from(settings.rate));
    let mut next = Instant::now() + pause.mul_f64(producer.random.random());
    let mut waiting = VecDeque::new();
    while !settings.finish.is_cancelled() {
        let first = producer.batch(batch_events);
        waiting.push_back(first);
        if producer.random.random_bool(0.05) {
            // The next one of the same games overtakes it.
            let second = producer.batch(batch_events);
            waiting.push_front(second);
            producer.book.tally.swapped += 1;
        }
        while let Some(batch) = waiting.pop_front() {
            if !producer.deliver(batch, &mut address).await {
                break;
            }
            next = (next + pause).max(Instant::now().checked_sub(Duration::from_millis(500)).unwrap_or(next));
            tokio::select! {
                biased;
                () = settings.finish.cancelled() => {}
                () = sleep_until(next) => {}
            }
        }
        if settings.give_up.is_cancelled() {
            break;
        }
        producer.maybe_repeat(&mut address).await;
    }
    producer.book
}

struct Producer<'s> {
    settings: &'s Settings,
    random: ChaCha8Rng,
    client: reqwest::Client,
    book: Book,
    /// Open games, by their place in the book.
    open: Vec<usize>,
    recent: VecDeque<Bytes>,
    made: u64,
}

impl<'s> Producer<'s> {
    fn new(settings: &'s Settings) -> Self {
        let random = ChaCha8Rng::seed_from_u64(settings.seed ^ (u64::from(settings.index) << 48));
        Self {
            settings,
            random,
            client: reqwest::Client::builder().no_proxy().build().expect("a client without TLS needs nothing"),
            book: Book::default(),
            open: Vec::new(),
            recent: VecDeque::new(),
            made: 0,
        }
    }

    /// A game that is still short enough.
    fn game(&mut self, slot: usize) -> usize {
        if let Some(&place) = self.open.get(slot)
            && self.book.games[place].sent < GAME_EVENTS
        {
            return place;
        }
        let number = u64::from(self.settings.index) + u64::from(self.settings.producers) * self.made;
        self.made += 1;
        self.book.games.push(Game { number, ..Game::default() });
        let place = self.book.games.len() - 1;
        if slot < self.open.len() {
            self.open[slot] = place;
        } else {
            self.open.push(place);
        }
        place
    }

    /// New events of one to three games.
    fn batch(&mut self, events: u64) -> Batch {
        let mut slots: Vec<usize> = (0..GAMES).collect();
        slots.shuffle(&mut self.random);
        slots.truncate(self.random.random_range(1..=3));
        slots.sort_unstable();
        let each = events.div_ceil(slots.len() as u64);
        let shuffled = self.random.random_bool(0.03);
        self.book.tally.shuffled += u64::from(shuffled);
        let (mut parts, mut body, now_ms) = (Vec::new(), Vec::new(), now_ms());
        for slot in slots {
            let place = self.game(slot);
            let game = &mut self.book.games[place];
            let mut seqs: Vec<u32> = (game.sent..game.sent + each).map(|seq| seq as u32).collect();
            game.sent += each;
            if shuffled {
                seqs.shuffle(&mut self.random);
            }
            for seq in &seqs {
                letter::write(&mut body, self.settings.seed, game.number, u64::from(*seq), now_ms);
            }
            parts.push((place, seqs));
        }
        let events = parts.iter().map(|(_, seqs)| seqs.len() as u64).sum();
        Batch { parts, body: body.into(), events }
    }

    /// Sends a batch until it is acknowledged; false if that was given up.
    async fn deliver(&mut self, batch: Batch, address: &mut Address) -> bool {
        let mut tries = 0_u64;
        loop {
            let give_up = self.settings.give_up.clone();
            let ack = tokio::select! {
                biased;
                () = give_up.cancelled() => None,
                ack = self.send(&batch.body, address, tries == 0) => Some(ack),
            };
            match ack {
                None => {
                    self.book.unanswered += batch.events;
                    return false;
                }
                Some(Some(ack)) => {
                    self.acknowledged(batch, &ack);
                    return true;
                }
                Some(None) => {
                    tries += 1;
                    self.book.tally.retries += 1;
                    sleep(Duration::from_millis(self.random.random_range(2..20))).await;
                }
            }
        }
    }

    fn acknowledged(&mut self, batch: Batch, ack: &Ack) {
        if ack.accepted + ack.repeated != batch.events {
            let (accepted, repeated) = (ack.accepted, ack.repeated);
            self.complain(format!("{} events were answered as {accepted} + {repeated}", batch.events));
        }
        self.book.tally.repeated += ack.repeated;
        self.book.tally.spooled += u64::from(ack.spooled);
        for (place, seqs) in &batch.parts {
            let promises = seqs.iter().map(|&seq| Promise { seq, durability: ack.durability });
            self.book.games[*place].acknowledged.extend(promises);
        }
        self.settings.acknowledged.fetch_add(batch.events, Ordering::Relaxed);
        if self.recent.len() >= REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(batch.body);
    }

    /// Now and then, what was acknowledged already is sent once more; nobody minds whether it is answered.
    async fn maybe_repeat(&mut self, address: &mut Address) {
        if self.recent.is_empty() || !self.random.random_bool(0.05) {
            return;
        }
        let again = self.recent[self.random.random_range(0..self.recent.len())].clone();
        self.book.tally.duplicates += again.iter().filter(|byte| **byte == b'\n').count() as u64;
        let give_up = self.settings.give_up.clone();
        tokio::select! {
            biased;
            () = give_up.cancelled() => {}
            _known = self.send(&again, address, false) => {}
        }
    }

    /// One request; `None` if nothing was promised.
    async fn send(&mut self, body: &Bytes, address: &mut Address, may_drop: bool) -> Option<Ack> {
        let base = address.wait_for(Option::is_some).await.ok()?.clone()?;
        self.book.tally.requests += 1;
        let request = self
            .client
            .post(format!("{base}/v1/events"))
            .header("content-type", "application/x-ndjson")
            .body(body.clone())
            .send();
        let patience = if may_drop && self.random.random_bool(0.02) {
            self.book.tally.dropped += 1;
            Duration::from_micros(self.random.random_range(100..5000))
        } else {
            ANSWER
        };
        let answer = timeout(patience, async {
            let answer = request.await?;
            let status = answer.status().as_u16();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        match answer.await {
            Ok(Ok((200, body))) => match serde_json::from_slice(&body) {
                Ok(ack) => Some(ack),
                Err(error) => {
                    self.complain(format!("an answer is no acknowledgement: {error}"));
                    None
                }
            },
            Ok(Ok((429 | 503, _))) => {
                self.book.tally.refused += 1;
                sleep(Duration::from_millis(20)).await;
                None
            }
            Ok(Ok((status, body))) => {
                self.complain(format!("{status}: {}", String::from_utf8_lossy(&body)));
                sleep(Duration::from_millis(100)).await;
                None
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }

    fn complain(&mut self, what: String) {
        if self.book.complaints.len() < COMPLAINTS {
            self.book.complaints.push(what);
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
