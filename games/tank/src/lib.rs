//! The tank game: its rules, its wire forms, what its networks see, and games without sockets.
//!
//! Everything here is synchronous, deterministic and free of I/O. The same map, settings, seed, joins and inputs
//! give the same states, deltas and hashes on every machine; [`replay`] holds recorded games to that.
//!
//! ```
//! use flywheel_tank::{Action, InputSource, Map, Move, Rules, TankConfig};
//!
//! let mut rules = Rules::new(&Map::shipped()[0], &TankConfig::default(), 7).unwrap();
//! let player = rules.add_player(None).unwrap().id;
//! rules.queue_input(player, Action::go(Move::Up), InputSource::Ws).unwrap();
//! assert_eq!(rules.tick().tick, 1);
//! ```

mod action;
mod config;
mod experience;
mod game;
pub mod headless;
mod ids;
mod kinds;
pub mod map;
mod merge;
pub mod observe;
mod replay;
mod rewind;
pub mod rules;
pub mod script;
mod view;
pub mod wire;

pub use action::{Action, Move};
pub use config::{ConfigError, MAX_ENEMIES, RewardWeights, TankConfig};
pub use experience::TankExperience;
pub use game::{TankGame, TankGameConfig};
pub use headless::{Decide, Decision, GameResult, Headless, Recorder, TankEvent};
pub use ids::{NetId, TankId};
pub use kinds::{Role, TABLE, TankKind, TankSpec, table_hash};
pub use map::{Cell, Map, MapError, MapProblem, TILE, map_key};
pub use merge::{MergeError, Merged, StateMerger};
pub use observe::ObservationStack;
pub use replay::{ReplayError, ReplayOutcome, Replayer, replay};
pub use rewind::{Rewound, rewind};
pub use rules::{
    Applied, Bullet, Effect, EffectKind, EndReason, InputSource, Joined, Reason, Reasons, RewardEntry, Rules,
    RulesError, Tank, TankRecord, TickReport, TileChange,
};
pub use script::{Script, ScriptedPlayer};
pub use view::{ClientView, ViewTank};
pub use wire::{Audience, Delta, DeltaEncoder, StateView};

/// Numbers in one state vector.
pub const STATE_LEN: usize = 27;
/// State vectors in one observation.
pub const STACK: usize = 4;
/// Numbers in one observation.
pub const OBSERVATION_LEN: usize = STATE_LEN * STACK;
/// Actions to choose from.
pub const ACTIONS: usize = 10;
/// Ticks between two checkpoints.
pub const CHECKPOINT_INTERVAL: u64 = 300;
/// A tick without any change is recorded at least this often.
pub const QUIET_TICKS: u64 = 30;
