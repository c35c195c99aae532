//! Hosts that come back while the SSD still has something of theirs.

use anyhow::ensure;
use sidelane_nvme::model::{Fault, Matcher};
use sidelane_nvme::spec::{CNTLID_DYNAMIC, NvmOpcode, Status};
use sidelane_tests::in_process::bench::{Bench, DISK};
use sidelane_tests::in_process::raw_host::{QueueOf, RawHost, read_write, with_sgl};

/// Blocks that are written twice, and their bytes.
const BLOCKS: u32 = 8;
const BYTES: usize = 4096;

/// A write of an association that has ended, held back in the SSD, must not come
/// behind what the host writes by the next one.
#[test]
fn what_a_host_writes_when_it_is_back_is_not_overtaken_by_what_it_wrote_before()
-> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let ssd = &bench.ssds[0];
    let held = ssd.inject(Matcher::io(NvmOpcode::Write), Fault::Hold);
    let mut host = RawHost::new(bench.remote)?;
    let old = host.associate(DISK, 16, 0)?;
    host.data_write(0, &[1; BYTES])?;
    let write = with_sgl(
        read_write(NvmOpcode::Write, 1, 0, BLOCKS),
        host.keyed(0, BYTES),
    );
    host.command(old.io, write)?;
    host.until("the write at the SSD", |_| {
        (held.fired() == 1).then_some(())
    })?;
    host.disconnect(old.io)?;
    host.disconnect(old.admin)?;
    bench.until("the end of the association", |stats| {
        stats.controllers.is_empty()
    })?;

    let of = QueueOf {
        subsystem: DISK,
        qid: 0,
        cntlid: CNTLID_DYNAMIC,
        entries: 32,
        kato_ms: 0,
    };
    let early = host.queue_pair(0, CNTLID_DYNAMIC, 32)?;
    let connect = host.connect_command(&of)?;
    let status = host.transact(early, connect)?.status();
    ensure!(
        status.same_code(Status::CONNECT_CONTROLLER_BUSY) && !status.dnr(),
        "the host is served while the SSD has its write: {status}"
    );
    ssd.release();
    bench.nothing_left()?;

    let new = host.associate(DISK, 16, 0)?;
    host.data_write(0, &[2; BYTES])?;
    for opcode in [NvmOpcode::Write, NvmOpcode::Read] {
        let sqe = with_sgl(read_write(opcode, 1, 0, BLOCKS), host.keyed(0, BYTES));
        let status = host.transact(new.io, sqe)?.status();
        ensure!(status.is_success(), "{opcode:?}: {status}");
    }
    let mut found = [0; BYTES];
    host.data_read(0, &mut found)?;
    ensure!(found == [2; BYTES], "older data came later");
    Ok(())
}
