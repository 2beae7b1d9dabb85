use flywheel_tank::{
    ClientView, Map, NetId, OBSERVATION_LEN, ObservationStack, STATE_LEN, StateMerger, map::tile, observe,
};
use serde_json::json;

fn map() -> Map {
    let mut tiles = vec![vec![tile::SOIL; 32]; 32];
    (tiles[30][16], tiles[1][1], tiles[28][4]) = (tile::HQ, tile::AI_SPAWN, tile::PLAYER_SPAWN);
    tiles[20][16] = tile::STEEL;
    tiles[9][10] = tile::BRICK;
    tiles[9][9] = tile::WATER;
    tiles[11][11] = tile::GRASS;
    Map::from_tiles("hand.json", 512, 16, &tiles).unwrap()
}

fn state(tick: u64, x: i32, cooldown: u32, changed: serde_json::Value) -> serde_json::Value {
    json!({"tick": tick, "players": [
        {"id":"1","label":"heavy_pl","role":"player","x":296,"y":264,"dirX":0,"dirY":-1,"health":3,"maxHealth":4},
        {"id":"2","label":"heavy_en","role":"ai","x":x,"y":168,"dirX":0,"dirY":1,"health":1,"maxHealth":4,
         "speed":3,"shootCooldown":cooldown,"cooldown":15}
    ], "bullets": [], "events": [], "gameOver": false, "gameOverReason": null,
    "stats": {"ticks": tick, "enemiesDestroyed": 0}, "mapTilesChanged": changed})
}

// Verification 4.
#[test]
fn the_stack_fills_from_behind_with_hand_worked_vectors() {
    let (mut merger, mut view) = (StateMerger::new(), ClientView::new(&map()));
    let mut stack = ObservationStack::new();
    for n in 1..=5u64 {
        // Moves once, at tick 3; the cooldown counts down.
        let x = if n < 3 { 168 } else { 171 };
        merger.merge(&state(n, x, 15 - n as u32, json!([]))).unwrap();
        view.apply(merger.state());
        let mut vector = [0.0; STATE_LEN];
        observe::state_vector(&view, view.tank(NetId(2)).unwrap(), &mut vector);
        stack.push(&vector);
        let zero_blocks =
            stack.values().chunks(STATE_LEN).filter(|block| block.iter().all(|v| *v == 0.0)).count() as u64;
        assert_eq!(zero_blocks, 4u64.saturating_sub(n));
        assert_eq!(stack.values()[OBSERVATION_LEN - STATE_LEN..], vector);
    }
    // Newest: tick 5, idle since tick 3, at (171, 168) in tile (10, 10).
    let (x, y) = (171.0f32, 168.0f32);
    let (dx, dy) = (296.0 - x, 264.0 - y);
    let (hx, hy) = (16.0 * 16.0 + 8.0 - x, 30.0 * 16.0 + 8.0 - y);
    let expected = [
        x / 512.0,
        y / 512.0,
        0.0,
        1.0,
        3.0 / 4.0,
        1.0 / 4.0,
        10.0 / 15.0,
        dx / 512.0,
        dy / 512.0,
        (dx * dx + dy * dy).sqrt() / 512.0,
        1.0,
        3.0 / 4.0,
        hx / 512.0,
        hy / 512.0,
        (hx * hx + hy * hy).sqrt() / 512.0,
        1.0,
        2.0 / 20.0,
        2.0 / 3.0,
        // Rows 9 to 11, columns 9 to 11: water, brick, soil; soil; soil, soil, grass.
        2.0 / 8.0,
        3.0 / 8.0,
        1.0 / 8.0,
        1.0 / 8.0,
        1.0 / 8.0,
        1.0 / 8.0,
        1.0 / 8.0,
        1.0 / 8.0,
        4.0 / 8.0,
    ];
    for (i, (ours, theirs)) in stack.values()[81..].iter().zip(expected).enumerate() {
        assert!((ours - theirs).abs() < 1e-6, "feature {i}: {ours} {theirs}");
    }
    // Oldest of the four: tick 2, idle since tick 1.
    assert_eq!((stack.values()[0], stack.values()[16]), (168.0 / 512.0, 1.0 / 20.0));
}

// Verification 5.
#[test]
fn a_shot_brick_shows_as_soil_in_the_same_tick() {
    let (mut merger, mut view) = (StateMerger::new(), ClientView::new(&map()));
    let mut at = |tick, changed| {
        merger.merge(&state(tick, 168, 0, changed)).unwrap();
        view.apply(merger.state());
        let mut vector = [0.0; STATE_LEN];
        observe::state_vector(&view, view.tank(NetId(2)).unwrap(), &mut vector);
        vector[18..27].to_vec()
    };
    let before = at(1, json!([]));
    let after = at(2, json!([{"row": 9, "col": 10, "tileId": 0}]));
    assert_eq!((before[1], after[1]), (3.0 / 8.0, 1.0 / 8.0));
    assert_eq!((&before[2..], before[0]), (&after[2..], after[0]));
    assert_eq!(at(3, json!([])), after, "the change stays");
}

#[test]
fn steel_on_the_grid_line_hides_and_the_border_reads_zero() {
    let mut merger = StateMerger::new();
    let mut view = ClientView::new(&map());
    merger
        .merge(&json!({"tick": 1, "players": [
            {"id":"2","label":"normal_en","role":"ai","x":264,"y":16,"dirX":0,"dirY":1,"health":2,"maxHealth":2}
        ]}))
        .unwrap();
    view.apply(merger.state());
    let vector = |view: &ClientView| {
        let mut vector = [0.0; STATE_LEN];
        observe::state_vector(view, view.tank(NetId(2)).unwrap(), &mut vector);
        vector
    };
    let v = vector(&view);
    assert_eq!(v[7..12], [0.0; 5], "no player");
    assert_eq!((v[12], v[15]), (0.0, 0.0), "the steel at row 20 is between");
    // Without the wire's extras, speed and cooldown come from the table.
    assert_eq!((v[4], v[6]), (0.5, 0.0));
    merger
        .merge(&json!({"delta": true, "tick": 2, "mapTilesChanged": [{"row": 20, "col": 16, "tileId": 0}],
        "players": {"upserts": [{"id": "2", "y": 8}], "removed": []}}))
        .unwrap();
    view.apply(merger.state());
    let v = vector(&view);
    assert_eq!(v[15], 1.0);
    assert_eq!(v[18..21], [0.0; 3], "row -1 is outside the map");
    // The HQ falls: its numbers are zero.
    merger.merge(&json!({"delta": true, "tick": 3, "mapTilesChanged": [{"row": 30, "col": 16, "tileId": 0}]})).unwrap();
    view.apply(merger.state());
    assert_eq!(vector(&view)[12..16], [0.0; 4]);
    // Idle ticks stop counting at a hundred.
    merger.merge(&json!({"delta": true, "tick": 900})).unwrap();
    view.apply(merger.state());
    assert_eq!(vector(&view)[16], 5.0);
}
