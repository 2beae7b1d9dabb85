//! The doors alone, on loopback: for the tests of clients in other languages.
//!
//! usage: door LOG_FOLDER [ADDRESS]
//!
//! Prints its address, serves until standard input ends, and answers `GET /records` with every record of the log.

use std::{
    error::Error,
    io::{Read, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use axum::routing::get;
use flywheel_ingest::{Door, IngestConfig, router};
use flywheel_kit::ServeConfig;
use flywheel_log::{EventLog, LogError, Position, ReadLimit};
use flywheel_log_embedded::{EmbeddedConfig, EmbeddedLog};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: door LOG_FOLDER [ADDRESS]")?);
    let address: SocketAddr = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let log: Arc<dyn EventLog> = EmbeddedLog::open(&folder, EmbeddedConfig::default())?;
    let stop = CancellationToken::new();
    let listener = flywheel_kit::bind(address).await?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let told = stop.clone();
    std::thread::spawn(move || {
        // Ends with the program that started this one.
        let _end = std::io::stdin().read_to_end(&mut Vec::new());
        told.cancel();
    });
    let records = Arc::clone(&log);
    let show = get(move || async move { all(&*records).await.map_err(|error| error.to_string()) });
    let app = router(Door::new(log, IngestConfig::default(), stop.clone())).route("/records", show);
    flywheel_kit::serve(listener, app, ServeConfig::default(), stop).await?;
    Ok(())
}

/// A line a record, by partition and in order.
async fn all(log: &dyn EventLog) -> Result<Vec<u8>, LogError> {
    let mut lines = Vec::new();
    for (topic, partitions) in log.topics().await? {
        for partition in 0..partitions {
            let mut from = Position::Start;
            loop {
                let records = log.read(&topic.partition(partition), from, ReadLimit::default()).await?;
                let Some(last) = records.last() else { break };
                from = Position::After(last.offset);
                for record in &records {
                    lines.extend_from_slice(&record.value);
                    lines.push(b'\n');
                }
            }
        }
    }
    Ok(lines)
}
