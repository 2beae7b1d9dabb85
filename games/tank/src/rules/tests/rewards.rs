//! What AI tanks are rewarded for.

use super::*;

#[test]
fn each_kind_of_shot_is_scored_when_it_is_fired() {
    // (what stands in the line, reason, weight)
    type Scene = (&'static str, f32, fn(&mut Vec<Vec<u8>>), Option<TankKind>);
    let scenes: [Scene; 5] = [
        ("hitPlayer", 2.0, |_| {}, Some(TankKind::NormalPl)),
        ("hitAlly", -1.0, |_| {}, Some(TankKind::NormalEn)),
        ("destructiveShot", 0.5, |t| t[12][20] = tile::BRICK, None),
        ("blockedShot", -0.03, |t| t[12][20] = tile::STEEL, None),
        ("destroyHQ", 5.0, |t| (t[12][20], t[30][1]) = (tile::HQ, tile::SOIL), None),
    ];
    for (reason, weight, edit, target) in scenes {
        let mut rules = rules_on(&open_map(edit));
        let shooter = put(&mut rules, TankKind::NormalEn, 100, 200, Move::Right);
        let target = target.map(|kind| put(&mut rules, kind, 300, 200, Move::Up));
        send(&mut rules, shooter, FIRE);
        rules.tick();
        let aim = match reason {
            "hitPlayer" | "destroyHQ" => 0.01,
            _ => 0.0,
        };
        let entry = reward(&rules, shooter);
        assert!((entry.reward - (weight + aim + 0.02)).abs() < 1e-6, "{reason}: {entry:?}");
        assert!(reasons(&rules, shooter).contains(&reason));
        if reason == "hitAlly" {
            let victim = reward(&rules, target.unwrap());
            assert!((victim.reward - (-2.0 + 0.02)).abs() < 1e-6, "{victim:?}");
            assert_eq!(reasons(&rules, target.unwrap()), ["gotHit", "mapTileTouched"]);
        }
        // The next tick has no shot: no such reward.
        rules.tick();
        assert!(!reasons(&rules, shooter).contains(&reason));
    }
    // A player's shot is predicted to hit an AI tank.
    let mut rules = rules_on(&open_map(|_| {}));
    let player = put(&mut rules, TankKind::NormalPl, 100, 200, Move::Right);
    let victim = put(&mut rules, TankKind::HeavyEn, 300, 200, Move::Up);
    send(&mut rules, player, FIRE);
    rules.tick();
    assert!(reasons(&rules, victim).contains(&"gotHit"));
}

#[test]
fn aiming_is_rewarded_unless_steel_is_in_the_way() {
    for (tile_id, aims) in [(tile::SOIL, true), (tile::BRICK, true), (tile::STEEL, false)] {
        let map = open_map(|t| {
            t[12][15] = tile_id;
            t[11][15] = tile_id;
            t[20][8] = tile_id;
            t[30][1] = tile::SOIL;
            t[24][8] = tile::HQ;
        });
        let mut rules = rules_on(&map);
        let right = put(&mut rules, TankKind::NormalEn, 100, 192, Move::Right);
        let down = put(&mut rules, TankKind::NormalEn, 136, 260, Move::Down);
        put(&mut rules, TankKind::NormalPl, 300, 192, Move::Up);
        rules.tick();
        assert_eq!(reasons(&rules, right).contains(&"playerAim"), aims, "tile {tile_id}");
        assert_eq!(reasons(&rules, down).contains(&"hqAim"), aims, "tile {tile_id}");
        assert!(!reasons(&rules, down).contains(&"playerAim"));
        // Facing away.
        rules.tanks[0].dir = Move::Left;
        rules.tick();
        assert!(!reasons(&rules, right).contains(&"playerAim"));
    }
    let hq = cell_rect(Cell { row: 2, col: 3 });
    assert_eq!(hq, Rect { left: 48, top: 32, right: 63, bottom: 47 });
}

#[test]
fn exploring_idling_turning_bumping_and_staying_are_scored() {
    let mut rules = rules_on(&open_map(|_| {}));
    let id = put(&mut rules, TankKind::NormalEn, 264, 264, Move::Right);
    // Tick 1: the first tile is new.
    rules.tick();
    assert_eq!(reasons(&rules, id), ["mapTileTouched"]);
    // Idle from tick 1 on: the 20th tick without movement is tick 20.
    for tick in 2..=20 {
        rules.tick();
        assert_eq!(reasons(&rules, id).contains(&"idlePenalty"), tick == 20, "tick {tick}");
    }
    for tick in 21..=152 {
        rules.tick();
        // The tile of tick 1 was new; 151 ticks later none has been new, and the tank has stayed.
        assert_eq!(reasons(&rules, id).contains(&"exploreStallPenalty"), tick >= 152, "tick {tick}");
        assert_eq!(reasons(&rules, id).contains(&"stuckArea"), tick >= 151, "tick {tick}");
    }
    // Moving ends idling at once, the rest with a new tile or a tile two away.
    for step in 1..=16 {
        send(&mut rules, id, Action::go(Move::Right));
        rules.tick();
        let x = rules.tank(id).unwrap().x;
        assert_eq!(x, 264 + 2 * step);
        let now = reasons(&rules, id);
        assert!(!now.contains(&"idlePenalty"));
        // x = 272 is the next column, x = 288 the one after.
        assert_eq!(now.contains(&"mapTileTouched"), x == 272 || x == 288);
        assert_eq!(now.contains(&"exploreStallPenalty"), x < 272);
        assert_eq!(now.contains(&"stuckArea"), x < 288);
    }
    // A second turn within 6 ticks of the last.
    let mut turn = |dir, wait: usize| {
        send(&mut rules, id, Action::go(dir));
        rules.tick();
        let penal = reasons(&rules, id).contains(&"directionChange");
        for _ in 0..wait {
            send(&mut rules, id, Action::NOTHING);
            rules.tick();
        }
        penal
    };
    assert!(!turn(Move::Up, 5));
    assert!(turn(Move::Right, 6), "6 ticks after the last turn");
    assert!(!turn(Move::Up, 0), "7 ticks after the last turn");
    assert!(turn(Move::Down, 0));

    let map = open_map(|t| (16..18).for_each(|row| t[row][20] = tile::STEEL));
    let mut rules = rules_on(&map);
    let id = put(&mut rules, TankKind::NormalEn, 307, 272, Move::Right);
    send(&mut rules, id, Action::go(Move::Right));
    rules.tick();
    assert_eq!(reasons(&rules, id), ["mapTileTouched", "collisionPenalty"]);
    assert!((reward(&rules, id).reward - (0.02 - 0.05)).abs() < 1e-6);
}

#[test]
fn rewards_add_up_between_transitions_and_none_is_said_aloud() {
    let config = TankConfig { transition_interval: 10, ..quiet() };
    let mut rules = Rules::new(&open_map(|t| t[12][20] = tile::BRICK), &config, 1).unwrap();
    let id = put(&mut rules, TankKind::NormalEn, 100, 200, Move::Right);
    send(&mut rules, id, FIRE);
    for tick in 1..=10 {
        let report = rules.tick();
        assert_eq!((report.transition_due, rules.rewards().len()), (tick == 10, usize::from(tick == 10)));
    }
    assert!((reward(&rules, id).reward - 0.52).abs() < 1e-6);
    assert_eq!(reward(&rules, id).reasons.to_strings(), ["destructiveShot", "mapTileTouched"]);
    send(&mut rules, id, Action::NOTHING);
    for _ in 0..9 {
        rules.tick();
    }
    rules.tanks[0].ai.as_deref_mut().unwrap().idle_ticks = 0;
    rules.tanks[0].ai.as_deref_mut().unwrap().bounty = Bounty::default();
    rules.tick();
    assert_eq!(reward(&rules, id).reasons.to_strings(), ["none"]);
}
