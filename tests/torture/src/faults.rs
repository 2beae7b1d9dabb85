//! A log and a store that refuse, forget to answer and take their time, by a seed.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use flywheel_backends::BackendUrls;
use flywheel_lake::{
    DurableFileSystem, Lake,
    testing::{Faults as StoreFaults, FaultyStore},
};
use flywheel_log::{EventLog, Faults as LogFaults, Faulty, Throttle, Throttled};

/// Of 1,024 puts, so many fail undone, and as many are done and not answered: 5 % each.
const PUTS: u64 = 51;

/// The log: 5 % of appends refused, 5 % done and not answered, 2 % of reads failed, each append 2 ms late.
pub fn log(inner: Arc<dyn EventLog>, seed: u64) -> Arc<dyn EventLog> {
    let faulty = Faulty::new(inner, LogFaults { seed, refused: 0.05, replies_lost: 0.05, reads_failed: 0.02 });
    Throttled::new(faulty, Throttle { append_delay: Duration::from_millis(2), ..Throttle::default() })
}

/// The tables of the data folder or the bucket, on a store whose puts fail.
pub fn lake(urls: &BackendUrls, seed: u64) -> anyhow::Result<Lake> {
    let faults = Arc::new(StoreFaults::default());
    faults.flaky_puts(PUTS, PUTS, seed);
    if let Some(bucket) = urls.store.bucket()? {
        let root = bucket.lake().root().clone();
        return Ok(Lake::open(Arc::new(FaultyStore::new(Arc::clone(bucket.store()), faults)), root));
    }
    let folder = urls.data.join("lake");
    let store = FaultyStore::new(Arc::new(DurableFileSystem::open(&folder)), faults);
    let root = Lake::local_url(&folder).with_context(|| format!("naming the tables in {}", folder.display()))?;
    Ok(Lake::open(Arc::new(store), root))
}
