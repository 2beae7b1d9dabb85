//! What the loop does now: six stages, the champion, and the counters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The six stages, in the order in which an event passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Games are played, live and headless.
    Play,
    /// Events are appended to the log.
    Stream,
    /// Events become rows of tables.
    Land,
    /// The trainer makes new versions.
    Learn,
    /// New versions play against the champion and the anchors.
    Judge,
    /// Live servers take over a promoted version.
    Swap,
}

impl Stage {
    /// All six, in order.
    pub const ALL: [Self; 6] = [Self::Play, Self::Stream, Self::Land, Self::Learn, Self::Judge, Self::Swap];

    /// The word for it in output, labels and on the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Play => "play",
            Self::Stream => "stream",
            Self::Land => "land",
            Self::Learn => "learn",
            Self::Judge => "judge",
            Self::Swap => "swap",
        }
    }
}

/// Whether a stage works, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// At work.
    Running,
    /// Alive, with nothing to do yet; `why_waiting` says what it needs.
    #[default]
    Waiting,
    /// Switched off, or drained.
    Stopped,
    /// It gave up; `line` says what went wrong.
    Failed,
}

impl StageState {
    /// All states, in order.
    pub const ALL: [Self; 4] = [Self::Running, Self::Waiting, Self::Stopped, Self::Failed];

    /// The word for it in output and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// One stage, as the page and the terminal show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageStatus {
    /// Which stage.
    pub name: Stage,
    /// Whether it works.
    pub state: StageState,
    /// One sentence on what it does, e.g. `9 live games, 2 farm threads`.
    pub line: String,
    /// What it waits for, e.g. `12,400 of 20,000 transitions`.
    pub why_waiting: Option<String>,
    /// How much of what it waits for is there, in `0.0..=1.0`, where that can be said.
    pub progress: Option<f64>,
    /// Work per second.
    pub rate: Option<f64>,
    /// Unit of `rate`, e.g. `events/s`.
    pub rate_unit: String,
    /// How far behind its input the stage is.
    pub lag: Option<f64>,
    /// Unit of `lag`, e.g. `ms` or `events`.
    pub lag_unit: String,
    /// Further figures by name, shown in order of the names; at most a dozen.
    pub details: BTreeMap<String, serde_json::Value>,
}

impl StageStatus {
    /// A waiting stage without figures.
    pub fn new(name: Stage) -> Self {
        Self {
            name,
            state: StageState::Waiting,
            line: String::new(),
            why_waiting: None,
            progress: None,
            rate: None,
            rate_unit: String::new(),
            lag: None,
            lag_unit: String::new(),
            details: BTreeMap::new(),
        }
    }

    /// Sets state and line; a running stage waits for nothing.
    #[must_use]
    pub fn running(mut self, line: impl Into<String>) -> Self {
        self.state = StageState::Running;
        self.line = line.into();
        self.why_waiting = None;
        self
    }

    /// Sets the stage waiting for `why`.
    #[must_use]
    pub fn waiting(mut self, why: impl Into<String>) -> Self {
        self.state = StageState::Waiting;
        self.why_waiting = Some(why.into());
        self
    }

    /// Sets the stage failed with what went wrong.
    #[must_use]
    pub fn failed(mut self, line: impl Into<String>) -> Self {
        self.state = StageState::Failed;
        self.line = line.into();
        self
    }

    /// Sets how much of what it waits for is there, in `0.0..=1.0`.
    #[must_use]
    pub fn progress(mut self, share: f64) -> Self {
        self.progress = Some(share.clamp(0.0, 1.0));
        self
    }

    /// Sets work per second.
    #[must_use]
    pub fn rate(mut self, rate: f64, unit: impl Into<String>) -> Self {
        self.rate = Some(rate);
        self.rate_unit = unit.into();
        self
    }

    /// Sets how far behind the stage is.
    #[must_use]
    pub fn lag(mut self, lag: f64, unit: impl Into<String>) -> Self {
        self.lag = Some(lag);
        self.lag_unit = unit.into();
        self
    }

    /// Adds one further figure.
    #[must_use]
    pub fn detail(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.into(), value.into());
        self
    }
}

/// A score against one opponent: the share of games won by the AI side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpponentScore {
    /// `random`, `camper`, `hunter`, or a model such as `champion@12`.
    pub opponent: String,
    /// Games played.
    pub games: u64,
    /// Share won, in `0.0..=1.0`; a draw counts half.
    pub score: f64,
}

/// The version that plays live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Champion {
    /// Base key of the model.
    pub model_key: String,
    /// Its version.
    pub version: u64,
    /// When the alias moved to it.
    pub since_ms: i64,
    /// The champion before it.
    pub previous: Option<u64>,
    /// Its scores as judged.
    pub scores: Vec<OpponentScore>,
    /// Rating, on the scale of the judge.
    pub rating: Option<f64>,
}

/// The version being judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Base key of the model.
    pub model_key: String,
    /// Its version.
    pub version: u64,
    /// Games played so far in its trial.
    pub games: u64,
    /// Games after which the trial ends in any case.
    pub games_cap: u64,
    /// Where the trial stands, in a sentence.
    pub line: String,
}

/// Decisions of live play.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decisions {
    /// Decisions asked for.
    pub requested: u64,
    /// Decisions answered, each by one named version.
    pub answered: u64,
    /// Decisions in which two versions had a hand; always 0 if all is well.
    pub mixed: u64,
    /// Answers per second.
    pub per_second: f64,
    /// Median time in process.
    pub p50_us: Option<f64>,
    /// 99th percentile of the time in process.
    pub p99_us: Option<f64>,
}

/// What a loop can be without and go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// The event log does not answer.
    Log,
    /// The store of tables or models does not answer.
    Store,
    /// The database of runs does not answer.
    Catalog,
    /// A disk is nearly full.
    Disk,
    /// The archive does not answer.
    Archive,
}

impl Lack {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Log, Self::Store, Self::Catalog, Self::Disk, Self::Archive];

    /// The word for it in output, labels and on the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Store => "store",
            Self::Catalog => "catalog",
            Self::Disk => "disk",
            Self::Archive => "archive",
        }
    }

    /// What the loop does meanwhile, for people.
    pub fn meanwhile(self) -> &'static str {
        match self {
            Self::Log => {
                "games go on; their events, and those that the doors take into their spool, wait and go first once it is back"
            }
            Self::Store => "games go on, events are taken and wait in the log; nothing lands",
            Self::Catalog => "games, events and tables go on; no run of the trainer begins or goes on",
            Self::Disk => "no new event is taken and no new game begins; what is stored is landed",
            Self::Archive => "all goes on; no day moves there, and the log keeps what it would lose to it",
        }
    }
}

/// Something that the loop does without for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// What is away.
    pub what: Lack,
    /// Since when.
    pub since_ms: i64,
    /// What was tried last, and how it failed.
    pub why: String,
    /// What the loop does meanwhile.
    pub meanwhile: String,
}

impl Degraded {
    /// `what` is away since then, because of `why`.
    pub fn new(what: Lack, since_ms: i64, why: impl Into<String>) -> Self {
        Self { what, since_ms, why: why.into(), meanwhile: what.meanwhile().to_owned() }
    }
}

/// Everything that the page shows and that changes each moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoopStatus {
    /// Version of the program.
    pub version: String,
    /// When the loop started.
    pub started_at_ms: i64,
    /// When this state was taken.
    pub now_ms: i64,
    /// Seconds since the start.
    pub seconds: f64,
    /// Seconds after which the loop ends, if it was told to.
    pub run_for_seconds: Option<f64>,
    /// `cpu`, `cuda`, …
    pub device: String,
    /// The six stages, in order.
    pub stages: Vec<StageStatus>,
    /// What the loop does without for now; empty if all is well.
    #[serde(default)]
    pub degraded: Vec<Degraded>,
    /// The version that plays live, once there is one.
    pub champion: Option<Champion>,
    /// The version being judged, if any.
    pub candidate: Option<Candidate>,
    /// The last move of the champion.
    pub last_swap: Option<crate::SwapPoint>,
    /// Decisions of live play.
    pub decisions: Decisions,
    /// Counters by the names of the report (`events_acknowledged`, `versions_promoted`, …).
    pub counters: BTreeMap<String, f64>,
}

impl LoopStatus {
    /// An empty state: six stages that wait, nothing counted.
    pub fn new(started_at_ms: i64, now_ms: i64) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms,
            now_ms,
            seconds: (now_ms - started_at_ms).max(0) as f64 / 1000.0,
            run_for_seconds: None,
            device: "cpu".to_owned(),
            stages: Stage::ALL.into_iter().map(StageStatus::new).collect(),
            degraded: Vec::new(),
            champion: None,
            candidate: None,
            last_swap: None,
            decisions: Decisions::default(),
            counters: BTreeMap::new(),
        }
    }

    /// The stage of that name.
    pub fn stage(&self, name: Stage) -> Option<&StageStatus> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Puts `stage` in the place of the one with the same name.
    pub fn set_stage(&mut self, stage: StageStatus) {
        match self.stages.iter_mut().find(|known| known.name == stage.name) {
            Some(known) => *known = stage,
            None => self.stages.push(stage),
        }
    }

    /// Adds a counter.
    pub fn count(&mut self, name: impl Into<String>, value: f64) {
        self.counters.insert(name.into(), value);
    }
}

/// What became of a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not judged yet.
    #[default]
    Waiting,
    /// Its trial is running.
    Judging,
    /// It became champion.
    Promoted,
    /// It was not better, too slow, or not sound.
    Refused,
    /// It was champion and had to go.
    RolledBack,
}

/// One version in the table of models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Base key of the model.
    pub model_key: String,
    /// Its version.
    pub version: u64,
    /// The version from which training went on.
    pub parent: Option<u64>,
    /// When it was published.
    pub published_at_ms: i64,
    /// Aliases that point to it: `champion`, `previous`, `candidate`.
    pub aliases: Vec<String>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub verdict_line: String,
    /// Scores per opponent.
    pub scores: Vec<OpponentScore>,
    /// Rating, on the scale of the judge.
    pub rating: Option<f64>,
    /// Training steps behind it.
    pub train_steps: Option<u64>,
    /// Size of the weights.
    pub size_bytes: u64,
    /// SHA-256 of the weights, in hex.
    pub sha256: String,
}
