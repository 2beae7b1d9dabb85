//! Ways through the tile grid for a tank that covers two by two tiles.

use crate::{
    ClientView, Move, ViewTank,
    map::{TILE, tile},
};

const UNREACHED: u16 = u16::MAX;
/// How far in front of an AI tank its lane is thought dangerous.
const AIMED_TILES: i32 = 14;
/// Firing places lie between so many tiles from the prey: far enough to dodge, near enough to hit.
const NEAR_TILES: i32 = 5;
const FAR_TILES: i32 = 11;

/// Distances to a goal, in tiles, for every place where the top-left tile of the tank can be.
#[derive(Debug, Clone, Default)]
pub(super) struct Field {
    cols: i32,
    distance: Vec<u16>,
    open: Vec<u8>,
    queue: Vec<u16>,
}

/// The nearest place (top-left tile of the 2×2) to a tank's centre.
fn anchor(v: i32, cols: i32) -> i32 {
    ((v - TILE / 2) >> 4).clamp(0, cols - 2)
}

impl Field {
    /// Breadth first from everywhere that `prey` can be shot from at a fair distance and is not facing; bricks
    /// count as open (they can be shot), but not those round the HQ. Lanes that an AI tank is aiming along are
    /// closed, unless there is no way but through them.
    pub fn plan(&mut self, view: &ClientView, me: &ViewTank, prey: &ViewTank) {
        for wary in [true, false] {
            self.survey(view, wary);
            self.spread(view, prey, wary);
            let (row, col) = (anchor(me.y, self.cols), anchor(me.x, self.cols));
            if self.distance[(row * self.cols + col) as usize] != UNREACHED {
                return;
            }
        }
    }

    /// Which tiles a tank may plan to cover.
    fn survey(&mut self, view: &ClientView, wary: bool) {
        let cols = view.cols();
        self.cols = cols;
        self.open.clear();
        self.open.extend(view.tiles().iter().map(|&id| u8::from(tile::is_enterable(id) || id == tile::BRICK)));
        if let Some(hq) = view.hq() {
            for row in (hq.row - 2).max(0)..=(hq.row + 2).min(cols - 1) {
                for col in (hq.col - 2).max(0)..=(hq.col + 2).min(cols - 1) {
                    let at = (row * cols + col) as usize;
                    self.open[at] &= u8::from(tile::is_enterable(view.tiles()[at]));
                }
            }
        }
        if !wary {
            return;
        }
        for tank in view.ai_tanks() {
            let (mut row, mut col) = (tank.y >> 4, tank.x >> 4);
            for _ in 0..AIMED_TILES {
                (row, col) = (row + tank.dir.1, col + tank.dir.0);
                if view.tile(row, col).is_none_or(tile::stops_bullets) {
                    break;
                }
                self.open[(row * cols + col) as usize] = 0;
            }
        }
    }

    fn spread(&mut self, view: &ClientView, prey: &ViewTank, wary: bool) {
        let cols = self.cols;
        self.distance.clear();
        self.distance.resize((cols * cols) as usize, UNREACHED);
        self.queue.clear();
        let (row, col) = (anchor(prey.y, cols), anchor(prey.x, cols));
        for side in Move::ALL {
            if wary && (side.dx(), side.dy()) == prey.dir {
                continue;
            }
            for steps in 1..=FAR_TILES {
                let (r, c) = (row + side.dy() * steps, col + side.dx() * steps);
                if r < 0 || c < 0 || r > cols - 2 || c > cols - 2 {
                    break;
                }
                let stops = |row, col| view.tile(row, col).is_none_or(tile::stops_bullets);
                if stops(r, c) || stops(r + 1, c + 1) {
                    break;
                }
                let at = (r * cols + c) as usize;
                if steps >= NEAR_TILES && self.fits(at) {
                    self.distance[at] = 0;
                    self.queue.push(at as u16);
                }
            }
        }
        if self.queue.is_empty() {
            let at = row * cols + col;
            self.distance[at as usize] = 0;
            self.queue.push(at as u16);
        }
        let mut head = 0;
        while let Some(&at) = self.queue.get(head) {
            head += 1;
            let (row, col) = (i32::from(at) / cols, i32::from(at) % cols);
            let next = self.distance[at as usize] + 1;
            for movement in Move::ALL {
                let (r, c) = (row + movement.dy(), col + movement.dx());
                if r < 0 || c < 0 || r > cols - 2 || c > cols - 2 {
                    continue;
                }
                let to = (r * cols + c) as usize;
                if self.distance[to] == UNREACHED && self.fits(to) {
                    self.distance[to] = next;
                    self.queue.push(to as u16);
                }
            }
        }
    }

    /// Whether the 2×2 tiles from `at` on are open.
    fn fits(&self, at: usize) -> bool {
        let below = at + self.cols as usize;
        self.open[at] & self.open[at + 1] & self.open[below] & self.open[below + 1] == 1
    }

    /// The next move of a tank on its way; `None` where no way is known or the goal is reached.
    pub fn step(&self, me: &ViewTank) -> Option<Move> {
        if self.distance.is_empty() {
            return None;
        }
        let (row, col) = (anchor(me.y, self.cols), anchor(me.x, self.cols));
        let at = |row: i32, col: i32| {
            let inside = row >= 0 && col >= 0 && row <= self.cols - 2 && col <= self.cols - 2;
            if inside { self.distance[(row * self.cols + col) as usize] } else { UNREACHED }
        };
        let here = at(row, col);
        let movement = Move::ALL.into_iter().filter(|m| at(row + m.dy(), col + m.dx()) < here).min_by_key(|m| {
            // Straight on where there is a choice.
            (at(row + m.dy(), col + m.dx()), (m.dx(), m.dy()) != me.dir)
        })?;
        // First into the lane, then along it.
        let (off_x, off_y) = ((col + 1) * TILE - me.x, (row + 1) * TILE - me.y);
        if movement.is_vertical() && off_x.abs() >= me.speed {
            return Some(if off_x > 0 { Move::Right } else { Move::Left });
        }
        if !movement.is_vertical() && off_y.abs() >= me.speed {
            return Some(if off_y > 0 { Move::Down } else { Move::Up });
        }
        Some(movement)
    }
}
