//! One connection that all calls share, made again when it broke; and what the server's settings make durable.

use std::time::Duration;

use flywheel_log::{Durability, LogError};
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisError, aio::MultiplexedConnection};

use crate::error::failed;

/// Longest wait for a connection and for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Connection {
    client: Client,
    current: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    durability: Mutex<Durability>,
}

impl Connection {
    pub fn new(client: Client) -> Self {
        Self { client, current: tokio::sync::Mutex::default(), durability: Mutex::new(Durability::Memory) }
    }

    pub fn durability(&self) -> Durability {
        *self.durability.lock()
    }

    pub async fn get(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let durability = durability_of(&mut connection).await;
        *self.durability.lock() = durability;
        tracing::info!(%durability, "connected to redis");
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// The error in our words; a connection that broke is made again by the next call.
    pub async fn failed(&self, operation: &'static str, target: impl std::fmt::Display, error: RedisError) -> LogError {
        if error.is_io_error() || error.is_unrecoverable_error() {
            *self.current.lock().await = None;
        }
        failed(operation, target, error)
    }
}

/// `Fsynced` only if every command is synced before it is answered. A server that does not tell promises nothing.
async fn durability_of(connection: &mut MultiplexedConnection) -> Durability {
    let mut settings = Vec::new();
    for name in ["appendonly", "appendfsync"] {
        let answer: Result<redis::Value, _> = redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
        let pair = answer.ok().and_then(|value| <Vec<String>>::from_redis_value(value).ok()).unwrap_or_default();
        settings.push(pair.into_iter().nth(1).unwrap_or_default());
    }
    if settings == ["yes", "always"] { Durability::Fsynced } else { Durability::Memory }
}
