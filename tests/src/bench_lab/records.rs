//! The lines that `tests/scenarios/bench-lab` prints, one JSON object each.

use std::fmt;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// How much there will be to do.
    Plan(Plan),
    /// The guest is ready.
    Start(Start),
    /// A target that was asked for.
    Target(TargetLine),
    /// A target that cannot be measured in a part of the rows.
    Absent(Absent),
    /// A connected host that asks for nothing.
    Idle(Idle),
    /// One run of fio.
    Run(Run),
    /// A run of fio that came to nothing.
    Failed(Failed),
    /// All has been tried.
    End {},
    /// What others did meanwhile on the machine around the guest; not the guest's own line.
    Machine(Machine),
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Runs of fio.
    pub runs: u64,
    /// About how long it takes on a quiet machine.
    pub seconds: u64,
}

/// The settings, as the guest took them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// `uname -r`.
    pub kernel: String,
    /// Rounds of each row; each gives a pair of runs.
    pub pairs: u32,
    /// Milliseconds of a run that count.
    pub run_ms: u32,
    /// Milliseconds before them.
    pub ramp_ms: u32,
}

/// A target and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetLine {
    /// Its name in all other lines.
    pub target: String,
    /// What it is.
    pub what: String,
    /// How the host reaches it.
    pub position: String,
    /// Its SSD by serial, `-` for none.
    pub ssd: String,
}

/// Why a target is not in the rows of a backend and an in-capsule size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// Which.
    pub target: String,
    /// On which backend.
    pub backend: String,
    /// With how many bytes of in-capsule data.
    pub in_capsule: u32,
    /// Its own last words.
    pub why: String,
}

/// What a span of time has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// The span, in microseconds.
    pub us: u64,
    /// Commands that ended in it, as the host's disk counts them.
    pub commands: u64,
    /// Microseconds that CPUs of the guest were busy: host, target and kernel.
    pub busy_us: u64,
    /// Nanoseconds that the target's process ran, if it is one.
    pub process_ns: Option<u64>,
}

/// The cost of an idle host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idle {
    /// Whom it is connected to; `none`: all targets are there, no host is.
    pub target: String,
    /// The cost.
    pub spent: Spent,
}

/// The machine around the guest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// CPUs it has.
    pub cpus: u32,
    /// How many of them others kept busy on average.
    pub others: f64,
}

/// What a run does, without by whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    /// `null` or `ssd`.
    pub backend: String,
    /// Bytes of data that the target takes inside capsules.
    pub in_capsule: u32,
    /// `read` or `write`, at random.
    pub rw: String,
    /// Bytes of a command.
    pub block: u32,
    /// Commands at a time.
    pub depth: u32,
}

/// One run of fio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Whom.
    pub target: String,
    /// What.
    #[serde(flatten)]
    pub row: Row,
    /// In which round, from 0; runs of one round make pairs.
    pub round: u32,
    /// Commands a second.
    pub iops: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile of latency, microseconds.
    pub p99_us: f64,
    /// What the middle of the run cost; nothing when fio ended too soon.
    pub spent: Option<Spent>,
}

/// A run that gave no figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Whom.
    pub target: String,
    /// What.
    #[serde(flatten)]
    pub row: Row,
    /// In which round.
    pub round: u32,
    /// What fio said.
    pub why: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            backend,
            rw,
            depth,
            block,
            in_capsule,
        } = self;
        write!(f, "{backend}, {} KiB {rw}, depth {depth}", block / 1024)?;
        match in_capsule {
            0 => Ok(()),
            bytes => write!(f, ", in-capsule {} KiB", bytes / 1024),
        }
    }
}

/// Reads one line; `number` (from 1) is for the message.
///
/// # Errors
/// When it is not what the scenario prints, or has figures that cannot be.
pub fn parse(number: usize, line: &str) -> anyhow::Result<Record> {
    let shown: String = line.chars().take(160).collect();
    let record: Record = serde_json::from_str(line).with_context(|| {
        format!(
            "line {number} is not a measurement: `{shown}`\n  remedy: only the JSON lines of \
             tests/scenarios/bench-lab belong here; what else the guest prints has to go to stderr"
        )
    })?;
    if let Record::Run(run) = &record {
        for (figure, name) in [
            (run.iops, "iops"),
            (run.p50_us, "p50_us"),
            (run.p99_us, "p99_us"),
        ] {
            ensure!(
                figure.is_finite() && figure > 0.0,
                "line {number}: {name} is {figure}, which no run can have: `{shown}`"
            );
        }
    }
    Ok(record)
}

/// Reads all lines; empty ones do not count.
///
/// # Errors
/// As [`parse`].
pub fn parse_all(text: &str) -> anyhow::Result<Vec<Record>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| parse(index + 1, line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"{"kind":"run","target":"soft","backend":"null","in_capsule":0,"rw":"read",
        "block":4096,"depth":32,"round":1,"iops":812.5,"p50_us":900.0,"p99_us":2000.5,
        "spent":{"us":1000000,"commands":800,"busy_us":1500000,"process_ns":null}}"#;

    #[test]
    fn a_run_is_read_as_it_was_written() -> anyhow::Result<()> {
        let record = parse(1, RUN)?;
        let again = parse(2, &serde_json::to_string(&record)?)?;
        assert_eq!(record, again);
        let Record::Run(run) = record else {
            anyhow::bail!("not a run: {record:?}");
        };
        assert_eq!(run.row.to_string(), "null, 4 KiB read, depth 32");
        assert_eq!(run.spent.map(|spent| spent.commands), Some(800));
        Ok(())
    }

    #[test]
    fn garbage_is_refused_with_its_line_and_a_remedy() {
        let cases = [
            "",
            "bash: jq: command not found",
            "{\"kind\":\"run\"}",
            "{\"kind\":\"unheard-of\"}",
            "[1, 2]",
            "{\"kind\":\"plan\",\"runs\":-1,\"seconds\":3}",
            "{\"kind\":\"plan\",\"runs\":1,\"seconds\":3,\"more\":0}",
            &RUN[..RUN.len() - 1],
        ];
        for case in cases {
            let error = parse(17, case).expect_err(case).to_string();
            assert!(
                error.contains("line 17") && error.contains("remedy"),
                "{error}"
            );
        }
    }

    #[test]
    fn figures_that_cannot_be_are_refused() {
        for wrong in ["0", "-3.5"] {
            let line = RUN.replace("812.5", wrong);
            let error = parse(5, &line).expect_err(wrong).to_string();
            assert!(
                error.contains("line 5: iops") && error.contains(wrong),
                "{error}"
            );
        }
    }

    #[test]
    fn garbage_in_the_middle_names_its_line() {
        let text =
            "{\"kind\":\"plan\",\"runs\":1,\"seconds\":3}\n\noops\n{\"kind\":\"end\"}".to_owned();
        let error = parse_all(&text).expect_err("oops").to_string();
        assert!(error.contains("line 3"), "{error}");
    }
}
