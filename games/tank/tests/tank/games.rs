use flywheel_game_api::{Game, Seat};
use flywheel_tank::{
    Action, Decide, Headless, Map, OBSERVATION_LEN, Script, ScriptedPlayer, TankConfig, TankEvent, TankGame,
    TankGameConfig, headless::Status,
};
use proptest::prelude::*;

use crate::{Brawl, GreedyAi, RandomAi, busy, view_of};

fn every_4() -> TankConfig {
    TankConfig { transition_interval: 4, ..TankConfig::default() }
}

fn wins(
    map: &Map,
    script: Script,
    games: u64,
    mut policy: impl FnMut(u64) -> Box<dyn FnMut(&mut Headless) -> i8>,
) -> u64 {
    (0..games)
        .filter(|&seed| {
            let mut game = Headless::new(map, &every_4(), seed, script).unwrap();
            policy(seed)(&mut game) == 1
        })
        .count() as u64
}

#[test]
fn every_script_plays_random_tanks_to_the_end_on_every_map() {
    for map in Map::shipped() {
        for script in Script::ALL {
            let mut game = Headless::new(map, &TankConfig::default(), 5, script).unwrap();
            let result = game.play(&mut RandomAi::new(5));
            assert!(result.ticks <= 5400);
            assert_eq!(game.result(), Some(result));
            assert_eq!(game.advance(&mut ()), Status::Over(result), "an ended game stays ended");
            // Once more: the same game.
            let mut again = Headless::new(map, &TankConfig::default(), 5, script).unwrap();
            assert_eq!(again.play(&mut RandomAi::new(5)), result);
            assert_eq!(again.rules().state_hash(), game.rules().state_hash());
        }
    }
}

// The figures of the project rest on this: guards beat what has learnt nothing, and the state vector is enough to
// beat them.
#[test]
fn guards_hold_against_random_tanks_and_fall_to_greedy_ones() {
    for map in Map::shipped() {
        for script in [Script::Camper, Script::Hunter] {
            let random =
                wins(map, script, 12, |seed| Box::new(move |game| game.play(&mut RandomAi::new(seed)).outcome));
            let greedy = wins(map, script, 12, |_| Box::new(|game| game.play(&mut GreedyAi).outcome));
            assert!(random <= 4, "{map:?} {script}: random tanks won {random} of 12");
            assert!(greedy >= 11, "{map:?} {script}: greedy tanks won {greedy} of 12");
        }
    }
}

#[test]
fn recording_changes_nothing_about_the_game() {
    let map = &Map::shipped()[1];
    let mut silent = Headless::new(map, &every_4(), 9, Script::Hunter).unwrap();
    let mut recorded = silent.clone();
    let (mut left, mut right) = (RandomAi::new(1), RandomAi::new(1));
    let mut events: Vec<TankEvent> = Vec::new();
    let end = std::iter::repeat_with(|| recorded.run_period(&mut right, &mut events)).find_map(|r| r).unwrap();
    assert_eq!(silent.play(&mut left), end);
    assert_eq!(silent.rules().state_hash(), recorded.rules().state_hash());
    assert!(events.len() > 1000);
}

#[test]
fn games_advance_in_batches_like_alone() {
    struct ByContent;
    impl Decide for ByContent {
        fn decide(&mut self, observations: &[f32], _n: usize, actions: &mut Vec<u8>) {
            let of = |s: &[f32]| (s.iter().sum::<f32>().abs() * 31.0) as u8 % 10;
            actions.extend(observations.chunks(OBSERVATION_LEN).map(of));
        }
    }
    let fresh = |seed: u64| Headless::new(&Map::shipped()[0], &every_4(), seed, Script::Camper).unwrap();
    let alone: Vec<_> = (0..6).map(|seed| fresh(seed).play(&mut ByContent)).collect();
    let mut games: Vec<Headless> = (0..6).map(fresh).collect();
    while games.iter().any(|g| g.result().is_none()) {
        let (mut batch, mut counts) = (Vec::new(), Vec::new());
        for game in &mut games {
            let n = match game.advance(&mut ()) {
                Status::Decide(n) => n,
                Status::Over(_) => 0,
            };
            assert_eq!((game.waiting().len(), game.observations().len()), (n, n * OBSERVATION_LEN));
            batch.extend_from_slice(game.observations());
            counts.push(n);
        }
        let mut actions = Vec::new();
        ByContent.decide(&batch, batch.len() / OBSERVATION_LEN, &mut actions);
        let mut rest = &actions[..];
        for (game, n) in games.iter_mut().zip(counts) {
            let (own, others) = rest.split_at(n);
            if n > 0 {
                game.submit(own, Default::default());
            }
            rest = others;
        }
    }
    let batched: Vec<_> = games.iter().map(|g| g.result().unwrap()).collect();
    assert_eq!(batched, alone);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn random_inputs_never_panic_and_the_same_ones_give_the_same_hash(seed in any::<u64>(), map in 0usize..3) {
        let mut one = Brawl::new(&Map::shipped()[map], &busy(), seed);
        let mut two = Brawl::new(&Map::shipped()[map], &busy(), seed);
        for tick in 0..600 {
            one.tick();
            two.tick();
            if tick % 50 == 0 {
                prop_assert_eq!(one.rules.state_hash(), two.rules.state_hash());
            }
            for (i, tank) in one.rules.tanks().iter().enumerate() {
                let rect = tank.bounds();
                prop_assert!(rect.left >= 0 && rect.top >= 0 && rect.right < 512 && rect.bottom < 512);
                prop_assert!(one.rules.tanks()[..i].iter().all(|other| !rect.overlaps(&other.bounds())));
            }
        }
        prop_assert_eq!(one.rules.state_hash(), two.rules.state_hash());
        prop_assert!(one.rules.tanks().windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[test]
    fn scripts_act_the_same_on_the_same_views(seed in any::<u64>(), script in 0usize..3) {
        let mut brawl = Brawl::new(&Map::shipped()[0], &busy(), seed);
        let mut one = ScriptedPlayer::new(Script::ALL[script], seed);
        let mut two = one.clone();
        let own = brawl.rules.tanks()[0].id;
        for _ in 0..200 {
            brawl.tick();
            let view = view_of(&brawl.rules);
            prop_assert_eq!(one.act(&view, own), two.act(&view, own));
        }
    }
}

#[test]
fn the_game_seam_plays_a_whole_game() {
    for opponent in Script::ALL {
        let tank = TankConfig { max_ticks_per_episode: 900, ..every_4() };
        let config = TankGameConfig { map: "Stage02.json".to_owned(), opponent, tank };
        let mut game = TankGame::start(&config, 3).unwrap();
        let mut steps = 0;
        let mut observation = vec![0.0; TankGame::observation_len(&config)];
        while game.outcome(Seat(0)).is_none() {
            let actions: Vec<(Seat, Action)> = game
                .to_move()
                .into_iter()
                .map(|seat| {
                    let legal = game.legal(seat);
                    assert_eq!(legal.len(), 10);
                    (seat, legal[(steps + seat.0 as usize * 3) % 10])
                })
                .collect();
            game.apply(&actions).unwrap();
            for seat in game.to_move() {
                game.encode(seat, &mut observation);
                assert!(observation.iter().all(|v| v.is_finite()) && observation[81..].iter().any(|v| *v != 0.0));
            }
            steps += 1;
            assert!(steps <= 230);
        }
        assert!(game.to_move().is_empty() && game.legal(Seat(0)).is_empty());
        let error = game.apply(&[(Seat(0), Action::NOTHING)]).unwrap_err();
        assert_eq!(error.reason, "the game is over");
        assert_eq!(game.outcome(Seat(9)), None);
    }
    let missing = TankGameConfig { map: "Nowhere.json".to_owned(), ..TankGameConfig::default() };
    assert_eq!(TankGame::start(&missing, 1).unwrap_err(), "no shipped map is called `Nowhere.json`");
    let mut game = TankGame::start(&TankGameConfig::default(), 1).unwrap();
    assert_eq!(game.apply(&[(Seat(0), Action::NOTHING)]).unwrap_err().reason, "it has no tank now");
}
