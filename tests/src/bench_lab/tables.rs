//! The tables, for a terminal and in Markdown, and the folder of results.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, TableComponent, presets};
use serde_json::json;

use super::records::{Record, Row};
use super::statistics::{Spread, Verdict};
use super::summary::{Cell, REFERENCE, Summary};

/// Cells of text under a head.
#[derive(Debug, Clone)]
pub struct Grid {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// For a terminal.
    #[must_use]
    pub fn terminal(&self) -> String {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .set_header(&self.head)
            .add_rows(&self.rows);
        for rule in [
            TableComponent::HorizontalLines,
            TableComponent::MiddleIntersections,
        ] {
            table.remove_style(rule);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}\n", table.trim_fmt())
    }

    /// For a file; texts here have no bars in them.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = vec!["--:".to_owned(); self.head.len().saturating_sub(1)];
        let rule = [vec!["---".to_owned()], rule].concat();
        let rows = self.rows.iter().map(|row| line(row));
        [line(&self.head), line(&rule)]
            .into_iter()
            .chain(rows)
            .collect()
    }
}

/// Commands as a person likes to read them: large ones by their bytes.
fn rate(row: &Row, iops: f64) -> String {
    match row.block {
        ..65536 => format!("{iops:.0} /s"),
        block => format!("{:.1} MiB/s", iops * f64::from(block) / f64::from(1 << 20)),
    }
}

fn ratio(
    Spread {
        median, low, high, ..
    }: Spread,
    verdict: Option<Verdict>,
) -> String {
    let verdict = match verdict {
        Some(Verdict::Above) => " above",
        Some(Verdict::Level) => " level",
        Some(Verdict::Below) => " below",
        Some(Verdict::Unclear) => " unclear",
        None => "",
    };
    format!("{median:.2} ({low:.2} to {high:.2}){verdict}")
}

/// The targets that have figures, in order, the reference first.
fn measured(summary: &Summary) -> Vec<&str> {
    let mut names: Vec<_> = summary
        .targets
        .iter()
        .map(|target| target.target.as_str())
        .filter(|name| summary.rows.iter().any(|row| row.cells.contains_key(*name)))
        .collect();
    names.sort_by_key(|name| *name != REFERENCE);
    names
}

fn grid(summary: &Summary, heads: Vec<String>, text: impl Fn(&Row, &str, &Cell) -> String) -> Grid {
    let names = measured(summary);
    let rows = summary.rows.iter().map(|row| {
        let cells = names.iter().map(|name| match row.cells.get(*name) {
            Some(cell) => text(&row.row, name, cell),
            None => "-".to_owned(),
        });
        [row.row.to_string()].into_iter().chain(cells).collect()
    });
    Grid {
        head: [vec![String::new()], heads].concat(),
        rows: rows.collect(),
    }
}

/// Throughput of the reference, and the ratio of all others to it.
#[must_use]
pub fn throughput(summary: &Summary) -> Grid {
    let heads = measured(summary)
        .into_iter()
        .map(|name| match name {
            REFERENCE => format!("{REFERENCE} (noise)"),
            name => format!("{name} / {REFERENCE}"),
        })
        .collect();
    let mut grid = grid(summary, heads, |row, _, cell| {
        match (cell.ratio, cell.noise) {
            (Some(spread), _) => ratio(spread, cell.verdict),
            (None, Some(noise)) => format!("{} ({noise:.2})", rate(row, cell.iops)),
            (None, None) => rate(row, cell.iops),
        }
    });
    let means = measured(summary).into_iter().map(|name| {
        let mean = summary.overall.get(name);
        mean.map_or_else(|| "-".to_owned(), |mean| format!("{mean:.2}"))
    });
    let all = "all rows, geometric mean".to_owned();
    grid.rows.push([all].into_iter().chain(means).collect());
    grid
}

/// Processor time for a million commands, in seconds.
#[must_use]
pub fn processor_time(summary: &Summary) -> Grid {
    let heads = measured(summary).into_iter().map(str::to_owned).collect();
    grid(summary, heads, |_, _, cell| {
        let guest = cell.guest_s_per_million;
        let guest = guest.map_or_else(|| "-".to_owned(), |s| format!("{s:.0}"));
        match cell.process_s_per_million {
            Some(process) => format!("{guest}, process {process:.0}"),
            None => guest,
        }
    })
}

/// Latency of a command, in milliseconds: median and 99th percentile.
#[must_use]
pub fn latency(summary: &Summary) -> Grid {
    let heads = measured(summary).into_iter().map(str::to_owned).collect();
    grid(summary, heads, |_, _, cell| {
        format!("{:.2}, {:.2}", cell.p50_us / 1e3, cell.p99_us / 1e3)
    })
}

/// Who stands where, and what it costs when nothing is asked of it.
#[must_use]
pub fn positions(summary: &Summary) -> Grid {
    let percent = |share: f64| format!("{share:.2} %");
    let rows = summary.targets.iter().map(|line| {
        let idle = summary.idle.iter().find(|idle| idle.target == line.target);
        let process = idle.and_then(|idle| idle.process_percent);
        vec![
            line.target.clone(),
            line.what.clone(),
            line.position.clone(),
            line.ssd.clone(),
            process.map_or_else(|| "-".to_owned(), percent),
            idle.map_or_else(|| "-".to_owned(), |idle| percent(idle.guest_percent)),
        ]
    });
    let head = [
        "target",
        "what",
        "host and target meet on",
        "SSD",
        "idle: process",
        "idle: guest",
    ];
    Grid {
        head: head.map(str::to_owned).to_vec(),
        rows: rows.collect(),
    }
}

/// The goals and what is missing, one line each.
#[must_use]
pub fn goals(summary: &Summary) -> String {
    let mut text = String::new();
    for goal in &summary.goals {
        let _ = writeln!(
            text,
            "- {}: **{}** ({})",
            goal.what,
            goal.verdict(),
            goal.detail
        );
    }
    for missing in &summary.missing {
        let _ = writeln!(text, "- missing: {missing}");
    }
    text
}

/// How it was measured, in a sentence.
#[must_use]
pub fn settings(summary: &Summary) -> String {
    let Some(start) = &summary.settings else {
        return "The guest did not come so far as to measure.\n".to_owned();
    };
    let mut text = format!(
        "One boot, Linux {}; {} rounds a row, the targets forwards and backwards by turns; each run \
         {:.1} s of fio after {:.1} s of ramp.",
        start.kernel,
        start.pairs,
        f64::from(start.run_ms) / 1e3,
        f64::from(start.ramp_ms) / 1e3
    );
    if let Some(machine) = &summary.machine {
        let _ = write!(
            text,
            " Others kept {:.1} of the machine's {} CPUs busy meanwhile.",
            machine.others, machine.cpus
        );
    }
    text.push('\n');
    text
}

/// A whole page.
#[must_use]
pub fn page(summary: &Summary) -> String {
    let sections = [
        (
            "Throughput: the reference, and ratios to it (median of pairs, least to greatest)",
            throughput(summary),
        ),
        ("Latency, p50 and p99 in ms", latency(summary)),
        (
            "Processor time, seconds for a million commands: all of the guest, and the target's process",
            processor_time(summary),
        ),
        ("Targets", positions(summary)),
    ];
    let mut text = format!(
        "# Sidelane beside nvmet, in the lab\n\nWritten by `make bench-lab`. {}\n{}",
        settings(summary),
        goals(summary)
    );
    for (title, grid) in sections {
        let _ = write!(text, "\n## {title}\n\n{}", grid.markdown());
    }
    text
}

/// Everything as JSON: the summary, and below it each line as the guest said it.
///
/// # Errors
/// None that a summary can cause.
pub fn json(summary: &Summary, records: &[Record]) -> anyhow::Result<String> {
    // A line a record: short to read, and to compare.
    let lines: Vec<_> = records
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<_, _>>()?;
    let summary = serde_json::to_string_pretty(&json!(summary))?;
    Ok(format!(
        "{{\"summary\": {summary},\n\"lines\": [\n{}\n]}}\n",
        lines.join(",\n")
    ))
}

/// Puts `text` between the marks in `page`, in place of what is there.
///
/// # Errors
/// When the marks are not there, each once and in order.
pub fn between_marks(page: &str, text: &str) -> anyhow::Result<String> {
    let (begin, end) = ("<!-- bench-lab: begin -->", "<!-- bench-lab: end -->");
    let parts = page
        .split_once(begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let Some((before, after)) = parts else {
        anyhow::bail!("there is no place for the table\n  remedy: put `{begin}` and `{end}` there");
    };
    Ok(format!("{before}{begin}\n{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_lab::records::parse_all;

    /// Two rounds of one row, as the guest says it.
    fn lines() -> String {
        let run = |target, round, iops| {
            format!(
                r#"{{"kind":"run","target":"{target}","backend":"null","in_capsule":0,"rw":"read","block":131072,"depth":8,"round":{round},"iops":{iops},"p50_us":1500,"p99_us":2500,"spent":null}}"#
            )
        };
        let target = |name| {
            format!(r#"{{"kind":"target","target":"{name}","what":"w","position":"p","ssd":"-"}}"#)
        };
        let lines = [
            target("soft"),
            target("nvmet"),
            target("verbs"),
            run("nvmet", 0, 80),
            run("soft", 0, 40),
            run("soft", 1, 60),
            run("nvmet", 1, 80),
        ];
        lines.join("\n")
    }

    #[test]
    fn the_table_has_the_reference_first_and_no_column_without_figures() -> anyhow::Result<()> {
        let summary = Summary::of(&parse_all(&lines())?);
        let expected = "\
|  | nvmet (noise) | soft / nvmet |
| --- | --: | --: |
| null, 128 KiB read, depth 8 | 10.0 MiB/s (1.00) | 0.62 (0.50 to 0.75) below |
| all rows, geometric mean | - | 0.62 |
";
        assert_eq!(throughput(&summary).markdown(), expected);
        assert!(latency(&summary).terminal().contains("1.50, 2.50"));
        Ok(())
    }

    #[test]
    fn the_json_file_holds_every_line() -> anyhow::Result<()> {
        let records = parse_all(&lines())?;
        let text = json(&Summary::of(&records), &records)?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        assert_eq!(value["lines"].as_array().map(Vec::len), Some(7));
        assert_eq!(value["summary"]["rows"][0]["cells"]["soft"]["runs"], 2);
        Ok(())
    }

    #[test]
    fn a_table_replaces_the_one_before_and_nothing_else() -> anyhow::Result<()> {
        let page = "a\n<!-- bench-lab: begin -->\nold\n<!-- bench-lab: end -->\nb\n";
        let once = between_marks(page, "new\n")?;
        assert_eq!(once, page.replace("old", "new"));
        assert_eq!(between_marks(&once, "new\n")?, once);
        let error = between_marks("a\n", "new\n").expect_err("no marks");
        assert!(error.to_string().contains("remedy"), "{error}");
        Ok(())
    }
}
