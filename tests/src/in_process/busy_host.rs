//! A host that keeps to the rules and is at work while a test does something else.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, ensure};

use super::bench::{Bench, DISK};
use super::good_host::Work;
use super::raw_packets::Counted;

/// Connects, writes, verifies and disconnects until it is told to stop.
pub struct BusyHost {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<usize>>,
}

impl BusyHost {
    /// Starts it, and waits until it has a connection.
    ///
    /// # Errors
    /// When it gets none.
    pub fn start(bench: &Bench) -> anyhow::Result<Self> {
        let remote = bench.remote;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut passes = 0;
            while passes == 0 || !told.load(Ordering::Relaxed) {
                let work = Work {
                    subsystem: DISK,
                    nsids: &[1, 2],
                    io_queues: 2,
                    commands: 200,
                    sizes: &[4096, 512, 65536, 16384],
                    region: 0..4 << 20,
                    seed: passes as u64 + 1,
                };
                work.run(remote)
                    .with_context(|| format!("pass {passes} of the good host"))?;
                passes += 1;
            }
            Ok(passes)
        });
        let host = Self { stop, thread };
        host.peer(bench)?;
        Ok(host)
    }

    /// Its address, and the target's number of one of its queue pairs.
    ///
    /// # Errors
    /// When it has failed.
    pub fn peer(&self, bench: &Bench) -> anyhow::Result<(IpAddr, u32)> {
        loop {
            if let Some(peer) = Counted::by(bench)?.peers().next() {
                return Ok(peer);
            }
            ensure!(!self.thread.is_finished(), "the good host has ended");
        }
    }

    /// Tells it to stop, and waits until it has.
    ///
    /// # Errors
    /// When anything failed, or a byte was not what it had written.
    pub fn finish(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let passes = self.thread.join().map_err(|_| anyhow!("it panicked"))??;
        ensure!(passes > 0, "the good host did nothing");
        Ok(())
    }
}
