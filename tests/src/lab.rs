//! Runs a scenario in the lab's virtual machine, see `tests/lab/vm --help`.

pub mod latency;
mod payload;
mod qmp;
pub mod weather;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

pub use self::payload::{Payload, Way};

/// What the target stands on: the same cases are run over both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// Its own RoCEv2, over a UDP socket.
    Soft,
    /// Verbs, on the kernel's rxe.
    Verbs,
}

impl Nic {
    /// As a configuration has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Verbs => "verbs",
        }
    }

    /// The strictest policy that it can meet in the lab: rxe registers no
    /// memory of devices, so it cannot have `require`.
    #[must_use]
    pub fn policy(self) -> &'static str {
        match self {
            Self::Soft => "require",
            Self::Verbs => "prefer",
        }
    }

    /// Where payload goes under that policy.
    #[must_use]
    pub fn way(self) -> Way {
        match self {
            Self::Soft => Way::Peer,
            Self::Verbs => Way::Host(&["nic-unsupported"]),
        }
    }
}

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

    /// The target's counts, as the scenario had them written under this name.
    ///
    /// # Errors
    /// When they are not there, or no JSON.
    pub fn stats(&self, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(
            &self.text(&format!("stats-{name}.json"))?,
        )?)
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
/// for this NIC and with these variables, and passes its output on as it comes.
///
/// # Errors
/// When the lab does not boot.
pub fn run(name: &str, nic: Nic, variables: &[(&str, &str)]) -> anyhow::Result<Outcome> {
    run_with(name, nic, variables, &[])
}

/// As [`run`], with examples of this crate lent to the guest, in `/share`.
///
/// # Errors
/// When the lab does not boot, or an example has not been built.
pub fn run_with(
    name: &str,
    nic: Nic,
    variables: &[(&str, &str)],
    programs: &[&str],
) -> anyhow::Result<Outcome> {
    run_on("two-cmb-8", name, nic, variables, programs)
}

/// As [`run_with`], in a machine with that PCI topology, of
/// `tests/lab/topology`.
///
/// # Errors
/// When the lab does not boot, or an example has not been built.
pub fn run_on(
    topology: &str,
    name: &str,
    nic: Nic,
    variables: &[(&str, &str)],
    programs: &[&str],
) -> anyhow::Result<Outcome> {
    boot(topology, name, nic, variables, programs, false)
}

/// As [`run_on`] without programs, and passes on to QEMU what the scenario asks
/// of it, see [`qmp`].
///
/// # Errors
/// When the lab does not boot.
pub fn run_with_qmp(
    topology: &str,
    name: &str,
    nic: Nic,
    variables: &[(&str, &str)],
) -> anyhow::Result<Outcome> {
    boot(topology, name, nic, variables, &[], true)
}

fn boot(
    topology: &str,
    name: &str,
    nic: Nic,
    variables: &[(&str, &str)],
    programs: &[&str],
    with_qmp: bool,
) -> anyhow::Result<Outcome> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let share = tempfile::tempdir()?;
    // Outside of what the guest sees, and with a name short enough for a socket.
    let outside = tempfile::tempdir()?;
    let socket = outside.path().join("qmp");
    let _messenger = with_qmp.then(|| qmp::Messenger::start(&socket, share.path()));
    let scenarios = tests.join("scenarios");
    for entry in fs::read_dir(&scenarios)? {
        let entry = entry?;
        fs::copy(entry.path(), share.path().join(entry.file_name()))?;
    }
    for program in programs {
        let from = example(program)?;
        fs::copy(&from, share.path().join(program))
            .with_context(|| format!("{} cannot be lent to the guest", from.display()))?;
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
        .args(
            with_qmp
                .then(|| [OsStr::new("--qmp"), socket.as_os_str()])
                .into_iter()
                .flatten(),
        )
        .args(["--", "env"])
        .arg(format!("NIC={}", nic.name()))
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

/// Where cargo puts an example: beside the folder of the tests, which it builds
/// together with them.
fn example(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let built = test.parent().and_then(Path::parent);
    Ok(built
        .context("a test without folders")?
        .join("examples")
        .join(name))
}
