//! The command line of `flywheel-trainer`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};
use flywheel_backends::{CredentialsConfig, StoreConfig};
use flywheel_events::{BaseKey, System};
use flywheel_policy::Head;
use flywheel_torch::DeviceChoice;
use flywheel_train::TrainConfig;

use crate::bench::BenchArgs;

#[derive(Debug, Parser)]
#[command(
    name = "flywheel-trainer",
    version,
    about = "Learns from the transitions of live games and publishes better networks",
    args_conflicts_with_subcommands = true,
    // Settings from a file come first, flags of a person after them.
    args_override_self = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) train: TrainArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure the training step, beside PyTorch where asked
    Bench(BenchArgs),
    /// Say what there is to compute with
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// One training run.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Data folder: tables, models, runs, checkpoints.
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub(crate) data: PathBuf,
    /// The event log.
    #[arg(long, value_name = "URL", default_value = "embedded:")]
    pub(crate) log: String,
    /// Where runs are kept: `sqlite:` is a file in the data folder; else `postgres://…`.
    #[arg(long, value_name = "URL", default_value = "sqlite:")]
    pub(crate) catalog: String,
    /// Only beside a running loop: fail where no process holds the event log, instead of opening it.
    #[arg(long)]
    pub(crate) attach: bool,
    /// The run to work on; a stopped or killed one goes on from its checkpoint. The newest run of the base key when left
    /// out, which is made if there is none.
    #[arg(long, value_name = "ID")]
    pub(crate) run: Option<String>,
    /// How politely the processor is used: 0 not at all, 19 most.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(i32).range(0..=19))]
    pub(crate) nice: i32,
    /// A run that is silent for so many seconds may be taken over.
    #[arg(long, value_name = "SECONDS", default_value_t = 6, value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub(crate) lease_seconds: u64,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Where tables and models lie; keys come from the environment or the named file.
#[derive(Debug, Args)]
#[command(next_help_heading = "Store")]
struct StoreArgs {
    /// `file:` is the data folder; else `s3://bucket/prefix`.
    #[arg(long = "store", value_name = "URL", default_value = "file:")]
    url: String,
    /// Address of the S3 service; AWS's own when left out.
    #[arg(long = "store-endpoint", value_name = "URL")]
    endpoint: Option<String>,
    #[arg(long = "store-region", value_name = "REGION")]
    region: Option<String>,
    /// The bucket stands in the path, not in the host's name.
    #[arg(long = "store-path-style", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    path_style: bool,
    /// Take an endpoint without TLS.
    #[arg(long = "store-allow-http", value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
    allow_http: bool,
    /// A file in the form of `~/.aws/credentials`.
    #[arg(long = "store-credentials-file", value_name = "FILE")]
    credentials_file: Option<PathBuf>,
}

/// Settings that differ from [`TrainConfig::default`].
#[derive(Debug, Args)]
#[command(next_help_heading = "Learning")]
struct ConfigArgs {
    /// Whose transitions.
    #[arg(long)]
    system: Option<System>,
    /// The slot that it trains for.
    #[arg(long)]
    base_key: Option<BaseKey>,
    #[arg(long)]
    seed: Option<u64>,
    /// auto, cpu or cuda.
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Units of the hidden layers, such as 256,256.
    #[arg(long, value_delimiter = ',')]
    hidden: Option<Vec<usize>>,
    /// plain or dueling.
    #[arg(long, value_parser = head)]
    head: Option<Head>,
    #[arg(long)]
    learning_rate: Option<f64>,
    #[arg(long)]
    batch_size: Option<usize>,
    #[arg(long)]
    target_sync_steps: Option<u64>,
    #[arg(long)]
    huber_delta: Option<f32>,
    #[arg(long)]
    max_grad_norm: Option<f64>,
    /// Longest return, in decisions.
    #[arg(long)]
    n_step: Option<usize>,
    #[arg(long)]
    discount: Option<f32>,
    /// Transitions kept in memory.
    #[arg(long)]
    capacity: Option<usize>,
    /// Transitions before the first step.
    #[arg(long)]
    min_size: Option<u64>,
    #[arg(long)]
    samples_per_insert: Option<f64>,
    /// Rows that sampling may run ahead.
    #[arg(long)]
    sample_tolerance: Option<f64>,
    /// Strength of priorities; 0 draws evenly.
    #[arg(long)]
    alpha: Option<f32>,
    #[arg(long)]
    beta: Option<f32>,
    #[arg(long)]
    beta_steps: Option<u64>,
    #[arg(long)]
    reward_scale: Option<f32>,
    /// Largest reward; 0 leaves them as they are.
    #[arg(long)]
    reward_clip: Option<f32>,
    /// Steps before the first version.
    #[arg(long)]
    first_publish_steps: Option<u64>,
    #[arg(long, value_parser = seconds)]
    publish_seconds: Option<Duration>,
    #[arg(long)]
    publish_steps: Option<u64>,
    #[arg(long, value_parser = seconds)]
    checkpoint_seconds: Option<Duration>,
    /// End after so many steps.
    #[arg(long)]
    max_steps: Option<u64>,
    /// Read the log after the table.
    #[arg(long)]
    follow: Option<bool>,
    /// Begin from the champion's weights.
    #[arg(long)]
    warm_start: Option<bool>,
}

fn head(text: &str) -> Result<Head, String> {
    match text {
        "plain" => Ok(Head::Plain),
        "dueling" => Ok(Head::Dueling),
        _ => Err("it is neither plain nor dueling".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "it is not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl TrainArgs {
    /// Where tables and models lie.
    pub(crate) fn store(&self) -> StoreConfig {
        let given = &self.store;
        StoreConfig {
            url: given.url.clone(),
            endpoint: given.endpoint.clone().unwrap_or_default(),
            region: given.region.clone().unwrap_or_default(),
            path_style: given.path_style,
            allow_http: given.allow_http,
            credentials: CredentialsConfig { file: given.credentials_file.clone().unwrap_or_default() },
        }
    }

    /// The settings of `default` with the given flags over them.
    pub(crate) fn config(&self, default: TrainConfig) -> TrainConfig {
        let given = &self.config;
        TrainConfig {
            system: given.system.unwrap_or(default.system),
            base_key: given.base_key.clone().unwrap_or(default.base_key),
            seed: given.seed.unwrap_or(default.seed),
            device: given.device.unwrap_or(default.device),
            hidden: given.hidden.clone().unwrap_or(default.hidden),
            head: given.head.unwrap_or(default.head),
            learning_rate: given.learning_rate.unwrap_or(default.learning_rate),
            batch_size: given.batch_size.unwrap_or(default.batch_size),
            target_sync_steps: given.target_sync_steps.unwrap_or(default.target_sync_steps),
            huber_delta: given.huber_delta.unwrap_or(default.huber_delta),
            max_grad_norm: given.max_grad_norm.unwrap_or(default.max_grad_norm),
            n_step: given.n_step.unwrap_or(default.n_step),
            discount: given.discount.unwrap_or(default.discount),
            capacity: given.capacity.unwrap_or(default.capacity),
            min_size: given.min_size.unwrap_or(default.min_size),
            samples_per_insert: given.samples_per_insert.unwrap_or(default.samples_per_insert),
            sample_tolerance: given.sample_tolerance.unwrap_or(default.sample_tolerance),
            alpha: given.alpha.unwrap_or(default.alpha),
            beta: given.beta.unwrap_or(default.beta),
            beta_steps: given.beta_steps.unwrap_or(default.beta_steps),
            reward_scale: given.reward_scale.unwrap_or(default.reward_scale),
            reward_clip: given.reward_clip.unwrap_or(default.reward_clip),
            first_publish_steps: given.first_publish_steps.unwrap_or(default.first_publish_steps),
            publish_every: given.publish_seconds.unwrap_or(default.publish_every),
            publish_steps: given.publish_steps.unwrap_or(default.publish_steps),
            checkpoint_every: given.checkpoint_seconds.unwrap_or(default.checkpoint_every),
            max_steps: given.max_steps.or(default.max_steps),
            follow: given.follow.unwrap_or(default.follow),
            warm_start: given.warm_start.unwrap_or(default.warm_start),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_override_defaults_and_nothing_else() {
        let cli = Cli::parse_from([
            "flywheel-trainer",
            "--data",
            "d",
            "--head",
            "dueling",
            "--hidden",
            "256,64",
            "--follow",
            "false",
        ]);
        let expected =
            TrainConfig { head: Head::Dueling, hidden: vec![256, 64], follow: false, ..TrainConfig::default() };
        assert_eq!(cli.train.config(TrainConfig::default()), expected);
        assert!(Cli::try_parse_from(["flywheel-trainer", "--head", "other"]).is_err());
        assert!(Cli::try_parse_from(["flywheel-trainer", "--device", "tpu"]).is_err());
    }

    #[test]
    fn what_the_loop_says_of_its_store_is_what_the_trainer_takes() {
        let store = StoreConfig {
            url: "s3://bucket/prefix".into(),
            endpoint: "http://127.0.0.1:8333".into(),
            region: "here".into(),
            path_style: false,
            allow_http: true,
            credentials: CredentialsConfig { file: "keys".into() },
        };
        for store in [store, StoreConfig::default()] {
            let flags = store.flags().into_iter().flat_map(|(flag, value)| [format!("--{flag}"), value]);
            let cli = Cli::parse_from(["flywheel-trainer".to_owned()].into_iter().chain(flags));
            assert_eq!(cli.train.store(), store);
        }
    }
}
