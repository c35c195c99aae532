//! Hosts that take commands back (Abort, NVMe 2.0, 5.1): each command is answered
//! once, whatever it waits for, and Abort says what became of it.

use std::time::Duration;

use anyhow::{Context, ensure};
use sidelane_nvme::spec::{Abort, AdminOpcode, NvmOpcode, Sqe, Status};
use sidelane_tests::in_process::bench::{Bench, DISK, Layout};
use sidelane_tests::in_process::raw_host::{
    Association, Conn, QueueOf, RawHost, bare, read_write, with_sgl,
};
use zerocopy::IntoBytes;

const ABORTED: u32 = 0;
const NOT_ABORTED: u32 = 1;

/// A pool that one command of 64 KiB fills on each reactor, for namespace 2.
fn scarce(cores: &'static str) -> anyhow::Result<Bench> {
    let usual = Layout::default().rest;
    let kib = 64 * cores.split(',').count();
    let pool = format!("[[provider]]\nid = \"host\"\nkind = \"host\"\nsize = \"{kib} KiB\"\n");
    Bench::start(&Layout {
        cores,
        rest: format!("\n{pool}{usual}"),
        cmbs: 1,
    })
}

fn command(host: &RawHost, opcode: NvmOpcode, at: usize, blocks: u32) -> Sqe {
    let descriptor = host.keyed(at, blocks as usize * 512);
    with_sgl(read_write(opcode, 2, at as u64 / 512, blocks), descriptor)
}

fn send_abort(host: &mut RawHost, admin: Conn, sqid: u16, cid: u16) -> anyhow::Result<u16> {
    let mut abort = Abort::from(bare(Sqe::new(AdminOpcode::Abort.0, 0)));
    abort.sqid.set(sqid);
    abort.cid.set(cid);
    host.command(admin, abort.into())
}

/// Dword 0 of an Abort's answer.
fn answered(host: &mut RawHost, admin: Conn, by: u16) -> anyhow::Result<u32> {
    let cqe = host.response(admin, by)?;
    ensure!(cqe.status().is_success(), "Abort: {}", cqe.status());
    Ok(cqe.dw0.get())
}

fn abort(host: &mut RawHost, admin: Conn, sqid: u16, cid: u16) -> anyhow::Result<u32> {
    let by = send_abort(host, admin, sqid, cid)?;
    answered(host, admin, by)
}

/// The status that a command ends with.
fn ended(host: &mut RawHost, conn: Conn, cid: u16) -> anyhow::Result<Status> {
    Ok(host.response(conn, cid)?.status())
}

/// Waits until so many commands have come into a state.
fn reached(host: &mut RawHost, bench: &Bench, state: &str, count: u64) -> anyhow::Result<()> {
    host.until(state, |_| {
        let stats = bench.stats().ok()?;
        let sum: u64 = stats.reactors.iter().map(|r| r.states[state]).sum();
        (sum >= count).then_some(())
    })
}

/// All of a host's connections end, the SSD works again, and nothing is left.
fn finish(mut host: RawHost, all: &[Association], bench: &Bench) -> anyhow::Result<()> {
    let left: Vec<_> = host.responses.drain(..).collect();
    ensure!(left.is_empty(), "answered twice: {left:?}");
    for association in all {
        host.disconnect(association.io)?;
        host.disconnect(association.admin)?;
    }
    release(bench);
    bench.healthy()?;
    Ok(())
}

fn release(bench: &Bench) {
    for ssd in &bench.ssds {
        ssd.set_defer(false);
        while ssd.step() {}
    }
}

#[rstest::rstest]
#[case::on_one_reactor("[0]")]
#[case::on_two_reactors("[0, 1]")]
fn commands_that_wait_for_a_buffer_are_aborted_at_once(
    #[case] cores: &'static str,
) -> anyhow::Result<()> {
    let bench = scarce(cores)?;
    bench.ssds[1].set_defer(true);
    let mut host = RawHost::new(bench.remote)?;
    // Admin queues take turns on the reactors, so that one of the two is not where
    // its I/O queue is.
    let all = [host.associate(DISK, 32, 0)?, host.associate(DISK, 32, 0)?];
    for (n, association) in all.iter().enumerate() {
        let Association { admin, io, .. } = *association;
        let first = command(&host, NvmOpcode::Write, 0, 128);
        let first = host.command(io, first)?;
        let mut waiting = Vec::new();
        for _ in 0..8 {
            let next = command(&host, NvmOpcode::Write, 65536, 8);
            waiting.push(host.command(io, next)?);
        }
        reached(&mut host, &bench, "waiting-buffer", 8 * (n as u64 + 1))
            .context("commands that wait")?;
        // One, in the middle; then several at once.
        ensure!(abort(&mut host, admin, 1, waiting[3])? == ABORTED);
        ensure!(ended(&mut host, io, waiting[3])? == Status::ABORT_REQUESTED);
        let several = [waiting[0], waiting[1], waiting[7], waiting[4]];
        let mut aborts = Vec::new();
        for cid in several {
            aborts.push(send_abort(&mut host, admin, 1, cid)?);
        }
        for by in aborts {
            ensure!(answered(&mut host, admin, by)? == ABORTED);
        }
        for cid in several {
            ensure!(ended(&mut host, io, cid)? == Status::ABORT_REQUESTED);
        }
        // Again, of what has ended.
        ensure!(abort(&mut host, admin, 1, waiting[3])? == NOT_ABORTED);
        // The others go on as if nothing were.
        bench.ssds[1].set_defer(false);
        while bench.ssds[1].step() {}
        for cid in [first, waiting[2], waiting[5], waiting[6]] {
            ensure!(ended(&mut host, io, cid)?.is_success());
        }
        bench.ssds[1].set_defer(true);
    }
    finish(host, &all, &bench)
}

/// What an SSD has is its own to give up; Abort is answered in any case, in its
/// time.
#[test]
fn an_abort_of_what_an_ssd_has_is_answered_and_the_command_ends_once() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    bench.ssds[1].set_defer(true);
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(DISK, 32, 0)?;
    let Association { admin, io, .. } = association;
    let sqe = command(&host, NvmOpcode::Read, 0, 8);
    let mut cids = Vec::new();
    for _ in 0..4 {
        cids.push(host.command(io, sqe)?);
    }
    reached(&mut host, &bench, "executing", 4)?;
    let mut aborts = Vec::new();
    for cid in &cids {
        aborts.push(send_abort(&mut host, admin, 1, *cid)?);
    }
    let results: Vec<u32> = aborts
        .into_iter()
        .map(|by| answered(&mut host, admin, by))
        .collect::<Result<_, _>>()?;
    release(&bench);
    for (cid, result) in cids.into_iter().zip(results) {
        let status = ended(&mut host, io, cid)?;
        let is_aborted = status == Status::ABORT_REQUESTED;
        ensure!(is_aborted || status.is_success(), "{status}");
        ensure!(is_aborted || result == NOT_ABORTED, "{cid} was not");
    }
    finish(host, &[association], &bench)
}

/// The queue of the SSD has fewer entries than the queues of the hosts together.
#[test]
fn commands_that_wait_for_a_full_backend_are_aborted_at_once() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    bench.ssds[1].set_defer(true);
    let mut host = RawHost::new(bench.remote)?;
    let mut all = Vec::new();
    let mut last = Vec::new();
    // Zeroes need no buffer, and each command is one entry.
    let zeroes = bare(read_write(NvmOpcode::WriteZeroes, 2, 0, 8));
    while last.is_empty() {
        ensure!(all.len() < 80, "the SSD's queue is never full");
        let association = host.associate(DISK, 64, 0)?;
        for _ in 0..60 {
            last.push(host.command(association.io, zeroes)?);
        }
        all.push(association);
        let sent = 60 * all.len() as u64;
        host.until("all of them", |_| {
            let stats = bench.stats().ok()?;
            let states = &stats.reactors[0].states;
            (states["queueing"] + states["executing"] >= sent).then_some(())
        })?;
        if bench.stats()?.reactors[0].states["queueing"] == 0 {
            last.clear();
        }
    }
    let association = *all.last().context("an association")?;
    let cid = *last.last().context("a command")?;
    ensure!(abort(&mut host, association.admin, 1, cid)? == ABORTED);
    ensure!(ended(&mut host, association.io, cid)? == Status::ABORT_REQUESTED);
    release(&bench);
    host.until("the others", |host| {
        (host.responses.len() == 60 * all.len() - 1).then_some(())
    })?;
    let failed = host
        .responses
        .iter()
        .find(|(_, cqe)| !cqe.status().is_success());
    ensure!(failed.is_none(), "{failed:?}");
    host.responses.clear();
    finish(host, &all, &bench)
}

/// The data of the command is on its way from a host that does not move.
#[test]
fn a_command_whose_data_comes_late_is_not_carried_out() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(DISK, 32, 0)?;
    let mut frozen = RawHost::new(bench.remote)?;
    let (io, _) = frozen.queue(&QueueOf {
        subsystem: DISK,
        qid: 2,
        cntlid: association.cntlid,
        entries: 32,
        kato_ms: 0,
    })?;
    frozen.data_write(0, &[0x77; 4096])?;
    let write = command(&frozen, NvmOpcode::Write, 0, 8);
    let before = bench.stats()?.reactors[0].states["fetching"];
    let cid = frozen.command(io, write)?;
    // The command leaves; what comes back for it is not looked at.
    frozen.poll()?;
    reached(&mut host, &bench, "fetching", before + 1)?;
    // Twice: it is one command nevertheless.
    let first = send_abort(&mut host, association.admin, 2, cid)?;
    let second = send_abort(&mut host, association.admin, 2, cid)?;
    for by in [first, second] {
        ensure!(answered(&mut host, association.admin, by)? == NOT_ABORTED);
    }
    ensure!(ended(&mut frozen, io, cid)? == Status::ABORT_REQUESTED);
    let mut media = [0; 4096];
    bench.ssds[1].read_media(1, 0, &mut media)?;
    ensure!(media == [0; 4096], "it was written nevertheless");
    // The same identifier serves again.
    let mut again = write;
    again.cdw0.set_cid(cid);
    frozen.send(io, again.as_bytes())?;
    ensure!(ended(&mut frozen, io, cid)?.is_success());
    bench.ssds[1].read_media(1, 0, &mut media)?;
    ensure!(media == [0x77; 4096]);
    frozen.disconnect(io)?;
    finish(host, &[association], &bench)
}

#[test]
fn event_requests_are_aborted_and_aborts_are_not() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(DISK, 32, 0)?;
    let Association { admin, io, .. } = association;
    // More often than there are places for requests.
    for _ in 0..20 {
        let aer = host.command(admin, bare(Sqe::new(AdminOpcode::AsyncEventRequest.0, 0)))?;
        ensure!(abort(&mut host, admin, 0, aer)? == ABORTED);
        ensure!(ended(&mut host, admin, aer)? == Status::ABORT_REQUESTED);
    }
    bench.ssds[1].set_defer(true);
    let read = command(&host, NvmOpcode::Read, 0, 8);
    let cid = host.command(io, read)?;
    reached(&mut host, &bench, "executing", 1)?;
    let one = send_abort(&mut host, admin, 1, cid)?;
    let two = send_abort(&mut host, admin, 0, one)?;
    ensure!(answered(&mut host, admin, two)? == NOT_ABORTED);
    release(&bench);
    answered(&mut host, admin, one)?;
    ended(&mut host, io, cid)?;
    finish(host, &[association], &bench)
}

#[test]
fn aborts_of_what_is_not_there_and_more_than_the_limit_harm_nobody() -> anyhow::Result<()> {
    let bench = scarce("[0]")?;
    let mut host = RawHost::new(bench.remote)?;
    let all = [host.associate(DISK, 32, 0)?, host.associate(DISK, 32, 0)?];
    let Association { admin, io, .. } = all[0];
    for (sqid, cid) in [(1, 0x7777), (0, 0x7777), (2, 0), (255, 0), (0xffff, 0xffff)] {
        ensure!(
            abort(&mut host, admin, sqid, cid)? == NOT_ABORTED,
            "{sqid}, {cid}"
        );
    }
    bench.ssds[1].set_defer(true);
    let long = command(&host, NvmOpcode::Read, 0, 128);
    let first = host.command(io, long)?;
    reached(&mut host, &bench, "executing", 1)?;
    // Another association's queue 1 has no such command, and this one's goes on.
    ensure!(abort(&mut host, all[1].admin, 1, first)? == NOT_ABORTED);
    let mut aborts = Vec::new();
    for _ in 0..4 {
        aborts.push(send_abort(&mut host, admin, 1, first)?);
    }
    let fifth = send_abort(&mut host, admin, 1, first)?;
    let refused = ended(&mut host, admin, fifth)?;
    ensure!(refused.same_code(Status::ABORT_LIMIT_EXCEEDED), "{refused}");
    // They do not stand in anybody's way.
    let keep_alive = bare(Sqe::new(AdminOpcode::KeepAlive.0, 0));
    host.check(admin, keep_alive, &[], Status::SUCCESS)?;
    for by in aborts {
        answered(&mut host, admin, by)?;
    }
    release(&bench);
    ended(&mut host, io, first)?;
    finish(host, &all, &bench)
}

/// A queue that ends while its commands are being aborted, in either order.
#[test]
fn an_abort_of_what_ends_with_its_connection_is_answered() -> anyhow::Result<()> {
    let bench = scarce("[0, 1]")?;
    bench.ssds[1].set_defer(true);
    for abort_first in [false, true] {
        let mut host = RawHost::new(bench.remote)?;
        let association = host.associate(DISK, 32, 0)?;
        let Association { admin, io, .. } = association;
        let long = command(&host, NvmOpcode::Read, 0, 128);
        let first = host.command(io, long)?;
        let second = host.command(io, long)?;
        reached(
            &mut host,
            &bench,
            "waiting-buffer",
            1 + u64::from(abort_first),
        )?;
        if !abort_first {
            host.leave(io);
        }
        let one = send_abort(&mut host, admin, 1, first)?;
        let two = send_abort(&mut host, admin, 1, second)?;
        if abort_first {
            host.leave(io);
        }
        for by in [one, two] {
            answered(&mut host, admin, by)?;
        }
        host.await_end(io)?;
        host.disconnect(admin)?;
        release(&bench);
        bench.nothing_left()?;
        bench.ssds[1].set_defer(true);
    }
    release(&bench);
    bench.healthy()?;
    Ok(())
}

/// Commands that end at any moment, and are aborted at any moment: each is
/// answered once, and what Abort says is so.
#[rstest::rstest]
#[case::on_one_reactor("[0]")]
#[case::on_two_reactors("[0, 1]")]
fn an_abort_that_races_with_the_end_says_what_became_of_it(
    #[case] cores: &'static str,
) -> anyhow::Result<()> {
    let bench = scarce(cores)?;
    let mut host = RawHost::new(bench.remote)?;
    let all = [host.associate(DISK, 32, 0)?, host.associate(DISK, 32, 0)?];
    let mut said = [0, 0];
    for n in 0..200 {
        let Association { admin, io, .. } = all[n % 2];
        let opcode = [NvmOpcode::Write, NvmOpcode::Read][n / 2 % 2];
        let mut cids = Vec::new();
        for at in 0..6 {
            let sqe = command(&host, opcode, at * 65536, 128);
            cids.push(host.command(io, sqe)?);
        }
        host.linger(Duration::from_micros(37 * (n as u64 % 29)))?;
        let aborts: Vec<_> = cids[2..6]
            .iter()
            .map(|cid| Ok((*cid, send_abort(&mut host, admin, 1, *cid)?)))
            .collect::<anyhow::Result<_>>()?;
        for (cid, by) in aborts {
            let result = answered(&mut host, admin, by)?;
            let status = ended(&mut host, io, cid)?;
            let is_aborted = status == Status::ABORT_REQUESTED;
            ensure!(is_aborted || status.is_success(), "{status}");
            ensure!((result == ABORTED) == is_aborted, "{result}: {status}");
            said[result as usize] += 1;
        }
        for cid in &cids[..2] {
            ensure!(ended(&mut host, io, *cid)?.is_success());
        }
        ensure!(host.responses.is_empty(), "{:?}", host.responses);
    }
    eprintln!("aborted {}, not aborted {}", said[0], said[1]);
    ensure!(said[0] > 0, "nothing was ever aborted");
    finish(host, &all, &bench)
}
