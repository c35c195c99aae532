//! The soft NIC and the kernel's rdma_rxe across a link that loses, reorders,
//! delays and doubles packets, in both directions: Sidelane's target with a
//! stock host, and Sidelane's initiator with the kernel's target.
//!
//! What was written is read in all weathers, and the weather takes packets, not
//! connections. How much it took is counted by netem, and must show in what our
//! NIC has counted.

use std::fmt::Write;

use anyhow::{Context, ensure};
use rstest::rstest;
use serde_json::Value;
use sidelane_tests::lab::weather::{self, Case};
use sidelane_tests::lab::{self, Nic};

/// What a weather does to the packets, and so what our NIC must have noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toll {
    /// Some do not arrive.
    Lost,
    /// Some arrive before those sent earlier.
    OutOfOrder,
    /// All arrive later, now by more and now by less.
    Late,
    /// Some arrive twice.
    Twice,
}

struct Weather {
    name: &'static str,
    /// As `tc` has it.
    netem: &'static str,
    toll: Toll,
    /// How much is done in it, against the others.
    work: usize,
    /// Whether connections may be lost; they are counted all the same.
    loses_connections: bool,
}

/// Enough is done in it for twenty packets to be lost, more or less.
const LIGHT_LOSS: Weather = Weather {
    name: "loss-0.1",
    netem: "loss 0.1%",
    toll: Toll::Lost,
    work: 4,
    loses_connections: false,
};

const WEATHERS: [Weather; 5] = [
    LIGHT_LOSS,
    Weather {
        name: "loss-1",
        netem: "loss 1%",
        work: 1,
        loses_connections: true,
        ..LIGHT_LOSS
    },
    Weather {
        name: "reorder",
        netem: "delay 1ms reorder 1%",
        toll: Toll::OutOfOrder,
        work: 1,
        ..LIGHT_LOSS
    },
    // By slots: without them each packet has a delay of its own, and so hardly any two stay in
    // order. rxe gets on by one gap for each half second then.
    Weather {
        name: "jitter",
        netem: "delay 1ms slot 1ms 4ms",
        toll: Toll::Late,
        work: 1,
        ..LIGHT_LOSS
    },
    Weather {
        name: "duplicates",
        netem: "duplicate 1%",
        toll: Toll::Twice,
        work: 1,
        ..LIGHT_LOSS
    },
];

impl Weather {
    /// Fails where the weather did not blow, or our NIC has not noticed.
    fn took_its_toll(&self, case: &Case) -> anyhow::Result<()> {
        let repeated = [
            "retransmits",
            "sequence_naks_out",
            "lost_responses",
            "duplicates",
        ];
        let gaps = ["sequence_naks_out", "sequence_naks_in", "lost_responses"];
        let (real, noticed) = match self.toll {
            Toll::Lost => (case.dropped >= 5, case.any(&repeated) > 0),
            Toll::OutOfOrder => (true, case.any(&gaps) > 0),
            Toll::Late => (true, true),
            Toll::Twice => (true, case.any(&["duplicates", "drops.stale_response"]) > 0),
        };
        ensure!(real && case.packets > 1000, "hardly any weather: {case:?}");
        ensure!(noticed, "the NIC has not noticed: {case:?}");
        ensure!(
            case.lost == 0 || self.loses_connections,
            "{} connections were lost: {case:?}",
            case.lost
        );
        Ok(())
    }
}

/// Who connects to whom, and how: the host connects anew for each.
#[derive(Debug, Clone, Copy)]
struct Link {
    queues: usize,
    family: &'static str,
    /// nvme-rdma's register_always, which only a stock host has.
    registers: bool,
}

impl Link {
    const fn new(queues: usize) -> Self {
        Self {
            queues,
            family: "ipv4",
            registers: false,
        }
    }

    fn name(self, weather: &Weather) -> String {
        let registers = if self.registers { "-registers" } else { "" };
        let Self { queues, family, .. } = self;
        format!("{}-{queues}-{family}{registers}", weather.name)
    }
}

const BY_IPV6: Link = Link {
    family: "ipv6",
    ..Link::new(8)
};

/// A stock host as it comes: rxe breaks its connection when it goes back, see
/// `tests/scenarios/interop-target`. So only what it reads is judged.
const AS_IT_COMES: Link = Link {
    registers: true,
    ..Link::new(8)
};

/// All weathers on 1, 8 and 64 queue pairs, and light loss on special links.
fn all_cases(special: &[Link]) -> Vec<(Link, &'static Weather)> {
    let mut cases = Vec::new();
    for link in [1, 8, 64].map(Link::new) {
        cases.extend(WEATHERS.iter().map(|weather| (link, weather)));
    }
    cases.extend(special.iter().map(|link| (*link, &LIGHT_LOSS)));
    cases
}

/// A line of the table that is printed: what the weather did, and what came of
/// it.
fn line(name: &str, case: &Case) -> String {
    let mut line = format!(
        "{name:28} {:6} ms, {:6} packets, {:4} dropped, {:2} connections lost;",
        case.us / 1000,
        case.packets,
        case.dropped,
        case.lost
    );
    for count in [
        "retransmits",
        "timeouts",
        "duplicates",
        "sequence_naks_out",
        "sequence_naks_in",
        "lost_responses",
    ] {
        let _ = write!(line, " {count} {}", case.count(count));
    }
    line
}

/// Of the link. 1500 leaves RoCE a path MTU of 1024, 4200 one of 4096; and the
/// smaller it is, the less has to be done for as many packets.
#[derive(Debug, Clone, Copy)]
enum Mtu {
    Of1500,
    Of4200,
}

impl Mtu {
    fn text(self) -> &'static str {
        match self {
            Self::Of1500 => "1500",
            Self::Of4200 => "4200",
        }
    }

    /// Bytes that a stock host writes in the least of cases.
    fn bytes(self) -> usize {
        match self {
            Self::Of1500 => 5 << 19,
            Self::Of4200 => 7 << 20,
        }
    }

    /// Writes of Sidelane's initiator in the least of cases.
    fn commands(self) -> usize {
        match self {
            Self::Of1500 => 160,
            Self::Of4200 => 400,
        }
    }
}

#[rstest]
fn a_stock_host_is_served_in_all_weathers(
    #[values(Mtu::Of1500, Mtu::Of4200)] mtu: Mtu,
) -> anyhow::Result<()> {
    let all = all_cases(&[AS_IT_COMES, BY_IPV6]);
    let mut words = String::new();
    for (link, weather) in &all {
        let (name, bytes) = (link.name(weather), mtu.bytes() * weather.work);
        let registers = if link.registers { "Y" } else { "N" };
        let Link { queues, family, .. } = link;
        let how = weather.netem;
        writeln!(words, "{name} {family} {registers} {queues} {bytes} {how}")?;
    }
    let variables = [("MTU", mtu.text()), ("CASES", words.trim_end())];
    let outcome = lab::run("interop-target", Nic::Soft, &variables)?;
    let mut cases = weather::cases(&outcome).unwrap_or_default();
    let mut judged = Ok(());
    for (link, weather) in all {
        let name = link.name(weather);
        let mut case = cases.remove(&name).unwrap_or_default();
        let (before, after) = (format!("{name}-before"), format!("{name}-after"));
        case.counts = weather::counted_between(&outcome, &before, &after).unwrap_or_default();
        println!("{}", line(&name, &case));
        if link.registers {
            case.lost = 0;
        }
        let toll = weather.took_its_toll(&case);
        judged = judged.and(toll.with_context(|| format!("case {name}, link MTU {}", mtu.text())));
    }
    outcome.all_ok().and(judged)
}

#[rstest]
fn the_kernels_target_serves_our_initiator_in_all_weathers(
    #[values(Mtu::Of1500, Mtu::Of4200)] mtu: Mtu,
) -> anyhow::Result<()> {
    let all = all_cases(&[BY_IPV6]);
    let mut words = String::new();
    for (link, weather) in &all {
        let (name, commands) = (link.name(weather), mtu.commands() * weather.work);
        let Link { queues, family, .. } = link;
        writeln!(
            words,
            "{name} {family} {queues} {commands} {}",
            weather.netem
        )?;
    }
    let variables = [("MTU", mtu.text()), ("CASES", words.trim_end())];
    let outcome = lab::run_with("interop-initiator", Nic::Soft, &variables, &["exercise"])?;
    let mut cases = weather::cases(&outcome).unwrap_or_default();
    let mut judged = Ok(());
    for (link, weather) in all {
        let name = link.name(weather);
        let mut case = cases.remove(&name).unwrap_or_default();
        let report: Value = outcome
            .text(&format!("exercise-{name}.json"))
            .and_then(|text| Ok(serde_json::from_str(&text)?))
            .unwrap_or_default();
        case.lost = report["connections_lost"].as_u64().unwrap_or(0);
        case.counts = serde_json::from_value(report["counts"].clone()).unwrap_or_default();
        println!("{}", line(&name, &case));
        // rxe breaks its queue pair without a word, but for a warning of its completer's, where
        // answers to a long READ of its own overtake each other.
        if weather.toll == Toll::OutOfOrder {
            case.lost = 0;
        }
        let toll = weather.took_its_toll(&case).and_then(|()| {
            let read = report["verified_bytes"].as_u64().unwrap_or(0);
            ensure!(read > 1 << 20 && report["errors"] == 0, "{report}");
            Ok(())
        });
        judged = judged.and(toll.with_context(|| format!("case {name}, link MTU {}", mtu.text())));
    }
    outcome.all_ok().and(judged)
}
