//! A small pool, many queues, two namespaces: everyone gets on, and what a host
//! is told of the write cache is what comes of it at the SSD.

use anyhow::{Context, ensure};
use serde_json::Value;
use sidelane_tests::lab::{self, Nic, Payload};

const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;

/// Bytes of each write whose fate is looked at, and how many there are.
const BYTES: u64 = 4096;
const WRITES: usize = 16;

/// Where they are on each disk, in bytes: with FUA, and without.
const WITH_FUA: u64 = 960 << 20;
const WITHOUT: u64 = 992 << 20;

/// The namespaces at the SSD, and how long their blocks are.
const NAMESPACES: [(u32, u64); 2] = [(1, 512), (2, 4096)];

/// A command that an SSD was given, as far as it matters here.
struct Told {
    opcode: u8,
    nsid: u32,
    slba: u64,
    fua: bool,
}

/// The target's journal (NVMe 2.0, Figure 88; NVM Command Set 1.0, 3.2.5).
fn journal(text: &str) -> anyhow::Result<Vec<Told>> {
    let told = |line: &str| {
        let entry: Value = serde_json::from_str(line)?;
        let hex = entry["sqe"].as_str().context("no sqe")?;
        let dword = |at: usize| {
            let digits = hex.get(8 * at..8 * at + 8).context("a short sqe")?;
            anyhow::Ok(u32::from_str_radix(digits, 16)?.swap_bytes())
        };
        Ok(Told {
            opcode: dword(0)? as u8,
            nsid: dword(1)?,
            slba: u64::from(dword(10)?) | u64::from(dword(11)?) << 32,
            fua: dword(12)? >> 30 & 1 == 1,
        })
    };
    text.lines().map(told).collect()
}

#[test]
fn many_queues_share_a_small_pool_and_nobody_starves() -> anyhow::Result<()> {
    let nic = Nic::Soft;
    let variables = [("POLICY", nic.policy())];
    let outcome = lab::run_on("small-cmb", "pressure", nic, &variables, &[])?;
    println!("what was asked of the target, in ms:");
    println!("{}", outcome.text("asked").unwrap_or_default());
    outcome.all_ok()?;
    Payload::of(&outcome.stats("end")?)?.went(nic.way())?;
    let told = journal(&outcome.text("journal")?)?;
    for (nsid, block_bytes) in NAMESPACES {
        let writes = |from: u64| {
            let slbas = from / block_bytes..(from + WRITES as u64 * BYTES) / block_bytes;
            let of = |it: &&Told| it.opcode == WRITE && it.nsid == nsid && slbas.contains(&it.slba);
            let fua: Vec<bool> = told.iter().filter(of).map(|it| it.fua).collect();
            fua
        };
        ensure!(
            writes(WITH_FUA) == [true; WRITES],
            "namespace {nsid}: FUA of writes that need it: {:?}",
            writes(WITH_FUA)
        );
        ensure!(
            writes(WITHOUT) == [false; WRITES],
            "namespace {nsid}: FUA of writes that do not need it: {:?}",
            writes(WITHOUT)
        );
        let last = told
            .iter()
            .rposition(|it| it.nsid == nsid && it.slba == WITHOUT / block_bytes);
        let flushed = told[last.context("not written")?..]
            .iter()
            .any(|it| it.opcode == FLUSH && it.nsid == nsid);
        ensure!(flushed, "namespace {nsid}: no Flush behind the writes");
    }
    Ok(())
}
