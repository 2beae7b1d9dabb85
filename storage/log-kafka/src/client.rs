//! librdkafka's clients: how they are set up, what they last complained of, and their errors in the words of the log.

use std::{fmt, sync::Arc, time::Duration};

use flywheel_log::{LogError, LogErrorKind};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode as Code},
    util::Timeout,
};

use crate::config::KafkaConfig;

/// The last complaint of any client of this log: a timeout alone does not say why.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Option<String>>);

impl Health {
    fn note(&self, line: &str) {
        // `[thrd:…]: host:port/bootstrap: why (after …)`: the thread says nothing to a reader.
        let line = line.split_once("]: ").map_or(line, |(_, rest)| rest);
        *self.0.lock() = Some(line.trim().to_owned());
    }

    fn last(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

/// What every client reports to.
#[derive(Debug, Clone)]
pub(crate) struct Context(pub Arc<Health>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if (level as i32) <= RDKafkaLogLevel::Error as i32 {
            self.0.note(line);
        }
        if (level as i32) <= RDKafkaLogLevel::Warning as i32 {
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
        let heard = self.health.last();
        let text = format!("{what} {}", heard.as_deref().unwrap_or_default()).to_ascii_lowercase();
        let fix = if text.contains("authorization") {
            "the user may not do this; grant it by `kafka-acls`"
        } else if text.contains("authentication") || text.contains("sasl") {
            "check `sasl.mechanism`, `sasl.username` and the secret that `sasl.password.env` or `.file` names"
        } else if text.contains("certificate") || text.contains("ssl") {
            "check `security.protocol` and `ssl.ca.location`"
        } else if text.contains("apiversion") || text.contains("disconnected") || text.contains("invalid") {
            "check that this port belongs to a Kafka broker (0.11 or newer) and speaks what `security.protocol` says"
        } else if text.contains("not enough") {
            "bring the missing replicas back, or lower the topic's `min.insync.replicas`"
        } else {
            "start the broker, or correct host and port in the URL of the log"
        };
        let heard = heard.map(|line| format!("; last heard: {line}")).unwrap_or_default();
        let why = format!("{what} ({} within {:?}){heard}; {fix}", self.config.target(), self.config.timeout);
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
