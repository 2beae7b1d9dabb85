//! Tile maps: what they may hold, how they are read, which ones are shipped.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Serialize};

/// Edge of a tile in pixels.
pub const TILE: i32 = 16;
/// The edges that a map may have, in tiles.
pub const EDGES: [usize; 3] = [32, 64, 128];
/// A map file longer than this is refused unread.
pub const MAX_MAP_BYTES: usize = 1 << 20;

/// Tile ids of the wire.
pub mod tile {
    pub const SOIL: u8 = 0;
    pub const WATER: u8 = 1;
    pub const BRICK: u8 = 2;
    pub const GRASS: u8 = 3;
    pub const STEEL: u8 = 4;
    pub const AI_SPAWN: u8 = 5;
    pub const PLAYER_SPAWN: u8 = 6;
    pub const HQ: u8 = 7;

    /// A tank may stand on it.
    #[inline]
    pub fn is_enterable(id: u8) -> bool {
        const SET: u32 = 1 << SOIL | 1 << GRASS | 1 << AI_SPAWN | 1 << PLAYER_SPAWN;
        SET >> (id & 31) & 1 == 1
    }

    /// A bullet turns it into soil.
    #[inline]
    pub fn is_destructible(id: u8) -> bool {
        id == BRICK || id == HQ
    }

    /// A bullet ends at it.
    #[inline]
    pub fn stops_bullets(id: u8) -> bool {
        const SET: u32 = 1 << BRICK | 1 << STEEL | 1 << HQ;
        SET >> (id & 31) & 1 == 1
    }
}

/// A place in the tile grid; row 0 at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cell {
    pub row: i32,
    pub col: i32,
}

impl Cell {
    /// The tile under a pixel.
    #[inline]
    pub fn of(x: i32, y: i32) -> Self {
        Self { row: y >> 4, col: x >> 4 }
    }

    /// Its middle pixel.
    #[inline]
    pub fn centre(self) -> (i32, i32) {
        (self.col * TILE + TILE / 2, self.row * TILE + TILE / 2)
    }
}

/// Why text is not a playable map. Each names the map, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("map `{name}`: {problem}")]
pub struct MapError {
    pub name: String,
    pub problem: MapProblem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapProblem {
    #[error("it is {0} bytes long; at most {MAX_MAP_BYTES} are read")]
    TooLong(usize),
    #[error("it is not a JSON map `{{version, mapSize, tileSize, tiles}}`: {0}")]
    NotJson(String),
    #[error("`version` is `{0}`; this program reads `1.0`")]
    Version(String),
    #[error("`mapSize` is {0}; it must be 512, 1024 or 2048 pixels")]
    MapSize(i64),
    #[error("`tileSize` is {0}; it must be 16 pixels")]
    TileSize(i64),
    #[error("`tiles` has {found} rows; a map of this size has {expected}")]
    Rows { found: usize, expected: usize },
    #[error("`tiles[{row}]` has {found} entries; a map of this size has {expected}")]
    Columns { row: usize, found: usize, expected: usize },
    #[error("`tiles[{row}][{col}]` is {id}; tile ids are 0 to 7")]
    UnknownTile { row: usize, col: usize, id: i64 },
    #[error("it has {0} HQ tiles (id 7); exactly one is needed")]
    HqCount(usize),
    #[error("it has no AI spawn (tile id 5)")]
    NoAiSpawn,
    #[error("it has no player spawn (tile id 6)")]
    NoPlayerSpawn,
}

#[derive(Deserialize)]
struct Wire {
    version: String,
    #[serde(rename = "mapSize")]
    map_size: i64,
    #[serde(rename = "tileSize")]
    tile_size: i64,
    tiles: Vec<Vec<i64>>,
}

/// The wire's map, as `GET`s and `POST /session` answer it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MapView {
    pub version: &'static str,
    #[serde(rename = "mapSize")]
    pub map_size: u32,
    #[serde(rename = "tileSize")]
    pub tile_size: u32,
    pub tiles: Vec<Vec<u8>>,
}

/// A valid map; cheap to clone.
#[derive(Clone)]
pub struct Map(Arc<Inner>);

struct Inner {
    name: String,
    key: String,
    /// Tiles along one edge.
    cols: i32,
    tiles: Vec<u8>,
    hq: Cell,
    ai_spawns: Vec<Cell>,
    player_spawns: Vec<Cell>,
    /// Tiles that a tank may stand on now or once they are shot.
    explorable: u32,
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({}, {} px)", self.0.name, self.size())
    }
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name && self.0.tiles == other.0.tiles
    }
}

impl Map {
    /// Reads the JSON of a map file.
    ///
    /// # Errors
    /// The first thing wrong, and where.
    pub fn parse(name: &str, json: &[u8]) -> Result<Self, MapError> {
        let fail = |problem| MapError { name: name.to_owned(), problem };
        if json.len() > MAX_MAP_BYTES {
            return Err(fail(MapProblem::TooLong(json.len())));
        }
        let wire: Wire = serde_json::from_slice(json).map_err(|e| fail(MapProblem::NotJson(e.to_string())))?;
        if wire.version != "1.0" {
            return Err(fail(MapProblem::Version(wire.version.chars().take(32).collect())));
        }
        Self::build(name, wire.map_size, wire.tile_size, &wire.tiles).map_err(fail)
    }

    /// The map of a recorded session.
    ///
    /// # Errors
    /// The first thing wrong, and where.
    pub fn from_tiles(name: &str, map_size: u32, tile_size: u32, tiles: &[Vec<u8>]) -> Result<Self, MapError> {
        let tiles: Vec<Vec<i64>> = tiles.iter().map(|row| row.iter().map(|&id| i64::from(id)).collect()).collect();
        Self::build(name, map_size.into(), tile_size.into(), &tiles)
            .map_err(|problem| MapError { name: name.to_owned(), problem })
    }

    fn build(name: &str, map_size: i64, tile_size: i64, rows: &[Vec<i64>]) -> Result<Self, MapProblem> {
        if !EDGES.iter().any(|&edge| edge as i64 * i64::from(TILE) == map_size) {
            return Err(MapProblem::MapSize(map_size));
        }
        if tile_size != i64::from(TILE) {
            return Err(MapProblem::TileSize(tile_size));
        }
        let expected = (map_size / tile_size) as usize;
        if rows.len() != expected {
            return Err(MapProblem::Rows { found: rows.len(), expected });
        }
        let mut tiles = Vec::with_capacity(expected * expected);
        let (mut hqs, mut ai_spawns, mut player_spawns) = (Vec::new(), Vec::new(), Vec::new());
        for (row, entries) in rows.iter().enumerate() {
            if entries.len() != expected {
                return Err(MapProblem::Columns { row, found: entries.len(), expected });
            }
            for (col, &id) in entries.iter().enumerate() {
                let cell = Cell { row: row as i32, col: col as i32 };
                match id {
                    7 => hqs.push(cell),
                    5 => ai_spawns.push(cell),
                    6 => player_spawns.push(cell),
                    0..=4 => {}
                    _ => return Err(MapProblem::UnknownTile { row, col, id }),
                }
                tiles.push(id as u8);
            }
        }
        let &[hq] = &hqs[..] else { return Err(MapProblem::HqCount(hqs.len())) };
        if ai_spawns.is_empty() {
            return Err(MapProblem::NoAiSpawn);
        }
        if player_spawns.is_empty() {
            return Err(MapProblem::NoPlayerSpawn);
        }
        let explorable = tiles.iter().filter(|&&id| tile::is_enterable(id) || tile::is_destructible(id)).count() as u32;
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            key: map_key(name),
            cols: expected as i32,
            tiles,
            hq,
            ai_spawns,
            player_spawns,
            explorable,
        })))
    }

    /// The maps that come with the program.
    pub fn shipped() -> &'static [Map] {
        static SHIPPED: LazyLock<Vec<Map>> = LazyLock::new(|| {
            [
                ("Stage01.json", &include_bytes!("../maps/Stage01.json")[..]),
                ("Stage02.json", &include_bytes!("../maps/Stage02.json")[..]),
                ("Stage03.json", &include_bytes!("../maps/Stage03.json")[..]),
            ]
            .into_iter()
            .map(|(name, json)| Map::parse(name, json).expect("shipped maps are valid"))
            .collect()
        });
        &SHIPPED
    }

    /// The shipped map that a name means, with or without `maps/` and `.json`, whatever its case.
    pub fn find(name: &str) -> Option<&'static Map> {
        let key = map_key(name);
        Self::shipped().iter().find(|map| map.key() == key)
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// Edge length in pixels.
    pub fn size(&self) -> i32 {
        self.0.cols * TILE
    }

    /// Tiles along one edge.
    pub fn cols(&self) -> i32 {
        self.0.cols
    }

    /// Tile ids, row by row.
    pub fn tiles(&self) -> &[u8] {
        &self.0.tiles
    }

    pub fn rows(&self) -> Vec<Vec<u8>> {
        self.0.tiles.chunks(self.0.cols as usize).map(<[u8]>::to_vec).collect()
    }

    pub fn hq(&self) -> Cell {
        self.0.hq
    }

    /// In order of rows, then columns.
    pub fn ai_spawns(&self) -> &[Cell] {
        &self.0.ai_spawns
    }

    /// In order of rows, then columns.
    pub fn player_spawns(&self) -> &[Cell] {
        &self.0.player_spawns
    }

    /// Number of tiles that a tank may enter, at once or after a bullet.
    pub fn explorable(&self) -> u32 {
        self.0.explorable
    }

    pub fn view(&self) -> MapView {
        MapView { version: "1.0", map_size: self.size() as u32, tile_size: TILE as u32, tiles: self.rows() }
    }
}

/// The key of a map name: without a leading `maps/` and a trailing `.json`, every character but ASCII letters,
/// digits, `-` and `_` replaced by `_`, in lower case. An empty name gives `default`.
pub fn map_key(name: &str) -> String {
    let name = name.strip_prefix("maps/").or_else(|| name.strip_prefix("maps\\")).unwrap_or(name);
    let name = name.strip_suffix(".json").unwrap_or(name);
    if name.is_empty() {
        return "default".to_owned();
    }
    let keep = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c.to_ascii_lowercase() } else { '_' };
    name.chars().map(keep).collect()
}
