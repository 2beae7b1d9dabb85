use flywheel_log::{Faults, Faulty};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

use crate::*;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(server: &Server) -> Socket {
    connect_async(format!("ws://{}/v1/events/ws", server.addr)).await.unwrap().0
}

/// The next answer, or the close code.
async fn next(socket: &mut Socket) -> Result<Value, u16> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(Some(frame)))) => return Err(frame.code.into()),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What was refused, and the code and words of the close behind it.
async fn refused(socket: &mut Socket) -> (String, u16, String) {
    let problem = next(socket).await.unwrap();
    let reason = problem["problem"]["reason"].as_str().unwrap_or_else(|| panic!("{problem}")).to_owned();
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => return (reason, frame.code.into(), frame.reason.to_string()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn whatever_a_socket_refuses_is_counted_by_its_reason_and_named_in_a_problem_and_in_the_close() {
    let config = IngestConfig { frame_bytes: 10_000, in_flight_bytes: 5_000, ..IngestConfig::default() };
    let server = Server::with(MemoryLog::new(), config).await;
    let raw = |bytes: &'static [u8]| Message::Frame(Frame::message(bytes, OpCode::Data(Data::Text), true));
    for (frame, reason, code) in [
        (Message::binary(vec![1, 2]), "binary_frame", 1003),
        (Message::text("x".repeat(10_001)), "frame_too_long", 1009),
        (Message::text("x".repeat(9_000)), "overloaded", 1013),
        (raw(&[b'{', 0xff, 0xfe, b'}']), "not_utf8", 1007),
        (Message::text("{"), "malformed", 1007),
    ] {
        let line = format!("flywheel_ingest_refused_total{{reason=\"{reason}\"}}");
        let before = counted(&line);
        let mut socket = connect(&server).await;
        // What came before it is taken, and what comes behind it is not.
        socket.feed(Message::text(value(reason, 0).to_string())).await.unwrap();
        socket.flush().await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap()["accepted"], 1);
        socket.feed(frame).await.unwrap();
        socket.feed(Message::text(value(reason, 1).to_string())).await.unwrap();
        // The socket may be closed already.
        let _sent_or_closed = socket.flush().await;
        let (problem, closed, words) = refused(&mut socket).await;
        assert_eq!((problem.as_str(), closed), (reason, code), "{words}");
        assert!(words.starts_with(reason), "{words}");
        assert!(counted(&line) > before, "{reason} is not counted");
        assert_eq!(server.seqs(reason).await, [0]);
    }
}

#[tokio::test]
async fn frames_are_acknowledged_in_order_and_few_answers_may_cover_many() {
    let server = Server::new().await;
    let mut socket = connect(&server).await;
    for seq in 0..500 {
        socket.feed(Message::text(value("g", seq).to_string())).await.unwrap();
    }
    let both = json!([value("g", 500), value("h", 0), value("g", 499)]);
    socket.feed(Message::text(both.to_string())).await.unwrap();
    socket.flush().await.unwrap();
    let (mut frames, mut last, mut accepted, mut repeated) = (0, None, 0, 0);
    while frames < 501 {
        let answer = next(&mut socket).await.unwrap();
        assert!(answer["frames"].as_u64().unwrap() > frames);
        frames = answer["frames"].as_u64().unwrap();
        let seq = answer["games"]["g"]["last_seq"].as_u64();
        assert!(seq > last);
        last = seq;
        accepted += answer["accepted"].as_u64().unwrap();
        repeated += answer["repeated"].as_u64().unwrap();
    }
    assert_eq!((frames, last, accepted, repeated), (501, Some(500), 502, 1));
    assert_eq!(server.seqs("g").await, (0..501).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_bad_frame_is_named_and_nothing_behind_it_is_taken() {
    let server = Server::new().await;
    let mut socket = connect(&server).await;
    let mut wrong = value("g", 1);
    wrong["seq"] = json!("one");
    for frame in [value("g", 0), json!([value("h", 0), wrong]), value("g", 2)] {
        socket.feed(Message::text(frame.to_string())).await.unwrap();
    }
    socket.flush().await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap()["frames"], 1);
    let problem = next(&mut socket).await.unwrap();
    assert_eq!((&problem["problem"]["index"], &problem["problem"]["field"]), (&json!(1), &json!("seq")));
    assert_eq!(next(&mut socket).await, Err(1007));
    assert_eq!(server.seqs("g").await, [0]);
    assert!(server.seqs("h").await.is_empty());
}

#[tokio::test]
async fn a_log_that_is_away_closes_the_socket_for_later() {
    let log = Faulty::new(MemoryLog::new(), Faults { seed: 1, refused: 0.0, replies_lost: 0.0, reads_failed: 0.0 });
    let server = Server::with(log.clone() as _, IngestConfig::default()).await;
    let mut socket = connect(&server).await;
    socket.send(Message::text(value("g", 0).to_string())).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap()["games"]["g"]["last_seq"], 0);
    log.set_away(true);
    socket.send(Message::text(value("g", 1).to_string())).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap()["problem"]["status"], 503);
    assert_eq!(next(&mut socket).await, Err(1013));
}

#[tokio::test]
async fn binary_frames_long_frames_silence_and_a_stop_have_their_codes() {
    let config = IngestConfig { frame_bytes: 10_000, ..IngestConfig::default() };
    let server = Server::with(MemoryLog::new(), config).await;
    let mut socket = connect(&server).await;
    socket.send(Message::binary(vec![1, 2])).await.unwrap();
    assert_eq!(refused(&mut socket).await.1, 1003);
    let mut socket = connect(&server).await;
    socket.send(Message::text("x".repeat(10_001))).await.unwrap();
    assert_eq!(refused(&mut socket).await.1, 1009);
    let mut socket = connect(&server).await;
    server.stop.cancel();
    assert_eq!(next(&mut socket).await, Err(1012));

    let config = IngestConfig { ping_ms: 20, sockets: 1, ..IngestConfig::default() };
    let server = Server::with(MemoryLog::new(), config).await;
    let mut silent = connect(&server).await;
    // A client that is not polled answers no ping, and its place is free once it was given up.
    let free = async {
        while connect_async(format!("ws://{}/v1/events/ws", server.addr)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), free).await.expect("the silent one is given up");
    assert_eq!(next(&mut silent).await, Err(1008));
}

#[tokio::test]
async fn sockets_are_counted_and_pages_from_elsewhere_are_kept_out() {
    let server = Server::with(MemoryLog::new(), IngestConfig { sockets: 1, ..IngestConfig::default() }).await;
    let url = format!("ws://{}/v1/events/ws", server.addr);
    let mut foreign = url.as_str().into_client_request().unwrap();
    foreign.headers_mut().insert("origin", "http://evil.example".parse().unwrap());
    assert!(connect_async(foreign).await.unwrap_err().to_string().contains("400"));
    let first = connect(&server).await;
    assert!(connect_async(&url).await.unwrap_err().to_string().contains("503"));
    drop(first);
    while connect_async(&url).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_frame_of_many_games_with_gaps_is_acknowledged_however_long_the_answer_is() {
    let server = Server::new().await;
    let mut socket = connect(&server).await;
    let games: Vec<String> = (0..9_000).map(|n| format!("{n:0>60}")).collect();
    for (frames, seq) in [(1, 0), (2, 7)] {
        let all: Vec<_> = games.iter().map(|game| value(game, seq)).collect();
        socket.send(Message::text(json!(all).to_string())).await.unwrap();
        let answer = next(&mut socket).await.unwrap();
        assert_eq!((&answer["frames"], &answer["accepted"]), (&json!(frames), &json!(9_000)));
        assert_eq!(answer["games"].as_object().unwrap().len(), 9_000);
        assert!(answer.to_string().len() > 256 << 10, "longer than what was once the bound");
        assert!(games.iter().all(|game| answer["games"][game]["last_seq"] == seq));
    }
}
