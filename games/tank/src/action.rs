//! What a tank can be told to do.

use crate::ACTIONS;

/// A direction: of a move, of a tank, of a bullet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Move {
    Up,
    Down,
    Left,
    Right,
}

impl Move {
    pub const ALL: [Move; 4] = [Self::Up, Self::Down, Self::Left, Self::Right];

    #[inline]
    pub fn dx(self) -> i32 {
        match self {
            Self::Left => -1,
            Self::Right => 1,
            _ => 0,
        }
    }

    /// Rows grow downwards: up is -1.
    #[inline]
    pub fn dy(self) -> i32 {
        match self {
            Self::Up => -1,
            Self::Down => 1,
            _ => 0,
        }
    }

    #[inline]
    pub fn is_vertical(self) -> bool {
        matches!(self, Self::Up | Self::Down)
    }

    pub fn opposite(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    /// The wire's word, such as `move_up`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "move_up",
            Self::Down => "move_down",
            Self::Left => "move_left",
            Self::Right => "move_right",
        }
    }

    pub fn from_wire(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|movement| movement.as_str() == text)
    }

    pub fn from_vector(dx: i32, dy: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|movement| (movement.dx(), movement.dy()) == (dx, dy))
    }
}

/// One input: an optional move and whether to fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Action {
    pub movement: Option<Move>,
    pub fire: bool,
}

impl Action {
    pub const NOTHING: Action = Action { movement: None, fire: false };

    pub fn go(movement: Move) -> Self {
        Self { movement: Some(movement), fire: false }
    }

    pub fn go_and_fire(movement: Move) -> Self {
        Self { movement: Some(movement), fire: true }
    }

    /// 0 nothing; 1–4 up, down, left, right; 5 fire; 6–9 move (same order) and fire.
    pub fn from_index(index: usize) -> Option<Self> {
        if index >= ACTIONS {
            return None;
        }
        let movement = match index % 5 {
            0 => None,
            i => Some(Move::ALL[i - 1]),
        };
        Some(Self { movement, fire: index >= 5 })
    }

    /// The inverse of [`Action::from_index`].
    pub fn index(self) -> usize {
        self.movement.map_or(0, |movement| movement as usize + 1) + if self.fire { 5 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_action_table_is_that_of_the_wire() {
        let table = [
            (None, false),
            (Some("move_up"), false),
            (Some("move_down"), false),
            (Some("move_left"), false),
            (Some("move_right"), false),
            (None, true),
            (Some("move_up"), true),
            (Some("move_down"), true),
            (Some("move_left"), true),
            (Some("move_right"), true),
        ];
        for (index, (movement, fire)) in table.into_iter().enumerate() {
            let action = Action::from_index(index).unwrap();
            assert_eq!((action.movement.map(Move::as_str), action.fire), (movement, fire), "action {index}");
            assert_eq!(action.index(), index);
        }
        assert_eq!(Action::from_index(10), None);
        assert!(Move::ALL.into_iter().all(|m| Move::from_wire(m.as_str()) == Some(m)));
        assert!(Move::ALL.into_iter().all(|m| Move::from_vector(m.dx(), m.dy()) == Some(m)));
    }
}
