use flywheel_events::{DecodeError, Event, GameId, ModelRef};

/// One seat of one game: the unit in which transitions follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    pub game_id: GameId,
    /// The seat's name on the wire, such as a tank id.
    pub seat: String,
}

/// One transition as a learner needs it, before a table gives it columns.
#[derive(Debug, Clone, PartialEq)]
pub struct TransitionRow {
    pub lane: Lane,
    /// Simulation step at which `s2` was seen; rises within a lane.
    pub tick: u64,
    /// What kind of seat, such as a tank type.
    pub label: String,
    pub map_key: String,
    pub model: Option<ModelRef>,
    pub s: Vec<f32>,
    pub a: i16,
    pub r: f32,
    pub s2: Vec<f32>,
    /// No future follows: `s2` is not bootstrapped from.
    pub done: bool,
    pub epsilon: f32,
}

/// How one seat's game ended.
#[derive(Debug, Clone, PartialEq)]
pub struct SeatOutcome {
    pub seat: String,
    pub label: String,
    /// Sum of its rewards.
    pub episode_return: f32,
}

/// A whole game, known once it has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EpisodeRow {
    pub game_id: GameId,
    pub map_key: String,
    /// Who played on the other side.
    pub opponent: String,
    /// Why it ended.
    pub reason: String,
    /// For the AI side: +1, 0, -1.
    pub outcome: i8,
    /// Steps played.
    pub ticks: u64,
    /// `live`, `farm`.
    pub source: String,
    /// Every model that decided in it; one unless a swap fell into the game.
    pub models: Vec<ModelRef>,
    pub seats: Vec<SeatOutcome>,
}

/// An event of a known kind whose payload cannot be used; it becomes a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum ExperienceError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Invalid(String),
}

/// Reads transitions and the outcome off the ordered events of **one** game.
pub trait Experience: Send {
    /// Takes the next event of the game, in order of `seq`; pushes the transitions that it completes.
    ///
    /// # Errors
    /// If the event is of a kind that it must understand and cannot be used. Nothing is pushed then and the
    /// next events are still taken.
    fn accept(&mut self, event: &Event, out: &mut Vec<TransitionRow>) -> Result<(), ExperienceError>;

    /// The episode, once the event that ends it has been taken.
    fn ended(&self) -> Option<EpisodeRow>;
}
