//! Appends: each one becomes one record batch, which the broker keeps whole or not at all.
//!
//! librdkafka cuts what waits in its queues into batches whenever it pleases. Here it never may: it lingers for longer
//! than a round lasts, a thread puts whole appends into its queues, and only then says `flush`. So a batch holds all of
//! an append, and a producer that dies in the middle leaves all of it or nothing. One round is in flight at a time; what
//! comes meanwhile shares the next, as appends of the embedded log share an fsync.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use flywheel_log::{LogError, LogErrorKind, Offset, Record, TopicPartition};
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer},
};
use tokio::sync::{mpsc, oneshot};

use crate::client::{Context, Errors, base};

/// Producers of one log; each partition has one of them, so that a slow leader holds up a part of the partitions only.
pub(crate) const WRITERS: usize = 4;
/// Appends of one partition that share a batch, in bytes; one that is larger goes alone.
const SHARED_BYTES: usize = 4 << 20;
/// Bytes of one round over all partitions.
const ROUND_BYTES: usize = 96 << 20;
/// What a record costs in a batch beside its bytes, at most.
const RECORD_COST: usize = 40;
/// Records of one batch; librdkafka takes a million.
const BATCH_RECORDS: usize = 900_000;
/// What a batch costs beside its records.
const BATCH_COST: usize = 1024;

pub(crate) struct Append {
    pub to: TopicPartition,
    /// The topic's name on the broker.
    pub name: Arc<str>,
    /// `max.message.bytes` of the topic.
    pub limit: usize,
    pub records: Vec<Record>,
    pub reply: oneshot::Sender<Result<Offset, LogError>>,
}

/// How an append of the current round is going.
#[derive(Debug, Clone, Default)]
struct Outcome {
    left: usize,
    last: i64,
    error: Option<Code>,
}

/// Receives delivery reports; the opaque of a record says round and append.
struct Deliveries {
    context: Context,
    round: Mutex<(u32, Vec<Outcome>)>,
}

const _: () = assert!(usize::BITS == 64, "an opaque holds a round and an index");

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.context.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let mut round = self.round.lock();
        if round.0 != (opaque >> 32) as u32 {
            return;
        }
        let Some(outcome) = round.1.get_mut(opaque & 0xffff_ffff) else { return };
        outcome.left = outcome.left.saturating_sub(1);
        match result {
            Ok(message) => outcome.last = outcome.last.max(message.offset()),
            Err((error, _)) => outcome.error = error.rdkafka_error_code().or(Some(Code::Fail)),
        }
    }
}

/// An append on its way, and how much of it is there already.
struct Pending {
    append: Append,
    done: usize,
}

impl Pending {
    /// The records that fit into one batch, and their cost. All of them, unless the topic's limit is too small.
    fn next(&self) -> (Range<usize>, usize) {
        let room = self.append.limit.saturating_sub(BATCH_COST);
        let (mut end, mut bytes) = (self.done, 0);
        for record in &self.append.records[self.done..] {
            let cost = cost(record);
            if end > self.done && (bytes + cost > room || end - self.done >= BATCH_RECORDS) {
                break;
            }
            bytes += cost;
            end += 1;
        }
        (self.done..end, bytes)
    }
}

fn cost(record: &Record) -> usize {
    record.key.len() + record.value.len() + RECORD_COST
}

pub(crate) struct Writer {
    errors: Errors,
    producer: ThreadedProducer<Deliveries>,
    round: u32,
    /// Topics whose partitions the producer knows: records for unknown ones would wait elsewhere and be cut.
    known: HashSet<Arc<str>>,
}

impl Writer {
    /// Starts a thread that lives as long as the sender.
    pub fn start(errors: Errors) -> Result<mpsc::Sender<Append>, LogError> {
        let (sender, receiver) = mpsc::channel(256);
        let producer = producer(&errors)?;
        let mut writer = Self { errors, producer, round: 0, known: HashSet::new() };
        std::thread::Builder::new()
            .name("flywheel-kafka-writer".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|error| LogError::new(LogErrorKind::Unavailable, "starting", "the writer thread", error))?;
        Ok(sender)
    }

    fn run(&mut self, mut appends: mpsc::Receiver<Append>) {
        let mut backlog: VecDeque<Pending> = VecDeque::new();
        loop {
            if backlog.is_empty() {
                let Some(append) = appends.blocking_recv() else { return };
                backlog.push_back(Pending { append, done: 0 });
            }
            let mut bytes: usize = backlog.iter().map(|p| p.append.records.iter().map(cost).sum::<usize>()).sum();
            while bytes < ROUND_BYTES
                && let Ok(append) = appends.try_recv()
            {
                bytes += append.records.iter().map(cost).sum::<usize>();
                backlog.push_back(Pending { append, done: 0 });
            }
            let round = take_round(&mut backlog);
            self.send(round, &mut backlog);
        }
    }

    /// Sends one round, waits for all its reports, and answers.
    fn send(&mut self, round: Vec<(Pending, Range<usize>)>, backlog: &mut VecDeque<Pending>) {
        let round: Vec<_> = round.into_iter().filter_map(|part| self.admit(part)).collect();
        self.round = self.round.wrapping_add(1);
        let outcomes = round.iter().map(|(_, range)| Outcome { left: range.len(), last: -1, error: None }).collect();
        *self.producer.context().round.lock() = (self.round, outcomes);
        for (index, (pending, range)) in round.iter().enumerate() {
            let opaque = (self.round as usize) << 32 | index;
            for record in &pending.append.records[range.clone()] {
                let message = BaseRecord::with_opaque_to(&pending.append.name, opaque)
                    .partition(pending.append.to.partition as i32)
                    .key(&record.key[..])
                    .payload(&record.value[..]);
                if let Err((error, _)) = self.producer.send(message) {
                    // The queues are far larger than a round: only a producer that is broken for good refuses, and it
                    // refuses the first record already.
                    let mut round = self.producer.context().round.lock();
                    round.1[index].error = error.rdkafka_error_code().or(Some(Code::Fail));
                    break;
                }
            }
        }
        self.flush();
        let outcomes = std::mem::take(&mut self.producer.context().round.lock().1);
        for ((mut pending, range), outcome) in round.into_iter().zip(outcomes).rev() {
            let to = &pending.append.to;
            let result = match outcome {
                Outcome { error: Some(code), .. } => Err(self.errors.code("appending", to, code)),
                Outcome { left: 0, last, .. } if last >= 0 => Ok(Offset::from_raw(last as u64)),
                // Flushing gave up, or the broker had the batch already and no longer knows where.
                _ => Err(self.errors.unavailable("appending", to, "no broker said where the records are")),
            };
            if result.is_ok() && range.end < pending.append.records.len() {
                pending.done = range.end;
                backlog.push_front(pending);
                continue;
            }
            // A caller that went away needs no answer.
            let _gone = pending.append.reply.send(result);
        }
        if let Some((code, why)) = self.producer.client().fatal_error() {
            tracing::error!(%code, why, "the Kafka producer is broken; a new one takes its place");
            match producer(&self.errors) {
                Ok(producer) => {
                    self.producer = producer;
                    self.known.clear();
                }
                Err(error) => tracing::error!(%error, "no new Kafka producer"),
            }
        }
    }

    /// Answers at once what cannot be sent.
    fn admit(&mut self, (pending, range): (Pending, Range<usize>)) -> Option<(Pending, Range<usize>)> {
        let Append { to, name, limit, records, .. } = &pending.append;
        let refused = if let Some(large) =
            records.iter().map(cost).find(|bytes| *bytes > limit.saturating_sub(BATCH_COST))
        {
            let why =
                format!("a record of {large} bytes does not fit the topic's `max.message.bytes` ({limit}); raise that");
            Some(LogError::new(LogErrorKind::InvalidData, "appending", to, why))
        } else if self.known.contains(name) {
            None
        } else {
            match self.producer.client().fetch_metadata(Some(name), self.errors.config.timeout) {
                Ok(_) => {
                    self.known.insert(Arc::clone(name));
                    None
                }
                Err(error) => Some(self.errors.error("appending", to, &error)),
            }
        };
        let Some(error) = refused else { return Some((pending, range)) };
        let _gone = pending.append.reply.send(Err(error));
        None
    }

    /// Lets librdkafka form its batches, and waits until every record is delivered or given up.
    fn flush(&self) {
        let patience = self.errors.config.timeout + Duration::from_secs(5);
        // The crate's own `flush` asks again every 100 ms instead of waiting.
        // SAFETY: the pointer is that of a producer which `self` keeps alive; the call is safe from any thread, and the
        // delivery reports are served by the producer's own thread meanwhile.
        unsafe {
            rdkafka::bindings::rd_kafka_flush(self.producer.client().native_ptr(), patience.as_millis() as i32);
        }
    }
}

fn producer(errors: &Errors) -> Result<ThreadedProducer<Deliveries>, LogError> {
    let config = &errors.config;
    let ms = config.timeout.as_millis();
    let mut client = base(config);
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("message.timeout.ms", ms.to_string())
        .set("request.timeout.ms", ms.to_string())
        // Never by the clock: see the top of this file.
        .set("linger.ms", (ms / 2).to_string())
        .set("batch.num.messages", "1000000")
        .set("batch.size", "100000000")
        .set("message.max.bytes", "100000000")
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", "1048576")
        .set("compression.type", config.client.get("compression.type").map_or("lz4", String::as_str));
    let context = Deliveries { context: Context(Arc::clone(&errors.health)), round: Mutex::default() };
    client.create_with_context(context).map_err(|error| errors.error("setting up", "the producer", &error))
}

/// What goes next: of each partition its oldest append, and those after it that still fit into the same batch.
fn take_round(backlog: &mut VecDeque<Pending>) -> Vec<(Pending, Range<usize>)> {
    let (mut round, mut rest) = (Vec::new(), VecDeque::new());
    let mut lanes: HashMap<TopicPartition, (usize, usize)> = HashMap::new();
    let mut full: HashSet<TopicPartition> = HashSet::new();
    for pending in backlog.drain(..) {
        let to = pending.append.to.clone();
        let (range, bytes) = pending.next();
        let whole = range.start == 0 && range.end == pending.append.records.len();
        let room = SHARED_BYTES.min(pending.append.limit.saturating_sub(BATCH_COST));
        let (taken, records) = lanes.get(&to).copied().unwrap_or_default();
        let fits = records == 0 || (whole && taken + bytes <= room && records + range.len() <= BATCH_RECORDS);
        if full.contains(&to) || !fits {
            full.insert(to);
            rest.push_back(pending);
            continue;
        }
        if !whole {
            full.insert(to.clone());
        }
        lanes.insert(to, (taken + bytes, records + range.len()));
        round.push((pending, range));
    }
    *backlog = rest;
    round
}

#[cfg(test)]
mod tests {
    use super::*;
    use flywheel_log::Topic;

    fn pending(partition: u32, limit: usize, sizes: &[usize]) -> Pending {
        let records = sizes.iter().map(|n| Record::new("", vec![0u8; *n])).collect();
        let (reply, _) = oneshot::channel();
        let append = Append { to: Topic::new("t").partition(partition), name: "t".into(), limit, records, reply };
        Pending { append, done: 0 }
    }

    fn shape(round: &[(Pending, Range<usize>)]) -> Vec<(u32, Range<usize>)> {
        round.iter().map(|(p, range)| (p.append.to.partition, range.clone())).collect()
    }

    #[test]
    fn a_round_keeps_appends_whole_and_in_order() {
        let large = SHARED_BYTES - 100;
        let mut backlog: VecDeque<_> = [
            pending(0, 1 << 30, &[10, 10]),
            pending(0, 1 << 30, &[large]),
            pending(0, 1 << 30, &[1]),
            pending(1, 1 << 30, &[5]),
        ]
        .into();
        // The second of partition 0 does not fit beside the first, and the third must not overtake it.
        assert_eq!(shape(&take_round(&mut backlog)), [(0, 0..2), (1, 0..1)]);
        assert_eq!(shape(&take_round(&mut backlog)), [(0, 0..1), (0, 0..1)]);
        assert!(backlog.is_empty());
    }

    #[test]
    fn an_append_that_no_batch_holds_goes_alone_and_in_pieces() {
        let mut backlog: VecDeque<_> = [pending(0, 3000, &[900, 900, 900]), pending(0, 3000, &[1])].into();
        let mut round = take_round(&mut backlog);
        assert_eq!(shape(&round), [(0, 0..2)]);
        let (mut first, range) = round.pop().unwrap();
        first.done = range.end;
        backlog.push_front(first);
        assert_eq!(shape(&take_round(&mut backlog)), [(0, 2..3)]);
        assert_eq!(shape(&take_round(&mut backlog)), [(0, 0..1)]);
    }
}
