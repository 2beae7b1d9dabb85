//! librdkafka's clients: how they are set up, what they last complained of, and their errors in the words of the log.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flywheel_log::{LogError, LogErrorKind};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode as Code},
    util::Timeout,
};

use crate::{config::KafkaConfig, heard::Heard};

/// How often a broker may turn us away before opening gives up.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// The last complaint of any client of this log: a timeout alone does not say why.
#[derive(Debug, Default)]
pub(crate) struct Health {
    last: Mutex<Option<Heard>>,
    /// When a broker first turned us away.
    refused: Mutex<Option<Instant>>,
    /// Before that, what goes wrong ends in one error, and nobody needs to be warned of it as well.
    is_open: AtomicBool,
}

impl Health {
    fn note(&self, line: &str) {
        let heard = Heard::parse(line);
        // Says nothing that the timeout does not.
        if heard.what.contains("brokers are down") {
            return;
        }
        if heard.fix().1 {
            self.refused.lock().get_or_insert_with(Instant::now);
        }
        *self.last.lock() = Some(heard);
    }

    /// Whether a broker has turned us away for a while: another try would end like the last ones.
    pub fn is_refused(&self) -> bool {
        self.refused.lock().is_some_and(|since| since.elapsed() >= REFUSED_FOR)
    }

    pub fn opened(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Connections are cut from now on, and nobody needs to be warned of it.
    pub fn closing(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }
}

/// What every client reports to.
#[derive(Debug, Clone)]
pub(crate) struct Context(pub Arc<Health>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let is_open = self.0.is_open.load(Ordering::Relaxed);
        // A port that speaks something else hangs up, which is no error to librdkafka; later, brokers end idle connections.
        if (level as i32) <= RDKafkaLogLevel::Error as i32 || (facility == "FAIL" && !is_open) {
            self.0.note(line);
        }
        if is_open && (level as i32) <= RDKafkaLogLevel::Warning as i32 {
            tracing::warn!(facility, "{}", line);
        } else {
            tracing::debug!(facility, "{}", line);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if !matches!(error, KafkaError::Global(Code::AllBrokersDown)) {
            self.0.note(reason);
        }
    }
}

impl ConsumerContext for Context {
    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(Duration::from_millis(100))
    }
}

/// Settings that all clients share.
pub(crate) fn base(config: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    let ms = config.timeout.as_millis().to_string();
    client
        .set("client.id", "flywheel")
        .set("bootstrap.servers", &config.brokers)
        .set("allow.auto.create.topics", "false")
        .set("socket.timeout.ms", &ms)
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("receive.message.max.bytes", "134217728");
    for (key, value) in &config.client {
        if key != "compression.type" {
            client.set(key, value);
        }
    }
    client
}

/// A consumer that reads where it is told to and belongs to no group.
pub(crate) fn reader(config: &KafkaConfig) -> ClientConfig {
    let mut client = base(config);
    client
        // librdkafka assigns only with a name; nobody joins or commits under this one.
        .set("group.id", format!("{}flywheel-reader", config.prefix))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .set("fetch.message.max.bytes", "1048576")
        .set("fetch.max.bytes", "16777216")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.error.backoff.ms", "50");
    client
}

/// Turns librdkafka's errors into the log's.
#[derive(Debug, Clone)]
pub(crate) struct Errors {
    pub config: Arc<KafkaConfig>,
    pub health: Arc<Health>,
}

impl Errors {
    pub fn error(&self, operation: &'static str, target: impl fmt::Display, error: &KafkaError) -> LogError {
        match error.rdkafka_error_code() {
            Some(code) => self.code(operation, target, code),
            None => LogError::new(LogErrorKind::Internal, operation, target, error.to_string()),
        }
    }

    pub fn code(&self, operation: &'static str, target: impl fmt::Display, code: Code) -> LogError {
        let kind = kind_of(code);
        if kind == LogErrorKind::Unavailable {
            return self.unavailable(operation, target, &code.to_string());
        }
        let why = match code {
            Code::MessageSizeTooLarge => "it is larger than the topic's `max.message.bytes`; raise that".to_owned(),
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
                "there is no such topic or partition; create it first".to_owned()
            }
            _ => code.to_string(),
        };
        LogError::new(kind, operation, target, why)
    }

    /// The brokers gave no answer in time: says what was heard last and what to do about it.
    pub fn unavailable(&self, operation: &'static str, target: impl fmt::Display, what: &str) -> LogError {
        let heard = self.health.last.lock().clone().unwrap_or_default();
        let (fix, refused) = Heard { what: format!("{what} {}", heard.what), ..Heard::default() }.fix();
        let waited = format!("{what} ({} within {:?})", self.config.target(), self.config.timeout);
        let why = match (refused, heard.what.is_empty()) {
            (_, true) => format!("{waited}; {fix}"),
            // How long nobody answered is of no interest then.
            (true, false) => format!("{heard}; {fix}"),
            (false, false) => format!("{waited}; last heard: {heard}; {fix}"),
        };
        LogError::new(LogErrorKind::Unavailable, operation, target, why)
    }
}

fn kind_of(code: Code) -> LogErrorKind {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => LogErrorKind::NotFound,
        Code::OffsetOutOfRange | Code::AutoOffsetReset => LogErrorKind::Trimmed,
        Code::MessageSizeTooLarge
        | Code::InvalidTopic
        | Code::InvalidConfig
        | Code::InvalidReplicationFactor
        | Code::InvalidPartitions
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat => LogErrorKind::InvalidData,
        Code::InvalidMessage | Code::BadMessage | Code::BadCompression => LogErrorKind::Corrupt,
        Code::IllegalGeneration | Code::UnknownMemberId | Code::FencedInstanceId | Code::AssignmentLost => {
            LogErrorKind::Fenced
        }
        // Whatever else: the outcome is unknown, and it may work later.
        _ => LogErrorKind::Unavailable,
    }
}
