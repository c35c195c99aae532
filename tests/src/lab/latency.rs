//! How long a host's commands took, and in which parts of a scenario: what a
//! neighbour's trouble did to it.

use std::fmt;

use anyhow::{Context, ensure};

/// The commands that ended in one part of a scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// What happened in it.
    pub name: String,
    /// Commands that ended in it.
    pub commands: usize,
    /// How long half of them took at most, in ms.
    pub p50_ms: f64,
    /// How long 99 % of them took at most, in ms.
    pub p99_ms: f64,
    /// How long the slowest took, in ms.
    pub max_ms: f64,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            commands,
            p50_ms,
            p99_ms,
            max_ms,
        } = self;
        write!(
            f,
            "{name:20} {commands:5} commands, p50 {p50_ms:6.1} ms, p99 {p99_ms:6.1} ms, max {max_ms:6.1} ms"
        )
    }
}

/// Takes apart what fio has logged (`write_lat_log` with `log_unix_epoch`: one
/// line a command, the ms at which it ended, then its latency in ns) by windows
/// of time, each a line with name, begin and end in µs.
///
/// # Errors
/// Where a line is not of that form, or no command ended in a window.
pub fn windows(log: &str, windows: &str) -> anyhow::Result<Vec<Window>> {
    let mut ends = Vec::new();
    for line in log.lines() {
        let mut fields = line.split(',').map(str::trim);
        let mut number = || -> anyhow::Result<u64> {
            let field = fields.next().context("a line ends early")?;
            field.parse().with_context(|| format!("`{line}`"))
        };
        ends.push((number()? * 1000, number()?));
    }
    let window = |line: &str| {
        let [name, from_us, to_us] = line.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("`{line}` is no window");
        };
        let during = from_us.parse::<u64>()?..to_us.parse::<u64>()?;
        let ended = ends.iter().filter(|(at_us, _)| during.contains(at_us));
        let mut took: Vec<u64> = ended.map(|(_, took_ns)| *took_ns).collect();
        took.sort_unstable();
        ensure!(!took.is_empty(), "not one command ended during {name}");
        let ms = |per_cent: usize| took[(took.len() - 1) * per_cent / 100] as f64 / 1e6;
        Ok(Window {
            name: name.to_owned(),
            commands: took.len(),
            p50_ms: ms(50),
            p99_ms: ms(99),
            max_ms: ms(100),
        })
    };
    windows.lines().map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str =
        "1000, 3000000, 1, 4096, 0\n1001, 1000000, 1, 4096, 0\n1005, 9000000, 1, 4096, 0\n";

    #[test]
    fn a_command_counts_in_the_window_in_which_it_ended() {
        let found = windows(LOG, "calm 1000000 1002000\nstorm 1002000 1006000\n").unwrap();
        let figures: Vec<_> = found
            .iter()
            .map(|w| (&*w.name, w.commands, w.p50_ms, w.max_ms))
            .collect();
        assert_eq!(figures, [("calm", 2, 1.0, 3.0), ("storm", 1, 9.0, 9.0)]);
    }

    #[test]
    fn a_window_in_which_nothing_moved_is_an_error() {
        let error = windows(LOG, "silence 2000000 3000000").unwrap_err();
        assert!(error.to_string().contains("silence"), "{error}");
    }
}
