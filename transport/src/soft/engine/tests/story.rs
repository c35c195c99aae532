//! A story by chance: some queue pairs between two engines, which share a
//! receive queue and the budget of READs on each side; all operations, posted
//! now and then in both directions; a network that a theme describes; keys and
//! queue pairs that go in the middle of it.
//!
//! What must hold at its end, whatever happened: each work request has ended
//! once and in order, good ones before the one that failed and flushed ones after
//! it; messages came once and in order; and of all memory only those bytes have
//! changed that an operation named, to what it brought.

mod end;

use std::ops::Range;
use std::sync::LazyLock;

use super::super::Config;
use super::super::pair::{Pair, Random, Sky, Weather, Who, attrs};
use crate::nic::{
    Access, Completion, MemoryRegion, QpAttrs, QpCaps, RecvWr, RemoteMemory, SendOp, SendWr, Sge,
    WcOp, WcStatus,
};
use crate::soft::memory::Right;

use end::{End, Job};

const MEMORY: usize = 512 << 10;
const BUFFER: usize = 9000;
const BUFFERS: usize = 6;
const RECV_BASE: usize = MEMORY - BUFFERS * BUFFER;
const MAX_SRQ_WR: usize = 32;
/// Work requests of one queue pair in one story.
const JOBS_MAX: usize = 12;

/// What is in the memory of both sides at first.
static BEFORE: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..MEMORY).map(|at| (at * 131 / 8) as u8).collect());

/// What a story is about.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    pub weather: fn(&mut Random) -> Weather,
    /// Packets with a wrong CRC are dropped, as the adapter does. Else what they
    /// do is not foreseen, but for the memory outside registrations and for the
    /// ends of work requests.
    pub checked: bool,
    /// Queue pairs are brought to error or destroyed.
    pub teardown: bool,
    /// Registrations end.
    pub keys: bool,
    /// Small retry counts, for ACKs and for receivers not ready.
    pub impatient: bool,
    /// Nothing may fail.
    pub survives: bool,
}

/// What both sides of a connection agreed on.
#[derive(Debug, Clone, Copy)]
struct Link {
    mtu: u32,
    psn: [u32; 2],
    reads: [u8; 2],
    retry_count: u8,
    rnr_retry: u8,
}

impl Link {
    fn random(random: &mut Random, mtu: u32, impatient: bool) -> Self {
        let mut psn = || match random.below(3) {
            0 => 0xff_ffff - random.below(40) as u32,
            1 => 0x7f_ffff - random.below(40) as u32,
            _ => random.below(1 << 24) as u32,
        };
        let psn = [psn(), psn()];
        let mut reads = || 1 + random.below(16) as u8;
        let reads = [reads(), reads()];
        let mut count = |most| {
            if impatient {
                random.below(most) as u8
            } else {
                7
            }
        };
        Self {
            mtu,
            psn,
            reads,
            retry_count: count(4),
            rnr_retry: count(8),
        }
    }

    fn apply(&self, attrs: &mut QpAttrs) {
        let me = usize::from(attrs.local != Who::A.addr());
        attrs.path_mtu = self.mtu;
        attrs.sq_psn = self.psn[me];
        attrs.rq_psn = self.psn[1 - me];
        attrs.max_rd_atomic = self.reads[me];
        attrs.max_dest_rd_atomic = self.reads[1 - me];
        attrs.retry_count = self.retry_count;
        attrs.rnr_retry = self.rnr_retry;
    }
}

pub struct Story {
    theme: Theme,
    random: Random,
    pair: Pair,
    ends: [Vec<End>; 2],
    rnr_retry: Vec<u8>,
    /// From where on each side's memory is unused.
    unused: [usize; 2],
    /// Receive buffers that are not posted.
    idle: [Vec<usize>; 2],
    /// A key that may go.
    fragile: [MemoryRegion; 2],
}

const SIDES: [Who; 2] = [Who::A, Who::B];

impl Story {
    pub fn new(theme: Theme, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mtu = 256 << random.below(5);
        let config = Config {
            max_srq_wr: MAX_SRQ_WR as u32,
            read_window: 1 << (10 + random.below(7)),
            read_chunk: 1 << (8 + random.below(6)),
            send_window: 1 + random.below(64) as u32,
            ..Config::default()
        };
        let links = 1 + random.below(3);
        let links: Vec<_> = (0..links)
            .map(|_| Link::random(&mut random, mtu, theme.impatient))
            .collect();
        let first = links[0];
        let mut pair = Pair::with_memory(mtu, config, MEMORY, |attrs| first.apply(attrs));
        pair.sky = Sky::new((theme.weather)(&mut random), seed);
        pair.checked = theme.checked;
        let mut qps = vec![[pair.a.qp, pair.b.qp]];
        for link in &links[1..] {
            let caps = QpCaps { max_send_wr: 16 };
            let both = SIDES.map(|who| pair.side(who).engine.create_qp(caps).unwrap());
            for (me, who) in SIDES.into_iter().enumerate() {
                let mut attrs = attrs(who, both[1 - me], mtu);
                link.apply(&mut attrs);
                let engine = &mut pair.side(who).engine;
                engine.connect_qp(both[me], &attrs).unwrap();
            }
            qps.push(both);
        }
        let ends = [0, 1].map(|me| qps.iter().map(|both| End::new(both[me])).collect());
        let fragile = SIDES.map(|who| {
            let side = pair.side(who);
            side.region.view().write(0, &BEFORE).unwrap();
            register(&mut pair, who)
        });
        Self {
            theme,
            random,
            pair,
            ends,
            rnr_retry: links.iter().map(|link| link.rnr_retry).collect(),
            unused: [0, 0],
            idle: [(0..BUFFERS).collect(), (0..BUFFERS).collect()],
            fragile,
        }
    }

    /// Plays it, and sees what has become of everything.
    pub fn play(mut self) {
        let (mut acts, mut steps) = (60, 0);
        loop {
            steps += 1;
            assert!(steps < 200_000, "there is no end to it");
            if self.random.permille(if acts > 0 { 150 } else { 20 }) {
                self.act(acts > 0);
                acts = acts.max(1) - 1;
            } else if !self.pair.step() {
                self.hear();
                if acts == 0 {
                    break;
                }
                self.act(true);
                acts -= 1;
            }
            self.hear();
        }
        self.end_all();
        self.verify();
        self.clear_up();
    }

    /// Nothing of what was sent is outstanding when all is quiet. A message that
    /// came by half gives its buffer back.
    fn end_all(&mut self) {
        let done =
            |story: &Self| -> usize { story.ends.iter().flatten().map(|end| end.done.len()).sum() };
        let before = done(self);
        for (me, who) in SIDES.into_iter().enumerate() {
            let engine = &mut self.pair.side(who).engine;
            assert_eq!(engine.deadline(), None);
            assert_eq!(engine.shared.read_in_flight, 0);
            for end in self.ends[me].iter().filter(|end| !end.destroyed) {
                engine.error_qp(end.qp).unwrap();
            }
        }
        while self.pair.step() {}
        self.hear();
        assert_eq!(done(self), before, "work was outstanding");
    }

    fn act(&mut self, all: bool) {
        let me = self.random.below(2) as usize;
        let which = self.random.below(self.ends[me].len() as u64) as usize;
        match self.random.below(16) {
            0..=8 if all => {
                for _ in 0..=self.random.below(3) {
                    self.post(me, which);
                }
            }
            9 if all && self.theme.keys => {
                let gone = self.fragile[me];
                self.pair.side(SIDES[me]).engine.deregister(&gone);
                self.fragile[me] = register(&mut self.pair, SIDES[me]);
            }
            10 if all && self.theme.teardown => {
                let (destroy, end) = (self.random.permille(300), &mut self.ends[me][which]);
                let engine = &mut self.pair.side(SIDES[me]).engine;
                end.ended = true;
                if destroy {
                    end.destroyed = true;
                    engine.destroy_qp(end.qp);
                } else if !end.destroyed {
                    engine.error_qp(end.qp).unwrap();
                }
            }
            _ => self.post_recv(me),
        }
    }

    /// Some bytes that nothing else uses.
    fn take(&mut self, me: usize, len: usize) -> Range<usize> {
        let start = self.unused[me] + self.random.below(9) as usize;
        self.unused[me] = start + len;
        start..start + len
    }

    fn post(&mut self, me: usize, which: usize) {
        let other = 1 - me;
        let end = &self.ends[me][which];
        let room = RECV_BASE - self.unused[0].max(self.unused[1]);
        if end.destroyed || end.jobs.len() == JOBS_MAX || room < 2 * BUFFER {
            return;
        }
        let len = match self.random.below(8) {
            0 => 0,
            1..=4 => self.random.below(300),
            _ => self.random.below(BUFFER as u64 - 400),
        } as usize;
        // Whole packets are a case of their own.
        let len = if self.random.permille(200) {
            len & !255
        } else {
            len
        };
        let mut pieces = Vec::new();
        let mut left = len;
        for last in [false, false, true] {
            let part = self.random.below(left as u64 + 1) as usize;
            let part = if last { left } else { part };
            pieces.push(self.take(me, part));
            left -= part;
        }
        let far = self.take(other, len);
        let fragile = self.theme.keys && self.random.permille(300);
        let keys = |story: &Self, me: usize| match fragile {
            true => story.fragile[me],
            false => story.pair_memory(me),
        };
        let (near_key, far_key) = (keys(self, me), keys(self, other));
        let to = RemoteMemory {
            addr: far_key.base + far.start as u64,
            rkey: far_key.rkey,
        };
        let imm = self.random.next() as u32;
        let op = match self.random.below(8) {
            0 | 1 => SendOp::Send,
            2 => SendOp::SendImmediate { imm },
            3 => SendOp::SendInvalidate {
                rkey: register(&mut self.pair, SIDES[other]).rkey,
            },
            4 => SendOp::WriteImmediate { to, imm },
            5 => SendOp::Write(to),
            _ => SendOp::Read(to),
        };
        let sge = |piece: &Range<usize>| Sge {
            addr: near_key.base + piece.start as u64,
            len: piece.len() as u32,
            lkey: near_key.lkey,
        };
        let end = &mut self.ends[me][which];
        let wr = SendWr {
            wr_id: end.jobs.len() as u64,
            op,
            sges: pieces.iter().map(sge).collect(),
            signaled: self.random.permille(700),
            solicited: self.random.permille(300),
        };
        let near: Vec<_> = pieces.iter().map(|piece| &BEFORE[piece.clone()]).collect();
        let (bytes, place) = match op {
            SendOp::Read(_) => (BEFORE[far].to_vec(), Some((SIDES[me], pieces))),
            SendOp::Write(_) | SendOp::WriteImmediate { .. } => {
                (near.concat(), Some((SIDES[other], vec![far])))
            }
            _ => (near.concat(), None),
        };
        let signaled = wr.signaled;
        let engine = &mut self.pair.side(SIDES[me]).engine;
        if engine.post_send(end.qp, &[wr]).is_ok() {
            end.jobs.push(Job {
                op,
                signaled,
                bytes,
                place,
            });
        }
    }

    fn pair_memory(&self, me: usize) -> MemoryRegion {
        [self.pair.a.memory, self.pair.b.memory][me]
    }

    fn post_recv(&mut self, me: usize) {
        let Some(buffer) = self.idle[me].pop() else {
            return;
        };
        let side = self.pair.side(SIDES[me]);
        let sge = side.sge(RECV_BASE + buffer * BUFFER, BUFFER);
        let wr_id = buffer as u64;
        side.engine.post_recv(&[RecvWr { wr_id, sge }]).unwrap();
    }

    /// Takes what has completed.
    fn hear(&mut self) {
        for (me, who) in SIDES.into_iter().enumerate() {
            for done in std::mem::take(&mut self.pair.side(who).done) {
                let which = self.ends[me].iter().position(|end| end.qp == done.qp);
                let which = which.expect("one of ours");
                if !matches!(done.op, WcOp::Recv | WcOp::RecvWrite) {
                    self.ends[me][which].done.push(done);
                    continue;
                }
                if done.status == WcStatus::Success {
                    self.received(me, which, &done);
                } else {
                    self.ends[me][which].aborted += 1;
                }
                let at = RECV_BASE + done.wr_id as usize * BUFFER;
                let (side, before) = (self.pair.side(who), &BEFORE[at..at + BUFFER]);
                side.region.view().write(at, before).unwrap();
                self.idle[me].push(done.wr_id as usize);
            }
        }
    }

    /// The next message of the peer, as it was sent.
    fn received(&mut self, me: usize, which: usize, done: &Completion) {
        if !self.theme.checked {
            return;
        }
        let heard = self.ends[me][which].heard;
        let jobs = &self.ends[1 - me][which].jobs;
        let next = (heard..jobs.len()).find(|i| jobs[*i].takes_buffer());
        let next = next.expect("a message that was sent");
        let job = &jobs[next];
        assert_eq!(done.len as usize, job.bytes.len(), "message {next}");
        let (wrote, imm, key) = match job.op {
            SendOp::SendImmediate { imm } => (false, Some(imm), None),
            SendOp::WriteImmediate { imm, .. } => (true, Some(imm), None),
            SendOp::SendInvalidate { rkey } => (false, None, Some(rkey)),
            _ => (false, None, None),
        };
        assert_eq!((done.imm, done.invalidated), (imm, key));
        assert_eq!(done.op == WcOp::RecvWrite, wrote);
        let at = RECV_BASE + done.wr_id as usize * BUFFER;
        let mut expected = BEFORE[at..at + BUFFER].to_vec();
        if !wrote {
            expected[..job.bytes.len()].copy_from_slice(&job.bytes);
        }
        // A buffer comes back as it is when its queue pair is destroyed.
        if self.ends[me].iter().any(|end| end.destroyed) {
            expected.truncate(if wrote { 0 } else { job.bytes.len() });
        }
        let base = self.pair_memory(me).base;
        let side = self.pair.side(SIDES[me]);
        assert!(side.bytes(at, expected.len()) == expected, "message {next}");
        if let Some(key) = key {
            let keys = &side.engine.shared.keys;
            assert!(keys.resolve(key, base, 1, Right::RemoteRead).is_err());
        }
        self.ends[me][which].heard = next + 1;
    }

    fn verify(&mut self) {
        let mut fates = Vec::new();
        for me in 0..2 {
            for (which, end) in self.ends[me].iter().enumerate() {
                let fate = end.fate();
                end.judge(&fate, &self.theme, self.rnr_retry[which]);
                let sent = |job: &&(&Job, Option<WcStatus>)| {
                    job.0.takes_buffer() && job.1 == Some(WcStatus::Success)
                };
                let jobs: Vec<_> = end.jobs.iter().zip(fate.iter().copied()).collect();
                let (sent, peer) = (jobs.iter().filter(sent).count(), &self.ends[1 - me][which]);
                let heard = end.jobs[..peer.heard].iter();
                let heard = heard.filter(|job| job.takes_buffer()).count();
                assert!(!self.theme.checked || peer.destroyed || heard >= sent);
                fates.extend(jobs.into_iter().filter_map(|(job, status)| {
                    let place = job.place.as_ref()?;
                    Some((place, &job.bytes, status == Some(WcStatus::Success)))
                }));
            }
        }
        self.pair.a.assert_guards();
        self.pair.b.assert_guards();
        if !self.theme.checked {
            return;
        }
        for (me, who) in SIDES.into_iter().enumerate() {
            let actual = [&self.pair.a, &self.pair.b][me].bytes(0, MEMORY);
            let mut allowed = BEFORE.clone();
            for ((_who, pieces), bytes, certain) in
                fates.iter().filter(|(place, ..)| place.0 == who)
            {
                let mut bytes = bytes.as_slice();
                for piece in pieces.iter().cloned() {
                    let (new, rest) = bytes.split_at(piece.len());
                    let (now, old) = (&actual[piece.clone()], &mut allowed[piece]);
                    let one_of = |((now, old), new)| now == old || now == new;
                    let part = || now.iter().zip(old.iter()).zip(new).all(one_of);
                    assert!(now == new || !certain && part(), "what {who:?} got");
                    old.copy_from_slice(now);
                    bytes = rest;
                }
            }
            if self.ends[me].iter().any(|end| end.destroyed) {
                allowed[RECV_BASE..].copy_from_slice(&actual[RECV_BASE..]);
            }
            assert!(actual == allowed, "stray bytes of {who:?}");
        }
    }

    /// Nothing was lost sight of.
    fn clear_up(&mut self) {
        for (me, who) in SIDES.into_iter().enumerate() {
            let side = self.pair.side(who);
            let before = side.engine.stats();
            self.ends[me]
                .iter()
                .for_each(|end| side.engine.destroy_qp(end.qp));
            assert_eq!(
                side.engine.stats(),
                before,
                "counts outlive their queue pair"
            );
            let left = MAX_SRQ_WR - (BUFFERS - self.idle[me].len());
            let srq = &side.engine.shared.srq;
            assert!(srq.has_room(left) && !srq.has_room(left + 1));
        }
    }
}

/// One more key for all of a side's memory.
fn register(pair: &mut Pair, who: Who) -> MemoryRegion {
    let side = pair.side(who);
    let access = Access {
        local_write: true,
        remote_read: true,
        remote_write: true,
    };
    side.engine.register(&side.region, access).unwrap()
}
