//! What an AI backend sees of one session: the merged state, its own tile map, and a stack per AI tank.

use flywheel_tank::{
    ClientView, Map, MergeError, OBSERVATION_LEN, ObservationStack, STATE_LEN, StateMerger, TankId, observe,
};
use serde_json::Value;

/// Tanks of one session that are looked at; a state with more is not believed.
const MAX_TANKS: usize = 256;

/// An action that was sent, and what it was chosen on.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub s: Box<[f32; OBSERVATION_LEN]>,
    pub a: u8,
    pub model: Option<flywheel_events::ModelRef>,
    pub epsilon: f32,
}

/// One AI tank in its controller's eyes.
#[derive(Debug)]
pub struct Seat {
    pub id: TankId,
    pub label: &'static str,
    pub stack: ObservationStack,
    /// The newest vector of the stack.
    pub vector: [f32; STATE_LEN],
    /// The action that the next reward is for.
    pub chosen: Option<Chosen>,
    /// In the newest state.
    pub present: bool,
    pub episode_return: f32,
}

/// What one state told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub tick: u64,
    /// A new episode: what was known of the old one is forgotten.
    pub new_episode: bool,
    pub game_over: bool,
    /// Entries of lists that could not be read.
    pub skipped: usize,
}

#[derive(Debug)]
pub struct Eyes {
    map_name: String,
    merger: StateMerger,
    view: Option<ClientView>,
    pub seats: Vec<Seat>,
    seen_any: bool,
}

impl Eyes {
    /// Eyes on a session whose map has this name, as far as is known.
    pub fn new(map_name: &str) -> Self {
        Self {
            map_name: map_name.to_owned(),
            merger: StateMerger::new(),
            view: None,
            seats: Vec::new(),
            seen_any: false,
        }
    }

    pub fn merger(&self) -> &StateMerger {
        &self.merger
    }

    /// Whether any state was merged yet.
    pub fn has_seen(&self) -> bool {
        self.seen_any
    }

    pub fn tick(&self) -> u64 {
        self.merger.state().tick
    }

    /// Merges a full state or a delta and updates the tile map; the stacks stay as they are.
    ///
    /// # Errors
    /// If it is not a state. What was known before is kept.
    pub fn merge(&mut self, state: &Value) -> Result<Seen, MergeError> {
        let merged = self.merger.merge(state)?;
        let new_episode = merged.backwards && self.seen_any;
        self.seen_any = true;
        let state = self.merger.state();
        if new_episode {
            self.seats.clear();
        }
        let named = if state.map_name.is_empty() { &self.map_name } else { &state.map_name };
        if new_episode || self.view.is_none() {
            self.view = Some(ground(named));
        }
        let view = self.view.as_mut().expect("it was just made");
        // Lines of sight are walked tile by tile: a tank light years away would take for ever.
        let mut absurd = state.players.iter().filter(|p| !on_some_map(p.x, p.y)).count();
        if absurd == 0 && state.players.len() <= MAX_TANKS {
            view.apply(state);
        } else {
            let mut sane = state.clone();
            sane.players.retain(|p| on_some_map(p.x, p.y));
            absurd += sane.players.len().saturating_sub(MAX_TANKS);
            sane.players.truncate(MAX_TANKS);
            view.apply(&sane);
        }
        Ok(Seen { tick: merged.tick, new_episode, game_over: state.game_over, skipped: merged.skipped + absurd })
    }

    /// Pushes one vector for each AI tank in the newest state. Once per transition.
    pub fn observe(&mut self) {
        let Some(view) = &self.view else { return };
        for seat in &mut self.seats {
            seat.present = false;
        }
        for tank in view.ai_tanks() {
            let at = self.seats.iter().position(|seat| seat.id == tank.id).unwrap_or_else(|| {
                self.seats.push(Seat {
                    id: tank.id,
                    label: tank.kind.label(),
                    stack: ObservationStack::new(),
                    vector: [0.0; STATE_LEN],
                    chosen: None,
                    present: true,
                    episode_return: 0.0,
                });
                self.seats.len() - 1
            });
            let seat = &mut self.seats[at];
            observe::state_vector(view, tank, &mut seat.vector);
            seat.stack.push(&seat.vector);
            seat.present = true;
        }
    }

    pub fn seat(&mut self, id: TankId) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.id == id)
    }

    /// Forgets the stacks and the pending actions, not the state.
    pub fn forget_history(&mut self) {
        self.seats.clear();
    }

    /// Forgets tanks that are gone.
    pub fn drop_absent(&mut self) {
        self.seats.retain(|seat| seat.present);
    }

    /// Bytes of all stacks and pending observations.
    pub fn history_bytes(&self) -> usize {
        let pending = self.seats.iter().filter(|seat| seat.chosen.is_some()).count();
        4 * OBSERVATION_LEN * (self.seats.len() + pending)
    }
}

/// Whether a centre can lie on a map of the largest size, with a margin.
fn on_some_map(x: i32, y: i32) -> bool {
    (-64..=4096).contains(&x) && (-64..=4096).contains(&y)
}

/// The tiles of a known map, or bare soil until the game backend sends its own.
fn ground(map_name: &str) -> ClientView {
    match Map::find(map_name) {
        Some(map) => ClientView::new(map),
        None => ClientView::from_rows(&vec![vec![0; 32]; 32]).expect("a square grid"),
    }
}

#[cfg(test)]
mod tests {
    use flywheel_tank::OBSERVATION_LEN;
    use serde_json::json;

    use super::*;

    fn tiles() -> Vec<Vec<u8>> {
        let mut rows = vec![vec![0; 32]; 32];
        // A brick to the right of the tank, at row 2, column 4; the HQ at row 30, column 16.
        rows[2][4] = 2;
        rows[30][16] = 7;
        rows
    }

    fn state(tick: u64) -> Value {
        json!({
            "tick": tick, "mapName": "Nowhere.json", "gameOver": false, "gameOverReason": null,
            "players": [
                {"id": "1", "label": "normal_pl", "role": "player", "x": 256, "y": 488, "dirX": 0, "dirY": -1, "health": 1, "maxHealth": 2},
                {"id": "3", "label": "rapid_en", "role": "ai", "x": 56, "y": 40, "dirX": 1, "dirY": 0, "health": 2, "maxHealth": 2,
                 "speed": 3, "shootCooldown": 7, "cooldown": 7},
            ],
            "bullets": [], "events": [], "stats": {"ticks": tick, "enemiesDestroyed": 0},
        })
    }

    /// Worked by hand from the table of the spec's section 9, on a map of 512 pixels.
    fn by_hand(brick: f32) -> Vec<f32> {
        let size = 512.0;
        let distance = |dx: f32, dy: f32| (dx * dx + dy * dy).sqrt() / size;
        // The HQ's centre is (16*16+8, 30*16+8) = (264, 488).
        let soil = 1.0 / 8.0;
        vec![
            56.0 / size,
            40.0 / size,
            1.0,
            0.0,
            3.0 / 4.0,
            1.0,
            1.0,
            200.0 / size,
            448.0 / size,
            distance(200.0, 448.0),
            1.0,
            0.5,
            208.0 / size,
            448.0 / size,
            distance(208.0, 448.0),
            1.0,
            0.0,
            1.0,
            soil,
            soil,
            soil,
            soil,
            soil,
            brick,
            soil,
            soil,
            soil,
        ]
    }

    #[test]
    fn after_one_to_four_ticks_the_stack_has_three_to_no_zero_blocks_and_the_values_worked_by_hand() {
        let mut eyes = Eyes::new("Nowhere.json");
        for tick in 1..=4u64 {
            let mut state = state(tick);
            if tick == 1 {
                state["mapTiles"] = json!(tiles());
            }
            eyes.merge(&state).unwrap();
            eyes.observe();
            let seat = eyes.seat(TankId::parse("3").unwrap()).unwrap();
            let blocks: Vec<&[f32]> = seat.stack.values().chunks_exact(STATE_LEN).collect();
            let zero = blocks.iter().take_while(|block| block.iter().all(|&v| v == 0.0)).count();
            assert_eq!(zero as u64, 4 - tick);
            let mut expected = by_hand(3.0 / 8.0);
            expected[16] = (tick - 1) as f32 / 20.0;
            for (i, (found, wanted)) in blocks[3].iter().zip(&expected).enumerate() {
                assert!((found - wanted).abs() < 1e-6, "tick {tick}, feature {i}: {found}, by hand {wanted}");
            }
            assert_eq!(seat.stack.values().len(), OBSERVATION_LEN);
        }
    }

    #[test]
    fn a_brick_that_becomes_soil_changes_its_feature_in_the_same_tick() {
        let mut eyes = Eyes::new("Nowhere.json");
        let mut first = state(1);
        first["mapTiles"] = json!(tiles());
        eyes.merge(&first).unwrap();
        eyes.observe();
        let tank = TankId::parse("3").unwrap();
        assert_eq!(eyes.seat(tank).unwrap().vector[23], 3.0 / 8.0);
        let shot = json!({"delta": true, "tick": 2, "mapTilesChanged": [{"row": 2, "col": 4, "tileId": 0}]});
        eyes.merge(&shot).unwrap();
        eyes.observe();
        assert_eq!(eyes.seat(tank).unwrap().vector[23], 1.0 / 8.0);
    }

    #[test]
    fn what_is_not_a_state_changes_nothing_and_a_tick_that_goes_back_clears_the_history() {
        let mut eyes = Eyes::new("Nowhere.json");
        eyes.merge(&state(50)).unwrap();
        eyes.observe();
        for bad in [Value::Null, json!(3), json!("x"), json!([1]), json!({}), json!({"tick": -1})] {
            assert!(eyes.merge(&bad).is_err(), "{bad}");
        }
        assert_eq!((eyes.tick(), eyes.seats.len()), (50, 1));
        let seen = eyes.merge(&state(2)).unwrap();
        assert!(seen.new_episode && eyes.seats.is_empty());
    }
}
