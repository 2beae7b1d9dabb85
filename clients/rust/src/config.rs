use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use flywheel_events::BaseKey;

use crate::{ClientError, ClientErrorKind, Problem};

/// How bodies are sent. Those below a kilobyte go as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    #[cfg(feature = "gzip")]
    Gzip,
    #[cfg(feature = "zstd")]
    Zstd,
}

impl Default for Compression {
    fn default() -> Self {
        #[cfg(feature = "gzip")]
        return Self::Gzip;
        #[cfg(not(feature = "gzip"))]
        return Self::None;
    }
}

/// Called with an event that the server refused for good, as it was sent, and why.
pub type OnRefused = Arc<dyn Fn(&[u8], &Problem) + Send + Sync>;

/// Settings of an [`Emitter`](crate::Emitter).
#[derive(Clone)]
pub struct EmitConfig {
    /// Where the loop's page is, such as `http://127.0.0.1:8080`.
    pub url: String,
    /// The key of this source, `fw_…`; at first what FLYWHEEL_KEY holds. Without one only games of nobody's key are taken.
    pub key: Option<String>,
    /// The file that takes events while the server is away; without one they stay in memory.
    pub spool: Option<PathBuf>,
    /// Most that waits in the spool; its file may be a quarter longer, by what is acknowledged.
    pub spool_bytes: u64,
    /// Events that wait in memory; beyond it they go to the spool.
    pub memory_bytes: usize,
    /// Events of one request.
    pub batch_events: usize,
    /// Bytes of one request, before compression.
    pub batch_bytes: usize,
    /// How long the first event of a batch waits for others.
    pub linger: Duration,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// First pause after a failure; it doubles up to `backoff_max`, with jitter.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// How long an emitter that is dropped still sends; the rest goes to the spool.
    pub close_patience: Duration,
    pub compression: Compression,
    /// See [`EmitConfig::on_refused`].
    pub on_refused: Option<OnRefused>,
}

impl fmt::Debug for EmitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmitConfig").field("url", &self.url).field("spool", &self.spool).finish_non_exhaustive()
    }
}

impl EmitConfig {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            key: std::env::var("FLYWHEEL_KEY").ok().filter(|key| !key.trim().is_empty()),
            spool: None,
            spool_bytes: 4 << 30,
            memory_bytes: 64 << 20,
            batch_events: 5_000,
            batch_bytes: 4 << 20,
            linger: Duration::from_millis(20),
            timeout: Duration::from_secs(15),
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            close_patience: Duration::from_secs(5),
            compression: Compression::default(),
            on_refused: None,
        }
    }

    /// Sends as the source of this key, `fw_…`.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Keeps events in this file while the server is away. Each emitter needs its own.
    #[must_use]
    pub fn spool(mut self, path: impl Into<PathBuf>) -> Self {
        self.spool = Some(path.into());
        self
    }

    /// Called, on the sending thread, with each event that the server refused for good.
    #[must_use]
    pub fn on_refused(mut self, told: impl Fn(&[u8], &Problem) + Send + Sync + 'static) -> Self {
        self.on_refused = Some(Arc::new(told));
        self
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        not_zero(&[
            ("batch_events", self.batch_events == 0),
            ("batch_bytes", self.batch_bytes == 0),
            ("memory_bytes", self.memory_bytes == 0),
            ("spool_bytes", self.spool_bytes == 0),
            ("timeout", self.timeout.is_zero()),
            // Without pauses a server that is away is asked as fast as a core can.
            ("backoff", self.backoff.is_zero()),
            ("backoff_max", self.backoff_max.is_zero()),
        ])
    }
}

fn not_zero(settings: &[(&str, bool)]) -> Result<(), ClientError> {
    match settings.iter().find(|(_, is_zero)| *is_zero) {
        None => Ok(()),
        Some((name, _)) => {
            let why = "it is zero; give it more, or leave it at its default";
            Err(ClientError::new(ClientErrorKind::Setting, "checking the setting", name, why))
        }
    }
}

/// Settings of a [`Follower`](crate::Follower).
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// Where the loop's page is, such as `http://127.0.0.1:8080`.
    pub url: String,
    /// `champion`, `candidate` or `previous`.
    pub alias: String,
    /// Which model; without one the first that the server lists.
    pub model: Option<BaseKey>,
    /// How often the alias is asked for.
    pub every: Duration,
    /// Longest wait for an answer; weights get six times as long.
    pub timeout: Duration,
    /// Longest wait for the first version.
    pub patience: Duration,
    /// Length of an observation and number of actions; versions of another shape are refused. Without it, the shape
    /// of the first version holds.
    pub shape: Option<(usize, usize)>,
    /// A file in which the newest version is kept, to start with while the server is away.
    pub keep: Option<PathBuf>,
}

impl FollowConfig {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            alias: "champion".to_owned(),
            model: None,
            every: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            patience: Duration::from_secs(30),
            shape: None,
            keep: None,
        }
    }

    #[must_use]
    pub fn model(mut self, model: BaseKey) -> Self {
        self.model = Some(model);
        self
    }

    #[must_use]
    pub fn shape(mut self, inputs: usize, outputs: usize) -> Self {
        self.shape = Some((inputs, outputs));
        self
    }

    #[must_use]
    pub fn keep(mut self, path: impl Into<PathBuf>) -> Self {
        self.keep = Some(path.into());
        self
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        not_zero(&[
            // The server would be asked as fast as a core can.
            ("every", self.every.is_zero()),
            ("timeout", self.timeout.is_zero()),
            ("shape", self.shape.is_some_and(|(inputs, outputs)| inputs == 0 || outputs == 0)),
        ])?;
        if self.alias.is_empty() {
            let why = "it is empty; `champion`, `candidate` and `previous` are names";
            return Err(ClientError::new(ClientErrorKind::Setting, "checking the setting", "alias", why));
        }
        Ok(())
    }
}
