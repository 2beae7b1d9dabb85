//! Hand-worked cases: what one tick does to tanks, bullets, tiles and rewards.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{rewards::cell_rect, *};
use crate::{TABLE, table_hash};

/// A 512 px map of soil: HQ at the bottom left, an AI spawn at the top right, player spawns at the bottom right.
pub(super) fn open_map(edit: impl FnOnce(&mut Vec<Vec<u8>>)) -> Map {
    let mut tiles = vec![vec![tile::SOIL; 32]; 32];
    tiles[30][1] = tile::HQ;
    tiles[1][30] = tile::AI_SPAWN;
    tiles[30][26] = tile::PLAYER_SPAWN;
    tiles[30][30] = tile::PLAYER_SPAWN;
    edit(&mut tiles);
    Map::from_tiles("test.json", 512, 16, &tiles).unwrap()
}

/// Nothing spawns by itself.
fn quiet() -> TankConfig {
    TankConfig { enemy_spawn_interval_ticks: 1_000_000, ..TankConfig::default() }
}

fn rules_on(map: &Map) -> Rules {
    Rules::new(map, &quiet(), 1).unwrap()
}

fn put(rules: &mut Rules, kind: TankKind, x: i32, y: i32, dir: Move) -> TankId {
    let part = PlayerPart { spawn_index: 0, respawns_left: rules.config.max_player_respawns };
    let id = rules.enter(kind, x, y, (kind.role() == Role::Player).then_some(part));
    rules.tanks.last_mut().unwrap().dir = dir;
    assert!(rules.may_stand(bounds_at(kind, x, y), Some(rules.tanks.len() - 1)), "the tank must fit");
    id
}

fn send(rules: &mut Rules, id: TankId, action: Action) {
    rules.queue_input(id, action, InputSource::Ws).unwrap();
}

const FIRE: Action = Action { movement: None, fire: true };

fn reward(rules: &Rules, id: TankId) -> RewardEntry {
    *rules.rewards().iter().find(|entry| entry.tank == id).expect("the tank has an entry")
}

fn reasons(rules: &Rules, id: TankId) -> Vec<&'static str> {
    reward(rules, id).reasons.iter().collect()
}

#[test]
fn the_tank_table_is_that_of_the_spec() {
    let spec = "
        normal_pl 2 15 2 3,3 28,28 2 4
        speedy_pl 4 15 2 3,0 28,30 2 6
        heavy_pl 3 15 4 2,1 29,30 3 5
        rapidFire_pl 3 7 2 3,1 28,30 1 6
        normal_en 2 15 2 3,2 28,31 2 4
        speedy_en 4 15 2 3,0 28,30 2 6
        heavy_en 3 15 4 2,1 29,30 3 5
        rapid_en 3 7 2 3,1 28,30 1 6";
    let ours: Vec<String> = TABLE
        .iter()
        .map(|t| {
            let ((a, b), (c, d)) = (t.bound_min, t.bound_max);
            format!(
                "{} {} {} {} {a},{b} {c},{d} {} {}",
                t.label, t.speed, t.cooldown, t.health, t.shell_radius, t.shell_speed
            )
        })
        .collect();
    assert_eq!(ours, spec.trim().lines().map(str::trim).collect::<Vec<_>>());
    let order: Vec<(&str, u8)> = TankKind::AI.iter().map(|k| (k.label(), k.type_index())).collect();
    assert_eq!(order, [("normal_en", 0), ("speedy_en", 1), ("heavy_en", 2), ("rapid_en", 3)]);
    assert_eq!(table_hash().len(), 16);
}

#[test]
fn settings_have_the_values_of_the_spec_and_bad_ones_are_named() {
    let c = TankConfig::default();
    assert_eq!((c.max_enemies_alive, c.enemy_spawn_interval_ticks, c.max_player_respawns), (4, 90, 1));
    assert_eq!((c.transition_interval, c.max_ticks_per_episode), (1, 5400));
    let table = [2.0, 5.0, -1.0, 0.5, -0.03, -2.0, -5.0, 0.01, 0.01, 0.02, -0.001, -0.05, -0.05, -0.05, -0.02];
    assert_eq!(c.weights.table(), table);
    let bad = |edit: fn(&mut TankConfig)| {
        let mut config = TankConfig::default();
        edit(&mut config);
        config.validate().unwrap_err().name
    };
    assert_eq!(bad(|c| c.transition_interval = 0), "transition_interval");
    assert_eq!(bad(|c| c.enemy_spawn_interval_ticks = 0), "enemy_spawn_interval_ticks");
    assert_eq!(bad(|c| c.max_ticks_per_episode = 0), "max_ticks_per_episode");
    assert_eq!(bad(|c| c.max_enemies_alive = 65), "max_enemies_alive");
    assert_eq!(bad(|c| c.player_label = TankKind::RapidEn), "player_label");
    assert_eq!(bad(|c| c.weights.death = f32::NAN), "weights");
    assert!(serde_json::from_str::<TankConfig>(r#"{"max_enemy_alive":3}"#).is_err());
    assert_eq!(serde_json::from_str::<TankConfig>("{}").unwrap(), c);
}

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
fn a_bullet_starts_at_the_centre_of_the_bounds_and_flies_in_the_same_tick() {
    let mut rules = rules_on(&open_map(|_| {}));
    let id = put(&mut rules, TankKind::NormalEn, 200, 200, Move::Right);
    send(&mut rules, id, FIRE);
    rules.tick();
    // Bounds 3..=28 × 2..=31 of the box from 184: centre 184 + 15, 184 + 16.
    let bullet = rules.bullets()[0];
    assert_eq!((bullet.x, bullet.y, bullet.dir, bullet.radius, bullet.owner), (199 + 4, 200, Move::Right, 2, id));
    assert_eq!(rules.tank(id).unwrap().shoot_cooldown, 14, "set to 15, then dropped by 1");
    let fire = rules.effects()[0];
    assert_eq!((fire.kind, fire.x, fire.y, fire.tank), (EffectKind::Fire, 199, 200, Some(id)));
    // The repeat of "fire" shoots again after 15 ticks, not before.
    for tick in 2..=31 {
        rules.tick();
        let shots = rules.effects().iter().filter(|e| e.kind == EffectKind::Fire).count();
        assert_eq!(shots, usize::from(tick == 16 || tick == 31), "tick {tick}");
    }
    assert_eq!(rules.tank(id).unwrap().record.shots, 3);
}

#[test]
fn a_bullet_takes_one_brick_and_steel_only_stops_it() {
    // Two bricks side by side in a vertical bullet's way: the left one goes first.
    let map = open_map(|t| {
        (t[5][9], t[5][10]) = (tile::BRICK, tile::BRICK);
        t[4][9] = tile::STEEL;
    });
    let mut rules = rules_on(&map);
    // Muzzle x = 161 - 16 + 15 = 160, radius 2: columns 9 and 10.
    let id = put(&mut rules, TankKind::NormalPl, 161, 150, Move::Up);
    let mut changed = Vec::new();
    let mut hits = 0;
    for tick in 0..80 {
        if tick % 20 == 0 {
            send(&mut rules, id, FIRE);
        }
        rules.tick();
        changed.extend_from_slice(rules.tiles_changed());
        hits += rules.effects().iter().filter(|e| e.kind == EffectKind::Hit).count();
    }
    let soil = |row, col| TileChange { row, col, tile_id: tile::SOIL };
    assert_eq!(changed, [soil(5, 9), soil(5, 10)]);
    assert_eq!(hits, 4, "the third and fourth bullet end at the steel");
    assert_eq!(rules.tiles()[4 * 32 + 9], tile::STEEL);
    assert!(rules.bullets().is_empty());
    assert_eq!(rules.tiles_revision(), 2);
}

#[test]
fn a_bullet_that_leaves_the_map_has_no_effect() {
    let mut rules = rules_on(&open_map(|_| {}));
    let id = put(&mut rules, TankKind::NormalPl, 30, 100, Move::Left);
    send(&mut rules, id, FIRE);
    for _ in 0..7 {
        rules.tick();
        assert_eq!(rules.bullets().len(), 1);
        assert!(!rules.effects().iter().any(|e| e.kind == EffectKind::Hit));
    }
    // Muzzle 29, after 7 ticks 1, after 8 it would be -3.
    rules.tick();
    assert!(rules.bullets().is_empty() && rules.effects().is_empty());
}

#[test]
fn at_the_same_pixel_the_tile_is_hit_before_the_tank() {
    // Shell radius 2 flying right at y: the brick's left edge is 192, touched at x = 190. The tank's left edge
    // lies so that it, too, is first touched at x = 190 with off 0: 190 + 1.
    let build = |brick: bool| {
        let map = open_map(|t| t[11][12] = if brick { tile::BRICK } else { tile::SOIL });
        let mut rules = rules_on(&map);
        let shooter = put(&mut rules, TankKind::NormalPl, 140, 176, Move::Right);
        // Muzzle y = 175, so the square covers rows 10 and 11; the target stands above row 11.
        let target = put(&mut rules, TankKind::NormalPl, 191 + 13, 163, Move::Up);
        assert_eq!(
            (rules.tank(target).unwrap().bounds().left, rules.tank(target).unwrap().bounds().bottom),
            (191, 175)
        );
        send(&mut rules, shooter, FIRE);
        let mut tiles = 0;
        for _ in 0..20 {
            rules.tick();
            tiles += rules.tiles_changed().len();
        }
        (tiles, rules.tank(target).unwrap().health)
    };
    assert_eq!(build(true), (1, 2));
    assert_eq!(build(false), (0, 1));
}

#[test]
fn a_bullet_grazing_at_its_radius_misses() {
    for (offset, hit) in [(1, true), (2, false)] {
        let mut rules = rules_on(&open_map(|_| {}));
        let shooter = put(&mut rules, TankKind::NormalPl, 100, 200, Move::Right);
        // Muzzle y 199; the target's bounds end at y + 12.
        let target = put(&mut rules, TankKind::NormalPl, 200, 199 - offset - 12, Move::Up);
        send(&mut rules, shooter, FIRE);
        for _ in 0..60 {
            rules.tick();
        }
        assert_eq!(rules.tank(target).unwrap().health, if hit { 1 } else { 2 }, "offset {offset}");
    }
}

#[test]
fn friendly_fire_counts_and_the_dead_still_get_their_last_reward() {
    let config = TankConfig { transition_interval: 8, ..quiet() };
    let mut rules = Rules::new(&open_map(|_| {}), &config, 1).unwrap();
    let shooter = put(&mut rules, TankKind::RapidEn, 100, 200, Move::Right);
    let target = put(&mut rules, TankKind::NormalEn, 150, 200, Move::Up);
    send(&mut rules, shooter, FIRE);
    let mut entries = Vec::new();
    for _ in 0..32 {
        rules.tick();
        entries.extend(rules.rewards().iter().filter(|e| e.tank == target).copied());
    }
    assert!(rules.tank(target).is_none());
    assert_eq!(rules.enemies_destroyed(), 1);
    let last = entries.last().unwrap();
    assert!(last.gone && last.reasons.contains(Reason::Death) && last.reward <= -5.0);
    assert!(entries[0].reasons.contains(Reason::GotHit));
    assert_eq!(entries.iter().filter(|e| e.gone).count(), 1);
    assert!(rules.queue_input(target, FIRE, InputSource::Ws).is_err());
    let records = rules.records();
    assert_eq!((records[0].damage_dealt, records[1].damage_taken), (2, 2));
    let sum: f32 = entries.iter().map(|e| e.reward).sum();
    assert!((records[1].episode_return - sum).abs() < 1e-5);
}

#[test]
fn a_player_respawns_once_and_then_the_game_is_over() {
    let mut rules = rules_on(&open_map(|_| {}));
    let player = rules.add_player(None).unwrap().id;
    let spawn = (rules.tanks()[0].x, rules.tanks()[0].y);
    for _ in 0..30 {
        send(&mut rules, player, Action::go(Move::Up));
        rules.tick();
    }
    let y = rules.tank(player).unwrap().y;
    put(&mut rules, TankKind::RapidEn, 300, y, Move::Right);
    let shooter = rules.tanks()[1].id;
    send(&mut rules, shooter, FIRE);
    let mut respawned = false;
    for _ in 0..200 {
        let health = rules.tank(player).map(|t| t.health);
        rules.tick();
        if let Some(tank) = rules.tank(player).filter(|t| health == Some(1) && t.health == 2) {
            assert_eq!((tank.x, tank.y, tank.dir, tank.respawns_left()), (spawn.0, spawn.1, Move::Up, 0));
            respawned = true;
            break;
        }
    }
    assert!(respawned && rules.end().is_none());
    rules.tanks[1].y = spawn.1;
    let report = std::iter::repeat_with(|| rules.tick()).take(200).find(|r| r.ended.is_some()).unwrap();
    assert_eq!(report.ended, Some(EndReason::PlayerDestroyed));
    assert!(report.transition_due && rules.tank(player).is_none());
    assert_eq!(rules.effects().last().unwrap().kind, EffectKind::GameOver);
    assert_eq!(EndReason::PlayerDestroyed.outcome(), 1);
}

#[test]
fn any_bullet_on_the_hq_ends_the_game_and_rewards_every_ai_tank() {
    let mut rules = rules_on(&open_map(|_| {}));
    let player = rules.add_player(None).unwrap().id;
    let shooter = put(&mut rules, TankKind::NormalEn, 80, 488, Move::Left);
    let other = put(&mut rules, TankKind::NormalEn, 300, 100, Move::Up);
    send(&mut rules, shooter, FIRE);
    rules.tick();
    assert!(reasons(&rules, shooter).contains(&"destroyHQ"), "predicted at fire time");
    assert!((reward(&rules, shooter).reward - (5.0 + 0.01 + 0.02)).abs() < 1e-6, "and hqAim, mapTileTouched");
    let report = std::iter::repeat_with(|| rules.tick()).take(60).find(|r| r.ended.is_some()).unwrap();
    assert_eq!(report.ended, Some(EndReason::HqDestroyed));
    assert_eq!(rules.hq_cell(), None);
    for id in [shooter, other] {
        assert!(reasons(&rules, id).contains(&"destroyHQ"));
    }
    let kinds: Vec<EffectKind> = rules.effects().iter().map(|e| e.kind).collect();
    assert!(kinds.contains(&EffectKind::DestroyHq) && kinds.contains(&EffectKind::GameOver));
    // After it queues are emptied, nothing is scored, nothing spawns.
    send(&mut rules, player, Action::go(Move::Up));
    let y = rules.tank(player).unwrap().y;
    let report = rules.tick();
    assert!(report.ended.is_none() && !report.transition_due && rules.rewards().is_empty());
    assert_eq!((rules.tank(player).unwrap().y, rules.applied().len()), (y, 0));
    assert_eq!(rules.end(), Some(EndReason::HqDestroyed));
}

#[test]
fn without_a_win_the_clock_ends_the_game() {
    let config = TankConfig { max_ticks_per_episode: 50, ..TankConfig::default() };
    let mut rules = Rules::new(&open_map(|_| {}), &config, 1).unwrap();
    for tick in 1..=50 {
        let report = rules.tick();
        assert_eq!(report.ended, (tick == 50).then_some(EndReason::TimeLimit));
    }
    assert_eq!(EndReason::TimeLimit.outcome(), -1);
    assert_eq!(rules.tick().ended, None);
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
