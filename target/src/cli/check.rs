//! `sidelane check`.

use anyhow::bail;
use sidelane_config::Config;

use super::args::CheckArgs;
use crate::devices::VfioDevices;
use crate::target::memory::{Foresight, foresee};

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let devices = VfioDevices::new("/sys")?;
    let mut problems = devices.problems(&config);
    let refusals = foresee(&config, &devices, Foresight::Alone);
    problems.extend(refusals.iter().map(|refusal| format!("{refusal:#}")));
    if args.json {
        println!("{}", serde_json::to_string(&config)?);
    } else {
        print(&config, &devices);
    }
    for remark in config.remarks() {
        eprintln!("remark: {remark}");
    }
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    bail!(
        "{} does not fit this machine: {} problems",
        args.config.display(),
        problems.len()
    )
}

fn print(config: &Config, devices: &VfioDevices) {
    for listener in &config.listeners {
        println!("listener {}: {}", listener.id, listener.socket_address());
    }
    for provider in &config.providers {
        println!("provider {}: {}", provider.id, provider.what());
    }
    for subsystem in &config.subsystems {
        let hosts = match (subsystem.allow_any_host, subsystem.hosts.len()) {
            (true, _) => "any host".to_owned(),
            (false, 0) => "no host at all; name some in `hosts`".to_owned(),
            (false, 1) => "one host".to_owned(),
            (false, n) => format!("{n} hosts"),
        };
        println!(
            "{}: in-capsule data {}, {hosts}",
            subsystem.nqn, subsystem.in_capsule
        );
        for namespace in &subsystem.namespaces {
            println!("  nsid {}: p2p {}", namespace.nsid, namespace.p2p.as_str());
            for line in devices.routes(config, namespace) {
                println!("    {line}");
            }
        }
    }
}
