//! `make bench-lab`: boots the lab, measures targets side by side, and leaves a
//! table, a plot and all figures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use sidelane_tests::bench_lab::summary::Summary;
use sidelane_tests::bench_lab::{guest, plot, records, tables};

/// Least pairs of what may be published.
const PAIRS_TO_PUBLISH: u32 = 5;

/// Sidelane beside the kernel's own target, in one boot of the lab.
///
/// Only ratios mean something: all is emulated, and differs from boot to boot.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds of each row; each gives a pair of runs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..100))]
    pairs: u32,
    /// Which targets, by the table in tests/scenarios/bench-lab; all when left out
    #[arg(long)]
    targets: Option<String>,
    /// Which backends: `null`, `ssd`; both when left out
    #[arg(long)]
    backends: Option<String>,
    /// Milliseconds of a run that count
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(100..100_000))]
    run_ms: u32,
    /// Where the results go
    #[arg(long)]
    out: PathBuf,
    /// Puts a whole result also into docs/ and README.md of this checkout
    #[arg(long)]
    publish: Option<PathBuf>,
    /// Measures nothing, and takes the lines that a run has left in this file
    #[arg(long)]
    from: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let out = &arguments.out;
    fs::create_dir_all(out).with_context(|| format!("{} cannot be made", out.display()))?;
    let (records, ended) = match &arguments.from {
        Some(file) => {
            let text = fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            (records::parse_all(&text)?, Ok(()))
        }
        None => measure(arguments)?,
    };
    let summary = Summary::of(&records);
    for grid in [
        tables::throughput(&summary),
        tables::processor_time(&summary),
        tables::positions(&summary),
    ] {
        println!("{}", grid.terminal());
    }
    println!(
        "{}{}",
        tables::settings(&summary),
        tables::goals(&summary).replace("**", "")
    );
    let files = [
        ("bench-lab.md", tables::page(&summary)),
        ("bench-lab.svg", plot::svg(&summary)),
        ("bench-lab.json", tables::json(&summary, &records)?),
    ];
    write(out, &files)?;
    println!("table, plot and all figures: {}", out.display());
    if let Some(checkout) = &arguments.publish {
        let all_asked_for =
            given(&arguments.targets).is_none() && given(&arguments.backends).is_none();
        publish(checkout, all_asked_for, &summary, &files)?;
    }
    ended
}

fn measure(arguments: &Arguments) -> anyhow::Result<(Vec<records::Record>, anyhow::Result<()>)> {
    let mut variables = vec![
        ("PAIRS", arguments.pairs.to_string()),
        ("RUN_MS", arguments.run_ms.to_string()),
    ];
    for (key, value) in [
        ("TARGETS", &arguments.targets),
        ("BACKENDS", &arguments.backends),
    ] {
        variables.extend(given(value).map(|value| (key, value.to_owned())));
    }
    let plan = guest::plan(&variables)?;
    eprintln!(
        "{} runs of {:.1} s: at most about {} min on a quiet machine; given up after {} min",
        plan.runs,
        f64::from(arguments.run_ms) / 1e3,
        plan.seconds.div_ceil(60),
        guest::limit_s(plan).div_ceil(60)
    );
    guest::run(&variables, plan, &arguments.out.join("lines.jsonl"))
}

/// A list that was given: make passes on as nothing what nobody has set.
fn given(list: &Option<String>) -> Option<&str> {
    list.as_deref().filter(|list| !list.trim().is_empty())
}

fn write(folder: &Path, files: &[(&str, String)]) -> anyhow::Result<()> {
    for (name, text) in files {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(())
}

/// Only what is whole: a table in the README must not get worse by a short try.
fn publish(
    checkout: &Path,
    all_asked_for: bool,
    summary: &Summary,
    files: &[(&str, String)],
) -> anyhow::Result<()> {
    let pairs = summary.settings.as_ref().map_or(0, |start| start.pairs);
    if !summary.complete || pairs < PAIRS_TO_PUBLISH || !all_asked_for {
        println!(
            "not put into docs/ and README.md: that takes a run of all targets and backends that \
             comes to its end, with at least {PAIRS_TO_PUBLISH} pairs"
        );
        return Ok(());
    }
    let docs = checkout.join("docs");
    fs::create_dir_all(&docs)?;
    write(&docs, files)?;
    let readme = checkout.join("README.md");
    let page = fs::read_to_string(&readme)?;
    let text = format!(
        "{}\n{}\n{}",
        tables::settings(summary),
        tables::throughput(summary).markdown(),
        tables::goals(summary)
    );
    fs::write(
        &readme,
        tables::between_marks(&page, &text).context("README.md")?,
    )?;
    println!("also in docs/ and README.md");
    Ok(())
}
