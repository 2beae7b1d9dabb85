//! Every event that any version has written still decodes, with the payload that its kind names.

use std::{fs, path::Path};

use flywheel_events::{Event, kinds, tank};

fn examples() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/golden/events");
    let entries = fs::read_dir(&folder).expect("the golden files are there");
    let read = entries.map(|entry| {
        let path = entry.expect("the folder can be read").path();
        (path.file_name().expect("a file").to_string_lossy().into_owned(), fs::read(&path).expect("a file"))
    });
    read.filter(|(name, _)| name.ends_with(".json")).collect()
}

#[test]
fn every_golden_event_still_decodes_with_its_payload() {
    let examples = examples();
    assert!(!examples.is_empty());
    for (name, bytes) in examples {
        let event = Event::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let payload = match event.kind.as_str() {
            kinds::TANK_SESSION_OPENED => event.payload_as::<tank::SessionOpened>().map(drop),
            kinds::TANK_PLAYER_JOINED => event.payload_as::<tank::PlayerJoined>().map(drop),
            kinds::TANK_INPUT => event.payload_as::<tank::Input>().map(drop),
            kinds::TANK_TICK => event.payload_as::<serde_json::Value>().map(drop),
            kinds::TANK_TRANSITION => event.payload_as::<tank::Transition>().map(drop),
            kinds::TANK_CHECKPOINT => event.payload_as::<tank::Checkpoint>().map(drop),
            kinds::TANK_EPISODE_ENDED => event.payload_as::<tank::EpisodeEnded>().map(drop),
            kinds::TANK_SESSION_CLOSED => event.payload_as::<tank::SessionClosed>().map(drop),
            kinds::TANK_MODEL_ALLOCATED
            | kinds::TANK_MODEL_RELEASED
            | kinds::TANK_MODEL_SAVED
            | kinds::TANK_MODEL_SWAPPED => event.payload_as::<tank::ModelChange>().map(drop),
            kinds::MODEL_SWAP_REFUSED => event.payload_as::<tank::SwapRefused>().map(drop),
            other => panic!("{name}: nobody here reads `{other}`"),
        };
        payload.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
