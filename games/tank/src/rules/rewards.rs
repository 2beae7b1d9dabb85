//! Rewards of the AI tanks: the fifteen reasons, and how they add up between transitions.

use super::{Rules, ballistics};
use crate::{
    TankId, TankKind,
    map::{Cell, TILE},
    rules::Rect,
};

/// Ticks without a new tile, or near one tile, after which the penalties for it begin (5 s).
pub const STALL_TICKS: u32 = 151;
/// Ticks without movement after which the idle penalty begins.
pub const IDLE_TICKS: u32 = 20;
/// A second turn within so many ticks is penalised.
pub const TURN_TICKS: u64 = 6;

/// Why an AI tank got a reward; the order is that of the spec's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    HitPlayer,
    DestroyHq,
    HitAlly,
    DestructiveShot,
    BlockedShot,
    GotHit,
    Death,
    PlayerAim,
    HqAim,
    MapTileTouched,
    ExploreStallPenalty,
    IdlePenalty,
    DirectionChange,
    CollisionPenalty,
    StuckArea,
}

impl Reason {
    pub const COUNT: usize = 15;
    pub const NAMES: [&'static str; Self::COUNT] = [
        "hitPlayer",
        "destroyHQ",
        "hitAlly",
        "destructiveShot",
        "blockedShot",
        "gotHit",
        "death",
        "playerAim",
        "hqAim",
        "mapTileTouched",
        "exploreStallPenalty",
        "idlePenalty",
        "directionChange",
        "collisionPenalty",
        "stuckArea",
    ];

    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// A set of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Reasons(pub u16);

impl Reasons {
    pub fn contains(self, reason: Reason) -> bool {
        self.0 >> reason as u8 & 1 == 1
    }

    /// The wire's words in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = &'static str> {
        (0..Reason::COUNT).filter(move |&i| self.0 >> i & 1 == 1).map(|i| Reason::NAMES[i])
    }

    /// The wire's list, never empty: `["none"]` when there is nothing to say.
    pub fn to_strings(self) -> Vec<String> {
        if self.0 == 0 {
            return vec!["none".to_owned()];
        }
        self.iter().map(str::to_owned).collect()
    }
}

/// Rewards added up since the last transition.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Bounty {
    pub sum: f32,
    pub reasons: Reasons,
}

impl Bounty {
    #[inline]
    pub fn add(&mut self, table: &[f32; Reason::COUNT], reason: Reason) {
        self.sum += table[reason as usize];
        self.reasons.0 |= 1 << reason as u8;
    }
}

/// One tank's entry of a transition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardEntry {
    pub tank: TankId,
    pub kind: TankKind,
    /// Sum since the last transition.
    pub reward: f32,
    pub reasons: Reasons,
    /// The tank was destroyed since the last transition; this is its last entry.
    pub gone: bool,
}

impl Rules {
    /// Step 6 of a tick: the rewards that do not come from a shot, for every living AI tank.
    pub(super) fn score_tick(&mut self, hq_fell: bool) {
        let first_player = self.tanks.iter().find(|t| t.player.is_some()).map(super::Tank::bounds);
        let hq = self.hq_cell().map(cell_rect);
        let grid = ballistics::Grid { tiles: &self.tiles, cols: self.cols };
        let (table, tick, explorable) = (&self.weight_table, self.tick, self.explorable);
        for tank in &mut self.tanks {
            let Some(ai) = tank.ai.as_deref_mut() else { continue };
            let bounty = &mut ai.bounty;
            if hq_fell {
                bounty.add(table, Reason::DestroyHq);
            }
            if ai.got_hit {
                bounty.add(table, Reason::GotHit);
            }
            if first_player.is_some_and(|r| ballistics::ray_reaches(grid, tank.x, tank.y, tank.dir, &r)) {
                bounty.add(table, Reason::PlayerAim);
            }
            if hq.is_some_and(|r| ballistics::ray_reaches(grid, tank.x, tank.y, tank.dir, &r)) {
                bounty.add(table, Reason::HqAim);
            }

            let cell = Cell::of(tank.x, tank.y);
            let index = (cell.row * grid.cols + cell.col) as usize;
            let (word, bit) = (index >> 6, 1u64 << (index & 63));
            if ai.seen[word] & bit == 0 {
                ai.seen[word] |= bit;
                ai.seen_count += 1;
                ai.ticks_since_new_tile = 0;
                bounty.add(table, Reason::MapTileTouched);
            } else {
                ai.ticks_since_new_tile += 1;
                if ai.ticks_since_new_tile >= STALL_TICKS && ai.seen_count * 4 < explorable * 3 {
                    bounty.add(table, Reason::ExploreStallPenalty);
                }
            }

            ai.idle_ticks = if ai.moved { 0 } else { ai.idle_ticks + 1 };
            if ai.idle_ticks >= IDLE_TICKS {
                bounty.add(table, Reason::IdlePenalty);
            }
            if ai.turned {
                if ai.turned_at > 0 && tick - ai.turned_at <= TURN_TICKS {
                    bounty.add(table, Reason::DirectionChange);
                }
                ai.turned_at = tick;
            }
            if ai.blocked {
                bounty.add(table, Reason::CollisionPenalty);
            }
            if (cell.col - ai.anchor.0).abs() > 1 || (cell.row - ai.anchor.1).abs() > 1 {
                ai.anchor = (cell.col, cell.row);
                ai.ticks_at_anchor = 0;
            } else {
                ai.ticks_at_anchor += 1;
                if ai.ticks_at_anchor >= STALL_TICKS {
                    bounty.add(table, Reason::StuckArea);
                }
            }
        }
    }

    /// Moves the sums into [`Rules::rewards`]: the gone first, in order of their death, then the living.
    pub(super) fn settle_transition(&mut self) {
        self.rewards.append(&mut self.gone);
        for tank in &mut self.tanks {
            let (id, kind) = (tank.id, tank.kind);
            let Some(ai) = tank.ai.as_deref_mut() else { continue };
            let Bounty { sum, reasons } = std::mem::take(&mut ai.bounty);
            tank.record.episode_return += sum;
            self.rewards.push(RewardEntry { tank: id, kind, reward: sum, reasons, gone: false });
        }
    }
}

/// The pixels of a tile.
pub(super) fn cell_rect(cell: Cell) -> Rect {
    let (left, top) = (cell.col * TILE, cell.row * TILE);
    Rect { left, top, right: left + TILE - 1, bottom: top + TILE - 1 }
}
