//! Whatever was written once still decodes, and no schema changes unseen.

use std::{collections::BTreeSet, path::PathBuf};

use flywheel_events::{Event, GameId, System, kinds, tank};
use flywheel_tables::{EventView, EventsBuilder, PARTITION_COLUMNS, TableName, events_from, schema, stats_columns};
use serde_json::json;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../golden")).join(name)
}

fn lines(name: &str) -> Vec<String> {
    let path = golden(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(str::to_owned).collect()
}

/// Reads the payload as the type of its kind and writes it again; both must hold the same.
fn round_trip(event: &Event) -> serde_json::Value {
    fn through<T: serde::Serialize + for<'a> serde::Deserialize<'a>>(event: &Event) -> serde_json::Value {
        serde_json::to_value(event.payload_as::<T>().unwrap()).unwrap()
    }
    match event.kind.as_str() {
        kinds::TANK_SESSION_OPENED => through::<tank::SessionOpened>(event),
        kinds::TANK_PLAYER_JOINED => through::<tank::PlayerJoined>(event),
        kinds::TANK_INPUT => through::<tank::Input>(event),
        kinds::TANK_TICK => through::<serde_json::Value>(event),
        kinds::TANK_TRANSITION => through::<tank::Transition>(event),
        kinds::TANK_CHECKPOINT => through::<tank::Checkpoint>(event),
        kinds::TANK_EPISODE_ENDED => through::<tank::EpisodeEnded>(event),
        kinds::TANK_SESSION_CLOSED => through::<tank::SessionClosed>(event),
        kinds::TANK_MODEL_ALLOCATED
        | kinds::TANK_MODEL_RELEASED
        | kinds::TANK_MODEL_SAVED
        | kinds::TANK_MODEL_SWAPPED => through::<tank::ModelChange>(event),
        kinds::MODEL_SWAP_REFUSED => through::<tank::SwapRefused>(event),
        other => panic!("`{other}` has no golden reader: add one here"),
    }
}

#[test]
fn every_event_ever_written_still_decodes_to_the_same() {
    let mut seen = BTreeSet::new();
    for (n, line) in lines("tank-events-v1.jsonl").iter().enumerate() {
        let event = Event::decode(line.as_bytes()).unwrap_or_else(|e| panic!("line {}: {e}", n + 1));
        let payload: serde_json::Value = serde_json::from_str(event.payload.get()).unwrap();
        assert_eq!(round_trip(&event), payload, "line {}", n + 1);
        assert_eq!(String::from_utf8(event.encode()).unwrap(), *line, "line {}", n + 1);
        seen.insert(event.kind);
    }
    let all = [
        kinds::TANK_SESSION_OPENED,
        kinds::TANK_PLAYER_JOINED,
        kinds::TANK_INPUT,
        kinds::TANK_TICK,
        kinds::TANK_TRANSITION,
        kinds::TANK_CHECKPOINT,
        kinds::TANK_EPISODE_ENDED,
        kinds::TANK_SESSION_CLOSED,
        kinds::TANK_MODEL_ALLOCATED,
        kinds::TANK_MODEL_RELEASED,
        kinds::TANK_MODEL_SAVED,
        kinds::TANK_MODEL_SWAPPED,
        kinds::MODEL_SWAP_REFUSED,
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<BTreeSet<_>>(), all.into_iter().collect());
}

#[test]
fn a_golden_transition_holds_the_numbers_that_it_was_made_of() {
    let lines = lines("tank-events-v1.jsonl");
    let line = lines.iter().find(|line| line.contains("\"tank.transition\"")).unwrap();
    let event = Event::decode(line.as_bytes()).unwrap();
    let transition: tank::Transition = event.payload_as().unwrap();
    // Made by schemas/golden/make.py: s[i] = i / 108, s2[i] = -i / 108.
    assert_eq!(transition.tanks[0].s.len(), 108);
    assert!(transition.tanks[0].s.iter().enumerate().all(|(i, v)| *v == (i as f64 / 108.0) as f32));
    assert!(transition.tanks[0].s2.iter().enumerate().all(|(i, v)| *v == (-(i as f64) / 108.0) as f32));
}

#[test]
fn every_golden_event_goes_through_its_table_unchanged() {
    let events: Vec<_> = lines("tank-events-v1.jsonl").iter().map(|l| Event::decode(l.as_bytes()).unwrap()).collect();
    let (mut pushed, mut viewed) = (EventsBuilder::new(), EventsBuilder::new());
    for (offset, (event, line)) in events.iter().zip(lines("tank-events-v1.jsonl")).enumerate() {
        pushed.push(event, 1, offset as i64, 1_700_000_000_000);
        viewed.push_view(&EventView::decode(line.as_bytes()).unwrap(), 1, offset as i64, 1_700_000_000_000);
    }
    let batch = pushed.finish();
    assert_eq!(events_from(&batch).unwrap(), events);
    assert_eq!(viewed.finish(), batch);
}

#[test]
fn the_schemas_are_those_of_the_golden_file() {
    let tables: serde_json::Map<_, _> = TableName::ALL
        .into_iter()
        .map(|name| {
            let columns = schema(name);
            let columns = columns.fields().iter().map(|field| {
                json!({"name": field.name(), "type": field.data_type().to_string(), "nullable": field.is_nullable()})
            });
            let columns: Vec<_> = columns.collect();
            (
                name.to_string(),
                json!({"columns": columns, "partition_by": PARTITION_COLUMNS, "stats": stats_columns(name)}),
            )
        })
        .collect();
    let found = serde_json::to_string_pretty(&tables).unwrap() + "\n";
    let path = golden("tables-v1.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "a schema changed: tables in the field have the old one (see {})", path.display());
}

#[test]
fn partition_columns_come_first_and_statistics_are_of_whole_numbers() {
    for name in TableName::ALL {
        let schema = schema(name);
        assert_eq!([schema.field(0).name().as_str(), schema.field(1).name().as_str()], PARTITION_COLUMNS);
        for column in stats_columns(name) {
            let kind = schema.field_with_name(column).unwrap().data_type();
            assert!(kind.is_integer(), "{name}.{column} is {kind}");
        }
        assert!(schema.fields().iter().all(|f| !f.data_type().is_unsigned_integer()), "Delta has no unsigned types");
    }
}

#[test]
fn a_game_id_that_is_new_to_the_view_is_known_to_the_id() {
    assert!(GameId::new("run/1:2.3-4_5").is_ok());
    let event = Event::new(System::Doom, "doom.step", GameId::new("run/1:2.3-4_5").unwrap(), 0, 0);
    assert_eq!(EventView::decode(&event.encode()).unwrap().game_id, "run/1:2.3-4_5");
}
