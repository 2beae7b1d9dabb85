//! Moments of a session for whoever draws it.

use std::sync::Arc;

use flywheel_tank::{Audience, EndReason, Rules};

/// The ground at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileGrid {
    /// Rises with every change, so that a watcher who skipped frames knows to take it anew.
    pub revision: u64,
    /// Edge of a tile, pixels.
    pub tile_size: u32,
    /// Tiles along one edge.
    pub columns: usize,
    /// Tile ids 0–7, row by row.
    pub cells: Vec<u8>,
}

/// One moment of a session.
#[derive(Debug, Clone)]
pub struct GameFrame {
    pub tick: u64,
    /// The full state (tank spec 5.4) without the ground, as JSON text.
    pub state: Arc<str>,
    pub tiles: Arc<TileGrid>,
    /// Set on the last frame.
    pub ended: Option<EndReason>,
}

/// Makes frames; the grid is copied only when it has changed.
#[derive(Debug, Default)]
pub(crate) struct FrameMaker {
    tiles: Option<Arc<TileGrid>>,
}

impl FrameMaker {
    pub fn frame(&mut self, rules: &Rules, ended: Option<EndReason>) -> GameFrame {
        let revision = rules.tiles_revision();
        let tiles = match self.tiles.take().filter(|tiles| tiles.revision == revision) {
            Some(tiles) => tiles,
            None => Arc::new(TileGrid {
                revision,
                tile_size: flywheel_tank::map::TILE as u32,
                columns: rules.map().cols() as usize,
                cells: rules.tiles().to_vec(),
            }),
        };
        self.tiles = Some(tiles.clone());
        let state = serde_json::to_string(&rules.full_state(Audience::Player)).expect("a state serialises");
        GameFrame { tick: rules.ticks(), state: state.into(), tiles, ended }
    }
}
