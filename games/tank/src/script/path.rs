//! Ways through the tile grid for a tank that covers two by two tiles.

use crate::{
    ClientView, Move, ViewTank,
    map::{TILE, tile},
};

const UNREACHED: u16 = u16::MAX;

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
    /// Breadth first from the goal; bricks count as open (they can be shot), but not those round the HQ.
    pub fn plan(&mut self, view: &ClientView, (x, y): (i32, i32)) {
        let cols = view.cols();
        let n = (cols * cols) as usize;
        self.cols = cols;
        self.distance.clear();
        self.distance.resize(n, UNREACHED);
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
        let start = (anchor(y, cols) * cols + anchor(x, cols)) as usize;
        self.queue.clear();
        self.queue.push(start as u16);
        self.distance[start] = 0;
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
                let below = to + cols as usize;
                let fits = self.open[to] & self.open[to + 1] & self.open[below] & self.open[below + 1] == 1;
                if fits && self.distance[to] == UNREACHED {
                    self.distance[to] = next;
                    self.queue.push(to as u16);
                }
            }
        }
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
