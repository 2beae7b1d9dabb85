use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use flywheel_client::{BaseKey, ClientErrorKind, Decider, FollowConfig, Follower, ModelRef, Network};
use flywheel_policy::NetworkSpec;

use crate::{PATIENCE, SPEC, Server, always};

fn quick(server: &Server) -> FollowConfig {
    FollowConfig { every: Duration::from_millis(2), patience: PATIENCE, ..FollowConfig::new(server.url()) }
}

fn bot(version: u64) -> Option<ModelRef> {
    Some(format!("bot@{version}").parse().unwrap())
}

/// A server whose versions 1 and 2 always take the action of their number; 1 is champion.
fn two_versions() -> Server {
    let server = Server::start();
    for version in 1..=2 {
        server.world.publish(version, always(version as usize).to_safetensors());
    }
    server.world.promote(1);
    server
}

#[test]
fn each_move_of_the_alias_changes_who_decides_and_a_move_back_fetches_nothing() {
    let server = two_versions();
    server.world.model_statuses.lock().extend([503, 429]);
    let champion = Follower::start(quick(&server)).unwrap();
    let mut decider = champion.decider();
    let observation = [0.5; SPEC.0];
    let decision = decider.decide(&observation);
    assert_eq!((decision.action, decision.model), (1, bot(1)));

    for (revision, version) in [(2, 2), (3, 1), (4, 2)] {
        if revision == 3 {
            server.world.model_statuses.lock().extend([500, 404]);
        }
        server.world.promote(version);
        assert!(champion.wait_until(PATIENCE, |stats| stats.revision == Some(revision)), "{:?}", champion.stats());
        let decision = decider.decide(&observation);
        assert_eq!((decision.action, decision.model), (version as usize, bot(version)));
    }
    let stats = champion.stats();
    assert_eq!((stats.swaps, stats.refused, stats.model), (3, 0, bot(2)));
    assert_eq!(server.world.requests("/weights"), 2, "each version is fetched once");
    assert_eq!(server.world.asked.lock().iter().filter(|path| *path == "/v1/models").count(), 3, "until it is known");
}

#[test]
fn a_version_that_cannot_be_played_is_refused_by_name_and_the_one_before_plays_on() {
    let server = two_versions();
    let champion = Follower::start(quick(&server)).unwrap();
    let mut decider = champion.decider();
    let whole = always(3).to_safetensors();
    let mut cut = whole.clone();
    cut.truncate(whole.len() - 4);
    let mut infinite = whole.clone();
    let end = infinite.len();
    infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let other = Network::random(&NetworkSpec::new(27, [], SPEC.1), 1, 0.1).unwrap().to_safetensors();
    for (n, (weights, why)) in
        [(cut, "was it cut?"), (infinite, "expected finite numbers"), (other, "needs 108 inputs and 10 actions")]
            .into_iter()
            .enumerate()
    {
        let (n, version) = (n as u64 + 1, n as u64 + 3);
        server.world.publish(version, weights);
        server.world.promote(version);
        assert!(champion.wait_until(PATIENCE, |stats| stats.refused == n), "{:?}", champion.stats());
        let stats = champion.stats();
        let refusal = stats.refusal.unwrap();
        assert!(refusal.starts_with(&format!("bot@{version}: ")) && refusal.contains(why), "{refusal}");
        assert_eq!((stats.model, decider.decide(&[0.0; SPEC.0]).model), (bot(1), bot(1)));
    }
    server.world.versions.lock().insert(6, (whole, "00".repeat(32)));
    server.world.promote(6);
    assert!(champion.wait_until(PATIENCE, |stats| stats.refused == 4));
    assert!(champion.stats().refusal.unwrap().contains("its sha256 is"));
    // What was refused is not fetched again at every question.
    let fetched = server.world.requests("/weights");
    let asked = server.world.requests("/champion");
    while server.world.requests("/champion") < asked + 5 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(server.world.requests("/weights"), fetched);
    server.world.promote(2);
    assert!(champion.wait_until(PATIENCE, |stats| stats.model == bot(2)), "a good one is taken after all");
    assert_eq!(decider.decide(&[0.0; SPEC.0]).action, 2);
}

#[test]
fn a_server_that_dies_changes_nothing_until_it_is_back() {
    let mut server = two_versions();
    let champion = Follower::start(quick(&server)).unwrap();
    server.kill();
    assert!(champion.wait_until(PATIENCE, |stats| stats.away.is_some()));
    assert_eq!(champion.decider().decide(&[0.0; SPEC.0]).model, bot(1));
    server.world.promote(2);
    server.restart();
    assert!(champion.wait_until(PATIENCE, |stats| stats.model == bot(2) && stats.away.is_none()));
}

#[test]
fn a_game_server_that_starts_while_the_loop_is_away_plays_with_the_version_it_kept() {
    let (mut server, folder) = (two_versions(), tempfile::tempdir().unwrap());
    let keep = folder.path().join("champion.kept");
    drop(Follower::start(quick(&server).keep(&keep)).unwrap());
    server.kill();
    let champion = Follower::start(quick(&server).keep(&keep)).unwrap();
    let decision = champion.decider().decide(&[0.0; SPEC.0]);
    assert_eq!((decision.action, decision.model), (1, bot(1)));
    let stats = champion.stats();
    assert!(stats.revision.is_none() && stats.away.is_some(), "{stats:?}");
    server.restart();
    assert!(champion.wait_until(PATIENCE, |stats| stats.revision == Some(1)), "the server confirms it");
    assert_eq!(champion.stats().swaps, 0);
    drop(champion);

    // A kept file that is damaged is no version.
    server.kill();
    for bytes in [b"".as_slice(), b"bot@1\nnothing", b"no name\n", &[0xff; 4096]] {
        std::fs::write(&keep, bytes).unwrap();
        let config = FollowConfig { patience: Duration::from_millis(50), ..quick(&server).keep(&keep) };
        let error = Follower::start(config).unwrap_err();
        assert_eq!(error.kind(), ClientErrorKind::Unavailable, "{error}");
        assert!(error.is_retryable());
    }
}

#[test]
fn what_can_never_be_followed_is_said_at_the_beginning() {
    let server = two_versions();
    let config = quick(&server).model(BaseKey::new("other").unwrap());
    let error = Follower::start(config).unwrap_err();
    assert!(error.kind() == ClientErrorKind::Refused && error.to_string().contains("it names nothing"), "{error}");
    let error = Follower::start(quick(&server).shape(27, 4)).unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::BadModel, "{error}");
    assert!(error.to_string().contains("bot@1") && error.to_string().contains("needs 27 inputs"), "{error}");
}

#[test]
fn decisions_alone_among_legal_ones_and_in_a_batch_agree_with_the_network() {
    let server = Server::start();
    let network = Network::random(&NetworkSpec::new(SPEC.0, [32], SPEC.1), 5, 0.5).unwrap();
    server.world.publish(1, network.to_safetensors());
    server.world.promote(1);
    let champion = Follower::start(quick(&server)).unwrap();
    let mut decider = champion.decider();
    let observations: Vec<f32> = (0..20 * SPEC.0).map(|n| ((n * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let mut together = Vec::new();
    assert_eq!(decider.decide_all(&observations, &mut together), bot(1));
    for (observation, action) in observations.chunks_exact(SPEC.0).zip(together) {
        let mut values = [0.0; SPEC.1];
        network.evaluate(observation, &mut values, &mut flywheel_policy::Scratch::default());
        assert_eq!(decider.values(observation), values);
        let best = (0..SPEC.1).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
        assert_eq!((decider.decide(observation).action, action), (best, best));
        let second = (0..SPEC.1).filter(|&n| n != best).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
        let legal = decider.decide_among(observation, |action| action != best).unwrap();
        assert_eq!((legal.action, legal.model), (second, bot(1)));
    }
    assert_eq!(decider.decide_among(&observations[..SPEC.0], |_| false), None);
}

#[test]
fn a_name_that_stands_for_other_weights_is_another_version() {
    let (mut server, folder) = (two_versions(), tempfile::tempdir().unwrap());
    let keep = folder.path().join("champion.kept");
    drop(Follower::start(quick(&server).keep(&keep)).unwrap());
    server.kill();
    let champion = Follower::start(quick(&server).keep(&keep)).unwrap();
    let mut decider = champion.decider();
    assert_eq!(decider.decide(&[0.0; SPEC.0]).action, 1);
    // The loop has begun anew meanwhile: its first version has the name of the one that was kept.
    server.world.publish(1, always(5).to_safetensors());
    server.restart();
    assert!(champion.wait_until(PATIENCE, |stats| stats.revision == Some(1)));
    assert_eq!((decider.decide(&[0.0; SPEC.0]).action, champion.stats().swaps), (5, 1));
    // And again, with the same name and the same revision, while it is followed.
    server.world.publish(1, always(7).to_safetensors());
    assert!(champion.wait_until(PATIENCE, |stats| stats.swaps == 2), "{:?}", champion.stats());
    assert_eq!(decider.decide(&[0.0; SPEC.0]).action, 7);
    drop(champion);
    server.kill();
    let champion = Follower::start(quick(&server).keep(&keep)).unwrap();
    assert_eq!(champion.decider().decide(&[0.0; SPEC.0]).action, 7, "the last one is the one that is kept");
}

#[test]
fn a_move_back_is_kept_for_the_next_start_too() {
    let (mut server, folder) = (two_versions(), tempfile::tempdir().unwrap());
    let keep = folder.path().join("champion.kept");
    let champion = Follower::start(quick(&server).keep(&keep)).unwrap();
    for version in [2, 1] {
        server.world.promote(version);
        assert!(champion.wait_until(PATIENCE, |stats| stats.model == bot(version)));
    }
    assert_eq!(server.world.requests("/weights"), 2, "the move back fetched nothing");
    drop(champion);
    server.kill();
    let champion = Follower::start(quick(&server).keep(&keep)).unwrap();
    let decision = champion.decider().decide(&[0.0; SPEC.0]);
    assert_eq!((decision.action, decision.model), (1, bot(1)));
}

#[test]
fn the_version_that_was_kept_sets_the_shape_of_those_that_come() {
    let (mut server, folder) = (two_versions(), tempfile::tempdir().unwrap());
    let keep = folder.path().join("champion.kept");
    drop(Follower::start(quick(&server).keep(&keep)).unwrap());
    server.kill();
    let champion = Follower::start(quick(&server).keep(&keep)).unwrap();
    let other = Network::random(&NetworkSpec::new(27, [], SPEC.1), 1, 0.1).unwrap();
    server.world.publish(3, other.to_safetensors());
    server.world.promote(3);
    server.restart();
    assert!(champion.wait_until(PATIENCE, |stats| stats.refused == 1), "{:?}", champion.stats());
    assert!(champion.stats().refusal.unwrap().contains("needs 108 inputs and 10 actions"), "{:?}", champion.stats());
    assert_eq!(champion.decider().decide(&[0.0; SPEC.0]).model, bot(1));
}

#[test]
fn observations_of_another_length_are_named_and_never_decided() {
    let server = two_versions();
    let champion = Follower::start(quick(&server)).unwrap();
    let said = |decide: &dyn Fn(&mut Decider)| {
        let mut decider = champion.decider();
        let panic = catch_unwind(AssertUnwindSafe(|| decide(&mut decider))).unwrap_err();
        *panic.downcast::<String>().unwrap()
    };
    for n in [0, 1, SPEC.0 - 1, 2 * SPEC.0] {
        let observation = vec![0.0; n];
        let expected = format!("an observation of {n} numbers, where bot@1 takes 108");
        assert_eq!(said(&|decider| drop(decider.decide(&observation))), expected);
        assert_eq!(said(&|decider| drop(decider.decide_among(&observation, |_| true))), expected);
        assert_eq!(said(&|decider| drop(decider.values(&observation).to_vec())), expected);
    }
    let batch = said(&|decider| drop(decider.decide_all(&[0.0; SPEC.0 + 1], &mut Vec::new())));
    assert_eq!(batch, "109 numbers are no observations of 108, which bot@1 takes");
}

#[test]
fn a_setting_that_makes_no_sense_is_named_and_for_ever_makes_sense() {
    let config = || FollowConfig::new("http://127.0.0.1:1");
    for (config, name) in [
        (FollowConfig { every: Duration::ZERO, ..config() }, "`every`"),
        (FollowConfig { timeout: Duration::ZERO, ..config() }, "`timeout`"),
        (config().shape(0, 4), "`shape`"),
        (FollowConfig { alias: String::new(), ..config() }, "`alias`"),
        (FollowConfig::new("localhost:1"), "localhost:1"),
    ] {
        let error = Follower::start(config).unwrap_err();
        assert!(error.kind() == ClientErrorKind::Setting && error.to_string().contains(name), "{error}");
    }
    let (server, ever) = (two_versions(), Duration::MAX);
    let config = FollowConfig { every: ever, timeout: ever, patience: ever, ..FollowConfig::new(server.url()) };
    let champion = Follower::start(config).unwrap();
    assert!(champion.wait_until(ever, |stats| stats.model == bot(1)));
}
