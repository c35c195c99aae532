//! `sidelane serve`.

use anyhow::Context;
use sidelane_config::Config;
use tokio::signal::unix::{SignalKind, signal};

use super::args::ServeArgs;
use crate::devices::VfioDevices;
use crate::target::{Options, Target};

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let devices = VfioDevices::new("/sys")?;
    let options = Options {
        sqe_journal: args.sqe_journal.clone(),
    };
    let target = Target::start(&config, devices, options).context("the target cannot start")?;
    for line in target.summary() {
        tracing::info!("{line}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let reason = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let reason = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            () = target.ended() => "the control plane ended",
        };
        anyhow::Ok(reason)
    })?;
    tracing::info!("{reason}: disconnecting hosts and closing devices");
    target.stop()
}
