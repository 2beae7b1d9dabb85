//! What an AI tank's network sees: 27 numbers a moment, the four newest moments stacked (tank spec, 9).

use crate::{
    ClientView, OBSERVATION_LEN, STATE_LEN, ViewTank,
    map::{Cell, tile},
};

/// Idle ticks shown at most. The spec's ratio has no bound; a tank stuck for minutes would drown the other
/// numbers, so the feature stops at 5.
pub const MAX_IDLE_SHOWN: u64 = 100;
/// The fastest tank of the table, pixels a tick.
const MAX_SPEED: i32 = 4;

/// The state vector of one AI tank.
///
/// Distances are `target - tank` over the map's edge length; angles are not used. The first player tank in the
/// wire's order is "the player". Without a player, or an HQ, its numbers are zero.
///
/// Whatever a view says, every number is finite and in its range: what lies outside the map counts as on its
/// border, what exceeds the tank table as its largest value. [`range`] names the ranges.
pub fn state_vector(view: &ClientView, tank: &ViewTank, out: &mut [f32; STATE_LEN]) {
    let size = view.size() as f32;
    let (x, y) = on_map(view, (tank.x, tank.y));
    let here = cell_on_map(view, Cell::of(x, y));
    out[0] = x as f32 / size;
    out[1] = y as f32 / size;
    out[2] = tank.dir.0.clamp(-1, 1) as f32;
    out[3] = tank.dir.1.clamp(-1, 1) as f32;
    out[4] = tank.speed.clamp(0, MAX_SPEED) as f32 / MAX_SPEED as f32;
    out[5] = health(tank);
    out[6] = tank.shoot_cooldown.min(tank.cooldown.max(1)) as f32 / tank.cooldown.max(1) as f32;
    out[7..16].fill(0.0);
    if let Some(player) = view.first_player() {
        target(view, (x, y), here, (player.x, player.y), &mut out[7..11]);
        out[11] = health(player);
    }
    if let Some(hq) = view.hq() {
        target(view, (x, y), here, hq.centre(), &mut out[12..16]);
    }
    out[16] = view.tick.saturating_sub(tank.since).min(MAX_IDLE_SHOWN) as f32 / 20.0;
    out[17] = f32::from(tank.kind.type_index()) / 3.0;
    for (i, value) in out[18..27].iter_mut().enumerate() {
        let (row, col) = (here.row - 1 + i as i32 / 3, here.col - 1 + i as i32 % 3);
        *value = view.tile(row, col).map_or(0.0, |id| f32::from(id.min(tile::HQ) + 1) / 8.0);
    }
}

/// Smallest and largest value of a feature of the state vector, by its index.
pub fn range(feature: usize) -> (f32, f32) {
    match feature {
        2 | 3 | 7 | 8 | 12 | 13 => (-1.0, 1.0),
        9 | 14 => (0.0, std::f32::consts::SQRT_2),
        16 => (0.0, MAX_IDLE_SHOWN as f32 / 20.0),
        _ => (0.0, 1.0),
    }
}

fn health(tank: &ViewTank) -> f32 {
    let most = tank.max_health.max(1);
    tank.health.clamp(0, most) as f32 / most as f32
}

fn on_map(view: &ClientView, (x, y): (i32, i32)) -> (i32, i32) {
    (x.clamp(0, view.size()), y.clamp(0, view.size()))
}

fn cell_on_map(view: &ClientView, cell: Cell) -> Cell {
    let last = (view.cols() - 1).max(0);
    Cell { row: cell.row.clamp(0, last), col: cell.col.clamp(0, last) }
}

fn target(view: &ClientView, from: (i32, i32), here: Cell, to: (i32, i32), out: &mut [f32]) {
    let size = view.size() as f32;
    let (x, y) = on_map(view, to);
    let (dx, dy) = ((x - from.0) as f32, (y - from.1) as f32);
    out[0] = dx / size;
    out[1] = dy / size;
    out[2] = (dx * dx + dy * dy).sqrt() / size;
    out[3] = f32::from(line_of_sight(view, here, Cell::of(x, y)));
}

/// Whether no steel tile lies on the Bresenham line from one tile to another, both ends included. An end outside
/// the map counts as the nearest tile of it, so that a line has at most as many tiles as the map has columns.
pub fn line_of_sight(view: &ClientView, from: Cell, to: Cell) -> bool {
    let (from, to) = (cell_on_map(view, from), cell_on_map(view, to));
    let (dx, dy) = ((to.col - from.col).abs(), -(to.row - from.row).abs());
    let (sx, sy) = ((to.col - from.col).signum(), (to.row - from.row).signum());
    let (mut col, mut row, mut error) = (from.col, from.row, dx + dy);
    for _ in 0..=dx.max(-dy) {
        if view.tile(row, col) == Some(tile::STEEL) {
            return false;
        }
        let doubled = 2 * error;
        if doubled >= dy {
            error += dy;
            col += sx;
        }
        if doubled <= dx {
            error += dx;
            row += sy;
        }
    }
    true
}

/// The newest four state vectors of one tank, oldest first, zeros in front.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservationStack {
    values: [f32; OBSERVATION_LEN],
    pushed: u64,
}

impl Default for ObservationStack {
    fn default() -> Self {
        Self { values: [0.0; OBSERVATION_LEN], pushed: 0 }
    }
}

impl ObservationStack {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the newest vector, dropping the oldest. Once per transition.
    pub fn push(&mut self, vector: &[f32; STATE_LEN]) {
        self.values.copy_within(STATE_LEN.., 0);
        self.values[OBSERVATION_LEN - STATE_LEN..].copy_from_slice(vector);
        self.pushed += 1;
    }

    /// Forgets everything: zeros again.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.pushed == 0
    }

    pub fn values(&self) -> &[f32; OBSERVATION_LEN] {
        &self.values
    }
}
