//! What a bullet does on its way.

use super::*;

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
