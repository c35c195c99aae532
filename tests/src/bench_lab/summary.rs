//! All runs of one boot, brought to medians, ratios and verdicts.

use std::collections::BTreeMap;

use serde::Serialize;

use super::records::{Machine, Record, Row, Run, Spent, Start, TargetLine};
use super::statistics::{
    Rounds, Spread, Verdict, geometric_mean, median, noise_floor, pair_ratios,
};

/// The target that all others are compared with.
pub const REFERENCE: &str = "nvmet";

/// The target that is to be level with it: the one in the same position.
pub const PEER: &str = "verbs";

/// The most that an idle target may use of a core, in percent.
pub const IDLE_GOAL_PERCENT: f64 = 1.0;

/// What there is to say about one boot.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// How it was measured; nothing if the guest never got so far.
    pub settings: Option<Start>,
    /// The machine, if it was looked at.
    pub machine: Option<Machine>,
    /// Who was measured, in the order of the table.
    pub targets: Vec<TargetLine>,
    /// What was measured, in order.
    pub rows: Vec<RowSummary>,
    /// The geometric mean over the rows of the ratios, by target.
    pub overall: BTreeMap<String, f64>,
    /// Connected hosts that ask for nothing.
    pub idle: Vec<IdleSummary>,
    /// Goals.
    pub goals: Vec<Goal>,
    /// What is missing, one sentence each.
    pub missing: Vec<String>,
    /// Whether the guest came to its end.
    pub complete: bool,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub struct RowSummary {
    /// What was done.
    #[serde(flatten)]
    pub row: Row,
    /// By whom.
    pub cells: BTreeMap<String, Cell>,
}

/// One target in one row.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cell {
    /// Runs that gave a figure.
    pub runs: usize,
    /// Commands a second, median.
    pub iops: f64,
    /// Median latency in microseconds, median of the runs.
    pub p50_us: f64,
    /// 99th percentile in microseconds, median of the runs.
    pub p99_us: f64,
    /// The noise among the runs of this target, see `statistics::noise_floor`.
    pub noise: Option<f64>,
    /// Ratio of `iops` to the reference's, pair by pair.
    pub ratio: Option<Spread>,
    /// What that ratio means, given the noise of the reference.
    pub verdict: Option<Verdict>,
    /// Seconds that CPUs of the guest were busy for a million commands, median.
    pub guest_s_per_million: Option<f64>,
    /// Seconds that the target's process ran for a million commands, median.
    pub process_s_per_million: Option<f64>,
}

/// What a target costs while its host asks for nothing.
#[derive(Debug, Clone, Serialize)]
pub struct IdleSummary {
    /// Whom the host is connected to; `none` for no host.
    pub target: String,
    /// CPUs of the guest, in percent of one.
    pub guest_percent: f64,
    /// The target's process, in percent of a CPU.
    pub process_percent: Option<f64>,
}

/// Something that should be so.
#[derive(Debug, Clone, Serialize)]
pub struct Goal {
    /// What.
    pub what: String,
    /// Is it? Nothing where it was not measured.
    pub met: Option<bool>,
    /// The figures, or why there are none.
    pub detail: String,
}

impl Goal {
    /// `met`, `NOT MET` or `not measured`.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "not measured",
        }
    }
}

impl Summary {
    /// Weighs what the guest said; also when it did not come to its end.
    #[must_use]
    pub fn of(records: &[Record]) -> Self {
        let mut summary = Self::default();
        let mut runs: Vec<(Row, Vec<&Run>)> = Vec::new();
        let mut absent: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
        let mut failed = Vec::new();
        for record in records {
            match record {
                Record::Plan(_) => {}
                Record::Start(start) => summary.settings = Some(start.clone()),
                Record::Target(target) => summary.targets.push(target.clone()),
                Record::Absent(line) => absent
                    .entry((&line.target, &line.why))
                    .or_default()
                    .push(format!("{} {}", line.backend, line.in_capsule)),
                Record::Idle(idle) => summary.idle.push(idle_of(&idle.target, &idle.spent)),
                Record::Run(run) => match runs.iter_mut().find(|(row, _)| *row == run.row) {
                    Some((_, of_row)) => of_row.push(run),
                    None => runs.push((run.row.clone(), vec![run])),
                },
                Record::Failed(run) => failed.push(format!(
                    "{} failed on {}, round {}: {}",
                    run.target, run.row, run.round, run.why
                )),
                Record::End {} => summary.complete = true,
                Record::Machine(machine) => summary.machine = Some(*machine),
            }
        }
        for ((target, why), parts) in absent {
            let parts = parts.join(", ");
            let what = format!("{target} is not there (backend, in-capsule bytes: {parts}): {why}");
            summary.missing.push(what);
        }
        summary.missing.append(&mut failed);
        if !summary.complete {
            let what = "the run stopped before its end; the figures are those it had until then";
            summary.missing.push(what.to_owned());
        }
        summary.rows = runs
            .into_iter()
            .map(|(row, runs)| summarize(row, &runs))
            .collect();
        for target in &summary.targets {
            let ratios: Vec<_> = summary
                .ratios(&target.target)
                .map(|ratio| ratio.median)
                .collect();
            if let Some(mean) = geometric_mean(&ratios) {
                summary.overall.insert(target.target.clone(), mean);
            }
        }
        summary.goals = vec![summary.level_goal(), summary.idle_goal()];
        summary
    }

    /// The ratios of a target, over all rows that have one.
    fn ratios<'a>(&'a self, target: &'a str) -> impl Iterator<Item = Spread> + 'a {
        self.rows
            .iter()
            .filter_map(move |row| row.cells.get(target)?.ratio)
    }

    fn level_goal(&self) -> Goal {
        let verdicts: Vec<(&Row, Verdict)> = self
            .rows
            .iter()
            .filter_map(|row| Some((&row.row, row.cells.get(PEER)?.verdict?)))
            .collect();
        let with = |wanted: Verdict| -> Vec<String> {
            let rows = verdicts.iter().filter(|(_, verdict)| *verdict == wanted);
            rows.map(|(row, _)| row.to_string()).collect()
        };
        let (below, unclear) = (with(Verdict::Below), with(Verdict::Unclear));
        let (rows, known) = (self.rows.len(), verdicts.len() - unclear.len());
        let mut detail = format!("so it is on {} of {rows} rows", known - below.len());
        for (which, what) in [(&below, "below"), (&unclear, "too much noise")] {
            if !which.is_empty() {
                detail += &format!("; {what}: {}", which.join(" / "));
            }
        }
        if verdicts.is_empty() {
            detail = format!("no row has {PEER} and {REFERENCE} in two rounds");
        }
        // One row that is not known leaves it open, one that is below does not.
        let met = match below.is_empty() {
            false => Some(false),
            true => (known > 0 && known == rows && self.complete).then_some(true),
        };
        Goal {
            what: format!("{PEER} at least level with {REFERENCE}, beyond the noise, on every row"),
            met,
            detail,
        }
    }

    fn idle_goal(&self) -> Goal {
        let of_processes: Vec<(&str, f64)> = self
            .idle
            .iter()
            .filter_map(|idle| Some((idle.target.as_str(), idle.process_percent?)))
            .collect();
        let figures: Vec<String> = of_processes
            .iter()
            .map(|(target, percent)| format!("{target} {percent:.2} %"))
            .collect();
        let all = |(_, percent): &(&str, f64)| *percent < IDLE_GOAL_PERCENT;
        Goal {
            what: format!(
                "Sidelane with an idle host uses less than {IDLE_GOAL_PERCENT} % of a core"
            ),
            met: (!of_processes.is_empty()).then(|| of_processes.iter().all(all)),
            detail: match figures.as_slice() {
                [] => "no such process was measured".to_owned(),
                figures => figures.join(", "),
            },
        }
    }
}

fn idle_of(target: &str, spent: &Spent) -> IdleSummary {
    let us = spent.us.max(1) as f64;
    IdleSummary {
        target: target.to_owned(),
        guest_percent: spent.busy_us as f64 / us * 100.0,
        process_percent: spent.process_ns.map(|ns| ns as f64 / 1e3 / us * 100.0),
    }
}

fn summarize(row: Row, runs: &[&Run]) -> RowSummary {
    let mut by_target: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        by_target.entry(&run.target).or_default().push(run);
    }
    let rounds_of = |runs: &[&Run]| -> Rounds { runs.iter().map(|r| (r.round, r.iops)).collect() };
    let reference = by_target.get(REFERENCE).map(|runs| rounds_of(runs));
    let floor = reference.as_ref().and_then(noise_floor);
    let cells = by_target.iter().map(|(target, runs)| {
        let rounds = rounds_of(runs);
        let mut cell = cell(runs);
        cell.noise = noise_floor(&rounds);
        if *target != REFERENCE {
            let pairs = reference
                .as_ref()
                .map(|reference| pair_ratios(&rounds, reference));
            cell.ratio = pairs.and_then(|pairs| Spread::of(&pairs));
            cell.verdict = cell
                .ratio
                .zip(floor)
                .map(|(ratio, floor)| Verdict::on(ratio.median, floor));
        }
        ((*target).to_owned(), cell)
    });
    RowSummary {
        cells: cells.collect(),
        row,
    }
}

/// The medians of one target's runs.
fn cell(runs: &[&Run]) -> Cell {
    let middle = |figure: &dyn Fn(&Run) -> Option<f64>| -> Option<f64> {
        median(
            &runs
                .iter()
                .filter_map(|run| figure(run))
                .collect::<Vec<_>>(),
        )
    };
    let spent = |run: &Run| run.spent.filter(|spent| spent.commands > 0);
    Cell {
        runs: runs.len(),
        iops: middle(&|run| Some(run.iops)).unwrap_or_default(),
        p50_us: middle(&|run| Some(run.p50_us)).unwrap_or_default(),
        p99_us: middle(&|run| Some(run.p99_us)).unwrap_or_default(),
        // Microseconds a command are seconds a million commands.
        guest_s_per_million: middle(&|run| {
            spent(run).map(|spent| spent.busy_us as f64 / spent.commands as f64)
        }),
        process_s_per_million: middle(&|run| {
            let spent = spent(run)?;
            Some(spent.process_ns? as f64 / 1e3 / spent.commands as f64)
        }),
        ..Cell::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_lab::records::Idle;

    fn row(depth: u32) -> Row {
        Row {
            backend: "null".to_owned(),
            in_capsule: 0,
            rw: "read".to_owned(),
            block: 4096,
            depth,
        }
    }

    fn run(target: &str, depth: u32, round: u32, iops: f64) -> Record {
        let process = (target != REFERENCE).then_some(500_000_000);
        Record::Run(Run {
            target: target.to_owned(),
            row: row(depth),
            round,
            iops,
            p50_us: 10.0,
            p99_us: 20.0,
            spent: Some(Spent {
                us: 1_000_000,
                commands: 1000,
                busy_us: 1_500_000,
                process_ns: process,
            }),
        })
    }

    fn idle(target: &str, process_ns: Option<u64>) -> Record {
        Record::Idle(Idle {
            target: target.to_owned(),
            spent: Spent {
                us: 5_000_000,
                commands: 0,
                busy_us: 100_000,
                process_ns,
            },
        })
    }

    /// Two rounds of one row; the reference is 1.1 times itself apart, a noise of 1.21.
    fn two_rounds(peer: f64) -> Vec<Record> {
        two_rounds_at(1, peer)
    }

    fn two_rounds_at(depth: u32, peer: f64) -> Vec<Record> {
        vec![
            run(REFERENCE, depth, 0, 100.0),
            run(PEER, depth, 0, 100.0 * peer),
            run(PEER, depth, 1, 110.0 * peer),
            run(REFERENCE, depth, 1, 110.0),
        ]
    }

    #[test]
    fn the_goal_of_being_level_follows_the_noise() {
        let cases = [
            (1.0, Some(true)),
            (0.85, Some(true)),
            (1.5, Some(true)),
            (0.80, Some(false)),
        ];
        for (peer, met) in cases {
            let mut records = two_rounds(peer);
            records.push(Record::End {});
            assert_eq!(Summary::of(&records).goals[0].met, met, "{peer}");
        }
    }

    #[test]
    fn a_goal_is_open_where_rows_are_missing_unless_one_is_below() {
        let mut records = two_rounds(1.0);
        assert_eq!(Summary::of(&records).goals[0].met, None, "no end");
        records.push(Record::End {});
        records.push(run(REFERENCE, 32, 0, 100.0));
        assert_eq!(Summary::of(&records).goals[0].met, None, "a row without it");
        let below = [two_rounds_at(8, 0.5), records].concat();
        assert_eq!(Summary::of(&below).goals[0].met, Some(false));
        assert_eq!(Summary::of(&[]).goals[0].met, None);
    }

    #[test]
    fn idle_targets_are_held_to_their_goal_only_where_they_are_processes() {
        let share = |process| Summary::of(&[idle("nvmet", None), idle("soft", process)]);
        assert_eq!(share(None).goals[1].met, None);
        assert_eq!(share(Some(20_000_000)).goals[1].met, Some(true));
        assert_eq!(share(Some(60_000_000)).goals[1].met, Some(false));
        let first = share(None).idle.remove(0);
        assert!((first.guest_percent - 2.0).abs() < 1e-9);
    }

    #[test]
    fn processor_time_is_told_per_million_commands() {
        let summary = Summary::of(&two_rounds(1.0));
        let cells = &summary.rows[0].cells;
        assert_eq!(cells[PEER].guest_s_per_million, Some(1500.0));
        assert_eq!(cells[PEER].process_s_per_million, Some(500.0));
        assert_eq!(cells[REFERENCE].process_s_per_million, None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let summary = Summary::of(&two_rounds(1.0));
        assert!(!summary.complete && summary.missing.len() == 1);
    }
}
