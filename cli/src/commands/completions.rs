use clap::CommandFactory;
use clap_complete::Shell;

use crate::exit::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell to complete for
    shell: Shell,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "flywheel", &mut script);
    crate::output::raw(&script);
    Ok(())
}
