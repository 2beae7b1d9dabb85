//! Games that can be watched, and the frames of one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

/// One game in the list of the page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GameInfo {
    /// Its id, for `/ws/games/{id}`.
    pub id: String,
    /// Game system, e.g. `tank`.
    pub system: String,
    /// Name of the map.
    pub map: String,
    /// Who plays against the AI side: `random`, `camper`, `hunter`, `human`.
    pub opponent: String,
    /// The version that decides for the AI side, e.g. `tank-ai-dqn@12`.
    pub model: Option<String>,
    /// `live` or `farm`.
    pub source: String,
    /// Its newest tick.
    pub tick: u64,
    /// When it began.
    pub started_at_ms: i64,
    /// Why it ended, once it has.
    pub ended: Option<String>,
}

/// The ground of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Goes up with every change, so that a watcher who skipped frames knows to take it anew.
    pub revision: u64,
    /// Edge of a tile, in pixels.
    pub tile_size: u32,
    /// Tiles in a row.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
    /// Tile ids 0–7, row by row.
    pub cells: Vec<u8>,
}

impl Tiles {
    /// From a grid, row 0 at the top; `None` if it is empty, too large (over 256 a side) or ragged.
    pub fn from_grid(tile_size: u32, grid: &[Vec<u8>]) -> Option<Self> {
        let (rows, columns) = (grid.len(), grid.first()?.len());
        let sound = (1..=256).contains(&rows) && (1..=256).contains(&columns) && tile_size > 0;
        if !sound || grid.iter().any(|row| row.len() != columns) {
            return None;
        }
        Some(Self { revision: 0, tile_size, columns, rows, cells: grid.concat() })
    }
}

/// One moment of a game.
#[derive(Clone, Debug)]
pub struct GameFrame {
    /// Simulation tick.
    pub tick: u64,
    /// The state as the game sends it (tank: §5.4 of its spec), without the ground, as JSON text.
    pub state: Arc<str>,
    /// The ground at that moment.
    pub tiles: Arc<Tiles>,
    /// Set on the last frame: why the game ended.
    pub ended: Option<String>,
}

/// Frames of one game; who is slow sees fewer of them. The channel closes when the game is gone.
#[derive(Debug)]
pub struct GameWatch {
    /// What is known about the game.
    pub info: GameInfo,
    /// The newest frame.
    pub frames: watch::Receiver<Arc<GameFrame>>,
}

/// Why a state could not be made into a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The state is no JSON object.
    #[error("state of the game is no JSON object")]
    NotAnObject,
    /// A changed tile lies outside the map.
    #[error("changed tile {row},{column} lies outside the map")]
    OutsideTheMap {
        /// Row named by the state.
        row: u64,
        /// Column named by the state.
        column: u64,
    },
}

/// Makes frames of the states of one game.
///
/// It must see every state that carries `mapTilesChanged`; states that carry the whole `mapTiles` may be skipped.
#[derive(Debug)]
pub struct FrameMaker {
    tiles: Arc<Tiles>,
}

impl FrameMaker {
    /// Starts with the ground of the map.
    pub fn new(tiles: Tiles) -> Self {
        Self { tiles: Arc::new(tiles) }
    }

    /// Takes `mapTiles` and `mapTilesChanged` out of `state` and puts them into the ground.
    ///
    /// # Errors
    /// If `state` is no object, or names a tile outside the map; the ground is unchanged then.
    pub fn frame(&mut self, mut state: Value) -> Result<GameFrame, FrameError> {
        let object = state.as_object_mut().ok_or(FrameError::NotAnObject)?;
        let whole = object.remove("mapTiles");
        let changed = object.remove("mapTilesChanged");
        object.remove("aiDebug");
        object.remove("gbeDebug");
        if let Some(grid) = whole.as_ref().and_then(|grid| serde_json::from_value::<Vec<Vec<u8>>>(grid.clone()).ok()) {
            if let Some(tiles) = Tiles::from_grid(self.tiles.tile_size, &grid)
                && tiles.cells != self.tiles.cells
            {
                self.tiles = Arc::new(Tiles { revision: self.tiles.revision + 1, ..tiles });
            }
        } else if let Some(Value::Array(changes)) = changed
            && !changes.is_empty()
        {
            let mut tiles = Tiles::clone(&self.tiles);
            tiles.revision += 1;
            for change in &changes {
                let number = |name: &str| change.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX);
                let (row, column, tile) = (number("row"), number("col"), number("tileId"));
                if row >= tiles.rows as u64 || column >= tiles.columns as u64 {
                    return Err(FrameError::OutsideTheMap { row, column });
                }
                let place = row as usize * tiles.columns + column as usize;
                tiles.cells[place] = u8::try_from(tile).unwrap_or(0);
            }
            self.tiles = Arc::new(tiles);
        }
        let tick = object.get("tick").and_then(Value::as_u64).unwrap_or(0);
        let over = object.get("gameOver").and_then(Value::as_bool).unwrap_or(false);
        let reason = object.get("gameOverReason").and_then(Value::as_str).unwrap_or("over");
        let ended = over.then(|| reason.to_owned());
        Ok(GameFrame { tick, state: state.to_string().into(), tiles: Arc::clone(&self.tiles), ended })
    }
}

/// The message that carries the ground: one digit a tile.
pub(crate) fn map_message(info: &GameInfo, tiles: &Tiles) -> String {
    let cells: String = tiles.cells.iter().map(|cell| char::from(b'0' + (*cell).min(9))).collect();
    serde_json::json!({
        "type": "map", "game": info, "revision": tiles.revision, "tile_size": tiles.tile_size,
        "columns": tiles.columns, "rows": tiles.rows, "tiles": cells,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn maker() -> FrameMaker {
        FrameMaker::new(Tiles::from_grid(16, &[vec![0, 2], vec![7, 5]]).unwrap())
    }

    #[test]
    fn changed_tiles_go_into_the_ground_and_out_of_the_state() {
        let mut maker = maker();
        let first = maker.frame(json!({"tick": 1, "gameOver": false})).unwrap();
        let second = maker
            .frame(json!({"tick": 2, "gameOver": false, "mapTilesChanged": [{"row": 0, "col": 1, "tileId": 0}]}))
            .unwrap();
        assert_eq!((first.tiles.revision, second.tiles.revision), (0, 1));
        assert_eq!(second.tiles.cells, [0, 0, 7, 5]);
        assert!(!second.state.contains("mapTiles"));
    }

    #[test]
    fn a_tile_outside_the_map_is_refused_and_changes_nothing() {
        let mut maker = maker();
        let changes = json!([{"row": 0, "col": 1, "tileId": 0}, {"row": 2, "col": 0, "tileId": 0}]);
        let refused = maker.frame(json!({"tick": 2, "mapTilesChanged": changes})).unwrap_err();
        assert_eq!(refused.to_string(), "changed tile 2,0 lies outside the map");
        assert_eq!(maker.frame(json!({"tick": 3})).unwrap().tiles.cells, [0, 2, 7, 5]);
    }

    #[test]
    fn the_last_frame_says_why_the_game_ended() {
        let frame = maker().frame(json!({"tick": 9, "gameOver": true, "gameOverReason": "hq_destroyed"})).unwrap();
        assert_eq!(frame.ended.as_deref(), Some("hq_destroyed"));
    }

    #[test]
    fn a_ragged_grid_is_no_map() {
        assert!(Tiles::from_grid(16, &[vec![0, 1], vec![0]]).is_none());
        assert!(Tiles::from_grid(16, &[]).is_none());
        assert!(Tiles::from_grid(0, &[vec![0]]).is_none());
    }
}
