//! The borrowed decoder and the owned one agree on everything.

use flywheel_events::{Event, GameId, MAX_DEPTH, System};
use flywheel_tables::{EventView, EventsBuilder};
use proptest::prelude::*;

fn agree(bytes: &[u8]) {
    match (Event::decode(bytes), EventView::decode(bytes)) {
        (Ok(event), Ok(view)) => {
            assert_eq!((event.v, event.system, event.seq, event.ts_ms), (view.v, view.system, view.seq, view.ts_ms));
            assert_eq!((event.kind.as_str(), event.game_id.as_str()), (&*view.kind, &*view.game_id));
            assert_eq!(event.actor.as_deref(), view.actor.as_deref());
            assert_eq!(event.payload.get(), view.payload());
            let (mut pushed, mut viewed) = (EventsBuilder::new(), EventsBuilder::new());
            pushed.push(&event, 0, 0, 0);
            viewed.push_view(&view, 0, 0, 0);
            assert_eq!(pushed.finish(), viewed.finish());
        }
        (Err(owned), Err(view)) => assert_eq!(owned.reason(), view.reason(), "{}", String::from_utf8_lossy(bytes)),
        (owned, view) => panic!("{owned:?} against {view:?} for {}", String::from_utf8_lossy(bytes)),
    }
}

fn event() -> String {
    let event = Event::new(System::Tank, "tank.tick", GameId::new("g-1").unwrap(), 7, 1_700_000_000_123)
        .actor("pl\"ayer")
        .model(Some("tank-ai-dqn@3".parse().unwrap()))
        .payload(&serde_json::json!({"tick": 9, "text": "é\u{1F600}\\", "deep": [[[{}]]]}));
    String::from_utf8(event.encode()).unwrap()
}

#[test]
fn odd_events_are_judged_alike() {
    let good = event();
    let nested = |n: usize| good.replace("[[[{}]]]", &format!("{}{}", "[".repeat(n), "]".repeat(n)));
    let brackets = good.replace("\\\\", &"[".repeat(200));
    let mut cases = vec![
        good.clone(),
        brackets,
        nested(MAX_DEPTH - 2),
        nested(MAX_DEPTH - 1),
        nested(MAX_DEPTH),
        nested(5000),
        format!(" {good} "),
        format!("{good}x"),
        String::new(),
        "null".into(),
        "[]".into(),
        good.replace("tank-ai-dqn@3", "tank-ai-dqn"),
        good.replace("tank-ai-dqn@3", "tank-ai-dqn@-1"),
        good.replace("\"tank-ai-dqn@3\"", "null"),
        good.replace("\"tank-ai-dqn@3\"", "7"),
        good.replace("\"v\":1", "\"v\":0"),
        good.replace("\"v\":1", "\"v\":1,\"v\":1"),
        good.replace("\"v\":1", "\"v\":99,\"new\":{}"),
        good.replace("\"v\":1,", ""),
        good.replace("tank.tick", "model.swap_refused"),
        good.replace("tank.tick", "tank."),
        good.replace("tank.tick", "tank"),
        good.replace("tank.tick", "model"),
        good.replace("tank.tick", "tankx.tick"),
        good.replace("tank.tick", &format!("tank.{}", "x".repeat(123))),
        good.replace("tank.tick", &format!("tank.{}", "x".repeat(124))),
        good.replace("tank.tick", "tank.\\u0074ick"),
        good.replace("{\"deep\"", " {\"deep\""),
    ];
    for id in ["", ".", "..", "a/../b", "a//b", "/a", "a/", "a.b", "a..b", "A-_.:/9", "é", "a b", &"x".repeat(129)] {
        cases.push(good.replace("g-1", id));
    }
    for seq in ["-1", "1.0", "1e3", "18446744073709551615", "18446744073709551616", "\"7\"", "null", "007"] {
        cases.push(good.replace("\"seq\":7", &format!("\"seq\":{seq}")));
    }
    cases.iter().for_each(|case| agree(case.as_bytes()));
}

proptest! {
    #[test]
    fn damaged_events_are_judged_alike(at in 0usize..400, with in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = event().into_bytes();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] = with }
        agree(&bytes);
    }

    #[test]
    fn random_bytes_are_judged_alike(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        agree(&bytes);
    }
}
