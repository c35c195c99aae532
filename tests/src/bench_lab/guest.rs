//! Boots the lab with `tests/scenarios/bench-lab` in it, and takes its lines as
//! they come.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::machine::Ticks;
use super::records::{Plan, Record, parse};

/// The scenario and what it sources.
const FILES: [&str; 3] = ["lib.sh", "bench-lab", "bench-lab.sh"];

/// Progress is said no more often.
const PROGRESS: Duration = Duration::from_secs(20);

/// Room for what three SSDs and the guest's root are written to, generously.
const DISKS_MIB: u64 = 2048;

/// What the scenario is told, as variables of its environment.
pub type Variables = Vec<(&'static str, String)>;

/// Asks the scenario, without a guest, what it would do.
///
/// # Errors
/// When it does not like the variables; it says why on stderr.
pub fn plan(variables: &Variables) -> anyhow::Result<Plan> {
    let scenario = tests().join("scenarios/bench-lab");
    let output = Command::new(&scenario)
        .arg("--plan")
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .stderr(Stdio::inherit())
        .output()
        .context("tests/scenarios/bench-lab cannot be run")?;
    ensure!(
        output.status.success(),
        "this cannot be measured, see above"
    );
    match parse(1, String::from_utf8_lossy(&output.stdout).trim())? {
        Record::Plan(plan) => Ok(plan),
        other => anyhow::bail!("tests/scenarios/bench-lab --plan gives no plan but {other:?}"),
    }
}

/// Seconds after which it is given up: a busy machine takes its time, a guest
/// that hangs must not.
#[must_use]
pub fn limit_s(plan: Plan) -> u64 {
    plan.seconds * 2 + 300
}

/// Boots, measures, and returns what the guest said, also when it stopped early:
/// then with the reason. Each line is in the file `keep` before the next comes,
/// so that nothing is lost when this is interrupted.
///
/// Not `lab::run`: that one knows names of steps only, and has its own limit of time.
///
/// # Errors
/// When nothing could be started.
pub fn run(
    variables: &Variables,
    plan: Plan,
    keep: &Path,
) -> anyhow::Result<(Vec<Record>, anyhow::Result<()>)> {
    let share = tempfile::tempdir()?;
    for name in FILES {
        fs::copy(
            tests().join("scenarios").join(name),
            share.path().join(name),
        )
        .with_context(|| format!("tests/scenarios/{name} cannot be copied"))?;
    }
    let mut kept =
        File::create(keep).with_context(|| format!("{} cannot be written", keep.display()))?;
    let memory = disks_in_memory();
    let before = Ticks::now()?;
    let mut child = Command::new(tests().join("lab/vm"))
        .args(["run", "--topology", "two-cmb", "--timeout"])
        .arg(limit_s(plan).to_string())
        .arg("--share")
        .arg(share.path())
        .args(["--", "env"])
        .args(
            variables
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        )
        .arg("/share/bench-lab")
        .envs(memory.map(|folder| ("TMPDIR", folder)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("tests/lab/vm cannot be run")?;
    let output = child.stdout.take().context("no output of the lab")?;
    let mut records = Vec::new();
    let mut progress = Progress::new(plan);
    let mut wrong = Ok(());
    for (index, line) in BufReader::new(output).lines().enumerate() {
        let line = line?;
        writeln!(kept, "{line}")?;
        match parse(index + 1, &line) {
            Ok(record) => {
                progress.of(&record);
                records.push(record);
            }
            // The rest is still worth having.
            Err(error) => wrong = wrong.and(Err(error)),
        }
    }
    let status = child.wait()?;
    let machine = Record::Machine(Ticks::now()?.since(&before));
    writeln!(kept, "{}", serde_json::to_string(&machine)?)?;
    records.push(machine);
    wrong = wrong.and_then(|()| {
        ensure!(
            status.success(),
            "the lab ended with {status}; what it had measured until then is in {}",
            keep.display()
        );
        Ok(())
    });
    Ok((records, wrong))
}

/// A folder in memory with room for what the SSDs hold: else a run that meets this
/// machine's own disk when it is busy measures that one. Nothing where somebody
/// has said where temporary files go, or where there is little room.
fn disks_in_memory() -> Option<&'static str> {
    let folder = "/dev/shm";
    if std::env::var_os("TMPDIR").is_some() {
        return None;
    }
    let df = Command::new("df")
        .args(["--output=fstype,avail", "--block-size=1M", folder])
        .output()
        .ok()?;
    let text = String::from_utf8(df.stdout).ok()?;
    let mut words = text.lines().nth(1)?.split_whitespace();
    let (kind, room) = (words.next()?, words.next()?.parse::<u64>().ok()?);
    (kind == "tmpfs" && room >= DISKS_MIB).then_some(folder)
}

fn tests() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Says on stderr how far it is.
struct Progress {
    plan: Plan,
    done: u64,
    start: Instant,
    first: Option<Instant>,
    said: Instant,
}

impl Progress {
    fn new(plan: Plan) -> Self {
        let now = Instant::now();
        Self {
            plan,
            done: 0,
            start: now,
            first: None,
            said: now,
        }
    }

    fn of(&mut self, record: &Record) {
        match record {
            Record::Run(_) | Record::Failed(_) => self.done += 1,
            Record::Idle(idle) => return eprintln!("  idle: {} measured", idle.target),
            _ => return,
        }
        let first = *self.first.get_or_insert_with(Instant::now);
        if self.said.elapsed() < PROGRESS || self.done < 2 {
            return;
        }
        self.said = Instant::now();
        // "At most", since targets that turn out not to be there are in the plan.
        let left = self.plan.runs.saturating_sub(self.done);
        let a_run = first.elapsed().as_secs_f64() / (self.done - 1) as f64;
        eprintln!(
            "  {} of at most {} runs after {} s, at most {:.0} min left",
            self.done,
            self.plan.runs,
            self.start.elapsed().as_secs(),
            (a_run * left as f64 / 60.0).ceil()
        );
    }
}
