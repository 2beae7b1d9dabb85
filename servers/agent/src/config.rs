//! Settings of the AI backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::AgentError;

/// When a running session takes a new champion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Swap {
    /// At the next episode start, and when a key is allocated.
    #[default]
    Episode,
    /// Between two transitions.
    Tick,
}

/// How an AI backend runs. The defaults are those of the tank spec, section 3.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// Where the game backend is, such as `http://127.0.0.1:5051`.
    pub gbe_url: String,
    /// Where the RL model store is; absent: nothing is loaded or saved.
    pub model_store_url: Option<String>,
    /// `AI_POLL_INTERVAL`.
    pub poll_interval: Duration,
    /// A poll without an answer fails after this long.
    pub poll_timeout: Duration,
    /// `AI_EPSILON_START`.
    pub epsilon_start: f32,
    /// `AI_EPSILON_MIN`.
    pub epsilon_min: f32,
    /// `AI_EPSILON_DECAY`, multiplied once per training step.
    pub epsilon_decay: f32,
    /// `AI_GAMMA`.
    pub gamma: f32,
    /// `AI_LEARNING_RATE`.
    pub learning_rate: f32,
    /// Whether sessions learn while they play. Off, they play the champion as it is.
    pub online_learning: bool,
    /// `SAVE_EVERY_STEPS`.
    pub save_every_steps: u64,
    /// `HIDDEN`: units of a fresh network.
    pub hidden: usize,
    /// `RL_MODEL_BASE_KEY`: a map's models are `{model_base_key}-{mapKey}`; the general model has this very key.
    pub model_base_key: String,
    pub swap: Swap,
    /// Milliseconds per tick of the game backend; tells how many missed ticks make a second.
    pub tick_ms: u32,
    /// First pause before a lost socket is tried again; it doubles up to `reconnect_max`.
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    /// Pauses after failed saves; their number is the number of tries.
    pub save_pauses: Vec<Duration>,
    /// HTTP timeout of a save.
    pub save_timeout: Duration,
    /// How long a shutdown waits for saves.
    pub drain: Duration,
    /// Sessions served at a time.
    pub max_sessions: usize,
    /// Send the `debug` object with each input.
    pub send_debug: bool,
    /// Seed of exploration and of fresh networks; absent: taken from the system.
    pub seed: Option<u64>,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            gbe_url: "http://127.0.0.1:5051".to_owned(),
            model_store_url: Some("http://127.0.0.1:5050".to_owned()),
            poll_interval: Duration::from_secs(2),
            poll_timeout: Duration::from_secs(5),
            epsilon_start: 0.2,
            epsilon_min: 0.05,
            epsilon_decay: 0.9995,
            gamma: 0.95,
            learning_rate: 0.001,
            online_learning: true,
            save_every_steps: 300,
            hidden: 64,
            model_base_key: "tank-ai-dqn".to_owned(),
            swap: Swap::Episode,
            tick_ms: 33,
            reconnect_min: Duration::from_millis(500),
            reconnect_max: Duration::from_secs(10),
            save_pauses: [1, 2, 4].map(Duration::from_secs).to_vec(),
            save_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            max_sessions: 64,
            send_debug: true,
            seed: None,
        }
    }
}

impl AgentConfig {
    /// # Errors
    /// The first setting that cannot work, with what was expected.
    pub fn validate(&self) -> Result<(), AgentError> {
        let fail = |setting, value: String, expected: &str| {
            Err(AgentError::Setting { setting, value, expected: expected.to_owned() })
        };
        for (setting, url) in [("gbe_url", Some(&self.gbe_url)), ("model_store_url", self.model_store_url.as_ref())] {
            if let Some(url) = url.filter(|url| !url.starts_with("http://")) {
                return fail(setting, url.clone(), "an address that begins with `http://`");
            }
        }
        for (setting, value) in [
            ("epsilon_start", self.epsilon_start),
            ("epsilon_min", self.epsilon_min),
            ("epsilon_decay", self.epsilon_decay),
            ("gamma", self.gamma),
            ("learning_rate", self.learning_rate),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return fail(setting, value.to_string(), "a number from 0 to 1");
            }
        }
        if self.poll_interval.is_zero() {
            return fail("poll_interval", "0".to_owned(), "some time");
        }
        if !(1..=4096).contains(&self.hidden) {
            return fail("hidden", self.hidden.to_string(), "1 to 4096 units");
        }
        if self.tick_ms == 0 || self.save_every_steps == 0 || self.save_pauses.is_empty() {
            return fail("tick_ms, save_every_steps or save_pauses", "0".to_owned(), "at least 1");
        }
        flywheel_events::BaseKey::new(&self.model_base_key)
            .map(|_| ())
            .or_else(|error| fail("model_base_key", self.model_base_key.clone(), &error.to_string()))
    }
}
