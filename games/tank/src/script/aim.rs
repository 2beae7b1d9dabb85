//! What a shot would hit, where a tank could stand, how to leave a bullet's way.

use crate::{
    ClientView, Move, Role, ViewTank,
    map::{TILE, tile},
    rules::{
        ballistics::{Contact, Flight, Grid, first_contact},
        bounds_at,
    },
};

/// Bullets farther away than this are not dodged yet.
const DODGE_PIXELS: i32 = 10 * TILE;

/// What a shot would hit first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    Nothing,
    Steel,
    Brick,
    /// The own HQ.
    Home,
    /// An AI tank.
    Enemy,
    /// Another player.
    Friend,
}

/// What a shot of `me` in that direction would hit first, everything standing still.
pub(super) fn shot(view: &ClientView, me: &ViewTank, dir: Move) -> Sight {
    let rect = me.bounds();
    let flight = Flight {
        x: (rect.left + rect.right) >> 1,
        y: (rect.top + rect.bottom) >> 1,
        dir,
        radius: me.kind.spec().shell_radius,
    };
    let grid = Grid { tiles: view.tiles(), cols: view.cols() };
    let tanks = view.tanks.iter().enumerate().filter(|(_, t)| t.id != me.id).map(|(i, t)| (i, t.bounds()));
    match first_contact(grid, flight, view.size(), tanks) {
        None | Some((_, Contact::Edge)) => Sight::Nothing,
        Some((_, Contact::Tile { row, col })) => match view.tile(row, col) {
            Some(tile::HQ) => Sight::Home,
            Some(tile::BRICK) => Sight::Brick,
            _ => Sight::Steel,
        },
        Some((_, Contact::Tank(i))) if view.tanks[i].role == Role::Ai => Sight::Enemy,
        Some((_, Contact::Tank(_))) => Sight::Friend,
    }
}

/// Whether `me` could stand with its centre there.
pub(super) fn may_stand(view: &ClientView, me: &ViewTank, x: i32, y: i32) -> bool {
    let rect = bounds_at(me.kind, x, y);
    let tiles = (rect.top >> 4..=rect.bottom >> 4)
        .all(|row| (rect.left >> 4..=rect.right >> 4).all(|col| view.tile(row, col).is_some_and(tile::is_enterable)));
    tiles && view.tanks.iter().all(|t| t.id == me.id || !rect.overlaps(&t.bounds()))
}

/// A move out of the way of the nearest bullet that is about to hit and can still be dodged.
pub(super) fn dodge(view: &ClientView, me: &ViewTank) -> Option<Move> {
    let rect = me.bounds();
    let mut nearest: Option<(i32, Move)> = None;
    for b in &view.bullets {
        let vertical = b.dir_y != 0;
        // `before` and `after`: pixels to go towards lower and higher coordinates to let it pass.
        let (gap, before, after) = if vertical {
            ((me.y - b.y) * b.dir_y, rect.right - b.x + b.radius, b.x + b.radius - rect.left)
        } else {
            ((me.x - b.x) * b.dir_x, rect.bottom - b.y + b.radius, b.y + b.radius - rect.top)
        };
        if before <= 0 || after <= 0 || !(16..=DODGE_PIXELS).contains(&gap) {
            continue;
        }
        // Shells fly at 4 to 6 pixels a tick.
        let ticks = (gap - 14) / 5;
        let free = |m: Move| may_stand(view, me, me.x + m.dx() * me.speed, me.y + m.dy() * me.speed);
        let (low, high) = if vertical { (Move::Left, Move::Right) } else { (Move::Up, Move::Down) };
        let way = [(before, low), (after, high)]
            .into_iter()
            .filter(|&(pixels, m)| pixels <= (ticks + 1) * me.speed && free(m))
            .min_by_key(|&(pixels, _)| pixels);
        if let Some((_, m)) = way
            && nearest.is_none_or(|(other, _)| gap < other)
        {
            nearest = Some((gap, m));
        }
    }
    nearest.map(|(_, m)| m)
}
