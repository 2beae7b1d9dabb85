//! The slow obvious walk of the spec as oracle for the jump from edge to edge.

use proptest::prelude::*;

use super::ballistics::{Contact, Flight, Grid, Rect, first_contact, ray_reaches};
use crate::{
    Move,
    map::{TILE, tile},
};

/// Pixel by pixel: tiles within the square row by row, then tanks by circle against rectangle, strict.
fn walk(grid: Grid<'_>, flight: Flight, steps: i32, tanks: &[Rect]) -> Option<(i32, Contact)> {
    let Flight { mut x, mut y, dir, radius } = flight;
    for step in 0..=steps {
        if step > 0 {
            (x, y) = (x + dir.dx(), y + dir.dy());
        }
        if x < 0 || y < 0 || x >= grid.size() || y >= grid.size() {
            return Some((step, Contact::Edge));
        }
        for row in (y - radius).max(0) / TILE..=(y + radius).min(grid.size() - 1) / TILE {
            for col in (x - radius).max(0) / TILE..=(x + radius).min(grid.size() - 1) / TILE {
                if tile::stops_bullets(grid.at(row, col)) {
                    return Some((step, Contact::Tile { row, col }));
                }
            }
        }
        for (i, rect) in tanks.iter().enumerate() {
            let (dx, dy) = (x - x.clamp(rect.left, rect.right), y - y.clamp(rect.top, rect.bottom));
            if dx * dx + dy * dy < radius * radius {
                return Some((step, Contact::Tank(i)));
            }
        }
    }
    None
}

fn slow_ray(grid: Grid<'_>, mut x: i32, mut y: i32, dir: Move, target: &Rect) -> bool {
    while x >= 0 && y >= 0 && x < grid.size() && y < grid.size() {
        if grid.at(y / TILE, x / TILE) == tile::STEEL {
            return false;
        }
        if target.contains(x, y) {
            return true;
        }
        (x, y) = (x + dir.dx(), y + dir.dy());
    }
    false
}

const COLS: i32 = 12;

fn tiles() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![12 => Just(0u8), 1 => Just(2u8), 1 => Just(4u8), 1 => Just(1u8)],
        (COLS * COLS) as usize,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn a_bullet_jumps_to_where_the_pixel_walk_ends(
        mut tiles in tiles(),
        (x, y) in (0..COLS * TILE, 0..COLS * TILE),
        dir in 0usize..4,
        radius in 1i32..4,
        steps in prop_oneof![Just(4), Just(5), Just(6), Just(400)],
        corners in prop::collection::vec((0..COLS * TILE - 30, 0..COLS * TILE - 30, 10..30i32, 10..30i32), 0..6),
    ) {
        // What a bullet covers at its start never stops it.
        for row in (y - radius).max(0) / TILE..=((y + radius) / TILE).min(COLS - 1) {
            for col in (x - radius).max(0) / TILE..=((x + radius) / TILE).min(COLS - 1) {
                tiles[(row * COLS + col) as usize] = 0;
            }
        }
        let grid = Grid { tiles: &tiles, cols: COLS };
        let tanks: Vec<Rect> =
            corners.into_iter().map(|(l, t, w, h)| Rect { left: l, top: t, right: l + w, bottom: t + h }).collect();
        let flight = Flight { x, y, dir: Move::ALL[dir], radius };
        let fast = first_contact(grid, flight, steps, tanks.iter().copied().enumerate());
        prop_assert_eq!(fast, walk(grid, flight, steps, &tanks));
    }

    #[test]
    fn a_ray_ends_where_the_pixel_ray_ends(
        tiles in tiles(),
        (x, y) in (0..COLS * TILE, 0..COLS * TILE),
        dir in 0usize..4,
        (l, t, w, h) in (0..COLS * TILE - 30, 0..COLS * TILE - 30, 0..30i32, 0..30i32),
    ) {
        let grid = Grid { tiles: &tiles, cols: COLS };
        let target = Rect { left: l, top: t, right: l + w, bottom: t + h };
        let dir = Move::ALL[dir];
        prop_assert_eq!(ray_reaches(grid, x, y, dir, &target), slow_ray(grid, x, y, dir, &target));
    }
}
