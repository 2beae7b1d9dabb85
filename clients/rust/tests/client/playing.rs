//! The examples, as anybody would run them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use flywheel_client::Network;
use flywheel_policy::NetworkSpec;
use serde_json::json;

use crate::{SPEC, Server, always};

/// A test lies in target/PROFILE/deps, an example beside that.
fn example(name: &str) -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples").join(name)
}

#[test]
fn the_ten_lines_of_the_readme_decide_with_the_champion_and_every_event_is_taken() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    server.world.publish(1, always(4).to_safetensors());
    server.world.promote(1);
    let said = Command::new(example("ten_lines")).args([&server.url(), "7"]).current_dir(&folder).output().unwrap();
    let (out, error) = (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    assert_eq!((out.as_str(), error.as_str()), ("7 acknowledged, 0 refused, 0 lost\n", ""));
    let events = server.events("g-17");
    assert_eq!(events.len(), 7);
    for (tick, event) in events.iter().enumerate() {
        assert_eq!(event["payload"], json!({"tick": tick, "action": 4}));
        assert_eq!((&event["model"], &event["actor"]), (&json!("bot@1"), &json!("ai-1")));
    }

    // What ran is what is printed.
    let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let plain = |text: &str| {
        let lines = text.lines().map(|line| line.trim_start_matches("//!").trim()).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join("\n")
    };
    let ran = plain(&read("examples/ten_lines.rs"));
    let (_, ten) = ran.split_once("108]));\n").unwrap();
    let (ten, _) = ten.split_once("\nemitter.flush").unwrap();
    assert!(ten.starts_with("let emitter") && ten.lines().count() == 8, "{ten}");
    for page in ["README.md", "src/lib.rs"] {
        assert!(plain(&read(page)).contains(ten), "{page} has another example than this:\n{ten}");
    }
}

#[test]
fn the_example_plays_games_with_the_champion_and_every_event_arrives_once() {
    let server = Server::start();
    let network = Network::random(&NetworkSpec::new(SPEC.0, [32], SPEC.1), 5, 0.5).unwrap();
    server.world.publish(1, network.to_safetensors());
    server.world.promote(1);
    let program = example("game_server");
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
