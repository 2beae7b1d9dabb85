use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output::thousands,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this game
    game: Option<String>,
}

/// Compares log and tables; exit code 7 if the books do not balance.
pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let config = Config::load(global)?;
    let backends = crate::systems::open_existing(&config).await?;
    let report = crate::systems::audit(&backends, args.game.as_deref()).await?;
    if global.json {
        anstream::println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        anstream::println!("{report}");
    }
    if report.ok() {
        return Ok(());
    }
    let behind = report.behind();
    if behind > 0 {
        return Err(Failure::msg(
            Code::Temporary,
            format!("{} events of the log are not landed yet", thousands(behind)),
        )
        .hint("run `flywheel up --for 10s` (or wait, if it runs) and audit again"));
    }
    Err(Failure::msg(Code::CheckFailed, "the books do not balance").hint("the games listed above differ; keep the data folder"))
}
