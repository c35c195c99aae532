//! Every message in every state, on both sides, and silence: what is said, what
//! the consumer hears, and what is counted. The table is that of
//! `docs/rocev2.md`, section "Connection management", read from there.

use std::time::Duration;

use zerocopy::IntoBytes;

use super::hostile::req_from;
use super::pair::*;
use crate::cm::CmEvent;
use crate::soft::cm::mad::{Attribute, Mad, Message};
use crate::soft::cm::messages::*;
use crate::soft::cm::{CmCore, reason};

const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rocev2.md"));

/// The columns after the name of the state; the last is silence.
const MESSAGES: [Attribute; 7] = [
    Attribute::Req,
    Attribute::Rep,
    Attribute::Rtu,
    Attribute::Mra,
    Attribute::Rej,
    Attribute::Dreq,
    Attribute::Drep,
];

/// Brings a connection to a state, as seen by one side.
type Prepare = fn(&mut Pair);

const SOON: Duration = Duration::from_millis(10);

fn nothing(_: &mut Pair) {}

fn asked(pair: &mut Pair) {
    pair.connect();
    pair.run(SOON);
}

fn asked_in_vain(pair: &mut Pair) {
    pair.blocked.push((CLIENT, Attribute::Req));
    pair.connect();
}

fn accepted(pair: &mut Pair) {
    asked(pair);
    pair.accept();
    pair.run(SOON);
}

fn up(pair: &mut Pair) {
    pair.up();
}

fn ending(pair: &mut Pair, side: usize, heard: bool) {
    let (client, server) = pair.up();
    if !heard {
        pair.blocked.push((side, Attribute::Dreq));
    }
    let now = pair.now;
    pair.sides[side]
        .disconnect([client, server][side], now)
        .unwrap();
    pair.run(SOON);
}

/// A connection in a state, and who says something about it.
struct Stage {
    pair: Pair,
    side: usize,
}

impl Stage {
    fn new(family: Family, side: usize, prepare: Prepare) -> Self {
        let mut pair = Pair::new(family, 70);
        pair.sides[CLIENT].listen(PORT).unwrap();
        prepare(&mut pair);
        Self { pair, side }
    }

    /// What the peer says, with the numbers and the queue pairs that are right;
    /// those that there are not yet are made up.
    fn message(&self, attribute: Attribute) -> Mad {
        let (pair, side) = (&self.pair, self.side);
        let peer = 1 - side;
        if let Some(mad) = pair.last.get(&(peer, attribute)) {
            return *mad;
        }
        let number = |of: usize| pair.sides[of].local_comm_ids().next().unwrap_or(77);
        let (theirs, ours) = (number(peer), number(side));
        let qpns = [CLIENT_QPN, SERVER_QPN];
        let [from, to] = [peer, side].map(|side| pair.family.address(side));
        match attribute {
            Attribute::Req => Mad::new(9, &req_from(from, to, theirs, qpns[peer])),
            Attribute::Rep => Mad::new(
                9,
                &Rep {
                    local_comm_id: theirs.into(),
                    remote_comm_id: ours.into(),
                    qpn: U24::new(qpns[peer]),
                    ..Rep::default()
                },
            ),
            Attribute::Rtu => Mad::new(
                9,
                &Rtu {
                    local_comm_id: theirs.into(),
                    remote_comm_id: ours.into(),
                    ..Rtu::default()
                },
            ),
            Attribute::Mra => Mad::new(
                9,
                &Mra {
                    local_comm_id: theirs.into(),
                    remote_comm_id: ours.into(),
                    subject: [Subject::Req, Subject::Rep][side].into(),
                    service_timeout: Upper5::new().with_value(20),
                    ..Mra::default()
                },
            ),
            Attribute::Rej => Mad::new(
                9,
                &Rej {
                    local_comm_id: theirs.into(),
                    remote_comm_id: ours.into(),
                    subject: Subject::Other.into(),
                    reason: reason::CONSUMER.into(),
                    ..Rej::default()
                },
            ),
            Attribute::Dreq => Mad::new(
                9,
                &Dreq {
                    local_comm_id: theirs.into(),
                    remote_comm_id: ours.into(),
                    remote_qpn: U24::new(qpns[side]),
                    ..Dreq::default()
                },
            ),
            _ => Mad::new(
                9,
                &Drep {
                    local_comm_id: theirs.into(),
                    remote_comm_id: ours.into(),
                    ..Drep::default()
                },
            ),
        }
    }

    fn hear(mut self, attribute: Attribute) -> String {
        let mad = self.message(attribute);
        let from = self.pair.family.address(1 - self.side);
        let now = self.pair.now;
        let core = &mut self.pair.sides[self.side];
        let (before, deadline) = (core.counters(), core.deadline());
        core.handle(from, mad.as_bytes(), now);
        let mut seen = Seen::default();
        seen.collect(core);
        let after = core.counters();
        let had_come = after.duplicates != before.duplicates;
        if had_come {
            seen.0.push("again".to_owned());
        }
        if after.drops.unexpected > before.drops.unexpected {
            seen.0.push("unexpected".to_owned());
        }
        if after.drops.unknown_connection > before.drops.unknown_connection {
            seen.0.push("unknown".to_owned());
        }
        if attribute == Attribute::Mra && core.deadline() != deadline {
            seen.0.push("waits".to_owned());
        }
        assert_eq!(core.inconsistency(), None);
        seen.cell()
    }

    fn hear_nothing(mut self) -> String {
        let core = &mut self.pair.sides[self.side];
        let mut seen = Seen::default();
        while let Some(at) = core.deadline() {
            core.tick(at);
            seen.collect(core);
        }
        seen.cell()
    }
}

/// What a side said, and what its consumer heard.
#[derive(Default)]
struct Seen(Vec<String>);

impl Seen {
    fn collect(&mut self, core: &mut CmCore) {
        while let Some(outgoing) = core.take_outgoing() {
            let name = match Mad::read(outgoing.mad.as_bytes()).unwrap().1 {
                Message::Req(_) => "REQ".to_owned(),
                Message::Rep(_) => "REP".to_owned(),
                Message::Rtu(_) => "RTU".to_owned(),
                Message::Mra(_) => "MRA".to_owned(),
                Message::Rej(rej) => format!("REJ {}", rej.reason),
                Message::Dreq(_) => "DREQ".to_owned(),
                Message::Drep(_) => "DREP".to_owned(),
            };
            self.0.push(name);
        }
        while let Some(event) = core.take_event() {
            let name = match event {
                CmEvent::ConnectRequest { .. } => "*request*",
                CmEvent::Accepted { .. } => "*accepted*",
                CmEvent::Established { .. } => "*established*",
                CmEvent::Failed { .. } => "*failed*",
                CmEvent::Disconnected { .. } => "*ended*",
            };
            self.0.push(name.to_owned());
        }
    }

    /// As the table has it: repetitions in a row are counted.
    fn cell(mut self) -> String {
        let mut parts: Vec<String> = Vec::new();
        while !self.0.is_empty() {
            let first = self.0.remove(0);
            let more = self.0.iter().take_while(|next| **next == first).count();
            self.0.drain(..more);
            parts.push(match more {
                0 => first,
                _ => format!("{} {first}", more + 1),
            });
        }
        match parts.is_empty() {
            true => "nothing".to_owned(),
            false => parts.join(", "),
        }
    }
}

#[rstest::rstest]
#[case::no_connection("none", SERVER, nothing)]
#[case::active_req_sent("active: REQ sent", CLIENT, asked_in_vain)]
#[case::active_rep_received("active: REP received", CLIENT, accepted)]
#[case::active_established("active: established", CLIENT, up)]
#[case::active_dreq_sent("active: DREQ sent", CLIENT, |pair: &mut Pair| ending(pair, CLIENT, false))]
#[case::active_time_wait("active: time wait", CLIENT, |pair: &mut Pair| ending(pair, CLIENT, true))]
#[case::passive_req_received("passive: REQ received", SERVER, asked)]
#[case::passive_rep_sent("passive: REP sent", SERVER, accepted)]
#[case::passive_established("passive: established", SERVER, up)]
#[case::passive_dreq_sent("passive: DREQ sent", SERVER, |pair: &mut Pair| ending(pair, SERVER, false))]
#[case::passive_time_wait("passive: time wait", SERVER, |pair: &mut Pair| ending(pair, SERVER, true))]
fn each_message_has_the_effect_that_the_table_says(
    #[values(V4, V6)] family: Family,
    #[case] state: &str,
    #[case] side: usize,
    #[case] prepare: Prepare,
) {
    let mut cells = vec![state.to_owned()];
    for attribute in MESSAGES {
        cells.push(Stage::new(family, side, prepare).hear(attribute));
    }
    cells.push(Stage::new(family, side, prepare).hear_nothing());
    let found = format!("| {} |", cells.join(" | "));
    let told = DOCS
        .lines()
        .find(|line| line.starts_with(&format!("| {state} |")));
    assert_eq!(told, Some(&*found), "the table in docs/rocev2.md");
}
