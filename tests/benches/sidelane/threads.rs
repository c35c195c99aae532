//! Processor time of threads of this process, by their names.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

/// Time that all threads whose name `chosen` likes have run so far.
///
/// The scheduler's own account: user and system time together, and finer than
/// the clock ticks of `stat`.
pub fn run_time(chosen: impl Fn(&str) -> bool) -> anyhow::Result<Duration> {
    let (mut sum, mut found) = (Duration::ZERO, false);
    for task in fs::read_dir("/proc/self/task")? {
        let folder = task?.path();
        let name = fs::read_to_string(folder.join("comm"))?;
        if chosen(name.trim()) {
            sum += account(&folder)?;
            found = true;
        }
    }
    ensure!(found, "there is no such thread");
    Ok(sum)
}

/// Time that the calling thread has run so far.
pub fn own_run_time() -> anyhow::Result<Duration> {
    account(Path::new("/proc/thread-self"))
}

fn account(folder: &Path) -> anyhow::Result<Duration> {
    let account = fs::read_to_string(folder.join("schedstat"))?;
    let ran = account.split_whitespace().next();
    let ran = ran.context("schedstat is empty")?;
    Ok(Duration::from_nanos(ran.parse()?))
}
