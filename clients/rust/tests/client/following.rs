use std::time::Duration;

use flywheel_client::{BaseKey, ClientErrorKind, FollowConfig, Follower, ModelRef, Network};
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
