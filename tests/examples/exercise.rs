//! Writes to a target by NVMe over RDMA, on the software NIC, reads back and
//! checks every byte: `cargo run -p sidelane-tests --example exercise -- --help`.
//! Prints what it did as JSON; fails where anything was not as it ought to be.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use sidelane_tests::exercise::Exercise;

/// A host that checks what it reads, on the software NIC.
#[derive(Debug, Parser)]
struct Arguments {
    /// The target's address and port
    #[arg(long, value_name = "ADDRESS:PORT")]
    connect: SocketAddr,
    /// Own address, whose UDP port 4791 must be free
    #[arg(long)]
    local: IpAddr,
    /// The subsystem's name; namespace 1 of it is overwritten
    #[arg(long)]
    nqn: String,
    /// I/O queues
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Commands under way on each queue
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    depth: u16,
    /// Bytes of a command, one after the other; multiples of the namespace's block
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "4096,512,65536,1024,16384,8192"
    )]
    block_sizes: Vec<usize>,
    /// Writes of a round, and as many reads
    #[arg(long, default_value_t = 1000)]
    commands: usize,
    /// Rounds are begun for so many seconds; 0 for one round
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Lost connections that are made up for by new ones
    #[arg(long, default_value_t = 0)]
    losses: u32,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let report = Exercise {
        remote: arguments.connect,
        local: arguments.local,
        nqn: arguments.nqn,
        queues: arguments.queues,
        depth: arguments.depth,
        sizes: arguments.block_sizes,
        commands: arguments.commands,
        time: Duration::from_secs(arguments.seconds),
        losses: arguments.losses,
    }
    .run()?;
    println!("{}", serde_json::to_string(&report)?);
    let well = report.errors == 0 && report.connections_lost <= arguments.losses;
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
