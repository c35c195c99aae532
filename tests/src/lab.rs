//! Runs a scenario in the lab's virtual machine, see `tests/lab/vm --help`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// What a scenario left behind.
#[derive(Debug)]
pub struct Outcome {
    /// The folder that was `/share` in the guest.
    pub share: tempfile::TempDir,
    /// Whether each step succeeded, by name.
    pub steps: BTreeMap<String, bool>,
    /// Exit status of the scenario.
    pub status: Option<i32>,
}

impl Outcome {
    /// Fails with the names of the steps that failed, or when there was none.
    ///
    /// # Errors
    /// See above.
    pub fn all_ok(&self) -> anyhow::Result<()> {
        let failed: Vec<_> = self
            .steps
            .iter()
            .filter(|(_, ok)| !**ok)
            .map(|(n, _)| n)
            .collect();
        ensure!(failed.is_empty(), "steps that failed: {failed:?}");
        ensure!(
            self.status == Some(0),
            "the scenario ended with {:?}",
            self.status
        );
        ensure!(!self.steps.is_empty(), "the scenario reported no step");
        Ok(())
    }

    /// A file that the scenario left.
    pub fn file(&self, name: &str) -> PathBuf {
        self.share.path().join(name)
    }

    /// The text of a file that the scenario left.
    ///
    /// # Errors
    /// When it is not there.
    pub fn text(&self, name: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.file(name)).with_context(|| format!("the scenario left no {name}"))
    }
}

/// Boots the lab with the scenario's folder shared, runs `tests/scenarios/NAME`
/// with these variables, and passes its output on as it comes.
///
/// # Errors
/// When the lab does not boot.
pub fn run(name: &str, topology: &str, variables: &[(&str, &str)]) -> anyhow::Result<Outcome> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let share = tempfile::tempdir()?;
    let scenarios = tests.join("scenarios");
    for entry in fs::read_dir(&scenarios)? {
        let entry = entry?;
        fs::copy(entry.path(), share.path().join(entry.file_name()))?;
    }
    let mut child = Command::new(tests.join("lab/vm"))
        .args([
            "run",
            "--topology",
            topology,
            "--timeout",
            "1200",
            "--share",
        ])
        .arg(share.path())
        .args(["--", "env"])
        .args(
            variables
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        )
        .arg(format!("/share/{name}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("tests/lab/vm cannot be run")?;
    let mut steps = BTreeMap::new();
    let output = child.stdout.take().context("no output of the lab")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        if let Some(step) = line.strip_prefix("ok - ") {
            steps.insert(step.to_owned(), true);
        } else if let Some(step) = line.strip_prefix("not ok - ") {
            steps.insert(step.to_owned(), false);
        }
    }
    let status = child.wait()?.code();
    Ok(Outcome {
        share,
        steps,
        status,
    })
}
