//! The `sidelane` command: what each subcommand prints and how it ends.

mod args;
mod check;
mod ping;
mod selftest;
mod serve;
mod stats;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use self::args::{Cli, Command};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = log(cli.log.as_deref(), &cli.command) {
        eprintln!("error: {error:#}");
        return ExitCode::from(2);
    }
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Selftest(args) => selftest::run(args),
        Command::Stats(args) => stats::run(&args),
        Command::Ping(args) => ping::run(args),
        Command::Demo(args) => crate::demo::main(&args.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs go to stderr; results have stdout for themselves.
fn log(filter: Option<&str>, command: &Command) -> anyhow::Result<()> {
    let from_environment = std::env::var("SIDELANE_LOG").ok();
    // A service says what it does; the others have a result to show.
    let default = if matches!(command, Command::Serve(_)) {
        "info"
    } else {
        "warn"
    };
    let directives = filter.or(from_environment.as_deref()).unwrap_or(default);
    // It tells of each list operation; only who names it wants to know.
    let directives = format!("offset_allocator=warn,{directives}");
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        anyhow::anyhow!("`{directives}` is no log filter: {error}; `--help` shows some")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
