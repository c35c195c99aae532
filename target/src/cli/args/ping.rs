//! What may be said of a ping.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use sidelane_config::ByteSize;

use crate::ping::{
    BandwidthOptions, MAX_CONNECTIONS, MAX_DEPTH, MAX_OPERATION, MAX_SIZE, MIN_SIZE, PORT,
    PingOptions, RPING_SIZE,
};

/// `sidelane ping`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct PingArgs {
    /// The peer: a machine that runs `rping -s` or `sidelane ping --serve`
    #[arg(required_unless_present = "serve", conflicts_with = "serve")]
    pub address: Option<IpAddr>,

    /// Answer pings, until Ctrl-C
    #[arg(long)]
    pub serve: bool,

    /// The own address to serve at; that of the default route if not given
    #[arg(long, value_name = "ADDRESS", conflicts_with = "address")]
    pub at: Option<IpAddr>,

    /// The own address to ping from; the one that the routing table names if not given
    #[arg(long, value_name = "ADDRESS", conflicts_with = "serve")]
    pub from: Option<IpAddr>,

    /// The peer's port, or the own one to serve at
    #[arg(long, short, default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Rounds on each connection; until Ctrl-C if not given
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..),
          conflicts_with_all = ["serve", "bandwidth"])]
    pub count: Option<u64>,

    /// Seconds from the beginning of one round to that of the next, 0 to 30
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = interval,
          conflicts_with_all = ["serve", "bandwidth"])]
    pub interval: Duration,

    /// Bytes of a round (32 bytes to 65535 bytes, 64 bytes if not given), or of an operation of --bandwidth (up to 1 MiB)
    ///
    /// A plain rping server takes no more than its own -S says, 64 bytes without. With --bandwidth and a Sidelane as
    /// the peer, 64 KiB if not given.
    #[arg(long, short, value_parser = size, conflicts_with = "serve")]
    pub size: Option<ByteSize>,

    /// Connections at a time, 1 to 64; one if not given, with --bandwidth and a plain rping eight
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_CONNECTIONS as i64),
          conflicts_with = "serve")]
    pub connections: Option<u16>,

    /// Seconds that a round may take, connecting included, 1 to 60
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60),
          conflicts_with = "serve")]
    pub timeout: u64,

    /// Measure how much goes through, for so many seconds for each kind of operation, 1 to 3600
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "3",
          value_parser = clap::value_parser!(u64).range(1..=3600), conflicts_with = "serve")]
    pub bandwidth: Option<u64>,

    /// Operations of --bandwidth that are on their way at a time on each connection, 1 to 1024
    #[arg(long, value_name = "N", default_value_t = 16, requires = "bandwidth",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DEPTH)))]
    pub depth: u32,

    /// Print one JSON object at the end instead of lines
    #[arg(long, conflicts_with = "serve")]
    pub json: bool,
}

impl PingArgs {
    /// Which rounds to make with this peer.
    ///
    /// # Errors
    /// When the size is out of its bounds.
    pub fn ping_options(&self, peer: IpAddr) -> anyhow::Result<PingOptions> {
        let size = self.size_up_to(MAX_SIZE)?;
        Ok(PingOptions {
            count: self.count,
            interval: self.interval,
            size: size.unwrap_or(RPING_SIZE),
            connections: self.connections.map_or(1, usize::from),
            timeout: Duration::from_secs(self.timeout),
            ..PingOptions::new(SocketAddr::new(peer, self.port))
        })
    }

    /// How to measure bandwidth with this peer.
    ///
    /// # Errors
    /// When the size is out of its bounds.
    pub fn bandwidth_options(&self, peer: IpAddr, secs: u64) -> anyhow::Result<BandwidthOptions> {
        Ok(BandwidthOptions {
            duration: Duration::from_secs(secs),
            size: self.size_up_to(MAX_OPERATION)?,
            depth: self.depth,
            connections: self.connections.map(usize::from),
            timeout: Duration::from_secs(self.timeout),
            ..BandwidthOptions::new(SocketAddr::new(peer, self.port))
        })
    }

    fn size_up_to(&self, most: u32) -> anyhow::Result<Option<u32>> {
        let Some(size) = self.size else {
            return Ok(None);
        };
        match u32::try_from(size.bytes()) {
            Ok(bytes) if bytes <= most => Ok(Some(bytes)),
            _ => anyhow::bail!("--size {size}: {most} bytes are the most here"),
        }
    }
}

pub(super) const PING_HELP: &str = "\
Tells a network problem from a target problem: no target, SSD or host takes part. It speaks the protocol of rping \
(rdma-core), so that any RoCEv2 peer can answer, and can ask. In each round the peer fetches text from here by RDMA \
READ, puts it back by RDMA WRITE, and what came back is compared. Ctrl-C ends it with a summary.

--bandwidth measures RDMA WRITE, READ and SEND in a pipeline where the peer is `sidelane ping --serve`; from a plain \
rping it takes rounds on several connections. The summary names what had to be repeated, refused or dropped on the \
way (retransmits, timeouts, NAKs, drops): on a fit network nothing.

The software NIC has UDP port 4791 of its address for itself: neither rdma_rxe nor a target on a software NIC may be \
there. What a server lets clients touch is scratch memory for --bandwidth, nothing else.

What to look for:
  no answer                  the machine, its address, or a firewall: UDP port 4791 must pass both ways
  nothing listens            the network is fit as far as that; start the peer
  64 bytes pass, 4096 do not an MTU on the way that is too small
  sequence_naks_in           packets are lost: cables, congestion without flow control, small socket buffers
  timeouts without those     one of the two machines is short of CPU

Examples:
  sidelane ping 192.168.77.1                                 the peer runs: rping -s -P
  sidelane ping 192.168.77.1 --count 100 --interval 0
  sidelane ping --serve --at 192.168.77.2                    a peer may run: rping -c -a 192.168.77.2 -V
  sidelane ping 192.168.77.2 --bandwidth 10 --depth 32       the peer runs: sidelane ping --serve
  sidelane ping 192.168.77.2 --count 10 --json | jq .lost

Exit status:
  0  every round came back as it was sent; --serve was ended by a signal
  1  one did not, or nothing could be tried; the reason is on stderr
  2  the command line was wrong";

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=30.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("0 to 30 seconds are possible".to_owned())
    }
}

fn size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    if (u64::from(MIN_SIZE)..=u64::from(MAX_OPERATION)).contains(&size.bytes()) {
        Ok(size)
    } else {
        Err(format!("{MIN_SIZE} bytes to 1 MiB are possible"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn parsed(line: &str) -> PingArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Ping(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn peer() -> IpAddr {
        "fd00::1".parse().unwrap()
    }

    #[test]
    fn an_address_is_all_that_a_ping_needs() {
        let args = parsed("sidelane ping fd00::1");
        assert_eq!(args.address, Some(peer()));
        let expected = PingOptions::new(SocketAddr::new(peer(), 7174));
        assert_eq!(args.ping_options(peer()).unwrap(), expected);
    }

    #[test]
    fn all_of_a_ping_can_be_said() {
        let line = "sidelane ping fd00::1 -p 9 -c 3 -i 0.5 -s 4KiB --connections 2 --timeout 7";
        let expected = PingOptions {
            remote: SocketAddr::new(peer(), 9),
            count: Some(3),
            interval: Duration::from_millis(500),
            size: 4096,
            connections: 2,
            timeout: Duration::from_secs(7),
        };
        assert_eq!(parsed(line).ping_options(peer()).unwrap(), expected);
    }

    #[test]
    fn bandwidth_takes_its_seconds_or_not() {
        assert_eq!(parsed("sidelane ping fd00::1 -b").bandwidth, Some(3));
        let args = parsed("sidelane ping fd00::1 --bandwidth 9 --depth 4 --size 1MiB");
        let options = args.bandwidth_options(peer(), 9).unwrap();
        let expected = BandwidthOptions {
            duration: Duration::from_secs(9),
            size: Some(1 << 20),
            depth: 4,
            ..BandwidthOptions::new(SocketAddr::new(peer(), 7174))
        };
        assert_eq!(options, expected);
        assert!(args.ping_options(peer()).is_err(), "more than a round has");
    }

    #[rstest::rstest]
    #[case("sidelane ping", "ADDRESS")]
    #[case("sidelane ping somewhere", "somewhere")]
    #[case("sidelane ping fd00::1 --serve", "--serve")]
    #[case("sidelane ping fd00::1 --at fd00::2", "--at")]
    #[case("sidelane ping --serve --count 1", "--count")]
    #[case("sidelane ping fd00::1 --interval 31", "0 to 30")]
    #[case("sidelane ping fd00::1 --interval NaN", "0 to 30")]
    #[case("sidelane ping fd00::1 --size 31", "32 bytes")]
    #[case("sidelane ping fd00::1 --size 2MiB", "1 MiB")]
    #[case("sidelane ping fd00::1 --connections 65", "1..=64")]
    #[case("sidelane ping fd00::1 --count 0", "--count")]
    #[case("sidelane ping fd00::1 --depth 8", "--bandwidth")]
    #[case("sidelane ping fd00::1 --bandwidth --depth 1025", "1..=1024")]
    #[case("sidelane ping --bandwidth fd00::1", "--bandwidth")]
    fn wrong_use_is_told_with_status_2(#[case] line: &str, #[case] said: &str) {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(said), "{error}");
    }
}
