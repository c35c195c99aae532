//! The table at the end of a self-test, and what it means.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount};

use super::report::{CaseReport, Outcome, SelftestReport};

impl fmt::Display for SelftestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.cases.is_empty() {
            writeln!(f, "{}", table(&self.cases))?;
        }
        write!(
            f,
            "{} rounds of {} transfers a case, {:.1} s in all; nothing was written to an SSD",
            HumanCount(self.rounds),
            self.depth,
            self.seconds
        )?;
        for note in &self.notes {
            write!(f, "\n- {note}")?;
        }
        for failure in &self.failures {
            write!(f, "\nFAILED: {failure}")?;
        }
        if self.passed {
            write!(
                f,
                "\nPASSED: no stale data but where the flush was left out"
            )?;
        }
        Ok(())
    }
}

/// How a column reads off a case.
type Reading = fn(&CaseReport) -> String;

fn table(cases: &[CaseReport]) -> Table {
    let columns: [(&str, bool, Reading); 10] = [
        ("adapter", false, |case| case.adapter.clone()),
        ("memory", false, |case| case.memory.clone()),
        ("SSD", false, |case| case.ssd.clone()),
        ("direction", false, |case| case.direction.name().to_owned()),
        ("flush", false, |case| match case.flush {
            Some(true) => "with".to_owned(),
            Some(false) => "without".to_owned(),
            None => "none known".to_owned(),
        }),
        ("block", true, |case| {
            HumanBytes(case.block_bytes).to_string()
        }),
        ("transfers", true, |case| case.transfers.to_string()),
        ("stale", true, |case| match case.outcome {
            Outcome::Clean | Outcome::Stale => case.stale.to_string(),
            outcome => outcome.name().to_owned(),
        }),
        ("first stale", false, |case| match case.first_stale {
            Some(it) => format!("round {} slot {} LBA {}", it.round, it.slot, it.lba),
            None => String::new(),
        }),
        ("rate", true, |case| match case.transfers {
            0 => String::new(),
            _ => format!("{}/s", HumanBytes(case.bytes_per_second as u64)),
        }),
    ];
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(columns.map(|(label, ..)| label));
    for case in cases {
        table.add_row(columns.map(|(_, right, read)| {
            let alignment = match right {
                true => CellAlignment::Right,
                false => CellAlignment::Left,
            };
            Cell::new(read(case)).set_alignment(alignment)
        }));
    }
    table
}
