//! How tanks fall and games end.

use super::*;

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
fn the_hq_that_falls_in_the_tick_of_the_last_player_still_rewards_every_ai_tank() {
    let config = TankConfig { max_player_respawns: 0, ..quiet() };
    let mut rules = Rules::new(&open_map(|_| {}), &config, 1).unwrap();
    let player = put(&mut rules, TankKind::NormalPl, 300, 200, Move::Up);
    let hunter = put(&mut rules, TankKind::NormalEn, 100, 200, Move::Right);
    let raider = put(&mut rules, TankKind::NormalEn, 100, 488, Move::Left);
    rules.tanks[0].health = 1;
    // Bullets fly in the order in which they were fired: the player falls first, then the HQ.
    let rect = rules.tank(player).unwrap().bounds();
    let bullet = |id, owner, x, y, dir| Bullet { id: NetId(id), owner, x, y, dir, radius: 2, speed: 4 };
    rules.bullets.push(bullet(90, hunter, rect.left - 3, 200, Move::Right));
    rules.bullets.push(bullet(91, raider, 35, 488, Move::Left));
    let report = rules.tick();
    assert_eq!((report.ended, rules.hq_cell()), (Some(EndReason::PlayerDestroyed), None));
    for id in [hunter, raider] {
        assert!(reasons(&rules, id).contains(&"destroyHQ"));
    }
    assert_eq!(rules.outcome(), Some(1));
}

#[test]
fn the_clock_is_a_loss_only_if_a_player_held_out() {
    let config = TankConfig { max_ticks_per_episode: 3, ..quiet() };
    for (players, outcome) in [(1, -1), (0, 0)] {
        let mut rules = Rules::new(&open_map(|_| {}), &config, 1).unwrap();
        for _ in 0..players {
            rules.add_player(None).unwrap();
        }
        assert_eq!(rules.outcome(), None);
        for _ in 0..3 {
            rules.tick();
        }
        assert_eq!(rules.outcome(), Some(outcome), "{players} players");
        assert_eq!(crate::headless::episode_ended(&rules, EndReason::TimeLimit).outcome, outcome);
    }
}
