use std::{
    io::IsTerminal,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use flywheel_backends::BackendUrls;
use flywheel_benches::{Figure, Options, race::Told};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output,
    systems::urls,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to measure; all of them when left out
    #[arg(value_enum)]
    benches: Vec<Bench>,
    /// Measure the named peer in the same run
    #[arg(long)]
    peer: bool,
    /// Length of one measuring window
    #[arg(long, value_parser = crate::commands::up::duration, default_value = "3s")]
    window: Duration,
    /// Python with the peers installed; `make bench` makes one
    #[arg(long, env = "FLYWHEEL_PYTHON", default_value = ".venv/bin/python")]
    python: PathBuf,
    /// Through this log instead, `redis://…` or `kafka://…`: appends events, then lands them; only with `ingest`
    #[arg(long, value_name = "URL")]
    through: Option<String>,
    /// With --through: how many
    #[arg(long, default_value_t = 1_000_000, requires = "through")]
    events: u64,
    /// Folder of the peer programs
    #[arg(long, default_value = "benches/peers")]
    peers: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Bench {
    /// Headless simulation
    Sim,
    /// Replay buffer, beside cpprb
    Replay,
    /// Training step, beside PyTorch
    Train,
    /// One decision and batches, beside ONNX Runtime
    Infer,
    /// Publish to first decision
    Swap,
    /// Events to table, beside DuckDB
    Ingest,
    /// The whole loop for a minute
    Loop,
}

impl Bench {
    const ALL: [Self; 7] = [Self::Sim, Self::Replay, Self::Train, Self::Infer, Self::Swap, Self::Ingest, Self::Loop];
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    if args.peer && !args.python.is_file() {
        return Err(Failure::msg(Code::NotFound, format!("the peers need `{}`", args.python.display()))
            .hint("`make bench` installs them, or name another Python with --python"));
    }
    if let Some(url) = args.through {
        if args.benches != [Bench::Ingest] {
            return Err(Failure::msg(Code::Usage, "--through belongs to `flywheel bench ingest`"));
        }
        let figures = through(global, url, args.events).await?;
        print(global, &figures);
        return Ok(());
    }
    let options = Options { peer: args.peer, window: args.window, python: args.python, peers: args.peers };
    let benches = if args.benches.is_empty() { Bench::ALL.to_vec() } else { args.benches };
    for bench in benches {
        let started = Instant::now();
        let window = options.window.as_secs();
        crate::output::note!(
            "{bench:?}: measuring in windows of {window} s, load {:.1}",
            flywheel_benches::load_average()
        );
        let figures = match bench {
            Bench::Train => train(&options).await?,
            Bench::Loop => whole_loop().await?,
            _ => {
                let options = options.clone();
                let figures = tokio::task::spawn_blocking(move || match bench {
                    Bench::Sim => flywheel_benches::sim::run(&options),
                    Bench::Replay => flywheel_benches::replay::run(&options),
                    Bench::Infer => flywheel_benches::infer::run(&options),
                    Bench::Swap => flywheel_benches::swap::run(&options),
                    _ => flywheel_benches::ingest::run(&options),
                })
                .await?
                .map_err(|error| without_packages(error.into()))?;
                figures.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?
            }
        };
        print(global, &figures);
        crate::output::note!("{bench:?}: {:.0} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}

/// What `bench ingest` starts as its child; not for people.
#[derive(Debug, clap::Args)]
pub struct LandArgs {
    /// What to land, and where
    #[arg(value_name = "JSON", value_parser = |text: &str| serde_json::from_str::<Told>(text))]
    told: Told,
}

pub async fn land(args: LandArgs) -> Result<(), Failure> {
    Ok(tokio::task::spawn_blocking(move || flywheel_benches::race::serve(&args.told)).await??)
}

/// Events through the log at `url` into a table of their own.
async fn through(global: &Global, url: String, events: u64) -> Result<Vec<Value>, Failure> {
    let urls = BackendUrls { log: url, ..urls(&Config::load(global)?) };
    let log = urls.open_shared_log().await.map_err(|error| Failure::new(Code::Unreachable, error))?;
    crate::output::note!("{events} events through {}", urls.shown_log());
    let bar = if global.quiet || !std::io::stderr().is_terminal() {
        ProgressBar::hidden()
    } else {
        let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} events {msg}, {elapsed}");
        ProgressBar::new(events).with_style(style.expect("a valid template"))
    };
    let show = |what: &'static str, done, all| {
        bar.set_length(all);
        bar.set_position(done);
        bar.set_message(what);
    };
    let figures = flywheel_benches::streams::through(log, events, show).await;
    bar.finish_and_clear();
    let figures = figures?;
    Ok(figures.iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
}

/// A peer's Python may lack its packages; `make bench` has one that does not.
fn without_packages(failure: Failure) -> Failure {
    if failure.to_string().contains("ModuleNotFoundError") {
        return failure.hint("`make bench` installs the peers' packages, or name another Python with --python");
    }
    failure
}

fn print(global: &Global, figures: &[Value]) {
    if global.json {
        for figure in figures {
            crate::output::out!("{figure}");
        }
        return;
    }
    let number = |value: &Value| match value.as_f64() {
        Some(n) if n.abs() >= 1000.0 => output::thousands(n as u64),
        Some(n) => format!("{n:.3}"),
        None => "-".to_owned(),
    };
    let rows = figures.iter().map(|f| {
        vec![
            f["bench"].as_str().unwrap_or_default().to_owned(),
            f["metric"].as_str().unwrap_or_default().to_owned(),
            number(&f["value"]),
            f["unit"].as_str().unwrap_or_default().to_owned(),
            format!("{} – {}", number(&f["spread"][0]), number(&f["spread"][1])),
            f["peer"].as_str().unwrap_or("-").to_owned(),
            number(&f["peer_value"]),
            number(&f["ratio"]),
        ]
    });
    output::print(
        global,
        &figures,
        &["bench", "metric", "value", "unit", "spread", "peer", "peer value", "ratio"],
        rows,
    );
}

/// The trainer measures itself, since only it links libtorch.
async fn train(options: &Options) -> Result<Vec<Value>, Failure> {
    let program = crate::up::trainer::find_program(&crate::config::TrainSettings::default())
        .map_err(|why| Failure::msg(Code::NotFound, why))?;
    let mut command = tokio::process::Command::new(program);
    command.args(["bench", "--json", "--window-s"]).arg(options.window.as_secs().max(1).to_string());
    if options.peer {
        command.arg("--peer").arg(&options.python).arg("--peers").arg(&options.peers);
    }
    let output =
        command.stderr(std::process::Stdio::inherit()).output().await.context("running flywheel-trainer bench")?;
    if !output.status.success() {
        return Err(Failure::msg(Code::Failure, format!("flywheel-trainer bench ended with {}", output.status)));
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Runs `flywheel up` for a minute in a folder of its own and reads its report.
async fn whole_loop() -> Result<Vec<Value>, Failure> {
    let folder = std::env::temp_dir().join(format!("flywheel-bench-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder)?;
    let report = folder.join("report.json");
    let status = tokio::process::Command::new(std::env::current_exe()?)
        .args(["--quiet", "up", "--for", "60s", "--port", "0", "--data"])
        .arg(folder.join("data"))
        .arg("--report")
        .arg(&report)
        .stdout(std::process::Stdio::null())
        .status()
        .await
        .context("running flywheel up")?;
    let result = (|| -> Result<Vec<Value>, Failure> {
        if !status.success() {
            return Err(Failure::msg(Code::Failure, format!("flywheel up ended with {status}")));
        }
        let report: Value = serde_json::from_slice(&std::fs::read(&report).context("reading the loop's report")?)?;
        let figures = [
            ("first_promotion_seconds", "s"),
            ("decision_p50_us", "us"),
            ("decision_p99_us", "us"),
            ("swap_p50_ms", "ms"),
            ("swap_p99_ms", "ms"),
            ("table_freshness_p99_ms", "ms"),
            ("sample_freshness_p99_ms", "ms"),
            ("score_first", "ratio"),
            ("score_best", "ratio"),
            ("rss_peak_bytes", "B"),
        ];
        Ok(figures
            .into_iter()
            .filter_map(|(metric, unit)| {
                let value = report[metric].as_f64()?;
                serde_json::to_value(Figure::new("loop", metric, unit, &[value])).ok()
            })
            .collect())
    })();
    std::fs::remove_dir_all(&folder)?;
    result
}
