//! What a scenario asks of QEMU. It cannot reach QEMU's monitor itself, so it
//! leaves `qmp-N.ask` in the folder that it shares with the test, a command in
//! JSON, and waits for `qmp-N.answer`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::Context;

const PERIOD: Duration = Duration::from_millis(200);

/// Carries commands and answers until it is dropped.
pub(super) struct Messenger {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Messenger {
    /// Begins; the socket need not be there yet.
    pub(super) fn start(socket: &Path, share: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, socket, share) = (Arc::clone(&stop), socket.to_owned(), share.to_owned());
        let thread = spawn(move || {
            if let Err(error) = carry(&told, &socket, &share) {
                // The scenario gets no answer, and says so.
                eprintln!("QMP: {error:#}");
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Messenger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn carry(stop: &AtomicBool, socket: &Path, share: &Path) -> anyhow::Result<()> {
    let mut monitor = None;
    for number in 1.. {
        let ask = share.join(format!("qmp-{number}.ask"));
        while !ask.exists() {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            sleep(PERIOD);
        }
        if monitor.is_none() {
            monitor = Some(Monitor::open(socket)?);
        }
        let monitor = monitor.as_mut().context("no monitor")?;
        let answer = monitor.tell(fs::read_to_string(&ask)?.trim())?;
        let ready: PathBuf = share.join(format!("qmp-{number}.tmp"));
        fs::write(&ready, answer)?;
        fs::rename(&ready, ask.with_extension("answer"))?;
    }
    Ok(())
}

struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn open(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).context("QEMU's monitor")?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut lines = BufReader::new(stream);
        lines.read_line(&mut String::new())?;
        let mut monitor = Self { lines };
        monitor.tell(r#"{"execute": "qmp_capabilities"}"#)?;
        Ok(monitor)
    }

    /// The answer to a command; events that come before it are passed over.
    fn tell(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.lines.get_mut(), "{command}")?;
        loop {
            let mut line = String::new();
            let len = self.lines.read_line(&mut line)?;
            anyhow::ensure!(len > 0, "QEMU has ended");
            if !line.contains("\"event\"") {
                return Ok(line);
            }
        }
    }
}
