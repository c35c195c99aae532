//! What may be said to `sidelane selftest`.

use std::path::PathBuf;

use clap::Args;
use sidelane_config::ByteSize;

use super::MAX_BLOCK;
use crate::selftest::{DEPTH_MAX, SelftestOptions};

/// `sidelane selftest`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SelftestArgs {
    /// The configuration of the target whose adapters, memory and SSDs are tested
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,

    /// Rounds of each case, each of as many transfers as are in flight
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub rounds: u64,

    /// Transfers in flight, 1 to 255; fewer where the memory does not hold so many
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=i64::from(DEPTH_MAX)))]
    pub depth: u16,

    /// Bytes of one transfer, a multiple of 512 up to 1 MiB; several, with commas, are tested one after the other
    #[arg(long, visible_alias = "size", value_name = "SIZE", default_value = "4 KiB,128 KiB", value_delimiter = ',',
          value_parser = transfer_size)]
    pub block: Vec<ByteSize>,

    /// Print one JSON object instead of a progress bar and a table
    #[arg(long)]
    pub json: bool,
}

impl From<&SelftestArgs> for SelftestOptions {
    fn from(args: &SelftestArgs) -> Self {
        Self {
            rounds: args.rounds,
            depth: args.depth,
            block_bytes: args.block.iter().map(|size| size.bytes()).collect(),
            ..Self::default()
        }
    }
}

pub(super) const SELFTEST_HELP: &str = "\
A NIC's completion does not say that its data has arrived in the memory of a third device, so an SSD that is told to \
read it at once may read what was there before. A target therefore has the NIC flush first (`flush` in the \
configuration). An SSD's completion does not order its data either, and for that no flush is known. How it is on this \
machine is tried here, for each adapter, memory and SSD that the configuration leads to, host memory included:

  nic-to-ssd  the adapter copies what blocks of the SSD contain over junk, and on its completion the SSD compares
              memory and blocks; with the flush, and without
  ssd-to-nic  the SSD reads blocks over junk, and on its completion the adapter copies the memory to where the CPU looks

Nothing is written to an SSD. No target may run: the SSDs are taken as the target takes them. SSDs without the Compare \
command cannot be tested for nic-to-ssd; the report says so. Ctrl-C ends the test with what was seen so far.

What to do:
  stale without the flush    this machine needs it: leave `flush` as it is (\"auto\")
  stale with the flush       do not use this memory for this SSD: p2p = \"off\", or the SSD's own memory
  stale ssd-to-nic           let the namespace use the SSD's own memory (provider = \"auto\" prefers it), or p2p = \"off\"

Examples:
  sidelane selftest --config sidelane.toml
  sidelane selftest --config sidelane.toml --rounds 100000 --block 4KiB
  sidelane selftest --config sidelane.toml --json | jq .failures

Exit status:
  0  nothing stale but where the flush was left out; what could not be tested is named
  1  stale data, an error, nothing that could be tested, or an interruption
  2  the command line was wrong";

fn transfer_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    match size.bytes() {
        0 => Err("zero is nothing to transfer".to_owned()),
        bytes if !bytes.is_multiple_of(512) => Err(format!(
            "{size} is not a multiple of 512 bytes, which every block of an SSD is"
        )),
        bytes if bytes > MAX_BLOCK.bytes() => Err(format!(
            "{size} is more than one command carries, {MAX_BLOCK}"
        )),
        _ => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn parsed(line: &str) -> Command {
        Cli::try_parse_from(line.split(' ')).unwrap().command
    }

    #[test]
    fn a_self_test_needs_a_configuration_and_nothing_else() {
        let Command::Selftest(test) = parsed("sidelane selftest --config a.toml") else {
            panic!()
        };
        assert_eq!(test.config, PathBuf::from("a.toml"));
        assert_eq!(SelftestOptions::from(&test), SelftestOptions::default());
        let line = "sidelane selftest --config a.toml --size 512,1MiB --depth 255 --rounds 7";
        let Command::Selftest(test) = parsed(line) else {
            panic!()
        };
        let expected = SelftestOptions {
            rounds: 7,
            depth: 255,
            block_bytes: vec![512, 1 << 20],
            ..SelftestOptions::default()
        };
        assert_eq!(SelftestOptions::from(&test), expected);
    }
}
