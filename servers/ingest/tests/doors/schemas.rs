//! The schemas say what the Rust types say, and what a real game emits.

use std::collections::{BTreeMap, BTreeSet};

use flywheel_events::kinds;
use flywheel_ingest::{Format, IngestConfig, SCHEMAS, Source, parse};
use flywheel_tank::{
    Map, TankConfig,
    headless::{Decision, Headless, Status, TankEvent},
    script::Script,
};

use crate::*;

const GOLDEN: &str = include_str!("../../../../schemas/golden/tank-events-v1.jsonl");

fn validator(kind: &str) -> jsonschema::Validator {
    let text = SCHEMAS.iter().find(|(name, _)| *name == kind).unwrap_or_else(|| panic!("no schema of `{kind}`")).1;
    jsonschema::validator_for(&serde_json::from_str(text).unwrap()).unwrap()
}

fn door_takes(event: &Value) -> bool {
    let body = event.to_string().into();
    parse(Format::Json, &Default::default(), &body, &Source::Local, &IngestConfig::default()).is_ok()
}

#[tokio::test]
async fn every_schema_of_the_folder_is_served_as_it_is() {
    let server = Server::new().await;
    let get = |path: String| server.client.get(format!("http://{}{path}", server.addr)).send();
    let list = answer(get("/v1/schemas".to_owned()).await.unwrap()).await.json;
    let listed: Vec<_> = list["schemas"].as_array().unwrap().iter().map(|entry| entry["kind"].clone()).collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/json");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    assert_eq!(listed, files);
    for (name, text) in SCHEMAS {
        let one = answer(get(format!("/v1/schemas/{name}")).await.unwrap()).await;
        assert_eq!(one.content_type, "application/schema+json");
        assert_eq!(one.json, serde_json::from_str::<Value>(text).unwrap());
        assert!(jsonschema::meta::is_valid(&one.json), "{name}");
    }
    answer(get("/v1/schemas/tank.unheard".to_owned()).await.unwrap()).await.refused(404, "not_found");
}

/// Takes each field of each golden event away, and puts wrong values into it: the schema and the door, which decodes
/// with the Rust types, must agree every time.
#[test]
fn the_schemas_agree_with_the_types_about_every_field_of_every_golden_event() {
    let mut n = 0;
    for line in GOLDEN.lines() {
        let golden: Value = serde_json::from_str(line).unwrap();
        let kind = golden["kind"].as_str().unwrap();
        let (schema, envelope) = (validator(kind), validator("envelope"));
        assert!(schema.is_valid(&golden) && envelope.is_valid(&golden) && door_takes(&golden), "{golden}");
        let mut agree = |changed: &Value, what: &str| {
            n += 1;
            assert_eq!(schema.is_valid(changed), door_takes(changed), "{kind}: {what}: {changed}");
        };
        for path in fields(&golden, String::new()) {
            // The door does not look into ticks: nobody reads them but a replay.
            if kind == kinds::TANK_TICK && path.starts_with("/payload") {
                continue;
            }
            let (parent, name) = path.rsplit_once('/').unwrap();
            let mut changed = golden.clone();
            changed.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
            agree(&changed, &format!("without {path}"));
            for wrong in [json!(null), json!(-1.5), json!("?"), json!([[[]]]), json!({"x": 1}), json!(true)] {
                let mut changed = golden.clone();
                *changed.pointer_mut(&path).unwrap() = wrong.clone();
                agree(&changed, &format!("{path} = {wrong}"));
            }
        }
    }
    assert!(n > 500, "{n} changes show little");
}

/// Paths of all fields that a type of ours describes.
fn fields(value: &Value, at: String) -> Vec<String> {
    let mut paths = Vec::new();
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                let path = format!("{at}/{name}");
                // Free form: the rules' own state and settings.
                if !matches!(name.as_str(), "state" | "settings") {
                    paths.extend(fields(inner, path.clone()));
                }
                paths.push(path);
            }
        }
        Value::Array(items) if items.first().is_some_and(Value::is_object) => {
            paths.extend(fields(&items[0], format!("{at}/0")));
        }
        _ => {}
    }
    paths
}

#[test]
fn every_event_that_a_real_game_emits_fits_its_schema_and_the_door() {
    let mut seen = BTreeSet::new();
    let envelope = validator("envelope");
    let schemas: BTreeMap<_, _> = SCHEMAS.iter().map(|(name, _)| (*name, validator(name))).collect();
    for map in &Map::shipped()[..1] {
        let mut game = Headless::new(map, &TankConfig::default(), 7, Script::Hunter).unwrap();
        let mut recorded: Vec<TankEvent> = Vec::new();
        while let Status::Decide(n) = game.advance(&mut recorded) {
            let actions: Vec<u8> = (0..n).map(|tank| ((recorded.len() + tank * 3) % 10) as u8).collect();
            game.submit(&actions, Decision::default());
        }
        for (seq, recorded) in recorded.iter().enumerate() {
            let event = Event::new(System::Tank, recorded.kind(), GameId::new("g").unwrap(), seq as u64, 0)
                .actor(recorded.actor())
                .model(recorded.model.clone())
                .payload(&recorded.body);
            let value = serde_json::to_value(&event).unwrap();
            if let Err(error) = schemas[recorded.kind()].validate(&value) {
                panic!("{}: {error} at {}", recorded.kind(), error.instance_path());
            }
            assert!(envelope.is_valid(&value) && door_takes(&value));
            seen.insert(recorded.kind());
        }
    }
    let rules: Vec<_> = SCHEMAS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| name.starts_with("tank.") && !name.starts_with("tank.model."))
        .collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), rules, "a game emits every kind but those of models");
}

#[test]
fn the_schemas_are_compatible_with_those_that_were_released() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas");
    let read = |path: String| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let mut n = 0;
    for entry in std::fs::read_dir(format!("{root}/golden/json-v1")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (old, new) = (read(format!("{root}/golden/json-v1/{name}")), read(format!("{root}/json/{name}")));
        assert_eq!(flywheel_ingest::evolution::changes(&old, &new), [], "{name}");
        n += 1;
    }
    assert!(n >= 14);
    // What is served is what is checked.
    for (name, _) in SCHEMAS {
        let golden = format!("{root}/golden/json-v1/{name}.json");
        assert!(std::path::Path::new(&golden).is_file(), "`{name}` is served and has no golden schema: copy it there");
    }
}
