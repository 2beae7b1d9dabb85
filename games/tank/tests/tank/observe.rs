use flywheel_tank::{
    Cell, ClientView, Map, NetId, OBSERVATION_LEN, ObservationStack, Role, STATE_LEN, Script, ScriptedPlayer,
    StateMerger, TankKind, ViewTank, map::tile, observe,
};
use proptest::prelude::*;
use serde_json::{Value, json};

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

/// What a wire may hold where a number is expected.
fn absurd() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        prop::sample::select(vec![
            json!(i64::MIN),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(i32::MIN),
            json!(i32::MAX),
            json!(1e300),
            json!(-1e300),
            json!(f64::MIN_POSITIVE),
            json!(0),
            json!(-1),
            json!(511.9),
            json!(512),
            json!("7"),
            json!(null),
            json!([1]),
        ]),
        (0..512i32).prop_map(|n| json!(n)),
    ]
}

fn assert_in_range(vector: &[f32; STATE_LEN]) {
    for (i, value) in vector.iter().enumerate() {
        let (low, high) = observe::range(i);
        assert!((low..=high).contains(value), "feature {i} is {value}; it lies in {low} to {high}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_the_wire_says_the_numbers_are_finite_and_in_range(
        ticks in (0..1_000u64, any::<u64>()),
        tanks in prop::collection::vec((prop::collection::vec(absurd(), 9), 0usize..4, 0usize..3), 1..5),
        bullet in prop::collection::vec(absurd(), 5),
        tiles in prop::collection::vec((absurd(), absurd(), absurd()), 0..4),
        grid in prop::option::of((prop::sample::select(vec![0usize, 1, 2, 31, 32, 33, 64, 128, 129]), 0..9u8)),
        seed in any::<u64>(),
    ) {
        let (mut merger, mut view) = (StateMerger::new(), ClientView::new(&map()));
        let labels = ["normal_pl", "rapid_en", "heavy_en", "unheard_of"];
        for tick in [ticks.0, ticks.1] {
            let players: Vec<Value> = tanks
                .iter()
                .enumerate()
                .map(|(i, (n, label, role))| json!({
                    "id": NetId(i as u64 + 1), "label": labels[*label], "role": (["ai", "player", "god"][*role]),
                    "x": n[0], "y": n[1], "dirX": n[2], "dirY": n[3], "health": n[4], "maxHealth": n[5],
                    "speed": n[6], "shootCooldown": n[7], "cooldown": n[8],
                }))
                .collect();
            let changes: Vec<Value> =
                tiles.iter().map(|(row, col, id)| json!({"row": row, "col": col, "tileId": id})).collect();
            let b = &bullet;
            let mut state = json!({"tick": tick, "players": players, "mapTilesChanged": changes, "bullets": [
                {"id": "a", "x": b[0], "y": b[1], "dirX": b[2], "dirY": b[3], "radius": b[4]}
            ]});
            if let Some((edge, id)) = grid {
                state["mapTiles"] = json!(vec![vec![id; edge]; edge]);
            }
            merger.merge(&state).unwrap();
            view.apply(merger.state());
            let mut scripts = Script::ALL.map(|script| ScriptedPlayer::new(script, seed));
            for tank in &view.tanks {
                let mut vector = [f32::NAN; STATE_LEN];
                observe::state_vector(&view, tank, &mut vector);
                assert_in_range(&vector);
                for script in &mut scripts {
                    script.act(&view, tank.id);
                }
            }
        }
    }

    // A view can also be built by hand.
    #[test]
    fn a_tank_of_any_numbers_has_a_vector_in_range(
        place in any::<(i32, i32)>(),
        dir in any::<(i32, i32)>(),
        body in any::<(i32, i32, i32)>(),
        gun in any::<(u32, u32)>(),
        times in any::<(u64, u64)>(),
        player in any::<(i32, i32)>(),
    ) {
        let mut view = ClientView::new(&map());
        let tank = ViewTank {
            id: NetId(1), kind: TankKind::RapidEn, role: Role::Ai, x: place.0, y: place.1, dir,
            health: body.0, max_health: body.1, speed: body.2, shoot_cooldown: gun.0, cooldown: gun.1, since: times.0,
        };
        view.tick = times.1;
        view.tanks = vec![tank, ViewTank { id: NetId(2), role: Role::Player, x: player.0, y: player.1, ..tank }];
        let mut vector = [f32::NAN; STATE_LEN];
        observe::state_vector(&view, &tank, &mut vector);
        assert_in_range(&vector);
    }

    // A walk between these would take 2³² steps and overflow on the way.
    #[test]
    fn a_line_of_sight_ends_wherever_it_leads(from in any::<(i32, i32)>(), to in any::<(i32, i32)>()) {
        let view = ClientView::new(&map());
        let cell = |(row, col)| Cell { row, col };
        let clamped = |c: Cell| Cell { row: c.row.clamp(0, 31), col: c.col.clamp(0, 31) };
        let extremes = [i32::MIN, i32::MAX, -1, 0, 31, 32];
        let ends = extremes.into_iter().flat_map(|row| extremes.map(|col| Cell { row, col }));
        for (a, b) in ends.map(|end| (end, cell(to))).chain([(cell(from), cell(to))]) {
            let (there, inside) =
                (observe::line_of_sight(&view, a, b), observe::line_of_sight(&view, clamped(a), clamped(b)));
            prop_assert_eq!(there, inside);
        }
    }
}

// A tank covers two by two tiles: on a grid of one there is nowhere to stand.
#[test]
fn a_grid_that_is_no_map_is_not_taken() {
    for (edge, taken) in [(0, false), (1, false), (31, false), (32, true), (64, true), (128, true), (129, false)] {
        assert_eq!(ClientView::from_rows(&vec![vec![0; edge]; edge]).is_some(), taken, "{edge}");
    }
    assert!(ClientView::from_rows(&vec![vec![0; 31]; 32]).is_none());
    assert!(ClientView::from_rows(&vec![vec![8; 32]; 32]).is_none());
}

#[test]
fn a_list_without_end_is_cut_and_counted() {
    let mut merger = StateMerger::new();
    let bullets: Vec<Value> = (1..=8_200).map(|i| json!([NetId(i), 5, 5, 0, 1, 2])).collect();
    let labels: Vec<&str> =
        ["id", "x", "y", "dirX", "dirY", "radius"].into_iter().chain(std::iter::repeat_n("more", 100)).collect();
    let merged =
        merger.merge(&json!({"delta": true, "tick": 1, "bullets": {"labels": labels, "upserts": bullets}})).unwrap();
    assert_eq!((merger.state().bullets.len(), merged.skipped), (8_192, 8));
}
