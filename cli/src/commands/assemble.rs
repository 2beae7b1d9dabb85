//! `flywheel assemble`: games of the log into `transitions` and `episodes`, beside other processes that do the same.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use flywheel_events::System;
use flywheel_flows::{Assemble, AssembleConfig};
use flywheel_log::Topic;
use serde_json::json;

use crate::{
    Global,
    exit::Failure,
    output::thousands,
    sharing::{Place, ShareArgs},
    systems::experience,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  flywheel assemble\n  flywheel assemble --partitions 0-1")]
pub struct Args {
    #[command(flatten)]
    share: ShareArgs,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let place = Place::open(global, &args.share, "assemble").await?;
    let config = AssembleConfig::new(Topic::new(System::Tank.topic()), place.partitions);
    let assemble = Assemble::new(Arc::clone(&place.log), place.lake.clone(), experience, config);
    let assemble = assemble.shared(place.sharing.clone());
    let stats = assemble.stats();
    place.run(|stop| async move { assemble.run(stop).await }).await?;
    let count = |n: &std::sync::atomic::AtomicU64| n.load(Relaxed);
    if global.json {
        crate::output::out!(
            "{}",
            json!({
                "games": count(&stats.games), "transitions": count(&stats.transitions), "dead": count(&stats.dead),
                "fenced": count(&stats.owned.fenced),
            })
        );
    } else if !global.quiet {
        crate::output::note!(
            "assembled {} transitions of {} games; {} commits were refused because another process had taken over",
            thousands(count(&stats.transitions)),
            thousands(count(&stats.games)),
            count(&stats.owned.fenced)
        );
    }
    Ok(())
}
