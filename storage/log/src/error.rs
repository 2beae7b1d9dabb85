use std::fmt;

/// What callers can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogErrorKind {
    NotFound,
    /// The position lies before the oldest record still kept.
    Trimmed,
    /// The backend cannot be reached or is full; the outcome of an append is unknown.
    Unavailable,
    /// The volume is nearly full, and what is left of it is kept for what is stored already: nothing was appended.
    /// Records are taken again, without anything being done here, once there is room.
    Full,
    /// Somebody else owns this now.
    Fenced,
    Conflict,
    InvalidData,
    /// The stored bytes are damaged; the target names where.
    Corrupt,
    Internal,
}

impl LogErrorKind {
    /// The single place that says what may be tried again.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Full)
    }

    /// One word, for labels of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Trimmed => "trimmed",
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::Fenced => "fenced",
            Self::Conflict => "conflict",
            Self::InvalidData => "invalid_data",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }
}

/// What was attempted, on what, and why it failed.
#[derive(Debug)]
pub struct LogError {
    kind: LogErrorKind,
    operation: &'static str,
    target: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl LogError {
    pub fn new(
        kind: LogErrorKind,
        operation: &'static str,
        target: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, target: target.to_string(), source: source.into() }
    }

    pub fn kind(&self) -> LogErrorKind {
        self.kind
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`: {}", self.operation, self.target, self.source)
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// A topic is there with another number of partitions than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionsDiffer {
    pub known: u32,
    pub asked: u32,
}

impl fmt::Display for PartitionsDiffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { known, asked } = self;
        write!(f, "it has {known} partitions, {asked} were asked for; set `stream.partitions` to {known}")
    }
}

impl std::error::Error for PartitionsDiffer {}

/// Errors that every backend says in the same words.
impl LogError {
    pub fn unknown_topic(operation: &'static str, topic: &crate::Topic) -> Self {
        Self::new(LogErrorKind::NotFound, operation, topic, "there is no such topic; create it first")
    }

    pub fn unknown_partition(operation: &'static str, of: &crate::TopicPartition) -> Self {
        Self::new(LogErrorKind::NotFound, operation, of, "there is no such topic or partition")
    }

    /// # Errors
    /// `Conflict` if the topic that is there has another number of partitions than was asked for.
    pub fn check_partitions(topic: &crate::Topic, known: u32, asked: u32) -> Result<(), Self> {
        if known == asked && asked > 0 {
            return Ok(());
        }
        if known == 0 {
            let why = "no partition was asked for; set `stream.partitions` to 1 or more";
            return Err(Self::new(LogErrorKind::Conflict, "creating", topic, why));
        }
        Err(Self::new(LogErrorKind::Conflict, "creating", topic, PartitionsDiffer { known, asked }))
    }

    /// # Errors
    /// `Trimmed` if records after `position` lie before the oldest kept.
    pub fn check_trimmed(
        of: &crate::TopicPartition,
        position: crate::Position,
        trimmed: Option<crate::Offset>,
    ) -> Result<(), Self> {
        match (position, trimmed) {
            (crate::Position::After(offset), Some(trimmed)) if offset < trimmed => Err(Self::new(
                LogErrorKind::Trimmed,
                "reading",
                of,
                format!("records after {offset} were trimmed up to {trimmed}"),
            )),
            _ => Ok(()),
        }
    }
}
