//! Tells a person how far it is: a bar on a terminal, plain lines elsewhere,
//! nothing where a program reads along. All of it goes to stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Where progress goes.
#[derive(Debug)]
pub enum Progress {
    /// A bar.
    Bar(ProgressBar),
    /// A line when a step begins and when it ends.
    Lines(Step),
    /// Nowhere.
    Silent,
}

/// The step that is under way, where lines are printed.
#[derive(Debug)]
pub struct Step {
    label: String,
    total: u64,
    done: u64,
    started: Instant,
}

impl Progress {
    /// A bar if stderr is a terminal, else lines; nothing if `silent`.
    pub fn new(silent: bool) -> Self {
        if silent {
            Self::Silent
        } else if std::io::stderr().is_terminal() {
            Self::Bar(ProgressBar::hidden())
        } else {
            Self::Lines(Step {
                label: String::new(),
                total: 0,
                done: 0,
                started: Instant::now(),
            })
        }
    }

    /// A step of `total` bytes begins.
    pub fn begin(&mut self, label: &str, total: u64) {
        match self {
            Self::Bar(bar) => {
                let template = "{msg:<28} {wide_bar} {bytes:>10} of {total_bytes}  {bytes_per_sec}";
                let style = ProgressStyle::with_template(template);
                *bar = ProgressBar::new(total).with_message(label.to_owned());
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.enable_steady_tick(Duration::from_millis(100));
            }
            Self::Lines(step) => {
                let label = label.to_owned();
                *step = Step {
                    label,
                    total,
                    done: 0,
                    started: Instant::now(),
                };
            }
            Self::Silent => {}
        }
    }

    /// So many bytes more are done.
    pub fn advance(&mut self, bytes: u64) {
        match self {
            Self::Bar(bar) => bar.inc(bytes),
            Self::Lines(step) => step.done += bytes,
            Self::Silent => {}
        }
    }

    /// The step has ended.
    pub fn end(&mut self) {
        match self {
            Self::Bar(bar) => bar.finish(),
            Self::Lines(step) => eprintln!(
                "{}: {} of {} in {:.1} s",
                step.label,
                HumanBytes(step.done),
                HumanBytes(step.total),
                step.started.elapsed().as_secs_f64()
            ),
            Self::Silent => {}
        }
    }

    /// Says something between steps.
    pub fn say(&self, line: &str) {
        if !matches!(self, Self::Silent) {
            eprintln!("{line}");
        }
    }
}

/// Leaves the terminal as it was, on whatever way out.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.abandon();
        }
    }
}
