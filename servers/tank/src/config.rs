//! Settings of the game backend.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use flywheel_tank::{Map, TankConfig};

use crate::TankServerError;

/// How a game backend runs. The defaults are those of the tank spec, section 3.
#[derive(Debug, Clone)]
pub struct GameBackendConfig {
    /// Address of HTTP and WebSocket; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// `TICK_MS`: milliseconds per tick.
    pub tick_ms: u32,
    /// `MAX_TICK_CATCH_UP`: ticks of one session run at most in one go when the loop is behind.
    pub max_tick_catch_up: u32,
    /// Rules settings of new sessions.
    pub tank: TankConfig,
    /// Maps that may be asked for by name.
    pub maps: Vec<Map>,
    /// Sessions that may exist at a time.
    pub max_sessions: usize,
    /// Sockets that one session may have at a time.
    pub max_sockets_per_session: usize,
    /// Messages that wait for one socket before it counts as too slow and is closed.
    pub socket_queue: usize,
    /// `RL_MODEL_BASE_KEY`: a session's `modelKey` is `{model_base_key}-{mapKey}`.
    pub model_base_key: String,
    /// A finished session without sockets goes after this long.
    pub finished_linger: Duration,
    /// A session that nobody is connected to goes after this long, finished or not.
    pub abandoned_after: Duration,
    /// How long `tank.episode.ended` waits for the AI backend to account for the last tick.
    pub last_words: Duration,
    /// Ticks between `tank.checkpoint` events.
    pub checkpoint_ticks: u64,
    /// Seed of the seeds of sessions; absent: taken from the system.
    pub seed: Option<u64>,
}

impl Default for GameBackendConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5051)),
            tick_ms: 33,
            max_tick_catch_up: 3,
            tank: TankConfig::default(),
            maps: Map::shipped().to_vec(),
            max_sessions: 64,
            max_sockets_per_session: 32,
            socket_queue: 256,
            model_base_key: "tank-ai-dqn".to_owned(),
            finished_linger: Duration::from_secs(5),
            abandoned_after: Duration::from_secs(300),
            last_words: Duration::from_secs(2),
            checkpoint_ticks: 300,
            seed: None,
        }
    }
}

impl GameBackendConfig {
    /// # Errors
    /// The first setting that cannot work, with what was expected.
    pub fn validate(&self) -> Result<(), TankServerError> {
        let positive = |setting: &'static str, value: u64, most: u64| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            Err(TankServerError::Setting { setting, value: value.to_string(), expected: format!("1 to {most}") })
        };
        if self.maps.is_empty() {
            return Err(TankServerError::NoMaps);
        }
        positive("tick_ms", self.tick_ms.into(), 10_000)?;
        positive("max_tick_catch_up", self.max_tick_catch_up.into(), 1_000)?;
        positive("max_sessions", self.max_sessions as u64, 4_096)?;
        positive("max_sockets_per_session", self.max_sockets_per_session as u64, 4_096)?;
        positive("socket_queue", self.socket_queue as u64, 65_536)?;
        positive("checkpoint_ticks", self.checkpoint_ticks, 1_000_000)
    }
}
