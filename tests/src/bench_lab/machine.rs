//! What else the machine did while the guest was measured: figures of a busy
//! machine scatter, and a reader should know.

use std::fs;

use anyhow::Context;

use super::records::Machine;

/// Clock ticks so far: of all CPUs together, of those the busy ones, and those of
/// this process's children that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    all: u64,
    busy: u64,
    children: u64,
    cpus: u32,
}

impl Ticks {
    /// As of now.
    ///
    /// # Errors
    /// When `/proc` does not have what Linux puts there.
    pub fn now() -> anyhow::Result<Self> {
        Self::parse(
            &fs::read_to_string("/proc/stat")?,
            &fs::read_to_string("/proc/self/stat")?,
        )
        .context("/proc/stat or /proc/self/stat is not as proc(5) says")
    }

    fn parse(machine: &str, process: &str) -> Option<Self> {
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user.
        let line = machine.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map_while(|word| word.parse().ok())
            .collect();
        let all = ticks.iter().sum();
        // The name may have blanks and parentheses; cutime and cstime are the 14th and 15th after it.
        let (_, rest) = process.rsplit_once(')')?;
        let mut children = rest.split_whitespace().skip(13);
        let mut next = || children.next()?.parse::<u64>().ok();
        let numbered = |line: &&str| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        Some(Self {
            all,
            busy: all - ticks.get(3)? - ticks.get(4)?,
            children: next()? + next()?,
            cpus: u32::try_from(machine.lines().filter(numbered).count()).ok()?,
        })
    }

    /// How many CPUs others have kept busy since `before`, on average.
    #[must_use]
    pub fn since(&self, before: &Self) -> Machine {
        let cpus = f64::from(self.cpus);
        let elapsed = (self.all.saturating_sub(before.all)).max(1) as f64 / cpus.max(1.0);
        let ours = self.children.saturating_sub(before.children);
        let others = (self.busy.saturating_sub(before.busy)).saturating_sub(ours);
        Machine {
            cpus: self.cpus,
            others: others as f64 / elapsed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(user: u64, idle: u64, children: u64) -> Ticks {
        let machine = format!("cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1\ncpu1 1\nintr 5 cpu9\n");
        let process = format!("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 {children} 0 20 0");
        Ticks::parse(&machine, &process).expect("as in proc(5)")
    }

    #[test]
    fn others_are_what_is_neither_idle_nor_ours() {
        // Two CPUs for 100 ticks: 50 idle, 90 by our children.
        let machine = ticks(1150, 1050, 190).since(&ticks(1000, 1000, 100));
        assert_eq!((machine.cpus, machine.others), (2, 0.6));
    }

    #[test]
    fn this_machine_can_be_read() -> anyhow::Result<()> {
        let ticks = Ticks::now()?;
        assert!(ticks.cpus > 0 && ticks.all >= ticks.busy);
        assert_eq!(Ticks::parse("nothing", "like it"), None);
        Ok(())
    }
}
