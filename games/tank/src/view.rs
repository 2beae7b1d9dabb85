//! What a client knows of a session: tanks, bullets, and its own copy of the tiles.
//!
//! One type for both sides: [`ClientView::apply`] fills it from merged wire states, [`ClientView::refresh`]
//! straight from the rules. State vectors and scripted players see only this, so they are the same live and
//! headless.

use crate::{
    Map, NetId, Role, Rules, TankId, TankKind,
    map::{self, Cell, tile},
    rules::{Rect, bounds_at},
    wire::{BulletView, StateView},
};

/// Health, speeds, cooldowns and radii off the wire count as this at most.
const MOST: i32 = 1_000;

/// A tank as a client knows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ViewTank {
    pub id: TankId,
    pub kind: TankKind,
    pub role: Role,
    pub x: i32,
    pub y: i32,
    pub dir: (i32, i32),
    pub health: i32,
    pub max_health: i32,
    pub speed: i32,
    pub shoot_cooldown: u32,
    pub cooldown: u32,
    /// Tick at which it was first seen where it is now.
    pub since: u64,
}

impl ViewTank {
    pub fn bounds(&self) -> Rect {
        bounds_at(self.kind, self.x, self.y)
    }

    pub fn cell(&self) -> Cell {
        Cell::of(self.x, self.y)
    }
}

/// A session as a client knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientView {
    pub tick: u64,
    pub game_over: bool,
    /// In the order of the wire.
    pub tanks: Vec<ViewTank>,
    pub bullets: Vec<BulletView>,
    cols: i32,
    tiles: Vec<u8>,
    hq: Option<Cell>,
    revision: Option<u64>,
    previous: Vec<ViewTank>,
}

impl ClientView {
    /// A view of a session on `map` before its first state.
    pub fn new(map: &Map) -> Self {
        Self::from_tiles(map.cols(), map.tiles().to_vec())
    }

    /// A view with the tiles of a wire's `map.tiles`; `None` if the grid is not square, has no map's edge (32, 64
    /// or 128 tiles), or holds an unknown tile id.
    pub fn from_rows(rows: &[Vec<u8>]) -> Option<Self> {
        if !map::EDGES.contains(&rows.len()) || rows.iter().any(|row| row.len() != rows.len()) {
            return None;
        }
        if rows.iter().flatten().any(|&id| id > tile::HQ) {
            return None;
        }
        Some(Self::from_tiles(rows.len() as i32, rows.concat()))
    }

    fn from_tiles(cols: i32, tiles: Vec<u8>) -> Self {
        let mut view = Self {
            tick: 0,
            game_over: false,
            tanks: Vec::new(),
            bullets: Vec::new(),
            cols,
            tiles,
            hq: None,
            revision: None,
            previous: Vec::new(),
        };
        view.find_hq();
        view
    }

    /// Takes the present state off the wire: first its tile changes, then its tanks.
    ///
    /// The wire may say anything. What lies outside the map is put on its border, and every other number is kept
    /// within what a tank can be, so that whoever reads a view can calculate with it.
    pub fn apply(&mut self, state: &StateView) {
        self.revision = None;
        if let Some(rows) = &state.map_tiles
            && let Some(fresh) = Self::from_rows(rows)
        {
            (self.cols, self.tiles, self.hq) = (fresh.cols, fresh.tiles, fresh.hq);
        }
        for change in &state.map_tiles_changed {
            let (row, col) = (i32::from(change.row), i32::from(change.col));
            if row < self.cols && col < self.cols && change.tile_id <= tile::HQ {
                self.tiles[(row * self.cols + col) as usize] = change.tile_id;
            }
        }
        if !state.map_tiles_changed.is_empty() {
            self.find_hq();
        }
        self.begin(state.tick, state.game_over);
        for p in &state.players {
            let kind = TankKind::from_label(&p.label).unwrap_or(match p.role {
                Role::Player => TankKind::NormalPl,
                Role::Ai => TankKind::NormalEn,
            });
            let spec = kind.spec();
            let max_health = p.max_health.clamp(1, MOST);
            self.put(ViewTank {
                id: p.id,
                kind,
                role: p.role,
                x: p.x.clamp(0, self.size() - 1),
                y: p.y.clamp(0, self.size() - 1),
                dir: (p.dir_x.clamp(-1, 1), p.dir_y.clamp(-1, 1)),
                health: p.health.clamp(0, max_health),
                max_health,
                speed: p.speed.unwrap_or(spec.speed).clamp(0, MOST),
                shoot_cooldown: p.shoot_cooldown.unwrap_or(0).min(MOST as u32),
                cooldown: p.cooldown.unwrap_or(spec.cooldown).min(MOST as u32),
                since: state.tick,
            });
        }
        let size = self.size();
        self.bullets.clear();
        self.bullets.extend(state.bullets.iter().map(|b| BulletView {
            x: b.x.clamp(0, size - 1),
            y: b.y.clamp(0, size - 1),
            dir_x: b.dir_x.clamp(-1, 1),
            dir_y: b.dir_y.clamp(-1, 1),
            radius: b.radius.clamp(0, MOST),
            ..*b
        }));
    }

    /// Takes the present state of the rules. Player tanks show no shot cooldown, as on the wire.
    pub fn refresh(&mut self, rules: &Rules) {
        if self.revision != Some(rules.tiles_revision()) {
            self.revision = Some(rules.tiles_revision());
            self.tiles.copy_from_slice(rules.tiles());
            self.hq = rules.hq_cell();
        }
        self.begin(rules.ticks(), rules.end().is_some());
        for tank in rules.tanks() {
            let spec = tank.kind.spec();
            self.put(ViewTank {
                id: tank.id,
                kind: tank.kind,
                role: tank.kind.role(),
                x: tank.x,
                y: tank.y,
                dir: (tank.dir.dx(), tank.dir.dy()),
                health: tank.health,
                max_health: spec.health,
                speed: spec.speed,
                shoot_cooldown: if tank.is_ai() { tank.shoot_cooldown } else { 0 },
                cooldown: spec.cooldown,
                since: rules.ticks(),
            });
        }
        self.bullets.clear();
        self.bullets.extend(rules.bullets().iter().map(BulletView::from));
    }

    fn begin(&mut self, tick: u64, game_over: bool) {
        if tick < self.tick {
            self.tanks.clear();
        }
        (self.tick, self.game_over) = (tick, game_over);
        std::mem::swap(&mut self.tanks, &mut self.previous);
        self.tanks.clear();
    }

    fn put(&mut self, mut tank: ViewTank) {
        let before = self.previous.iter().find(|old| old.id == tank.id && (old.x, old.y) == (tank.x, tank.y));
        tank.since = before.map_or(tank.since, |old| old.since);
        self.tanks.push(tank);
    }

    fn find_hq(&mut self) {
        let at = self.tiles.iter().position(|&id| id == tile::HQ).map(|at| at as i32);
        self.hq = at.map(|at| Cell { row: at / self.cols, col: at % self.cols });
    }

    /// Tiles along one edge.
    pub fn cols(&self) -> i32 {
        self.cols
    }

    /// Edge length in pixels.
    pub fn size(&self) -> i32 {
        self.cols * crate::map::TILE
    }

    /// Tile ids, row by row.
    pub fn tiles(&self) -> &[u8] {
        &self.tiles
    }

    /// `None` outside the map.
    #[inline]
    pub fn tile(&self, row: i32, col: i32) -> Option<u8> {
        let inside = row >= 0 && col >= 0 && row < self.cols && col < self.cols;
        inside.then(|| self.tiles[(row * self.cols + col) as usize])
    }

    /// Where the HQ stands; `None` once it has fallen.
    pub fn hq(&self) -> Option<Cell> {
        self.hq
    }

    pub fn tank(&self, id: NetId) -> Option<&ViewTank> {
        self.tanks.iter().find(|tank| tank.id == id)
    }

    pub fn ai_tanks(&self) -> impl Iterator<Item = &ViewTank> {
        self.tanks.iter().filter(|tank| tank.role == Role::Ai)
    }

    /// The first tank of a player.
    pub fn first_player(&self) -> Option<&ViewTank> {
        self.tanks.iter().find(|tank| tank.role == Role::Player)
    }
}
