//! Scripted players: `random`, `camper`, `hunter`.
//!
//! They see a [`ClientView`] and nothing else, so one code plays over a WebSocket and headless. The same seed and
//! the same views give the same actions. One action costs around a microsecond; the hunter plans its way every
//! [`REPLAN_TICKS`] ticks only.

mod aim;
mod path;

use std::{fmt, str::FromStr};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    Action, ClientView, Move, TankId, ViewTank,
    map::{Cell, TILE},
};
use aim::{Sight, dodge, may_stand, shot};
use path::Field;

/// Ticks between two plans of the hunter.
pub const REPLAN_TICKS: u64 = 15;
/// How far from the HQ, in tiles, the camper goes at most.
pub const CAMP_TILES: i32 = 7;
/// How near to the HQ, in percent of the map's edge, an AI tank is when the hunter goes for it.
const HUNT_PERCENT: i32 = 60;
/// How far above the HQ the hunter waits for one.
const WAIT_TILES: i32 = 8;
/// Ticks at one place, while wanting to move, after which a script tries something else.
const STUCK_TICKS: u32 = 12;

/// Who plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Script {
    /// Drives and fires at random, but not at its own HQ.
    Random,
    /// Guards the HQ: stays near it and shoots AI tanks that come into line.
    Camper,
    /// Finds its way to the AI tanks and shoots them.
    Hunter,
}

impl Script {
    pub const ALL: [Script; 3] = [Self::Random, Self::Camper, Self::Hunter];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Camper => "camper",
            Self::Hunter => "hunter",
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no script has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no scripted player; there are `random`, `camper` and `hunter`")]
pub struct UnknownScript(String);

impl FromStr for Script {
    type Err = UnknownScript;
    fn from_str(s: &str) -> Result<Self, UnknownScript> {
        Self::ALL.into_iter().find(|script| script.as_str() == s).ok_or_else(|| UnknownScript(s.to_owned()))
    }
}

/// One scripted player.
#[derive(Debug, Clone)]
pub struct ScriptedPlayer {
    script: Script,
    rng: ChaCha8Rng,
    field: Field,
    planned_at: Option<u64>,
    target: Option<TankId>,
    place: (i32, i32),
    stuck: u32,
    /// Until this tick, go this way.
    detour: Option<(u64, Move)>,
    held: Action,
    hold_until: u64,
}

impl ScriptedPlayer {
    pub fn new(script: Script, seed: u64) -> Self {
        Self {
            script,
            rng: ChaCha8Rng::seed_from_u64(seed),
            field: Field::default(),
            planned_at: None,
            target: None,
            place: (0, 0),
            stuck: 0,
            detour: None,
            held: Action::NOTHING,
            hold_until: 0,
        }
    }

    pub fn script(&self) -> Script {
        self.script
    }

    /// What the tank `own` does next. Does nothing while it is not in the view.
    pub fn act(&mut self, view: &ClientView, own: TankId) -> Action {
        let Some(me) = view.tank(own).copied() else { return Action::NOTHING };
        if view.game_over {
            return Action::NOTHING;
        }
        let action = match self.script {
            Script::Random => self.act_random(view),
            Script::Camper => self.act_camper(view, &me),
            Script::Hunter => self.act_hunter(view, &me),
        };
        self.hold_fire_at_home(view, &me, action)
    }

    /// No script ever shoots its own HQ.
    fn hold_fire_at_home(&self, view: &ClientView, me: &ViewTank, action: Action) -> Action {
        if !action.fire {
            return action;
        }
        let dir = action.movement.or(Move::from_vector(me.dir.0, me.dir.1)).unwrap_or(Move::Up);
        Action { fire: shot(view, me, dir) != Sight::Home, ..action }
    }

    fn act_random(&mut self, view: &ClientView) -> Action {
        if view.tick >= self.hold_until {
            self.hold_until = view.tick + self.rng.random_range(4..24);
            self.held = Action::from_index(self.rng.random_range(0..crate::ACTIONS)).expect("the index is in range");
        }
        self.held
    }

    fn act_camper(&mut self, view: &ClientView, me: &ViewTank) -> Action {
        if let Some(action) = fight(view, me, 13 * TILE).or_else(|| dodge(view, me).map(Action::go)) {
            return action;
        }
        let Some(hq) = view.hq() else { return Action::NOTHING };
        let (hq_x, hq_y) = hq.centre();
        let (home_x, home_y) = (hq_x, hq_y - 4 * TILE);
        // The threat nearest to the HQ, if one is near enough to bother.
        let reach = |t: &ViewTank| (t.x - hq_x).abs().max((t.y - hq_y).abs());
        let threat = view.ai_tanks().min_by_key(|t| reach(t)).filter(|t| reach(t) < 14 * TILE);
        let leash = CAMP_TILES * TILE;
        let (goal_x, goal_y) = match threat {
            // Get into line along the axis that needs less driving.
            Some(t) if (t.x - me.x).abs() <= (t.y - me.y).abs() => (t.x, me.y),
            Some(t) => (me.x, t.y),
            None => (home_x, home_y),
        };
        let goal =
            (goal_x.clamp(hq_x - leash, hq_x + leash), goal_y.clamp(hq_y - leash, (hq_y - 2 * TILE).max(hq_y - leash)));
        self.drive_straight(view, me, goal)
    }

    fn act_hunter(&mut self, view: &ClientView, me: &ViewTank) -> Action {
        if let Some(action) = dodge(view, me).map(Action::go).or_else(|| fight(view, me, 12 * TILE)) {
            return action;
        }
        let Some(prey) = self.prey(view, me) else {
            let Some(hq) = view.hq() else { return Action::NOTHING };
            let (x, y) = hq.centre();
            return self.drive_straight(view, me, (x, y - WAIT_TILES * TILE));
        };
        if self.planned_at.is_none_or(|at| view.tick >= at + REPLAN_TICKS || view.tick < at) || self.stuck == 1 {
            self.planned_at = Some(view.tick);
            self.field.plan(view, me, &prey);
        }
        match self.field.step(me) {
            Some(movement) => self.go(view, me, movement),
            // At a firing place: into line with the prey, no nearer.
            None if (prey.x - me.x).abs() < (prey.y - me.y).abs() => self.drive_straight(view, me, (prey.x, me.y)),
            None => self.drive_straight(view, me, (me.x, prey.y)),
        }
    }

    /// The AI tank to go for: near the HQ first, near oneself second. Kept while it lives, until the next plan.
    fn prey(&mut self, view: &ClientView, me: &ViewTank) -> Option<ViewTank> {
        let keep = self.planned_at.is_some_and(|at| view.tick < at + REPLAN_TICKS);
        if let (true, Some(tank)) = (keep, self.target.and_then(|id| view.tank(id))) {
            return Some(*tank);
        }
        let (hq_x, hq_y) = view.hq().map_or((me.x, me.y), Cell::centre);
        let cost = |t: &&ViewTank| {
            let to_hq = (t.x - hq_x).abs() + (t.y - hq_y).abs();
            let to_me = (t.x - me.x).abs() + (t.y - me.y).abs();
            to_hq + to_me
        };
        // Where the AI tanks come in, four guns wait for one hunter: it takes them once they have left.
        let reach = view.size() * HUNT_PERCENT / 100;
        let prey =
            view.ai_tanks().filter(|t| (t.x - hq_x).abs().max((t.y - hq_y).abs()) < reach).min_by_key(cost).copied();
        self.target = prey.map(|t| t.id);
        self.planned_at = None;
        prey
    }

    /// Towards a pixel, the longer axis first, the other where that is blocked.
    fn drive_straight(&mut self, view: &ClientView, me: &ViewTank, (x, y): (i32, i32)) -> Action {
        let (dx, dy) = (x - me.x, y - me.y);
        let near = me.speed;
        let horizontal = (dx.abs() >= near).then_some(if dx > 0 { Move::Right } else { Move::Left });
        let vertical = (dy.abs() >= near).then_some(if dy > 0 { Move::Down } else { Move::Up });
        let (first, second) = if dx.abs() > dy.abs() { (horizontal, vertical) } else { (vertical, horizontal) };
        let free = |m: &Move| may_stand(view, me, me.x + m.dx() * me.speed, me.y + m.dy() * me.speed);
        match first.filter(free).or(second.filter(free)).or(first).or(second) {
            Some(movement) => self.go(view, me, movement),
            None => {
                self.stuck = 0;
                Action::NOTHING
            }
        }
    }

    /// Goes there, shooting what brick stands in the way, and sideways for a while after having been stuck.
    fn go(&mut self, view: &ClientView, me: &ViewTank, movement: Move) -> Action {
        if let Some((until, way)) = self.detour.filter(|(until, _)| view.tick < *until) {
            self.detour = Some((until, way));
            return Action { movement: Some(way), fire: shot(view, me, way) == Sight::Brick };
        }
        self.stuck = if self.place == (me.x, me.y) { self.stuck + 1 } else { 0 };
        self.place = (me.x, me.y);
        if self.stuck >= STUCK_TICKS {
            self.stuck = 0;
            let way = Move::ALL[self.rng.random_range(0..4)];
            self.detour = Some((view.tick + self.rng.random_range(6..18), way));
        }
        let blocked = !may_stand(view, me, me.x + movement.dx() * me.speed, me.y + movement.dy() * me.speed);
        Action { movement: Some(movement), fire: blocked && shot(view, me, movement) == Sight::Brick }
    }
}

/// Faces and shoots an AI tank that is in line within `range` pixels.
fn fight(view: &ClientView, me: &ViewTank, range: i32) -> Option<Action> {
    let mut best: Option<(i32, Move)> = None;
    for target in view.ai_tanks() {
        let (dx, dy) = (target.x - me.x, target.y - me.y);
        let distance = dx.abs().max(dy.abs());
        if dx.abs().min(dy.abs()) > 14 || distance > range || best.is_some_and(|(d, _)| d <= distance) {
            continue;
        }
        let dir = if dx.abs() > dy.abs() {
            if dx > 0 { Move::Right } else { Move::Left }
        } else if dy > 0 {
            Move::Down
        } else {
            Move::Up
        };
        if shot(view, me, dir) == Sight::Enemy {
            best = Some((distance, dir));
        }
    }
    let (_, dir) = best?;
    let facing = me.dir == (dir.dx(), dir.dy());
    // Once it faces the target it stands still: a step only brings it nearer to the other's gun.
    Some(Action { movement: (!facing).then_some(dir), fire: true })
}
