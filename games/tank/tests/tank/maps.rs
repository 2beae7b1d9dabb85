use std::collections::VecDeque;

use flywheel_tank::{Map, MapProblem, map::tile, map_key};

#[test]
fn map_keys_follow_the_rule() {
    for (name, key) in [
        ("Stage03.json", "stage03"),
        ("maps/Stage03.json", "stage03"),
        ("maps\\Stage03.json", "stage03"),
        ("My Map (2).json", "my_map__2_"),
        ("a-b_c", "a-b_c"),
        ("ünder/x", "_nder_x"),
        ("", "default"),
        (".json", "default"),
        ("maps/", "default"),
    ] {
        assert_eq!(map_key(name), key, "{name}");
    }
    assert_eq!(Map::find("maps/STAGE02.json").unwrap().name(), "Stage02.json");
    assert!(Map::find("Stage99.json").is_none());
}

fn json(edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut map = serde_json::to_value(Map::shipped()[0].view()).unwrap();
    edit(&mut map);
    serde_json::to_vec(&map).unwrap()
}

#[test]
fn every_error_of_a_map_has_its_name_and_place() {
    let problem = |bytes: Vec<u8>| Map::parse("bad.json", &bytes).unwrap_err().problem;
    assert!(Map::parse("good.json", &json(|_| {})).is_ok());
    assert!(matches!(problem(b"{".to_vec()), MapProblem::NotJson(_)));
    assert!(matches!(problem(b"[]".to_vec()), MapProblem::NotJson(_)));
    assert_eq!(problem(vec![b' '; 2 << 20]), MapProblem::TooLong(2 << 20));
    assert_eq!(problem(json(|m| m["version"] = "2.0".into())), MapProblem::Version("2.0".to_owned()));
    assert_eq!(problem(json(|m| m["mapSize"] = 500.into())), MapProblem::MapSize(500));
    assert_eq!(problem(json(|m| m["mapSize"] = 1024.into())), MapProblem::Rows { found: 32, expected: 64 });
    assert_eq!(problem(json(|m| m["tileSize"] = 8.into())), MapProblem::TileSize(8));
    assert_eq!(
        problem(json(|m| drop(m["tiles"][3].as_array_mut().unwrap().pop()))),
        MapProblem::Columns { row: 3, found: 31, expected: 32 }
    );
    assert_eq!(problem(json(|m| m["tiles"][2][5] = 8.into())), MapProblem::UnknownTile { row: 2, col: 5, id: 8 });
    assert_eq!(problem(json(|m| m["tiles"][2][5] = (-1).into())), MapProblem::UnknownTile { row: 2, col: 5, id: -1 });
    assert_eq!(problem(json(|m| m["tiles"][2][5] = 7.into())), MapProblem::HqCount(2));
    let without = |id: u8| {
        json(|m| {
            for row in m["tiles"].as_array_mut().unwrap() {
                for value in row.as_array_mut().unwrap() {
                    if *value == id {
                        *value = 0.into();
                    }
                }
            }
        })
    };
    assert_eq!(problem(without(7)), MapProblem::HqCount(0));
    assert_eq!(problem(without(5)), MapProblem::NoAiSpawn);
    assert_eq!(problem(without(6)), MapProblem::NoPlayerSpawn);
    let text = Map::parse("bad.json", &json(|m| m["tiles"][2][5] = 9.into())).unwrap_err().to_string();
    assert_eq!(text, "map `bad.json`: `tiles[2][5]` is 9; tile ids are 0 to 7");
}

/// Places of a tank of two by two tiles from which the HQ is adjacent, reached over open tiles and bricks.
fn reaches_hq(map: &Map, row: i32, col: i32) -> bool {
    let cols = map.cols();
    let open = |row: i32, col: i32| {
        let id = map.tiles()[(row * cols + col) as usize];
        tile::is_enterable(id) || id == tile::BRICK
    };
    let fits = |row: i32, col: i32| {
        row >= 0 && col >= 0 && row < cols - 1 && col < cols - 1 && (0..4).all(|i| open(row + i / 2, col + i % 2))
    };
    let mut seen = vec![false; (cols * cols) as usize];
    let mut queue = VecDeque::from([(row, col)]);
    while let Some((row, col)) = queue.pop_front() {
        if !fits(row, col) || std::mem::replace(&mut seen[(row * cols + col) as usize], true) {
            continue;
        }
        let hq = map.hq();
        if (row - 1..=row + 2).contains(&hq.row) && (col - 1..=col + 2).contains(&hq.col) {
            return true;
        }
        queue.extend([(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)]);
    }
    false
}

#[test]
fn the_shipped_maps_are_fair_ground() {
    assert!(Map::shipped().len() >= 3);
    for map in Map::shipped() {
        assert_eq!(map.size(), 512);
        assert!(map.ai_spawns().len() >= 4 && !map.player_spawns().is_empty(), "{map:?}");
        assert!(map.ai_spawns().iter().all(|s| s.row <= 4), "{map:?}: AI tanks come from the top");
        let hq = map.hq();
        assert!(hq.row >= 24, "{map:?}: the HQ stands at the bottom");
        for (row, col) in [(-1, 0), (1, 0), (0, -1), (0, 1)] {
            let id = map.tiles()[((hq.row + row) * map.cols() + hq.col + col) as usize];
            assert_eq!(id, tile::BRICK, "{map:?}: the HQ is walled in by brick");
        }
        for spawn in map.ai_spawns() {
            assert!(reaches_hq(map, spawn.row, spawn.col), "{map:?}: {spawn:?}");
        }
        // No straight shot from a spawn's columns reaches the HQ.
        let steel_above = (0..hq.row).any(|row| {
            (hq.col - 1..=hq.col + 1).all(|col| map.tiles()[(row * map.cols() + col) as usize] == tile::STEEL)
        });
        assert!(steel_above, "{map:?}");
    }
}
