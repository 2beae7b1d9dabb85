use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

/// One player's place in a game; 0-based. Who may act changes with the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Seat(pub u16);

/// How a game ended for one seat: -1 lost, 0 drawn or undecided, +1 won.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Outcome(pub i8);

/// An action that the rules do not allow now. The state is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("seat {} may not do {action}: {reason}", seat.0)]
pub struct IllegalAction {
    pub seat: Seat,
    pub action: String,
    pub reason: String,
}

/// The rules of one game.
///
/// The same config, seed and actions give the same states and hashes on every machine. A step may take
/// actions of several seats at once (tanks, robots) or of one (cards, walls); hidden information is hidden by
/// [`Game::encode`], which sees with the eyes of its seat.
pub trait Game: Clone + Debug + Send + 'static {
    type Config: Clone + Debug + Send + Sync + Serialize + DeserializeOwned;
    type Action: Copy + Debug + PartialEq + Send + Sync;

    /// # Errors
    /// If the config describes no playable game; the message says what is wrong.
    fn start(config: &Self::Config, seed: u64) -> Result<Self, String>;

    /// The seats that may act in the present step, in ascending order. Empty once the game has ended.
    fn to_move(&self) -> Vec<Seat>;

    /// The actions that `seat` may take now. Empty if it is not to move.
    fn legal(&self, seat: Seat) -> Vec<Self::Action>;

    /// Plays one step. A seat to move without an action does what the rules say of silence.
    ///
    /// # Errors
    /// On the first illegal action; nothing is applied then.
    fn apply(&mut self, actions: &[(Seat, Self::Action)]) -> Result<(), IllegalAction>;

    /// `None` while the game goes on.
    fn outcome(&self, seat: Seat) -> Option<Outcome>;

    /// Length of an observation.
    fn observation_len(config: &Self::Config) -> usize;

    /// Writes what `seat` may know now.
    ///
    /// # Panics
    /// If `out` is not [`Game::observation_len`] long.
    fn encode(&self, seat: Seat, out: &mut [f32]);

    /// 64-bit hash of everything that decides the future.
    fn state_hash(&self) -> u64;
}
