//! What a host may rely on when an SSD loses its power: the write cache that it
//! is told of, and the writes that it was told are safe.

use anyhow::ensure;
use rstest::rstest;
use sidelane_nvme::model::ModelOptions;
use sidelane_nvme::spec::{
    AdminOpcode, Cns, Identify, IdentifyController, NvmOpcode, ReadWrite, Sqe,
};
use sidelane_tests::in_process::bench::{Bench, DISK, GOOD, Layout};
use sidelane_tests::in_process::raw_host::{Association, RawHost, bare, read_write, with_sgl};
use zerocopy::{FromZeros, IntoBytes};

const BLOCK: usize = 512;

struct Host {
    host: RawHost,
    association: Association,
}

impl Host {
    fn new(bench: &Bench) -> anyhow::Result<Self> {
        let mut host = RawHost::new(bench.remote)?;
        host.hostnqn = GOOD.to_owned();
        let association = host.associate(DISK, 32, 0)?;
        Ok(Self { host, association })
    }

    /// Whether it is told that there is a volatile write cache.
    fn is_told_of_a_cache(&mut self) -> anyhow::Result<bool> {
        let sgl = self.host.keyed(0, 4096);
        let identify = Identify {
            cns: Cns::Controller,
            ..with_sgl(Sqe::new(AdminOpcode::Identify.0, 0), sgl).into()
        };
        let end = (self.host).transact(self.association.admin, identify.into())?;
        ensure!(end.status().is_success(), "{}", end.status());
        let mut data = IdentifyController::new_zeroed();
        self.host.data_read(0, data.as_mut_bytes())?;
        Ok(data.vwc.present())
    }

    fn io(&mut self, sqe: Sqe) -> anyhow::Result<()> {
        let end = self.host.transact(self.association.io, sqe)?;
        ensure!(end.status().is_success(), "{}", end.status());
        Ok(())
    }

    /// Fills a block, by force unit access or not.
    fn fill(&mut self, nsid: u32, lba: u64, byte: u8, fua: bool) -> anyhow::Result<()> {
        self.host.data_write(0, &[byte; BLOCK])?;
        let mut write = ReadWrite::from(read_write(NvmOpcode::Write, nsid, lba, 1));
        write.cdw12.set_fua(fua);
        self.io(with_sgl(write.into(), self.host.keyed(0, BLOCK)))
    }

    fn flush(&mut self, nsid: u32) -> anyhow::Result<()> {
        self.io(bare(Sqe::new(NvmOpcode::Flush.0, nsid)))
    }

    /// The byte that a block is full of.
    fn byte(&mut self, nsid: u32, lba: u64) -> anyhow::Result<u8> {
        let read = read_write(NvmOpcode::Read, nsid, lba, 1);
        self.io(with_sgl(read, self.host.keyed(0, BLOCK)))?;
        let mut block = [0; BLOCK];
        self.host.data_read(0, &mut block)?;
        ensure!(block.iter().all(|byte| *byte == block[0]), "{block:?}");
        Ok(block[0])
    }
}

/// SSDs are pulled, lose what they had in their caches, and are put back.
fn lose_power(bench: &Bench) -> anyhow::Result<()> {
    for ssd in &bench.ssds {
        ssd.vanish();
        ssd.power_loss();
    }
    let all = |state| {
        bench.until(state, |stats| {
            stats.ssds.iter().all(|ssd| ssd.state == state)
        })
    };
    all("lost")?;
    bench.ssds.iter().for_each(|ssd| ssd.reappear());
    all("up")?;
    Ok(())
}

/// Namespace 1 takes its payload through the SSD's own memory, 2 through the
/// host's.
#[rstest]
#[case::in_use(|ssd: &mut ModelOptions| ssd.forgetful = true, true)]
#[case::turned_off(|ssd: &mut ModelOptions| (ssd.forgetful, ssd.cache_on) = (true, false), false)]
#[case::not_there(|ssd: &mut ModelOptions| (ssd.forgetful, ssd.volatile_cache) = (true, false), false)]
fn what_was_said_to_be_safe_outlives_the_power_and_a_cache_that_loses_is_announced(
    #[case] ssd: fn(&mut ModelOptions),
    #[case] cache: bool,
) -> anyhow::Result<()> {
    let bench = Bench::start_with(&Layout::default(), ssd)?;
    let mut host = Host::new(&bench)?;
    ensure!(host.is_told_of_a_cache()? == cache);
    for nsid in [1, 2] {
        host.fill(nsid, 0, 0x11, false)?;
        host.flush(nsid)?;
        // Of the same chunk of media, and over what was flushed.
        host.fill(nsid, 1, 0x22, true)?;
        host.fill(nsid, 2, 0x33, false)?;
        host.fill(nsid, 3, 0x44, false)?;
        host.fill(nsid, 3, 0x55, true)?;
        for (lba, byte) in [0x11, 0x22, 0x33, 0x55].into_iter().enumerate() {
            ensure!(host.byte(nsid, lba as u64)? == byte);
        }
    }
    lose_power(&bench)?;
    for nsid in [1, 2] {
        for (lba, byte) in [(0, 0x11), (1, 0x22), (3, 0x55)] {
            let kept = host.byte(nsid, lba)?;
            ensure!(kept == byte, "nsid {nsid} block {lba}: {kept:#x}");
        }
        // The host has asked for nothing, and was told of the cache or not.
        let left = host.byte(nsid, 2)?;
        ensure!(left == if cache { 0 } else { 0x33 }, "{left:#x}");
    }
    ensure!(host.is_told_of_a_cache()? == cache);
    host.host.disconnect(host.association.io)?;
    host.host.disconnect(host.association.admin)?;
    bench.nothing_left()?;
    bench.stop()?;
    Ok(())
}
