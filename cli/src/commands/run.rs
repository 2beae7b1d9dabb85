use flywheel_catalog::{CatalogError, Run, RunFilter};

use crate::{
    Global,
    config::Config,
    exit::{Code, Failure},
    output,
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List runs, newest first
    Ls,
    /// Print one run with its progress
    Show {
        /// Run id
        id: String,
    },
    /// Ask a run to stop at its next checkpoint
    Stop {
        /// Run id
        id: String,
    },
    /// Let a stopped or failed run go on from its checkpoint
    Resume {
        /// Run id
        id: String,
    },
}

pub async fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let config = Config::load(global)?;
    crate::data::DataDir::open(&config.data)?;
    let catalog = crate::systems::urls(&config).open_catalog().await.map_err(crate::systems::not_opened)?;
    let runs = catalog.runs();
    match command {
        Command::Ls => {
            let all = runs.list(RunFilter::default()).await?;
            let lines: Vec<_> = all
                .iter()
                .map(|run| {
                    vec![
                        run.id.to_string(),
                        run.kind.clone(),
                        run.state.to_string(),
                        run.progress["steps"].as_u64().map_or_else(|| "-".to_owned(), output::thousands),
                        output::time(run.created_at_ms),
                    ]
                })
                .collect();
            output::print(global, &all, &["run", "kind", "state", "steps", "created"], lines);
        }
        Command::Show { id } => {
            show(&runs.get(&id.parse()?).await.map_err(failure)?)?;
        }
        Command::Stop { id } => {
            runs.request_stop(&id.parse()?).await.map_err(failure)?;
            if global.json {
                return show(&runs.get(&id.parse()?).await.map_err(failure)?);
            }
            crate::output::note!("{id} stops at its next checkpoint; `flywheel run resume {id}` lets it go on");
        }
        Command::Resume { id } => {
            runs.resume(&id.parse()?).await.map_err(failure)?;
            if global.json {
                return show(&runs.get(&id.parse()?).await.map_err(failure)?);
            }
            crate::output::note!("{id} goes on as soon as a trainer takes it");
        }
    }
    Ok(())
}

fn show(run: &Run) -> Result<(), Failure> {
    crate::output::out!("{}", serde_json::to_string_pretty(run)?);
    Ok(())
}

fn failure(error: CatalogError) -> Failure {
    let code = if error.is_not_found() { Code::NotFound } else { Code::Conflict };
    Failure::new(code, error).hint("`flywheel run ls` lists runs and their states")
}
