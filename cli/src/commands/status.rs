use serde_json::Value;

use crate::{
    Global,
    config::Config,
    data::DataDir,
    exit::{Code, Failure},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the loop; taken from the data folder when left out
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Asks the running loop over HTTP.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let url = match args.url {
        Some(url) => url,
        None => {
            let data = DataDir::open(&Config::load(global)?.data)?;
            data.running().map(|running| running.url).ok_or_else(|| not_running(&data))?
        }
    };
    let status: Value = reqwest::get(format!("{}/v1/status", url.trim_end_matches('/')))
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(|error| {
            Failure::new(
                Code::Unreachable,
                anyhow::Error::from(error.without_url()).context(format!("asking the loop at {url}")),
            )
            .hint("start it with `flywheel up`, or name its address with --url")
        })?
        .json()
        .await?;
    if global.json {
        anstream::println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    anstream::println!("{url}, running for {} s", status["seconds"].as_f64().unwrap_or_default() as u64);
    for stage in status["stages"].as_array().into_iter().flatten() {
        let why = stage["why_waiting"].as_str().map_or_else(String::new, |why| format!(" ({why})"));
        anstream::println!("{:>7}  {:<8} {}{why}", text(&stage["name"]), text(&stage["state"]), text(&stage["line"]));
    }
    Ok(())
}

fn not_running(data: &DataDir) -> Failure {
    Failure::msg(Code::NotFound, format!("no loop has run on `{}`", data.root().display()))
        .hint("start it with `flywheel up`")
}
