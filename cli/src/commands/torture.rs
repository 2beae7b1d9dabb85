use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use flywheel_backends::StoreConfig;
use flywheel_torture::{LogChoice, Plan, Progress, Report, Served};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
};

/// Name of the library that keeps the journal of a process for power cuts.
const SHIM: &str = "libflywheel_powercut.so";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  flywheel torture --kills 20\n  flywheel torture --kills 0 --cuts 50 --report r.json\n  \
                        flywheel torture --log redis --cuts 5\n  flywheel torture --log redis:everysec --kills 0 --cuts 5    \
                        loses events, as it must\n  flywheel torture --configured --config flywheel.toml --faults"
)]
pub struct Args {
    /// Times that the process is ended with kill -9
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    kills: u32,
    /// Times that the power is cut: kill -9, and what was not synced is taken back
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    cuts: u32,
    /// Log and store also refuse 5 % of what they are asked, forget to answer 5 %, and are slow
    #[arg(long)]
    faults: bool,
    /// Events a second of all producers together, at most
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Producers at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    producers: u32,
    /// `embedded`, `redis` or `redis:everysec` (a redis-server of its own), or the URL of a log that runs already, which
    /// then holds the events: give it a prefix of its own
    #[arg(long, value_name = "LOG", default_value = "embedded")]
    log: LogChoice,
    /// The log and the store of the configuration (`--config FILE`, `flywheel.toml`), under names of the run's own: a prefix
    /// `torture-SEED` in both. What it wrote to the store is removed when all is well
    #[arg(long, conflicts_with = "log")]
    configured: bool,
    /// Seed of every moment and every fault; drawn and said when left out
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Shortest and longest life of the process, in milliseconds
    #[arg(long, value_name = "MS", num_args = 2, default_values_t = [50, 800])]
    life_ms: Vec<u64>,
    /// Longest wait for a start, the last acknowledgement and the last row, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    /// Work here, and leave everything for a look; must not be there yet
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Write a JSON report here
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The library that power cuts need; beside the program when left out
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
}

/// Kills, cuts of power, duplicates and reordering; exit code 7 if an event was lost, doubled or out of order.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let seed = args.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64 >> 16);
    let folder = args.folder.clone();
    let kept = folder.is_some();
    let folder =
        folder.unwrap_or_else(|| std::env::temp_dir().join(format!("flywheel-torture-{}", uuid::Uuid::new_v4())));
    if folder.exists() {
        return Err(Failure::msg(Code::Conflict, format!("`{}` is there already", folder.display()))
            .hint("name a folder that is not; torture makes it"));
    }
    let mut plan = plan(global, &args, seed, folder.clone())?;
    std::fs::create_dir_all(&folder).with_context(|| format!("making `{}`", folder.display()))?;
    plan.folder = folder.canonicalize()?;
    let store = if plan.store.is_local() { String::new() } else { format!(" and {}", plan.store.url) };
    crate::output::note!(
        "torture: {} kills and {} power cuts of {}{store}, {} events a second, seed {seed}",
        plan.kills,
        plan.cuts,
        plan.log,
        plan.rate
    );
    let bar = bar(global, &plan);
    let report = flywheel_torture::run(&plan, |progress: Progress| {
        bar.set_position(u64::from(progress.kills + progress.cuts));
        bar.set_message(format!("{} events acknowledged", crate::output::thousands(progress.acknowledged)));
    })
    .await;
    bar.finish_and_clear();
    let report = report?;
    if let Some(file) = &args.report {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("writing the report to `{}`", file.display()))?;
    }
    if global.json {
        crate::output::out!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        crate::output::out!("{}", report.text());
    }
    if report.ok && !kept {
        flywheel_torture::sweep(&plan).await?;
    }
    conclude(&report, &folder, kept)
}

fn plan(global: &Global, args: &Args, seed: u64, folder: PathBuf) -> Result<Plan, Failure> {
    let program = std::env::current_exe().context("finding this program")?;
    let shim = args.shim.clone().unwrap_or_else(|| program.with_file_name(SHIM));
    if args.cuts > 0 && !shim.is_file() {
        return Err(Failure::msg(Code::NotFound, format!("power cuts need `{}`", shim.display()))
            .hint("build it with `cargo build --release -p flywheel-powercut`, or name it with --shim FILE"));
    }
    let (log, store) = if args.configured {
        let config = Config::load(global)?;
        if config.stream.url.starts_with("embedded:") && config.store.is_local() {
            return Err(Failure::msg(Code::Config, "the configuration names neither a log on servers nor a bucket")
                .hint(
                    "name them under [stream] and [store], or leave out --configured; `flywheel config show --origin`",
                ));
        }
        flywheel_torture::apart(&config.stream.url, &config.store, seed)
    } else {
        (args.log.clone(), StoreConfig::default())
    };
    let plan = Plan {
        program,
        arguments: ["--quiet", "torture-serve"].map(str::to_owned).to_vec(),
        folder,
        log,
        store,
        kills: args.kills,
        cuts: args.cuts,
        shim: (args.cuts > 0).then_some(shim),
        faults: args.faults,
        seed,
        rate: args.rate,
        producers: args.producers,
        partitions: 2,
        life: (Duration::from_millis(args.life_ms[0]), Duration::from_millis(args.life_ms[1])),
        patience: Duration::from_secs(args.patience),
    };
    plan.check().map_err(|why| Failure::msg(Code::Usage, why))?;
    Ok(plan)
}

fn bar(global: &Global, plan: &Plan) -> ProgressBar {
    if global.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} kills and cuts, {msg}, {elapsed}");
    ProgressBar::new(u64::from(plan.kills + plan.cuts)).with_style(style.expect("a valid template"))
}

fn conclude(report: &Report, folder: &Path, kept: bool) -> Result<(), Failure> {
    if report.ok {
        if !kept {
            std::fs::remove_dir_all(folder).with_context(|| format!("removing `{}`", folder.display()))?;
        }
        return Ok(());
    }
    let (code, what) = match &report.broken {
        Some(_) => (Code::Failure, "the run could not be ended"),
        None => (Code::CheckFailed, "the table is not what was acknowledged"),
    };
    Err(Failure::msg(code, what).hint(format!(
        "look into `{}`, and repeat the moments with --seed {}",
        folder.display(),
        report.seed
    )))
}

/// What the run starts as its child; not for people.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// URL of the log
    #[arg(long, value_name = "URL")]
    log: String,
    /// Partitions of the topic
    #[arg(long, value_name = "N")]
    partitions: u32,
    /// Where the tables lie, as JSON of section `[store]`
    #[arg(long, value_name = "JSON", value_parser = |text: &str| serde_json::from_str::<StoreConfig>(text))]
    store: Option<StoreConfig>,
    /// Seed of faults of log and store
    #[arg(long, value_name = "SEED")]
    faults: Option<u64>,
}

pub async fn serve(global: &Global, args: ServeArgs) -> Result<(), Failure> {
    let Some(data) = global.data.clone() else {
        return Err(Failure::msg(Code::Usage, "a data folder must be named with --data DIR"));
    };
    let ServeArgs { log, partitions, store, faults } = args;
    Ok(flywheel_torture::serve(Served { data, log, store: store.unwrap_or_default(), partitions, faults }).await?)
}
