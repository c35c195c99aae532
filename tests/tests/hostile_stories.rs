//! Hosts that do anything in any order: I/O, Abort, resets, disconnects, silence,
//! sudden ends, new beginnings, data that never comes, over SSDs that stop and go
//! on. Each command is answered once at most, and when all are gone, nothing of
//! them is left.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use sidelane_nvme::spec::{Abort, AdminOpcode, NvmOpcode, Sqe};
use sidelane_tests::in_process::bench::{Bench, DISK, Layout};
use sidelane_tests::in_process::random::Random;
use sidelane_tests::in_process::raw_host::{
    Association, Conn, RawHost, bare, read_write, with_sgl,
};
use sidelane_transport::nic::QpNumber;

/// Hosts at once, and events of one story.
const HOSTS: usize = 3;
const EVENTS: usize = 250;
/// Entries of an I/O queue, and the most that a host has under way on it.
const ENTRIES: u16 = 32;
const MOST: usize = 24;
/// Stories, unless the environment asks for more by STORIES.
const SEEDS: u64 = 3;

/// A host and what it waits for.
struct Player {
    host: RawHost,
    association: Association,
    /// Commands by queue pair and identifier.
    waits: HashMap<(QpNumber, u16), ()>,
    /// The last commands on the I/O queue.
    recent: Vec<u16>,
    /// Turns for which its adapter is not moved on.
    frozen: u64,
}

impl Player {
    fn new(bench: &Bench) -> anyhow::Result<Self> {
        let mut host = RawHost::new(bench.remote)?;
        let association = host.associate(DISK, ENTRIES, 1000)?;
        Ok(Self {
            host,
            association,
            waits: HashMap::new(),
            recent: Vec::new(),
            frozen: 0,
        })
    }

    fn send(&mut self, conn: Conn, sqe: Sqe) -> u16 {
        // A connection that has ended takes nothing any more: no matter.
        let cid = self.host.command(conn, sqe).unwrap_or_default();
        self.waits.insert((conn.qp, cid), ());
        cid
    }

    /// Takes what has come: nothing that was not waited for.
    fn poll(&mut self) -> anyhow::Result<()> {
        if self.frozen > 0 {
            self.frozen -= 1;
            return Ok(());
        }
        self.host.poll()?;
        for (qp, cqe) in std::mem::take(&mut self.host.responses) {
            let waited = self.waits.remove(&(qp, cqe.cid.get()));
            ensure!(waited.is_some(), "nobody waits for {cqe:?}");
        }
        Ok(())
    }

    fn io(&mut self, random: &mut Random) {
        let io = self.association.io;
        if self.waits.keys().filter(|(qp, _)| *qp == io.qp).count() >= MOST {
            return;
        }
        let opcode = [
            NvmOpcode::Write,
            NvmOpcode::Read,
            NvmOpcode::Flush,
            NvmOpcode::WriteZeroes,
        ][random.below(4) as usize];
        let blocks = [1, 8, 32, 128][random.below(4) as usize];
        let nsid = 1 + random.below(2) as u32;
        let sqe = read_write(opcode, nsid, random.below(4096), blocks);
        let sqe = match opcode {
            NvmOpcode::Write | NvmOpcode::Read => {
                let at = random.below(64) as usize * 4096;
                with_sgl(sqe, self.host.keyed(at, blocks as usize * 512))
            }
            _ => bare(sqe),
        };
        let cid = self.send(io, sqe);
        self.recent.push(cid);
        if self.recent.len() > 8 {
            self.recent.remove(0);
        }
    }

    fn admin(&mut self, random: &mut Random) {
        let admin = self.association.admin;
        if self.waits.keys().filter(|(qp, _)| *qp == admin.qp).count() >= MOST {
            return;
        }
        let opcode = match random.below(4) {
            0 => AdminOpcode::KeepAlive,
            1 => AdminOpcode::AsyncEventRequest,
            _ => AdminOpcode::Abort,
        };
        let mut sqe = bare(Sqe::new(opcode.0, 0));
        if opcode == AdminOpcode::Abort {
            let mut abort = Abort::from(sqe);
            let at = random.below(9) as usize;
            abort
                .cid
                .set(self.recent.get(at).copied().unwrap_or(at as u16));
            abort.sqid.set(u16::from(random.below(8) > 0));
            sqe = abort.into();
        }
        self.send(admin, sqe);
    }
}

/// One turn of one host.
fn turn(player: &mut Player, bench: &Bench, random: &mut Random) -> anyhow::Result<()> {
    match random.below(100) {
        0..=59 => player.io(random),
        60..=84 => player.admin(random),
        85..=88 => player.frozen = random.below(20),
        89..=90 => {
            // A reset; I/O queues go with it.
            let cc = sidelane_nvme::spec::Cc::new().with_en(random.below(2) > 0);
            player.send(player.association.admin, RawHost::property_set_cc(cc));
        }
        91 => player.host.leave(player.association.io),
        92 => player.host.leave(player.association.admin),
        93..=94 => {
            // Gone without a word, and another in its place.
            *player = Player::new(bench)?;
        }
        95..=96 => {
            let ssd = &bench.ssds[random.below(2) as usize];
            ssd.set_defer(true);
        }
        _ => release(bench),
    }
    Ok(())
}

fn release(bench: &Bench) {
    for ssd in &bench.ssds {
        ssd.set_defer(false);
        while ssd.step() {}
    }
}

fn story(seed: u64) -> anyhow::Result<()> {
    let usual = Layout::default().rest;
    let pool = "[[provider]]\nid = \"host\"\nkind = \"host\"\nsize = \"256 KiB\"\n";
    let bench = Bench::start(&Layout {
        cores: if seed.is_multiple_of(2) {
            "[0]"
        } else {
            "[0, 1]"
        },
        rest: format!("\n{pool}{usual}"),
        cmbs: 1,
    })?;
    let mut random = Random::new(seed);
    let mut players = (0..HOSTS)
        .map(|_| Player::new(&bench))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for event in 0..EVENTS {
        let at = random.below(HOSTS as u64) as usize;
        turn(&mut players[at], &bench, &mut random).with_context(|| format!("event {event}"))?;
        for player in &mut players {
            player.poll().with_context(|| format!("event {event}"))?;
            // A connection that has ended, by whomever, begins anew.
            let Association { admin, io, .. } = player.association;
            if player.host.has_ended(admin) || player.host.has_ended(io) {
                *player = Player::new(&bench)?;
            }
        }
    }
    drop(players);
    release(&bench);
    bench.healthy()?;
    bench.stop()?;
    Ok(())
}

#[test]
fn any_story_ends_with_nothing_left_and_no_answer_given_twice() -> anyhow::Result<()> {
    let seeds = match std::env::var("STORIES") {
        Ok(count) => count.parse()?,
        Err(_) => SEEDS,
    };
    (1..=seeds).try_for_each(|seed| story(seed).with_context(|| format!("story {seed}")))
}
