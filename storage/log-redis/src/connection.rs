//! One connection that all calls share, made again when it broke; and what the server's settings make durable.

use std::{fmt, future::Future, time::Duration};

use flywheel_log::{Durability, LogError};
use parking_lot::RwLock;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation,
    aio::MultiplexedConnection,
};

use crate::{
    config::RedisConfig,
    error::{breaks_connection, failed, passes},
    piece::{Answer, Piece, Pieces},
};

/// The server's settings that say what survives, as read when it was last connected to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Persistence {
    pub appendonly: String,
    pub appendfsync: String,
    pub no_appendfsync_on_rewrite: String,
    pub save: String,
    pub maxmemory: String,
    pub maxmemory_policy: String,
}

impl Persistence {
    /// `Fsynced` only if every write is synced before it is answered. A server that does not tell promises nothing.
    pub fn durability(&self) -> Durability {
        let synced = self.appendonly == "yes" && self.appendfsync == "always" && self.no_appendfsync_on_rewrite == "no";
        if synced { Durability::Fsynced } else { Durability::Memory }
    }

    /// Whether the server may throw streams away by itself.
    pub fn may_evict(&self) -> bool {
        !["", "0"].contains(&self.maxmemory.as_str()) && self.maxmemory_policy.starts_with("allkeys")
    }

    async fn ask(connection: &mut MultiplexedConnection) -> RedisResult<Self> {
        let mut pipe = redis::pipe();
        for name in ["appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save", "maxmemory", "maxmemory-policy"]
        {
            pipe.cmd("CONFIG").arg("GET").arg(name);
        }
        let answers: Vec<Vec<String>> = pipe.query_async(connection).await?;
        let mut values = answers.into_iter().map(|pair| pair.into_iter().nth(1).unwrap_or_default());
        let mut next = || values.next().unwrap_or_default();
        Ok(Self {
            appendonly: next(),
            appendfsync: next(),
            no_appendfsync_on_rewrite: next(),
            save: next(),
            maxmemory: next(),
            maxmemory_policy: next(),
        })
    }
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("memory: the server does not tell its settings (`CONFIG GET` is refused)");
        }
        let Self { appendonly, appendfsync, no_appendfsync_on_rewrite: rewrite, save, .. } = self;
        let durability = self.durability();
        write!(f, "{durability}: appendonly {appendonly}, appendfsync {appendfsync}, ")?;
        write!(f, "no-appendfsync-on-rewrite {rewrite}, save '{save}'")
    }
}

/// What the server is asked.
pub(crate) enum Ask<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
    /// Sent in full where the server does not know it.
    Script(&'a ScriptInvocation<'a>),
}

pub(crate) struct Connection {
    client: Client,
    pub config: RedisConfig,
    target: String,
    /// With a number, so that a late failure of an old connection does not throw away its successor.
    current: tokio::sync::Mutex<(u64, Option<MultiplexedConnection>)>,
    persistence: RwLock<Persistence>,
    pieces: Pieces,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connection {
    pub fn new(config: RedisConfig) -> Result<Self, LogError> {
        let target = config.target();
        let client = Client::open(config.server.as_str())
            .map_err(|error| failed("connecting to", "the event log", &target, &error))?;
        let (current, persistence) = Default::default();
        Ok(Self { client, config, target, current, persistence, pieces: Pieces::default() })
    }

    pub fn persistence(&self) -> Persistence {
        self.persistence.read().clone()
    }

    pub fn durability(&self) -> Durability {
        #[cfg(flywheel_bug)]
        if crate::seeded_bug("always-claims-fsynced") {
            return Durability::Fsynced;
        }
        self.persistence.read().durability()
    }

    pub async fn ask<T: FromRedisValue>(
        &self,
        operation: &'static str,
        target: &(dyn fmt::Display + Sync),
        what: Ask<'_>,
    ) -> Result<T, LogError> {
        let (number, mut connection) = self.connected(operation, target).await?;
        let answer = match what {
            Ask::Command(command) => command.query_async(&mut connection).await,
            Ask::Pipeline(pipeline) => pipeline.query_async(&mut connection).await,
            Ask::Script(script) => script.invoke_async(&mut connection).await,
        };
        self.answered(number, operation, target, answer).await
    }

    /// What `question` of [`crate::piece::question`] is answered with; `None` if that is longer than `most_bytes`.
    pub async fn piece(
        &self,
        target: &(dyn fmt::Display + Sync),
        question: &Pipeline,
        most_bytes: usize,
    ) -> Result<Option<Piece>, LogError> {
        let (number, mut connection) = self.connected("reading", target).await?;
        let answer = if self.bounds_pieces() {
            self.pieces.read(&self.client, number, question, most_bytes, self.config.timeout).await
        } else {
            question.query_async::<Answer>(&mut connection).await.map(|answer| Some(answer.into()))
        };
        self.answered(number, "reading", target, answer).await
    }

    /// Whether [`Connection::piece`] ends at `most_bytes`, so that many entries may be asked for.
    pub fn bounds_pieces(&self) -> bool {
        Pieces::can_read(&self.client)
    }

    async fn connected(
        &self,
        operation: &'static str,
        target: &(dyn fmt::Display + Sync),
    ) -> Result<(u64, MultiplexedConnection), LogError> {
        within(self.config.timeout, self.get()).await.map_err(|error| {
            // Nothing was sent, so nothing is unknown.
            let operation = if operation == "appending" { "connecting, to append to," } else { operation };
            failed(operation, target, &self.target, &error)
        })
    }

    /// `answer`, after the shared connection `number` was given up if it is of no use any more.
    async fn answered<T>(
        &self,
        number: u64,
        operation: &'static str,
        target: &(dyn fmt::Display + Sync),
        answer: RedisResult<T>,
    ) -> Result<T, LogError> {
        if let Err(error) = &answer
            && breaks_connection(error)
        {
            let mut current = self.current.lock().await;
            if current.0 == number {
                current.1 = None;
            }
        }
        answer.map_err(|error| failed(operation, target, &self.target, &error))
    }

    async fn get(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let mut current = self.current.lock().await;
        if let (number, Some(connection)) = &*current {
            return Ok((*number, connection.clone()));
        }
        let mut connection = self.another(self.config.timeout).await?;
        let persistence = match Persistence::ask(&mut connection).await {
            Ok(persistence) => persistence,
            // Managed servers rename or refuse `CONFIG`. What passes says nothing about them: the next call asks again.
            Err(error) if !breaks_connection(&error) && !passes(&error) => Persistence::default(),
            Err(error) => return Err(error),
        };
        if persistence.durability() < Durability::Fsynced {
            tracing::warn!(server = self.target, %persistence, "acknowledged records may be lost at a power cut");
        } else {
            tracing::info!(server = self.target, %persistence, "connected to redis");
        }
        if persistence.may_evict() {
            let policy = &persistence.maxmemory_policy;
            tracing::warn!(policy, "the server may evict whole streams; set `maxmemory-policy noeviction`");
        }
        *self.persistence.write() = persistence;
        *current = (current.0 + 1, Some(connection.clone()));
        Ok((current.0, connection))
    }

    /// A connection of its own, for a caller that blocks it.
    pub async fn another(&self, patience: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.timeout))
            .set_response_timeout(Some(patience));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}

/// However many wait for one connection to be made: each waits no longer than this.
async fn within<T>(patience: Duration, act: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let late = || RedisError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time"));
    tokio::time::timeout(patience, act).await.unwrap_or_else(|_| Err(late()))
}
