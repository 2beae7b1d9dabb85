//! One tank on the field: its body, its queue of inputs, and what its rewards need to remember.

use super::{Bounty, Rect, TankRecord};
use crate::{Action, Move, TankId, TankKind};

/// Inputs that one AI tank may have waiting; more are refused.
pub const QUEUE_LEN: usize = 32;

/// Where an input came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputSource {
    Ws,
    Http,
    /// The tank's last input once more, because its queue was empty.
    Repeat,
    Farm,
}

impl InputSource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Http => "http",
            Self::Repeat => "repeat",
            Self::Farm => "farm",
        }
    }

    pub fn from_wire(text: &str) -> Option<Self> {
        [Self::Ws, Self::Http, Self::Repeat, Self::Farm].into_iter().find(|source| source.as_str() == text)
    }
}

/// First in, first out, bounded, without allocation.
#[derive(Debug, Clone)]
pub(crate) struct InputQueue {
    items: [(Action, InputSource); QUEUE_LEN],
    head: u8,
    len: u8,
}

impl InputQueue {
    fn new() -> Self {
        Self { items: [(Action::NOTHING, InputSource::Farm); QUEUE_LEN], head: 0, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len.into()
    }

    /// `false` when full.
    pub fn push(&mut self, action: Action, source: InputSource) -> bool {
        if self.len() == QUEUE_LEN {
            return false;
        }
        self.items[(self.head as usize + self.len()) % QUEUE_LEN] = (action, source);
        self.len += 1;
        true
    }

    pub fn pop(&mut self) -> Option<(Action, InputSource)> {
        if self.len == 0 {
            return None;
        }
        let item = self.items[self.head as usize];
        self.head = (self.head + 1) % QUEUE_LEN as u8;
        self.len -= 1;
        Some(item)
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }
}

/// What a player's tank has besides a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlayerPart {
    pub spawn_index: u32,
    pub respawns_left: u32,
}

/// What an AI tank has besides a body.
#[derive(Debug, Clone)]
pub(crate) struct AiPart {
    pub queue: InputQueue,
    pub last: Option<Action>,
    /// Since the last transition.
    pub bounty: Bounty,
    pub seen: Vec<u64>,
    pub seen_count: u32,
    pub ticks_since_new_tile: u32,
    pub idle_ticks: u32,
    /// Tick of the last change of direction; 0 before the first.
    pub turned_at: u64,
    pub anchor: (i32, i32),
    pub ticks_at_anchor: u32,
    // This tick only.
    pub moved: bool,
    pub blocked: bool,
    pub turned: bool,
    pub got_hit: bool,
}

impl AiPart {
    pub fn new(n_tiles: usize, x: i32, y: i32) -> Self {
        Self {
            queue: InputQueue::new(),
            last: None,
            bounty: Bounty::default(),
            seen: vec![0; n_tiles.div_ceil(64)],
            seen_count: 0,
            ticks_since_new_tile: 0,
            idle_ticks: 0,
            turned_at: 0,
            anchor: (x >> 4, y >> 4),
            ticks_at_anchor: 0,
            moved: false,
            blocked: false,
            turned: false,
            got_hit: false,
        }
    }
}

/// A tank on the field. `x`, `y` are its centre.
#[derive(Debug, Clone)]
pub struct Tank {
    pub id: TankId,
    pub kind: TankKind,
    pub x: i32,
    pub y: i32,
    pub dir: Move,
    pub health: i32,
    pub shoot_cooldown: u32,
    pub(crate) player: Option<PlayerPart>,
    /// Boxed so that a row of tanks stays within a few cache lines.
    pub(crate) ai: Option<Box<AiPart>>,
    pub(crate) record: TankRecord,
}

/// The bound rectangle of a tank of this kind whose centre is here.
#[inline]
pub fn bounds_at(kind: TankKind, x: i32, y: i32) -> Rect {
    let spec = kind.spec();
    let (left, top) = (x - 16, y - 16);
    Rect {
        left: left + spec.bound_min.0,
        top: top + spec.bound_min.1,
        right: left + spec.bound_max.0,
        bottom: top + spec.bound_max.1,
    }
}

impl Tank {
    #[inline]
    pub fn bounds(&self) -> Rect {
        bounds_at(self.kind, self.x, self.y)
    }

    #[inline]
    pub fn is_ai(&self) -> bool {
        self.ai.is_some()
    }

    /// Where its bullets start: the centre of the bound rectangle.
    #[inline]
    pub fn muzzle(&self) -> (i32, i32) {
        let rect = self.bounds();
        ((rect.left + rect.right) >> 1, (rect.top + rect.bottom) >> 1)
    }

    /// Inputs waiting; 0 for players, whose inputs are all applied in the next tick.
    pub fn queued(&self) -> usize {
        self.ai.as_ref().map_or(0, |ai| ai.queue.len())
    }

    pub fn respawns_left(&self) -> u32 {
        self.player.map_or(0, |player| player.respawns_left)
    }
}
