//! Names of event kinds. Unknown kinds are kept in storage and ignored by logic.

pub const TANK_SESSION_OPENED: &str = "tank.session.opened";
pub const TANK_PLAYER_JOINED: &str = "tank.player.joined";
pub const TANK_INPUT: &str = "tank.input";
pub const TANK_TICK: &str = "tank.tick";
pub const TANK_TRANSITION: &str = "tank.transition";
pub const TANK_CHECKPOINT: &str = "tank.checkpoint";
pub const TANK_EPISODE_ENDED: &str = "tank.episode.ended";
pub const TANK_SESSION_CLOSED: &str = "tank.session.closed";
pub const TANK_MODEL_ALLOCATED: &str = "tank.model.allocated";
pub const TANK_MODEL_RELEASED: &str = "tank.model.released";
pub const TANK_MODEL_SAVED: &str = "tank.model.saved";
pub const TANK_MODEL_SWAPPED: &str = "tank.model.swapped";
/// A server stayed on its version because the new one failed a check.
pub const MODEL_SWAP_REFUSED: &str = "model.swap_refused";
