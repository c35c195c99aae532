//! `sidelane selftest`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sidelane_config::Config;
use tokio::signal::unix::{SignalKind, signal};

use super::args::SelftestArgs;
use crate::devices::VfioDevices;
use crate::selftest::{self, Observer, SelftestOptions, SelftestReport};

/// What a shell reports of a process that SIGINT ended.
const STATUS_INTERRUPTED: i32 = 128 + 2;

pub(super) fn run(args: SelftestArgs) -> anyhow::Result<()> {
    let json = args.json;
    let report = with_signals(move |stop| {
        let config = Config::load(&args.config)?;
        let devices = VfioDevices::new("/sys")?;
        let bar = bar(json);
        let outcome = selftest::run(
            &config,
            &devices,
            &SelftestOptions::from(&args),
            &mut Observer {
                stop,
                progress: &mut |case, done, total| {
                    bar.set_length(total);
                    bar.set_position(done);
                    bar.set_message(case.to_owned());
                },
            },
        );
        bar.finish_and_clear();
        outcome
    })?;
    let text = match json {
        true => report.to_json()?,
        false => report.to_string(),
    };
    writeln!(std::io::stdout(), "{text}").context("the report could not be printed")?;
    if !report.passed {
        bail!(
            "the self-test has not passed: {}",
            report.failures.join("; ")
        );
    }
    Ok(())
}

/// Runs the test beside a wait for Ctrl-C or SIGTERM: the first one asks it for
/// an orderly end, the second one is heeded at once.
fn with_signals(
    test: impl FnOnce(&AtomicBool) -> anyhow::Result<SelftestReport> + Send + 'static,
) -> anyhow::Result<SelftestReport> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let mut test = tokio::task::spawn_blocking(move || test(&seen));
        loop {
            tokio::select! {
                outcome = &mut test => return outcome.context("the self-test had panicked")?,
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stop.swap(true, Ordering::Relaxed) {
                std::process::exit(STATUS_INTERRUPTED);
            }
        }
    })
}

/// On stderr, where that is a terminal.
fn bar(silent: bool) -> ProgressBar {
    let target = match silent {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(None, target);
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} transfers\n{msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
