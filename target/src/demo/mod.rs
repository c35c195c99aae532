//! `sidelane demo`: a target with modelled SSDs and a host, joined by RoCEv2
//! over loopback, in one process. The host writes, reads back and compares, on a
//! namespace with `p2p = "require"` and on one with `p2p = "off"`.
//!
//! It must work for anybody on any Linux machine: no device, no privilege, no
//! setting of the system, nothing left behind, and not one demo at a time only.

mod addresses;
mod error;
mod interrupt;
mod options;
mod pattern;
mod play;
mod progress;
mod proof;
mod report;
mod stage;
mod table;
mod workload;

use std::io::Write;

use anyhow::{Context, bail};

pub use error::DemoError;
pub use options::{COMMAND_BYTES_MAX, DEPTH_MAX, DemoOptions, SSD_BLOCK_BYTES};
pub use play::run;
pub use report::{DemoReport, DirectionOutcome, LatencyOutcome, Mismatch, NamespaceOutcome};

/// Runs a demo and prints its report to stdout: a table, or one JSON object.
/// Ctrl-C or SIGTERM ends it early, in order.
///
/// # Errors
/// When it could not be brought to its end, and when it was and not all is well.
pub fn main(options: &DemoOptions) -> anyhow::Result<()> {
    let stop = interrupt::flag();
    let report = run(options, &stop)?;
    let text = if options.json {
        report.to_json()?
    } else {
        report.to_string()
    };
    writeln!(std::io::stdout(), "{text}").context("the report could not be printed")?;
    if !report.passed() {
        bail!(
            "the demo has found what must not be: {}",
            report.failures.join("; ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
