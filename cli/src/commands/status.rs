use std::time::Duration;

use flywheel_flows::sharing::Owner;
use serde_json::{Value, json};

use crate::{
    Global,
    config::Config,
    data::DataDir,
    exit::{Code, Failure},
    sharing::{self, who_owns},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the loop; taken from the data folder when left out
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Longest wait for an answer; a loop on this machine answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the running loop over HTTP.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let (url, owners) = match args.url {
        Some(url) => (url, Vec::new()),
        None => {
            let config = Config::load(global)?;
            // A log that is away is the loop's to tell of.
            let owners = who_owns(&config).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot tell who lands");
                Vec::new()
            });
            let data = match DataDir::open(&config.data) {
                // With tables in a bucket there need not be one.
                Err(_) if !owners.is_empty() => return show_owners(global, &owners),
                opened => opened?,
            };
            let url = match data.running() {
                Some(running) => running.url,
                None if owners.is_empty() => return Err(not_running(&data)),
                None => return show_owners(global, &owners),
            };
            (url, owners)
        }
    };
    let address = reqwest::Url::parse(&format!("{}/v1/status", url.trim_end_matches('/'))).map_err(|error| {
        Failure::msg(Code::Usage, format!("`{url}` is no address: {error}"))
            .hint("for example --url http://127.0.0.1:8080")
    })?;
    let unreachable = |error: reqwest::Error| {
        Failure::new(
            Code::Unreachable,
            anyhow::Error::from(error.without_url()).context(format!("asking the loop at {url}")),
        )
        .hint("start it with `flywheel up`, or name its address with --url")
    };
    let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
    let answer = client.get(address).send().await.and_then(reqwest::Response::error_for_status).map_err(unreachable)?;
    let mut status: Value = answer.json().await.map_err(unreachable)?;
    if global.json {
        if !owners.is_empty() {
            status["owners"] = serde_json::to_value(&owners)?;
        }
        crate::output::out!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    crate::output::out!("{url}, running for {} s", status["seconds"].as_f64().unwrap_or_default() as u64);
    if let Some(champion) = status["champion"].as_object() {
        let percent = |value: &Value| value.as_f64().map(|score| format!("{:.0} %", score * 100.0));
        let scores: Vec<String> = champion["scores"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|score| Some(format!("{} {}", text(&score["opponent"]), percent(&score["score"])?)))
            .collect();
        let counters = &status["counters"];
        let course = match (percent(&counters["score_first"]), percent(&counters["score_best"])) {
            (Some(first), Some(best)) => {
                format!("; first champion {first}, best {best} of the games with hunter and camper")
            }
            _ => String::new(),
        };
        crate::output::out!("champion {} ({}){course}", champion["version"], scores.join(", "));
    }
    for degraded in status["degraded"].as_array().into_iter().flatten() {
        crate::output::out!(
            "degraded: {} since {}: {} ({})",
            text(&degraded["what"]),
            crate::output::time(degraded["since_ms"].as_i64().unwrap_or_default()),
            text(&degraded["why"]),
            text(&degraded["meanwhile"])
        );
    }
    for stage in status["stages"].as_array().into_iter().flatten() {
        let why = stage["why_waiting"].as_str().map_or_else(String::new, |why| format!(" ({why})"));
        crate::output::out!("{:>7}  {:<8} {}{why}", text(&stage["name"]), text(&stage["state"]), text(&stage["line"]));
    }
    for owner in &owners {
        crate::output::out!("{}", sharing::line(owner));
    }
    Ok(())
}

/// No loop has run here, yet others land and assemble on the same log.
fn show_owners(global: &Global, owners: &[Owner]) -> Result<(), Failure> {
    if global.json {
        crate::output::out!("{}", serde_json::to_string_pretty(&json!({"owners": owners}))?);
    } else {
        owners.iter().for_each(|owner| crate::output::out!("{}", sharing::line(owner)));
    }
    Ok(())
}

fn not_running(data: &DataDir) -> Failure {
    Failure::msg(Code::NotFound, format!("no loop has run on `{}`", data.root().display()))
        .hint("start it with `flywheel up`")
}
