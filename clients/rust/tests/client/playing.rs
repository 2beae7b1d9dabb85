//! The example, as anybody would run it.

use std::{env, process::Command};

use flywheel_client::Network;
use flywheel_policy::NetworkSpec;

use crate::{SPEC, Server};

#[test]
fn the_example_plays_games_with_the_champion_and_every_event_arrives_once() {
    let server = Server::start();
    let network = Network::random(&NetworkSpec::new(SPEC.0, [32], SPEC.1), 5, 0.5).unwrap();
    server.world.publish(1, network.to_safetensors());
    server.world.promote(1);
    // A test lies in target/PROFILE/deps, an example beside that.
    let program = env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/game_server");
    let folder = tempfile::tempdir().unwrap();
    let said = Command::new(program).args([&server.url(), "2", "mine"]).env("TMPDIR", folder.path()).output().unwrap();
    let (out, error) = (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    assert!(said.status.success(), "{out}{error}");
    for game in ["mine-0", "mine-1"] {
        let line = out.lines().find(|line| line.starts_with(game)).unwrap_or_else(|| panic!("{out}"));
        let events = server.events(game);
        let last = events.len() as u64 - 1;
        assert!(line.contains("played by bot@1") && line.contains(&format!("last seq {last} acknowledged")), "{line}");
        assert_eq!(server.seqs(game), (0..=last).collect::<Vec<_>>());
        assert_eq!(
            (&events[0]["kind"], &events[last as usize]["kind"]),
            (&"tank.session.opened".into(), &"tank.session.closed".into())
        );
        let decided = events.iter().filter(|event| event["kind"] == "tank.transition" && event["model"] == "bot@1");
        assert!(decided.count() > 0, "the transitions name who decided");
    }
}
