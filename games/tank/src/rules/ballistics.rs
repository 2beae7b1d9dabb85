//! Where bullets and rays end, computed from edge to edge instead of pixel by pixel.
//!
//! The spec moves a bullet pixel by pixel and tests at every pixel, tiles before tanks. [`first_contact`]
//! gives the pixel at which that walk would first touch something; `oracle_tests.rs` holds it to the walk.

use crate::{
    Move,
    map::{TILE, tile},
};

/// Inclusive pixel rectangle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
}

impl Rect {
    /// Sharing an edge is no overlap.
    #[inline]
    pub fn overlaps(&self, other: &Rect) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    #[inline]
    pub fn contains(&self, x: i32, y: i32) -> bool {
        self.left <= x && x <= self.right && self.top <= y && y <= self.bottom
    }
}

/// The square tile grid as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Grid<'a> {
    pub tiles: &'a [u8],
    pub cols: i32,
}

impl Grid<'_> {
    #[inline]
    pub fn at(&self, row: i32, col: i32) -> u8 {
        self.tiles[(row * self.cols + col) as usize]
    }

    #[inline]
    pub fn size(&self) -> i32 {
        self.cols * TILE
    }
}

/// What a bullet touches first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    Tile {
        row: i32,
        col: i32,
    },
    /// Index into the rectangles given.
    Tank(usize),
    /// Its centre leaves the map.
    Edge,
}

/// A bullet's place and flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    pub x: i32,
    pub y: i32,
    pub dir: Move,
    pub radius: i32,
}

/// The first contact within `steps` pixels of flight (the start included) and the pixel of it.
///
/// `tanks` yields the index and rectangle of every tank that the bullet can hit. Tiles that the bullet covers
/// at its start are assumed not to stop it: it was tested there before, and no tile ever becomes solid.
#[inline]
pub fn first_contact(
    grid: Grid<'_>,
    flight: Flight,
    steps: i32,
    tanks: impl Iterator<Item = (usize, Rect)>,
) -> Option<(i32, Contact)> {
    let Flight { x, y, dir, radius } = flight;
    let vertical = dir.is_vertical();
    let sign = dir.dx() + dir.dy();
    // `along` grows in the direction of flight, `across` is the other axis.
    let (along, across) = if vertical { (y, x) } else { (x, y) };
    let size = grid.size();
    let to_edge = if sign > 0 { size - along } else { along + 1 };
    let mut best = (to_edge <= steps).then_some((to_edge, Contact::Edge));
    let mut limit = if to_edge <= steps { to_edge - 1 } else { steps };

    for (index, rect) in tanks {
        let (low, high, near, far) = if vertical {
            (rect.left, rect.right, rect.top, rect.bottom)
        } else {
            (rect.top, rect.bottom, rect.left, rect.right)
        };
        let off = if across < low {
            low - across
        } else if across > high {
            across - high
        } else {
            0
        };
        if off >= radius {
            continue;
        }
        // Largest gap along the flight that still touches: gap² + off² < radius².
        let mut gap = radius - 1;
        while gap * gap + off * off >= radius * radius {
            gap -= 1;
        }
        let (enter, leave) =
            if sign > 0 { (near - gap - along, far + gap - along) } else { (along - far - gap, along - near + gap) };
        if leave < 0 {
            continue;
        }
        let step = enter.max(0);
        if step <= limit && best.is_none_or(|(other, contact)| step < other || contact == Contact::Edge) {
            best = Some((step, Contact::Tank(index)));
            limit = step;
        }
    }

    // Tiles within `limit`, where an equal step goes to the tile: they are tested first.
    let lane_from = (across - radius).max(0) >> 4;
    let lane_to = (across + radius).min(size - 1) >> 4;
    let front = along + sign * radius;
    let last = (front + sign * limit).clamp(0, size - 1) >> 4;
    let mut line = front.clamp(0, size - 1) >> 4;
    loop {
        for lane in lane_from..=lane_to {
            let (row, col) = if vertical { (line, lane) } else { (lane, line) };
            if tile::stops_bullets(grid.at(row, col)) {
                let step = if sign > 0 { line * TILE - front } else { front - (line * TILE + TILE - 1) };
                return Some((step.max(0), Contact::Tile { row, col }));
            }
        }
        if line == last {
            return best;
        }
        line += sign;
    }
}

/// Whether a ray from a tank's centre along its direction reaches `target` before a steel tile.
#[inline]
pub fn ray_reaches(grid: Grid<'_>, x: i32, y: i32, dir: Move, target: &Rect) -> bool {
    let (along, across, low, high, near, far) = if dir.is_vertical() {
        (y, x, target.left, target.right, target.top, target.bottom)
    } else {
        (x, y, target.top, target.bottom, target.left, target.right)
    };
    if across < low || across > high {
        return false;
    }
    let sign = dir.dx() + dir.dy();
    let edge = if sign > 0 { near } else { far };
    if (if sign > 0 { far - along } else { along - near }) < 0 {
        return false;
    }
    let (mut line, lane) = (along >> 4, across >> 4);
    let last = if (edge - along) * sign <= 0 { line } else { edge >> 4 };
    loop {
        let (row, col) = if dir.is_vertical() { (line, lane) } else { (lane, line) };
        if grid.at(row, col) == tile::STEEL {
            return false;
        }
        if line == last {
            return true;
        }
        line += sign;
    }
}
