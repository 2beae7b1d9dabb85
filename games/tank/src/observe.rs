//! What an AI tank's network sees: 27 numbers a moment, the four newest moments stacked (tank spec, 9).

use crate::{
    ClientView, OBSERVATION_LEN, STATE_LEN, ViewTank,
    map::{Cell, tile},
};

/// Idle ticks shown at most. The spec's ratio has no bound; a tank stuck for minutes would drown the other
/// numbers, so the feature stops at 5.
pub const MAX_IDLE_SHOWN: u64 = 100;

/// The state vector of one AI tank.
///
/// Distances are `target - tank` over the map's edge length; angles are not used. The first player tank in the
/// wire's order is "the player". Without a player, or an HQ, its numbers are zero.
pub fn state_vector(view: &ClientView, tank: &ViewTank, out: &mut [f32; STATE_LEN]) {
    let size = view.size() as f32;
    let here = tank.cell();
    out[0] = tank.x as f32 / size;
    out[1] = tank.y as f32 / size;
    out[2] = tank.dir.0 as f32;
    out[3] = tank.dir.1 as f32;
    out[4] = tank.speed as f32 / 4.0;
    out[5] = tank.health as f32 / tank.max_health.max(1) as f32;
    out[6] = tank.shoot_cooldown as f32 / tank.cooldown.max(1) as f32;
    out[7..16].fill(0.0);
    if let Some(player) = view.first_player() {
        target(view, tank, here, (player.x, player.y), &mut out[7..11]);
        out[11] = player.health as f32 / player.max_health.max(1) as f32;
    }
    if let Some(hq) = view.hq() {
        target(view, tank, here, hq.centre(), &mut out[12..16]);
    }
    out[16] = view.tick.saturating_sub(tank.since).min(MAX_IDLE_SHOWN) as f32 / 20.0;
    out[17] = f32::from(tank.kind.type_index()) / 3.0;
    for (i, value) in out[18..27].iter_mut().enumerate() {
        let (row, col) = (here.row - 1 + i as i32 / 3, here.col - 1 + i as i32 % 3);
        *value = view.tile(row, col).map_or(0.0, |id| f32::from(id + 1) / 8.0);
    }
}

fn target(view: &ClientView, tank: &ViewTank, here: Cell, (x, y): (i32, i32), out: &mut [f32]) {
    let size = view.size() as f32;
    let (dx, dy) = ((x - tank.x) as f32, (y - tank.y) as f32);
    out[0] = dx / size;
    out[1] = dy / size;
    out[2] = (dx * dx + dy * dy).sqrt() / size;
    out[3] = f32::from(line_of_sight(view, here, Cell::of(x, y)));
}

/// Whether no steel tile lies on the Bresenham line from one tile to another, both ends included.
pub fn line_of_sight(view: &ClientView, from: Cell, to: Cell) -> bool {
    let (dx, dy) = ((to.col - from.col).abs(), -(to.row - from.row).abs());
    let (sx, sy) = ((to.col - from.col).signum(), (to.row - from.row).signum());
    let (mut col, mut row, mut error) = (from.col, from.row, dx + dy);
    loop {
        if view.tile(row, col) == Some(tile::STEEL) {
            return false;
        }
        if (col, row) == (to.col, to.row) {
            return true;
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
