//! `flywheel`: makes game bots better by themselves.
//!
//! One binary for all roles; the trainer is a program of its own, because it alone needs libtorch.

mod commands;
mod config;
mod data;
mod exit;
mod output;
mod sharing;
mod systems;
mod topic;
mod up;
mod writable;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::{Parser, Subcommand};

use crate::exit::Failure;

/// glibc's allocator keeps a heap for each thread and what each of them freed: after minutes half of the memory is air,
/// and it grows for hours (measured: `docs/performance.md`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// One arena for all threads: what one of them gave back another one takes again, where each arena would keep its own for a
/// while (docs/adr/0011). `_RJEM_MALLOC_CONF` in the environment says otherwise.
// SAFETY: it is what jemalloc expects under this name, a pointer to a text that ends with a zero.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 10] = b"narenas:1\0";

#[derive(Debug, Parser)]
#[command(
    name = "flywheel",
    version,
    about = "Makes game bots better by themselves",
    long_about = "Makes game bots better by themselves: live games feed a log, the log feeds tables, a trainer learns \
                  from them, a judge decides, and the live servers swap to the better version while games go on.",
    after_help = "Examples:\n  flywheel up                          run the whole loop, page at http://127.0.0.1:8080\n  \
                  flywheel up --for 10m --report r.json\n  flywheel status --json\n  flywheel model ls\n  flywheel audit"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Folder that holds everything flywheel keeps
    #[arg(long, global = true, env = "FLYWHEEL_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration file; a named file that is missing is an error
    #[arg(long, global = true, env = "FLYWHEEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
    /// Say more (-v, -vv) on standard error
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole loop: play, stream, land, learn, judge, swap
    Up(commands::up::Args),
    /// Put events of the log into the tables, sharing the partitions with other processes
    Land(commands::land::Args),
    /// Turn games of the log into transitions and episodes, sharing the partitions with other processes
    Assemble(commands::assemble::Args),
    /// Say how the running loop is doing
    Status(commands::status::Args),
    /// Look into the event log
    #[command(subcommand)]
    Log(commands::log::Command),
    /// Send events from standard input, one envelope a line
    Emit(commands::emit::Args),
    /// Make, list and end keys of programs that hand in events
    #[command(subcommand)]
    Key(commands::key::Command),
    /// Check how schemas of events change
    #[command(subcommand)]
    Schema(commands::schema::Command),
    /// Look into the tables, compact them
    #[command(subcommand)]
    Table(commands::table::Command),
    /// Move old days of the table `events` to the archive, and list what it holds
    Archive(commands::archive::Args),
    /// Bring days back from the archive into the table
    Restore(commands::restore::Args),
    /// Look at records that could not be used, and put them back once they can
    #[command(subcommand)]
    Dlq(commands::dlq::Command),
    /// List, promote and roll back model versions
    #[command(subcommand)]
    Model(commands::model::Command),
    /// List, stop and resume runs of the trainer
    #[command(subcommand)]
    Run(commands::run::Command),
    /// Judge one version against another and the anchors
    Judge(commands::judge::Args),
    /// Close the books: events acknowledged = events in the table, per game
    Audit(commands::audit::Args),
    /// Check this machine and this data folder
    Doctor(commands::doctor::Args),
    /// Kill the doors and cut their power again and again, and look for every acknowledged event
    Torture(commands::torture::Args),
    /// What `torture` starts as its child
    #[command(hide = true)]
    TortureServe(commands::torture::ServeArgs),
    /// Measure, beside peers where one is named
    Bench(commands::bench::Args),
    /// What `bench ingest` starts as its child
    #[command(hide = true)]
    BenchLand(commands::bench::LandArgs),
    /// Show the configuration
    #[command(subcommand)]
    Config(commands::config::Command),
    /// Print shell completions
    Completions(commands::completions::Args),
}

/// The runtime is being taken down; see [`quiet_end`].
static ENDING: AtomicBool = AtomicBool::new(false);

/// Threads of libraries that wait for a task panic when the runtime that ran it goes. All is written by then, and a
/// backtrace after the one message would only frighten.
fn quiet_end() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !ENDING.load(Ordering::Relaxed) {
            usual(panic);
        }
    }));
}

fn main() -> ExitCode {
    // Two TLS providers come in through dependencies; one of them must be named before the first use.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    output::init_logs(&cli.global);
    quiet_end();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .thread_name("flywheel-io")
        .build()
        .map_err(|error| Failure::from(anyhow::Error::from(error).context("starting the runtime")))
        .and_then(|runtime| {
            let result = runtime.block_on(run(&cli.global, cli.command));
            ENDING.store(true, Ordering::Relaxed);
            // Blocking work that is still under way (a judged game, a Parquet file) is safe to leave: crash-only.
            runtime.shutdown_timeout(std::time::Duration::from_secs(2));
            result
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(cli.global.json),
    }
}

async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    match command {
        Command::Up(args) => commands::up::run(global, args).await,
        Command::Land(args) => commands::land::run(global, args).await,
        Command::Assemble(args) => commands::assemble::run(global, args).await,
        Command::Status(args) => commands::status::run(global, args).await,
        Command::Log(command) => commands::log::run(global, command).await,
        Command::Emit(args) => commands::emit::run(global, args).await,
        Command::Key(command) => commands::key::run(global, command).await,
        Command::Schema(command) => commands::schema::run(global, command),
        Command::Table(command) => commands::table::run(global, command).await,
        Command::Archive(args) => commands::archive::run(global, args).await,
        Command::Restore(args) => commands::restore::run(global, args).await,
        Command::Dlq(command) => commands::dlq::run(global, command).await,
        Command::Model(command) => commands::model::run(global, command).await,
        Command::Run(command) => commands::run::run(global, command).await,
        Command::Judge(args) => commands::judge::run(global, args).await,
        Command::Audit(args) => commands::audit::run(global, args).await,
        Command::Doctor(args) => commands::doctor::run(global, args).await,
        Command::Torture(args) => commands::torture::run(global, args).await,
        Command::TortureServe(args) => commands::torture::serve(global, args).await,
        Command::Bench(args) => commands::bench::run(global, args).await,
        Command::BenchLand(args) => commands::bench::land(args).await,
        Command::Config(command) => commands::config::run(global, command),
        Command::Completions(args) => commands::completions::run(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
