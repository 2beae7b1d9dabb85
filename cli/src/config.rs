//! One configuration for all stages: defaults, then files, then the environment, then flags.

mod ingest;
pub mod schema;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Env, Format, Serialized, Toml},
};
use flywheel_backends::{ArchiveConfig, CatalogConfig, StoreConfig};
use flywheel_judge::{LiveConfig, TrialConfig};
use flywheel_tank::{RewardWeights, TankConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::ingest::IngestSettings;
use crate::{
    Global,
    exit::{Code, Failure},
};

/// Everything that can be set. `flywheel config show --origin` says where each value came from.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder that holds everything flywheel keeps.
    pub data: PathBuf,
    /// The loop as a whole.
    pub up: UpConfig,
    /// The event log and what is put into it.
    pub stream: StreamConfig,
    /// The doors for events of games that are not ours.
    pub ingest: IngestSettings,
    /// Where tables and models lie.
    pub store: StoreConfig,
    /// Where runs are kept.
    pub catalog: CatalogConfig,
    /// Where old days of `events` and trimmed records go.
    pub archive: ArchiveConfig,
    /// Live games.
    pub play: PlayConfig,
    /// Headless self-play beside the live games.
    pub farm: FarmSettings,
    /// The AI backend.
    pub agent: AgentSettings,
    /// The trainer.
    pub train: TrainSettings,
    /// The judge: what a new version must show.
    pub judge: JudgeSettings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            up: UpConfig::default(),
            stream: StreamConfig::default(),
            ingest: IngestSettings::default(),
            store: StoreConfig::default(),
            catalog: CatalogConfig::default(),
            archive: ArchiveConfig::default(),
            play: PlayConfig::default(),
            farm: FarmSettings::default(),
            agent: AgentSettings::default(),
            train: TrainSettings::default(),
            judge: JudgeSettings::default(),
        }
    }
}

/// The loop as a whole.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpConfig {
    /// Address that the page and the API listen on. Anything but loopback lets other machines look: nobody is asked for
    /// a password. What changes something (models, events) is still taken from this machine only, but for events of who
    /// has a key where `ingest.keys` is `required`.
    pub listen: IpAddr,
    /// Port of the page and the API; 0 takes any free port.
    pub port: u16,
    /// Names besides `localhost` by which the page and `/metrics` may be asked for, such as a container's. An address
    /// is always a name; any other name is refused, because whoever owns it could point it here.
    pub hosts: Vec<String>,
    /// Live games with scripted players that are kept going.
    #[schemars(range(max = 64))]
    pub sessions: usize,
    /// Seed of everything that draws random numbers.
    pub seed: u64,
    /// Longest orderly stop before the process ends anyway.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "schema::span")]
    pub drain: Duration,
    /// Time between compactions of each table.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "schema::span")]
    pub compact_every: Duration,
}

impl Default for UpConfig {
    fn default() -> Self {
        Self {
            listen: Ipv4Addr::LOCALHOST.into(),
            port: 8080,
            hosts: Vec::new(),
            sessions: 16,
            seed: 7,
            drain: Duration::from_secs(20),
            compact_every: Duration::from_secs(45),
        }
    }
}

/// The event log and what is put into it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// Where the log is: `embedded:` (the data folder's own), `redis://host:port/db`, or, in a program that was built with
    /// it, `kafka://host:port`.
    pub url: String,
    /// Partitions of each system's topic; fixed once the topic exists.
    #[schemars(range(min = 1, max = 256))]
    pub partitions: u32,
    /// Longest wait of an event for its batch.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "schema::span")]
    pub linger: Duration,
    /// Bytes of events held in memory while the log is slow; beyond it they go to the spill file.
    pub queue_bytes: usize,
    /// Largest spill file, in bytes; beyond it new games are refused.
    pub spill_bytes: u64,
    /// Age at which an event leaves the log, once it is in the tables and its game is assembled.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "schema::span")]
    pub keep: Duration,
    /// Share of the volume that new events may not take: below it they are refused (the doors say 503), no new game
    /// begins, and what is stored is landed. They are taken again by themselves once there is room.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub reserve_share: f64,
    /// The same in bytes, where that is more. With less free, the loop does not start.
    pub reserve_bytes: u64,
    /// On Redis and Kafka processes share the partitions (`flywheel up`, `land`, `assemble`). One that was not heard of
    /// for so long is dead, and the others take its partitions over.
    #[serde(with = "humantime_serde")]
    #[schemars(schema_with = "schema::span")]
    pub lease: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            url: "embedded:".to_owned(),
            partitions: 2,
            linger: Duration::from_millis(20),
            queue_bytes: 64 << 20,
            spill_bytes: 4 << 30,
            keep: Duration::from_secs(3600),
            reserve_share: 0.05,
            reserve_bytes: 512 << 20,
            lease: Duration::from_secs(10),
        }
    }
}

/// Live games.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlayConfig {
    /// Address of the game backend; taken if free, else any free port.
    pub listen: SocketAddr,
    /// Address of the model store; taken if free, else any free port.
    pub store_listen: SocketAddr,
    /// Length of a tick of live games, in milliseconds.
    #[schemars(range(min = 1, max = 10000))]
    pub tick_ms: u64,
    /// Scripted players that keep the live games going, in turn.
    #[schemars(length(min = 1), inner(regex(pattern = "^(hunter|camper|random)$")))]
    pub opponents: Vec<String>,
    /// The rules' settings and reward weights.
    pub tank: TankConfig,
}

impl Default for PlayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 5051)),
            store_listen: SocketAddr::from(([127, 0, 0, 1], 5050)),
            tick_ms: 33,
            opponents: ["hunter", "camper", "random"].map(str::to_owned).to_vec(),
            tank: TankConfig { transition_interval: 4, weights: learning_weights(), ..TankConfig::default() },
        }
    }
}

/// The spec's weights reward bricks and caution so well that a learner stays away from the HQ; these make winning
/// worth more than either (measured: `docs/performance.md`).
fn learning_weights() -> RewardWeights {
    RewardWeights {
        hit_player: 3.0,
        destroy_hq: 10.0,
        hit_ally: -0.3,
        destructive_shot: 0.1,
        got_hit: -0.3,
        death: -1.0,
        ..RewardWeights::default()
    }
}

/// Headless self-play beside the live games.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FarmSettings {
    /// Threads; 0 switches the farm off.
    pub threads: usize,
    /// Ticks of all farm games together in a second, at most.
    pub ticks_per_second: u64,
    /// Emit inputs and ticks too, so that farm games can be replayed; off, only what learning needs.
    pub record_play: bool,
}

impl Default for FarmSettings {
    fn default() -> Self {
        Self { threads: 1, ticks_per_second: 2500, record_play: true }
    }
}

/// The AI backend under `flywheel up`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettings {
    /// The slot that all maps share; a map with a champion of its own uses that.
    pub base_key: String,
    /// Share of random actions in live play.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub epsilon: f32,
    /// Learn in the live session too, by the spec's online Q-learning. Off: only judged versions play.
    pub online_learning: bool,
    /// `episode`: a game keeps its version; `tick`: a new one plays from the next decision.
    #[schemars(regex(pattern = "^(episode|tick)$"))]
    pub swap: String,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self { base_key: "tank-ai-dqn".to_owned(), epsilon: 0.02, online_learning: false, swap: "tick".to_owned() }
    }
}

/// The trainer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// Off: nothing is learnt; the models that are there play on.
    pub enabled: bool,
    /// `auto`, `cpu` or `cuda`.
    #[schemars(regex(pattern = "^(auto|cpu|cuda)$"))]
    pub device: String,
    /// The trainer's program; looked for beside this one when empty.
    pub program: PathBuf,
    /// Given to `flywheel-trainer` as `--key value`; `flywheel-trainer --help` lists them. Values are strings.
    pub options: BTreeMap<String, String>,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self { enabled: true, device: "auto".to_owned(), program: PathBuf::new(), options: BTreeMap::new() }
    }
}

impl TrainSettings {
    /// Units of the hidden layers; one layer is what the model store's `mlp-q` payload can carry.
    pub fn hidden(&self) -> Vec<usize> {
        let text = self.options.get("hidden").map_or("128", String::as_str);
        text.split(',').filter_map(|units| units.trim().parse().ok()).collect()
    }
}

/// The judge.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSettings {
    /// What a candidate must show before it may play live.
    pub trial: TrialConfig,
    /// When a champion goes back by itself.
    pub live: LiveConfig,
}

impl Config {
    /// Reads the layers in order: defaults, `/etc/flywheel/flywheel.toml`, `./flywheel.toml` or the named file,
    /// `FLYWHEEL__SECTION__KEY`, flags.
    ///
    /// # Errors
    /// If a named file is missing, or a value does not fit: the message names key, value and source.
    pub fn load(global: &Global) -> Result<Self, Failure> {
        let config: Self = figment(global)?.extract().map_err(|error| {
            Failure::msg(Code::Config, format!("the configuration does not fit: {error}"))
                .hint("`flywheel config show --origin` prints every setting with its source")
        })?;
        config.check()?;
        Ok(config)
    }

    /// Every problem at once.
    pub fn check(&self) -> Result<(), Failure> {
        let mut problems = Vec::new();
        if self.up.sessions > 64 {
            problems.push(format!("up.sessions is {}; at most 64 games run at once", self.up.sessions));
        }
        for host in self.up.hosts.iter().filter(|host| !is_host_name(host)) {
            problems.push(format!(
                "up.hosts holds `{host}`; it takes bare names of letters, digits, `-` and `.`, without port or wildcard"
            ));
        }
        if self.stream.partitions == 0 || self.stream.partitions > 256 {
            problems.push(format!("stream.partitions is {}; it must lie in 1..=256", self.stream.partitions));
        }
        if !(0.0..=0.9).contains(&self.stream.reserve_share) {
            problems.push(format!("stream.reserve_share is {}; it must lie in 0..=0.9", self.stream.reserve_share));
        }
        if !(Duration::from_millis(500)..=Duration::from_secs(300)).contains(&self.stream.lease) {
            problems.push(format!("stream.lease is {:?}; it must lie in 500ms..=5m", self.stream.lease));
        }
        if !(0.0..=1.0).contains(&self.agent.epsilon) {
            problems.push(format!("agent.epsilon is {}; it must lie in 0..=1", self.agent.epsilon));
        }
        if !["episode", "tick"].contains(&self.agent.swap.as_str()) {
            problems.push(format!("agent.swap is `{}`; it must be `episode` or `tick`", self.agent.swap));
        }
        if !["auto", "cpu", "cuda"].contains(&self.train.device.as_str()) {
            problems.push(format!("train.device is `{}`; it must be `auto`, `cpu` or `cuda`", self.train.device));
        }
        for opponent in &self.play.opponents {
            if opponent.parse::<flywheel_tank::script::Script>().is_err() {
                problems.push(format!("play.opponents holds `{opponent}`; known are random, camper, hunter"));
            }
        }
        problems.extend(self.ingest.problems());
        problems.extend(self.store.problems());
        problems.extend(self.catalog.problems());
        problems.extend(self.archive.problems());
        if self.play.opponents.is_empty() {
            problems.push("play.opponents is empty".to_owned());
        }
        if self.play.tick_ms == 0 || self.play.tick_ms > 10_000 {
            problems.push(format!("play.tick_ms is {}; it must lie in 1..=10000", self.play.tick_ms));
        }
        if flywheel_events::BaseKey::new(&self.agent.base_key).is_err() {
            problems.push(format!("agent.base_key `{}` is not a base key", self.agent.base_key));
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Failure::msg(Code::Config, format!("the configuration does not fit: {}", problems.join("; ")))
            .hint("`flywheel config show --origin` prints every setting with its source"))
    }
}

/// A name as a `Host` header has it, without its port.
fn is_host_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    !name.is_empty() && name.len() <= 253 && name.bytes().all(fits) && name.bytes().any(|b| b.is_ascii_alphanumeric())
}

/// The layers, not yet extracted: also used to say where a value came from.
pub fn figment(global: &Global) -> Result<Figment, Failure> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    let system = Path::new("/etc/flywheel/flywheel.toml");
    if system.is_file() {
        figment = figment.merge(Toml::file_exact(system));
    }
    match &global.config {
        Some(path) => {
            if !path.is_file() {
                return Err(Failure::msg(
                    Code::Config,
                    format!("the configuration file `{}` is not there", path.display()),
                )
                .hint("name an existing file with --config FILE, or leave the flag out"));
            }
            figment = figment.merge(Toml::file_exact(path));
        }
        None => {
            let here = Path::new("flywheel.toml");
            if here.is_file() {
                figment = figment.merge(Toml::file_exact(here));
            }
        }
    }
    figment = figment.merge(Env::prefixed("FLYWHEEL__").split("__"));
    if let Some(data) = &global.data {
        figment = figment.merge(Flag("data", data.display().to_string()));
    }
    Ok(figment)
}

/// One value given by a flag.
struct Flag(&'static str, String);

impl Provider for Flag {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("flag --{}", self.0))
    }

    fn data(&self) -> Result<figment::value::Map<Profile, figment::value::Dict>, figment::Error> {
        Serialized::default(self.0, &self.1).data()
    }
}
