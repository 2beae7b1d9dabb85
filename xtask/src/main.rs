//! Tasks of the house: `cargo xtask check` holds the workspace to the rules of `docs/architecture.md`.
//!
//! What review would otherwise ask for: rustfmt, clippy, the layer table, crate names, unused dependencies, licences,
//! golden files, metrics, forbidden words. Every rule looks at everything and lists all it finds; one problem or
//! more means exit code 1. The rules are plain functions from the workspace to findings, tested on made-up ones.

mod deploy;
mod docs;
mod golden;
mod layers;
mod licences;
mod metrics;
mod names;
mod report;
mod sources;
mod tools;
mod unused;
mod words;
mod workspace;

use std::process::ExitCode;

use crate::{report::Report, sources::Sources, workspace::Workspace};

const USAGE: &str = "usage: cargo xtask check [--fast]

  check           rustfmt, clippy, and the rules of the house
  check --fast    the rules of the house alone: no rustfmt, no clippy (seconds)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let fast = match arguments[..] {
        ["check"] => false,
        ["check", "--fast"] => true,
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match check(fast) {
        Ok(report) if report.passed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(fast: bool) -> anyhow::Result<Report> {
    let workspace = Workspace::load()?;
    let sources = Sources::load(&workspace)?;
    let mut report = Report::default();

    report.rule("layers", "the arrows between crates", layers::check(&workspace));
    report.rule("names", "crates are named after their folders", names::check(&workspace));
    report.rule("dependencies", "every declared dependency is used", unused::check(&workspace, &sources));
    report.rule("licences", "deny.toml and what it allows", licences::check(&workspace));
    report.rule("golden", "an example of every event kind", golden::check(&workspace, &sources));
    report.rule("metrics", "named flywheel_…, every one described", metrics::check(&workspace, &sources));
    report.rule("deploy", "containers, dashboards, alert rules", deploy::check(&workspace, &sources));
    report.rule("docs", "links lead somewhere, named tests exist", docs::check(&workspace, &sources));
    report.rule("words", "nothing unfinished, no machine's paths", words::check(&workspace, &sources));
    if !fast {
        report.rule("rustfmt", "cargo fmt --check", tools::rustfmt(&workspace));
        report.rule("clippy", "no warnings, workspace and all targets", tools::clippy(&workspace));
        report.rule("seeded", "compiles with the seeded faults in it", tools::seeded(&workspace));
    }
    report.close();
    Ok(report)
}
