//! Tables and models on real S3-compatible servers: SeaweedFS, and moto as a second opinion.

mod server;

use flywheel_events::{Event, GameId, System};
use flywheel_lake::{ScanOptions, TableName};
use flywheel_tables::{EventsBuilder, events_from};
use server::{Kind, Server};

const NOON: i64 = 1_700_049_600_000;

fn rows(from: u64, to: u64) -> arrow::array::RecordBatch {
    let mut builder = EventsBuilder::new();
    for seq in from..to {
        let event = Event::new(System::Tank, "tank.tick", GameId::new("g").unwrap(), seq, NOON);
        builder.push(&event.payload(&serde_json::json!({"tick": seq})), 0, seq as i64, NOON);
    }
    builder.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_appended_to_a_bucket_are_read_back() {
    for kind in [Kind::SeaweedFs, Kind::Moto] {
        let Some(server) = Server::start(kind).await else { return };
        let table = server.bucket("a/b").lake().table(TableName::Events);
        table.append(vec![rows(0, 5)], &[("land/t/0".into(), 4)]).await.unwrap();
        let again = server.bucket("a/b").lake().table(TableName::Events);
        assert_eq!(again.position("land/t/0").await.unwrap(), Some(4));
        let found = again.scan(ScanOptions::default()).await.unwrap();
        let found: Vec<_> = found.iter().flat_map(|batch| events_from(batch).unwrap()).map(|e| e.seq).collect();
        assert_eq!(found, [0, 1, 2, 3, 4]);
        assert_eq!(again.url().as_str(), "s3://lake/a/b/lake/events/");
    }
}
