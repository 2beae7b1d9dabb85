//! Where tanks may go, and whose inputs move them.

use super::*;

#[test]
fn a_move_turns_even_when_blocked_and_steps_by_the_speed() {
    let map = open_map(|t| {
        t[10][12] = tile::STEEL;
        t[11][12] = tile::STEEL;
    });
    let mut rules = rules_on(&map);
    // Bounds 3..=28 of the box from 144: right edge 144 + 28 = 172; the steel begins at 192.
    let id = put(&mut rules, TankKind::NormalPl, 160, 176, Move::Up);
    for step in 1..=9 {
        send(&mut rules, id, Action::go(Move::Right));
        rules.tick();
        assert_eq!(rules.tank(id).unwrap().x, 160 + 2 * step);
    }
    // 178 + 12 = 190 is the right edge; 192 would be inside the steel.
    send(&mut rules, id, Action::go(Move::Right));
    rules.tick();
    let tank = rules.tank(id).unwrap();
    assert_eq!((tank.x, tank.y, tank.dir, tank.bounds().right), (178, 176, Move::Right, 190));
    for dir in [Move::Up, Move::Left, Move::Down] {
        let before = (rules.tank(id).unwrap().x, rules.tank(id).unwrap().y);
        send(&mut rules, id, Action::go(dir));
        rules.tick();
        let tank = rules.tank(id).unwrap();
        assert_eq!((tank.x, tank.y, tank.dir), (before.0 + 2 * dir.dx(), before.1 + 2 * dir.dy(), dir));
    }
}

#[test]
fn tanks_enter_only_enterable_tiles_and_never_leave_the_map() {
    for (id, enterable) in [(0, true), (1, false), (2, false), (3, true), (4, false), (5, true), (6, true)] {
        let map = open_map(|t| t[8][10] = id);
        let mut rules = rules_on(&map);
        // The left edge of the bounds is 196 - 13; tile column 10 ends at 175.
        let tank = put(&mut rules, TankKind::SpeedyPl, 192, 136, Move::Up);
        for _ in 0..4 {
            send(&mut rules, tank, Action::go(Move::Left));
            rules.tick();
        }
        assert_eq!(rules.tank(tank).unwrap().x, if enterable { 176 } else { 192 }, "tile {id}");
    }
    let mut rules = rules_on(&open_map(|_| {}));
    let tank = put(&mut rules, TankKind::SpeedyPl, 256, 24, Move::Up);
    for _ in 0..20 {
        send(&mut rules, tank, Action::go(Move::Up));
        rules.tick();
    }
    assert_eq!((rules.tank(tank).unwrap().y, rules.tank(tank).unwrap().bounds().top), (16, 0));
}

#[test]
fn tanks_may_touch_but_not_overlap() {
    let mut rules = rules_on(&open_map(|_| {}));
    let mover = put(&mut rules, TankKind::NormalPl, 100, 100, Move::Right);
    put(&mut rules, TankKind::NormalPl, 200, 100, Move::Up);
    for _ in 0..60 {
        send(&mut rules, mover, Action::go(Move::Right));
        rules.tick();
    }
    // The other's left edge is 200 - 16 + 3 = 187; the mover's right edge is x + 12, from 112 in steps of 2.
    assert_eq!(rules.tank(mover).unwrap().bounds().right, 186);
    let mut rules = rules_on(&open_map(|_| {}));
    let mover = put(&mut rules, TankKind::NormalPl, 101, 100, Move::Right);
    put(&mut rules, TankKind::NormalPl, 200, 100, Move::Up);
    for _ in 0..60 {
        send(&mut rules, mover, Action::go(Move::Right));
        rules.tick();
    }
    assert_eq!(rules.tank(mover).unwrap().bounds().right, 187, "sharing the edge is allowed");
}

#[test]
fn ai_inputs_queue_one_a_tick_and_the_last_one_repeats() {
    let mut rules = rules_on(&open_map(|_| {}));
    let ai = put(&mut rules, TankKind::NormalEn, 200, 200, Move::Up);
    rules.tick();
    assert!(rules.applied().is_empty(), "before the first input there is nothing to repeat");
    for (i, dir) in [Move::Right, Move::Right, Move::Down].into_iter().enumerate() {
        assert_eq!(rules.queue_input(ai, Action::go(dir), InputSource::Http).unwrap(), i + 1);
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        rules.tick();
        let applied = rules.applied()[0];
        let tank = rules.tank(ai).unwrap();
        seen.push((applied.source.as_str(), tank.x, tank.y));
    }
    let http = "http";
    assert_eq!(
        seen,
        [(http, 202, 200), (http, 204, 200), (http, 204, 202), ("repeat", 204, 204), ("repeat", 204, 206)]
    );
    for _ in 0..QUEUE_LEN {
        send(&mut rules, ai, Action::NOTHING);
    }
    assert_eq!(rules.queue_input(ai, FIRE, InputSource::Ws), Err(RulesError::QueueFull(ai)));
    // A player's inputs are all applied, in order of arrival, and not repeated.
    let player = rules.add_player(None).unwrap().id;
    let before = rules.tank(player).unwrap().y;
    send(&mut rules, player, Action::go(Move::Up));
    send(&mut rules, player, Action::go(Move::Up));
    rules.tick();
    assert_eq!(rules.tank(player).unwrap().y, before - 4);
    assert_eq!(rules.applied()[0].role, Role::Player);
    rules.tick();
    assert_eq!(rules.tank(player).unwrap().y, before - 4);
    let mut full = 0;
    while rules.queue_input(player, FIRE, InputSource::Ws).is_ok() {
        full += 1;
    }
    assert_eq!(full, MAX_PLAYER_INPUTS);
    assert_eq!(rules.queue_input(NetId(999), FIRE, InputSource::Ws), Err(RulesError::UnknownTank(NetId(999))));
}

#[test]
fn a_flood_of_one_players_inputs_takes_nothing_from_another() {
    let mut rules = rules_on(&open_map(|_| {}));
    let (flooder, other) = (rules.add_player(None).unwrap().id, rules.add_player(None).unwrap().id);
    (0..MAX_PLAYER_INPUTS).for_each(|_| send(&mut rules, flooder, FIRE));
    let refused = rules.queue_input(flooder, FIRE, InputSource::Ws);
    assert_eq!(refused, Err(RulesError::TooManyPlayerInputs(flooder)));
    assert_eq!(rules.queue_input(other, Action::go(Move::Up), InputSource::Ws), Ok(1));
    let y = rules.tank(other).unwrap().y;
    rules.tick();
    assert_eq!(rules.tank(other).unwrap().y, y - 2);
}
