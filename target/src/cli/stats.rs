//! `sidelane stats`.

mod advice;
mod network;
mod ssds;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table, TableComponent};

use super::args::StatsArgs;
use crate::control::fetch_stats;
use crate::stats::{DirectionReport, StatsReport};

pub(super) fn run(args: &StatsArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(fetch_stats(&args.control))?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report.target);
        println!("{}", network::render(&report.network, args.queue_pairs));
    }
    Ok(())
}

fn table(header: &[&str], numbers_from: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(header);
    for line in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
    ] {
        table.remove_style(line);
    }
    for column in table.column_iter_mut().skip(numbers_from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn print(report: &StatsReport) {
    println!("up for {} s", report.uptime_seconds);
    let mut payload = table(
        &[
            "namespace",
            "p2p",
            "",
            "commands",
            "peer bytes",
            "host bytes",
            "why host",
        ],
        3,
    );
    for namespace in &report.namespaces {
        let name = format!("{} nsid {}", namespace.nqn, namespace.nsid);
        for (way, direction) in [("reads", &namespace.reads), ("writes", &namespace.writes)] {
            payload.add_row([
                &name,
                &namespace.p2p,
                way,
                &direction.commands.to_string(),
                &direction.peer_bytes.to_string(),
                &direction.host_bytes.to_string(),
                &why(direction),
            ]);
        }
    }
    println!("{payload}");
    for namespace in &report.namespaces {
        for way in &namespace.ways {
            println!(
                "{} nsid {} by {}: {}: {}",
                namespace.nqn, namespace.nsid, way.nic, way.code, way.reason
            );
        }
    }
    for listener in &report.listeners {
        println!(
            "listener {}: {} port {} on {}, {}",
            listener.id,
            listener.address,
            listener.port,
            listener.adapters.join(", "),
            listener.state
        );
    }
    let mut pools = table(
        &[
            "pool", "memory", "address", "bytes", "in use", "peak", "waits", "commands", "payload",
        ],
        3,
    );
    for pool in &report.pools {
        pools.add_row([
            &pool.provider,
            &pool.region,
            &format!("{:#x}", pool.address),
            &pool.bytes.to_string(),
            &pool.in_use_bytes.to_string(),
            &pool.peak_bytes.to_string(),
            &pool.waits.to_string(),
            &pool.commands.to_string(),
            &pool.payload_bytes.to_string(),
        ]);
    }
    println!("{pools}");
    if !report.ssds.is_empty() {
        println!("{}", ssds::render(&report.ssds));
    }
    let mut reactors = table(
        &[
            "core",
            "connections",
            "commands",
            "flush batches",
            "abandoned",
            "sleeps",
        ],
        0,
    );
    for reactor in &report.reactors {
        reactors.add_row([
            reactor.core as u64,
            reactor.connections,
            reactor.commands,
            reactor.flush_batches,
            reactor.abandoned,
            reactor.sleeps,
        ]);
    }
    println!("{reactors}");
    for controller in &report.controllers {
        println!(
            "controller {} of {}: {} with {} I/O queues",
            controller.cntlid, controller.nqn, controller.host, controller.io_queues
        );
    }
}

fn why(direction: &DirectionReport) -> String {
    let reasons = &direction.host_bytes_by_reason;
    reasons
        .iter()
        .map(|(reason, bytes)| format!("{reason} {bytes}"))
        .collect::<Vec<_>>()
        .join(", ")
}
