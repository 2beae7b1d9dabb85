//! `flywheel land`: events of the log into table `events`, beside other processes that do the same.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use flywheel_events::System;
use flywheel_flows::{Land, LandConfig};
use flywheel_log::Topic;
use serde_json::json;

use crate::{
    Global,
    exit::Failure,
    output::thousands,
    sharing::{Place, ShareArgs},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  flywheel land\n  flywheel land --partitions 0,3-5 --metrics 127.0.0.1:9100")]
pub struct Args {
    #[command(flatten)]
    share: ShareArgs,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let place = Place::open(global, &args.share, "land").await?;
    let topic = Topic::new(System::Tank.topic());
    let config = LandConfig::new(topic, place.partitions);
    let land = Land::new(Arc::clone(&place.log), place.lake.clone(), config).shared(place.sharing.clone());
    let stats = land.stats();
    place.run(|stop| async move { land.run(stop).await }).await?;
    let count = |n: &std::sync::atomic::AtomicU64| n.load(Relaxed);
    if global.json {
        crate::output::out!(
            "{}",
            json!({
                "events": count(&stats.events), "duplicates": count(&stats.duplicates), "dead": count(&stats.dead),
                "commits": count(&stats.commits), "fenced": count(&stats.owned.fenced),
            })
        );
    } else if !global.quiet {
        crate::output::note!(
            "landed {} events in {} commits; {} commits were refused because another process had taken over",
            thousands(count(&stats.events)),
            thousands(count(&stats.commits)),
            count(&stats.owned.fenced)
        );
    }
    Ok(())
}
