use std::{path::PathBuf, time::Duration};

use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    up,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Stop in order after this time, such as 90s, 10m, 2h
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub run_for: Option<Duration>,
    /// Write a JSON report here at the end
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Seed of everything that draws random numbers
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Live games with scripted players that are kept going (0 to 64)
    #[arg(long, value_name = "N")]
    pub sessions: Option<usize>,
    /// Threads of headless self-play; 0 switches it off
    #[arg(long, value_name = "N")]
    pub farm: Option<usize>,
    /// Device of the trainer
    #[arg(long, value_name = "D", value_parser = ["auto", "cpu", "cuda"])]
    pub device: Option<String>,
    /// Port of the page and the API; 0 takes any free port
    #[arg(long, value_name = "P")]
    pub port: Option<u16>,
    /// Leave landing and assembling to `flywheel land` and `flywheel assemble` on the same log
    #[arg(long)]
    pub no_land: bool,
    /// Write what was acknowledged here, one line an append; tests count by it
    #[arg(long, value_name = "FILE", hide = true)]
    pub ack_journal: Option<PathBuf>,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let mut config = Config::load(global)?;
    if let Some(seed) = args.seed {
        config.up.seed = seed;
    }
    if let Some(sessions) = args.sessions {
        config.up.sessions = sessions;
    }
    if let Some(threads) = args.farm {
        config.farm.threads = threads;
    }
    if let Some(device) = args.device {
        config.train.device = device;
    }
    if let Some(port) = args.port {
        config.up.port = port;
    }
    config.check()?;
    if args.no_land && !crate::systems::urls(&config).has_servers() {
        let message = format!("with --no-land nobody would land: stream.url is `{}`", config.stream.url);
        return Err(
            Failure::msg(Code::Usage, message).hint("only a log on Redis or Kafka is shared with other processes")
        );
    }
    let options = up::Options {
        run_for: args.run_for,
        report: args.report,
        ack_journal: args.ack_journal,
        quiet: global.quiet,
        json: global.json,
        lands: !args.no_land,
    };
    up::run(config, options).await
}

/// `90s`, `10m`, `1h30m`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("a unit is missing")?;
        let number: f64 = rest[..digits].parse().map_err(|_| format!("`{text}` is not a time such as 90s or 10m"))?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                other => return Err(format!("`{other}` is not a unit; use ms, s, m, h or d")),
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("45"), Ok(Duration::from_secs(45)));
        assert!(duration("ten minutes").is_err());
        assert!(duration("10x").is_err());
        assert!(duration("-5").is_err());
    }
}
