//! What may be said on the command line, and the help that teaches it.
//!
//! Definitions only: what is said here is carried out elsewhere. Values that could not be carried out are
//! refused here, where the message can still name the option.

mod ping;
mod selftest;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use sidelane_config::{ByteSize, Target};

use self::ping::PING_HELP;
use self::selftest::SELFTEST_HELP;
use crate::demo::DemoOptions;

pub use self::ping::PingArgs;
pub use self::selftest::SelftestArgs;

/// The whole command line.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(
    name = "sidelane",
    version,
    about = "NVMe over Fabrics target whose payload goes by PCI peer memory",
    long_about = "NVMe over Fabrics target in userspace. A host's payload goes from the wire straight into the \
                  memory of a PCI device, and the SSD takes it from there; host memory carries commands only.",
    after_help = "Exit status: 0 done; 1 failed, the reason is on stderr; 2 the command line was wrong.\n\
                  `sidelane COMMAND --help` tells more about each.",
    after_long_help = AFTER_HELP,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to log: a level (error, warn, info, debug, trace), or levels by module
    ///
    /// Directives are separated by commas, such as `warn,sidelane::session=debug`. Logs go to stderr, results to
    /// stdout. Where this option is absent, the variable SIDELANE_LOG is used, then `info`.
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
First steps:
  sidelane demo                               see it work here and now; needs no hardware, no root
  sidelane check --config sidelane.toml       is this configuration right?
  sidelane ping 192.168.77.1                  is the network fit?
  sidelane selftest --config sidelane.toml    does this machine move data in order?
  sidelane serve --config sidelane.toml       offer its subsystems to hosts
  sidelane stats                              which way did the payload go?

Exit status:
  0  done
  1  failed; the reason and the remedy are on stderr
  2  the command line was wrong";

/// The commands.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Offer the subsystems of a configuration to hosts
    #[command(after_long_help = SERVE_HELP)]
    Serve(ServeArgs),
    /// Tell whether a configuration is right, without applying it
    #[command(after_long_help = check_help())]
    Check(CheckArgs),
    /// Find out whether SSDs and adapters see each other's data in peer memory in time
    #[command(after_long_help = SELFTEST_HELP)]
    Selftest(SelftestArgs),
    /// Show what a running target has done, by path
    #[command(after_long_help = STATS_HELP)]
    Stats(StatsArgs),
    /// Ping a peer by RDMA, or answer, to tell a network problem from a target problem
    #[command(after_long_help = PING_HELP)]
    Ping(PingArgs),
    /// Write and read back through modelled SSDs, on this machine alone
    #[command(after_long_help = DEMO_HELP)]
    Demo(DemoArgs),
}

/// `sidelane serve`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ServeArgs {
    /// The configuration to serve (`sidelane check --help` shows one)
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,

    /// Write every command that an SSD is given to this file, for audits; slow
    ///
    /// One JSON object a line: `device`, `sqe` (the 64 bytes in hexadecimal, as they stand in the submission queue) and
    /// `prps` (the entries of the PRP list, if the command has one). What was in the file goes.
    #[arg(long, value_name = "FILE")]
    pub sqe_journal: Option<PathBuf>,
}

const SERVE_HELP: &str = "\
Runs in the foreground until SIGINT or SIGTERM, then disconnects its hosts, returns the SSDs to a quiet state and \
exits. It never takes a device that is in use: an SSD that still has its kernel driver is named, with the commands \
that bind it to vfio-pci.

Examples:
  sidelane serve --config /etc/sidelane.toml
  sidelane --log debug serve --config sidelane.toml

On a host, afterwards:
  nvme discover -t rdma -a 192.168.77.2 -s 4420
  nvme connect -t rdma -a 192.168.77.2 -s 4420 -n nqn.2026-11.io.sidelane:disk0

Exit status:
  0  ended by a signal, everything was closed in order
  1  could not start, or had to stop: the configuration, a device, an address, or a policy that cannot be met
  2  the command line was wrong";

/// `sidelane check`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CheckArgs {
    /// The configuration to check
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,

    /// Print one JSON object: the configuration with all defaults filled in
    #[arg(long)]
    pub json: bool,
}

fn check_help() -> String {
    format!(
        "Prints every mistake with its line, the reason and the remedy; otherwise what would be served. It opens no \
         device and changes nothing.\n\n\
         Examples:\n  sidelane check --config sidelane.toml\n  \
         sidelane check --config sidelane.toml --json | jq .subsystem\n\n\
         Exit status:\n  0  the configuration is right\n  1  it is not, or could not be read\n  \
         2  the command line was wrong\n\n\
         A complete configuration:\n\n{}",
        sidelane_config::example()
    )
}

/// `sidelane stats`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct StatsArgs {
    /// Print one JSON object instead of tables; queue pairs are always in it
    #[arg(long)]
    pub json: bool,

    /// Show each queue pair: whose it is, and what it has counted
    #[arg(long)]
    pub queue_pairs: bool,

    /// The control socket of the target, as its configuration names it
    #[arg(long, value_name = "SOCKET", default_value = Target::DEFAULT_CONTROL)]
    pub control: PathBuf,
}

const STATS_HELP: &str = "\
Prints, for each namespace, commands and payload bytes by path: `peer` for bytes that went by the memory of a PCI \
device, `host` for bytes that went by host memory, with the reason for each that did. Then, for each NIC, what the \
target, the device and connection management have counted, retransmissions and drops first, and what to do about it. \
Counters begin with the target, those of a device with its driver.

Examples:
  sidelane stats
  sidelane stats --queue-pairs
  sidelane stats --json --control /run/sidelane/control.sock

Exit status:
  0  printed
  1  no target answers at the socket
  2  the command line was wrong";

/// `sidelane demo`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DemoArgs {
    /// Print one JSON object instead of a progress bar and a table
    #[arg(long)]
    pub json: bool,

    /// How much to write and read back in each namespace, a multiple of 4 KiB
    #[arg(long, value_name = "SIZE", default_value = "256 MiB", value_parser = whole_pages)]
    pub size: ByteSize,

    /// Payload of one command, a multiple of 4 KiB, up to 1 MiB
    #[arg(long, value_name = "SIZE", default_value = "128 KiB", value_parser = block_size)]
    pub block: ByteSize,

    /// Commands on their way at a time, 1 to 127
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=127))]
    pub depth: u16,

    /// Change a byte on an SSD between writing and reading, to see the demo fail
    #[arg(long, hide = true)]
    pub spoil: bool,
}

impl From<DemoArgs> for DemoOptions {
    fn from(args: DemoArgs) -> Self {
        Self {
            json: args.json,
            bytes: args.size.bytes(),
            block_bytes: args.block.bytes(),
            depth: args.depth,
            spoil: args.spoil,
        }
    }
}

const DEMO_HELP: &str = "\
Starts a target with modelled SSDs, one of which has a Controller Memory Buffer, and a host, joined by RoCEv2 over \
loopback. The host writes a pattern, reads it back and compares, on a namespace with p2p = \"require\" and on one with \
p2p = \"off\". Then a table shows commands, payload bytes by path and latencies of both. Nothing outside this process \
is touched, and several demos can run at a time.

Examples:
  sidelane demo
  sidelane demo --json | jq .
  sidelane demo --size \"1 GiB\" --block \"4 KiB\" --depth 32

Exit status:
  0  everything was read back as it was written
  1  it was not, or the demo could not run
  2  the command line was wrong";

/// The most that one command of the demo carries: what every Sidelane controller takes.
const MAX_BLOCK: ByteSize = ByteSize::mib(1);

fn whole_pages(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    match size.bytes() {
        0 => Err("zero is nothing to write".to_owned()),
        bytes if !bytes.is_multiple_of(4096) => Err(format!(
            "{size} is not a multiple of 4 KiB, the block size of the modelled SSDs"
        )),
        _ => Ok(size),
    }
}

fn block_size(text: &str) -> Result<ByteSize, String> {
    let size = whole_pages(text)?;
    if size > MAX_BLOCK {
        return Err(format!(
            "{size} is more than one command carries, {MAX_BLOCK}"
        ));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' ').map(|word| word.replace('_', " ")))
    }

    #[test]
    fn the_definitions_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[rstest::rstest]
    #[case("sidelane --help", &["Exit status", "First steps", "serve", "check", "stats", "demo"])]
    #[case("sidelane -h", &["Exit status", "demo"])]
    #[case("sidelane serve --help", &["Exit status", "Examples", "--config", "nvme connect", "--log"])]
    #[case("sidelane check --help", &["Exit status", "Examples", "--json", "[[subsystem.namespace]]"])]
    #[case("sidelane stats --help", &["Exit status", "Examples", "/run/sidelane/control.sock", "peer"])]
    #[case("sidelane selftest --help", &["Exit status", "Examples", "Compare", "128 KiB", "--rounds", "p2p = \"off\""])]
    #[case("sidelane ping --help", &["Exit status", "Examples", "rping -s -P", "4791", "7174"])]
    #[case("sidelane demo --help", &["Exit status", "Examples", "256 MiB", "128 KiB", "--depth"])]
    fn help_tells_what_is_printed_and_how_it_ends(#[case] line: &str, #[case] expected: &[&str]) {
        let error = parse(line).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp);
        assert_eq!(error.exit_code(), 0);
        let help = error.to_string();
        for text in expected {
            assert!(help.contains(text), "no `{text}` in:\n{help}");
        }
    }

    /// Splits as a shell would, as far as the examples need it.
    fn words(line: &str) -> Vec<String> {
        let quoted = |(index, part): (usize, &str)| match index % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        };
        line.split('"').enumerate().flat_map(quoted).collect()
    }

    #[test]
    fn every_example_in_the_help_is_understood() {
        let helps = [
            AFTER_HELP,
            SERVE_HELP,
            SELFTEST_HELP,
            STATS_HELP,
            PING_HELP,
            DEMO_HELP,
        ]
        .map(str::to_owned);
        let mut examples = 0;
        for line in helps
            .iter()
            .chain([&check_help()])
            .flat_map(|help| help.lines())
        {
            let Some(rest) = line.strip_prefix("  sidelane ") else {
                continue;
            };
            // Three spaces begin a remark, and a bar another program.
            let arguments = rest.split("   ").next().unwrap().split('|').next().unwrap();
            let parsed = Cli::try_parse_from(words(&format!("sidelane {arguments}")));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
            examples += 1;
        }
        assert!(examples >= 10, "only {examples} examples");
    }

    #[test]
    fn a_demo_needs_no_arguments() {
        let Command::Demo(demo) = parse("sidelane demo").unwrap().command else {
            panic!()
        };
        let expected = DemoArgs {
            json: false,
            size: ByteSize::mib(256),
            block: ByteSize::kib(128),
            depth: 16,
            spoil: false,
        };
        assert_eq!(demo, expected);
        assert_eq!(DemoOptions::from(demo), DemoOptions::default());
    }

    #[test]
    fn a_log_filter_may_stand_before_or_behind_the_command() {
        for line in ["sidelane --log debug stats", "sidelane stats --log debug"] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.log.as_deref(), Some("debug"));
            let control = PathBuf::from("/run/sidelane/control.sock");
            assert_eq!(
                cli.command,
                Command::Stats(StatsArgs {
                    json: false,
                    queue_pairs: false,
                    control
                })
            );
        }
    }

    #[test]
    fn a_configuration_is_named_for_serve_and_check() {
        let config = PathBuf::from("a.toml");
        let serve = parse("sidelane serve --config a.toml").unwrap().command;
        assert_eq!(
            serve,
            Command::Serve(ServeArgs {
                config: config.clone(),
                sqe_journal: None
            })
        );
        let check = parse("sidelane check -c a.toml --json").unwrap().command;
        assert_eq!(check, Command::Check(CheckArgs { config, json: true }));
    }

    /// `_` stands for a space within a word.
    #[rstest::rstest]
    #[case("sidelane", "Usage")]
    #[case("sidelane sreve", "serve")]
    #[case("sidelane serve", "--config")]
    #[case("sidelane demo --size 0", "nothing to write")]
    #[case("sidelane demo --size 5_KB", "64 MiB")]
    #[case("sidelane demo --block 512", "multiple of 4 KiB")]
    #[case("sidelane demo --block 2_MiB", "1 MiB")]
    #[case("sidelane demo --depth 0", "1..=127")]
    #[case("sidelane selftest", "--config")]
    #[case("sidelane selftest --config a.toml --depth 256", "1..=255")]
    #[case("sidelane selftest --config a.toml --rounds 0", "1..=")]
    #[case("sidelane selftest --config a.toml --block 100", "multiple of 512")]
    #[case("sidelane selftest --config a.toml --block 4KiB,2MiB", "1 MiB")]
    fn wrong_use_is_told_with_status_2(#[case] line: &str, #[case] said: &str) {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(said), "{error}");
    }
}
