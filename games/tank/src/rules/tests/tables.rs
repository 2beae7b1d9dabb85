//! What is set down in tables: tank types and settings.

use super::*;

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
