//! Ctrl-C, or SIGTERM: the first one asks for an orderly end, the second one is
//! heeded at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

/// What a shell reports of a process that SIGINT ended.
const STATUS_INTERRUPTED: i32 = 128 + 2;

/// A flag that the first Ctrl-C or SIGTERM sets.
///
/// The thread that waits for it lives as long as the process; where it cannot
/// be had, Ctrl-C ends the process as it would any other.
pub fn flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let spawned = std::thread::Builder::new()
        .name("demo-ctrl-c".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let (Ok(mut interrupt), Ok(mut terminate)) = (
                    signal(SignalKind::interrupt()),
                    signal(SignalKind::terminate()),
                ) else {
                    return;
                };
                for first in [true, false] {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if first {
                        seen.store(true, Ordering::Relaxed);
                    } else {
                        std::process::exit(STATUS_INTERRUPTED);
                    }
                }
            });
        });
    if let Err(error) = spawned {
        tracing::debug!(%error, "Ctrl-C will end the demo without ceremony");
    }
    stop
}
