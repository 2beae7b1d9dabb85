//! How tanks come into a session.

use super::*;

#[test]
fn ai_tanks_spawn_every_90_ticks_up_to_the_cap_and_draw_type_then_place() {
    let map = open_map(|t| (t[1][2], t[1][8], t[1][14]) = (5, 5, 5));
    let mut rules = Rules::new(&map, &TankConfig::default(), 42).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(42);
    for n in 1..=4u64 {
        for _ in 0..89 {
            rules.tick();
            assert_eq!(rules.tanks().len() as u64, n - 1);
        }
        rules.tick();
        let kind = TankKind::AI[((u64::from(rng.next_u32()) * 4) >> 32) as usize];
        let start = ((u64::from(rng.next_u32()) * 4) >> 32) as usize;
        let tank = rules.tanks().last().unwrap();
        assert_eq!((rules.tanks().len() as u64, tank.kind, tank.dir), (n, kind, Move::Up));
        // The first free place of the 3×3 round a spawn from `start` on: its top-left tile's centre.
        let free = (0..4)
            .map(|i| map.ai_spawns()[(start + i) % 4])
            .flat_map(|s| (0..9).map(move |i| Cell { row: s.row - 1 + i / 3, col: s.col - 1 + i % 3 }.centre()))
            .find(|&(x, y)| {
                let rect = bounds_at(kind, x, y);
                let inside = rect.left >= 0 && rect.top >= 0 && rect.right < 512;
                inside && rules.tanks().iter().rev().skip(1).all(|t| !rect.overlaps(&t.bounds()))
            });
        assert_eq!(Some((tank.x, tank.y)), free);
        let spawned = rules.effects().iter().find(|e| e.kind == EffectKind::AiSpawn).unwrap();
        assert_eq!((spawned.tank, spawned.label), (Some(tank.id), Some(kind)));
        assert_eq!(rules.rng_position(), n * 2);
    }
    for _ in 0..200 {
        rules.tick();
    }
    assert_eq!((rules.tanks().len(), rules.rng_position()), (4, 8), "nothing is drawn at the cap");
}

#[test]
fn players_take_the_spawns_in_order_and_a_full_session_says_so() {
    let map = open_map(|_| {});
    let mut rules = rules_on(&map);
    let first = rules.add_player(None).unwrap();
    let second = rules.add_player(Some(TankKind::HeavyPl)).unwrap();
    assert_eq!(
        (first.spawn_index, first.kind, second.spawn_index, second.kind.label()),
        (0, TankKind::NormalPl, 1, "heavy_pl")
    );
    // Centre search from the top-left of the 3×3 tiles round tile (30, 26): tile (29, 25).
    assert_eq!((rules.tanks()[0].x, rules.tanks()[0].y), (25 * 16 + 8, 29 * 16 + 8));
    let error = rules.add_player(None).unwrap_err();
    assert_eq!(error, RulesError::NoFreeSpawn { map: "test.json".to_owned(), players: 2, spawns: 2 });
    assert!(matches!(rules.add_player(Some(TankKind::RapidEn)), Err(RulesError::NotAPlayerKind(_))));
    // Either form of id finds a tank.
    let internal = rules.internal_id(first.id);
    assert_eq!((internal.len(), internal.as_bytes()[14]), (36, b'8'));
    assert_eq!(rules.tank_named(&internal).map(|t| t.id), Some(first.id));
    assert_eq!(rules.tank_named("1").map(|t| t.id), Some(first.id));
    assert!(rules.tank_named("zz").is_none());
}
