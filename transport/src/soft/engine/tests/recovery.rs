//! What one lost or late packet does, each kind by itself.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::super::Config;
use super::super::pair::{DELAY, Pair, RECV_BASE, Who};
use crate::nic::{SendOp, WcStatus};
use crate::soft::wire::{Aeth, AethKind, Headers, Kind, NakCode};

fn kind(headers: &Headers) -> Kind {
    headers.bth.opcode.layout().unwrap().kind
}

/// Loses the `n`th packet of a kind, counted from 0.
fn lose_nth(pair: &mut Pair, what: Kind, n: u32) {
    let mut seen = 0;
    pair.lose(move |_, headers| {
        let hit = kind(headers) == what && seen == n;
        seen += u32::from(kind(headers) == what);
        hit
    });
}

fn success(pair: &Pair, count: usize) {
    assert_eq!(pair.a.done.len(), count);
    assert!(
        pair.a.done.iter().all(|c| c.status == WcStatus::Success),
        "{:?}",
        pair.a.done
    );
}

#[rstest::rstest]
fn a_lost_packet_of_a_message_is_sent_again_with_all_after_it(
    #[values(Kind::Send, Kind::Write)] what: Kind,
    #[values(0, 1, 4, 9)] which: u32,
) {
    let mut pair = Pair::new(1024);
    let sent = pair.a.fill(0, 10_000, 1);
    pair.b.post_recv(2, 20_000);
    let (sge, remote) = (pair.a.sge(0, 10_000), pair.b.remote(0));
    let op = if what == Kind::Send {
        SendOp::Send
    } else {
        SendOp::Write(remote)
    };
    lose_nth(&mut pair, what, which);
    pair.a.post(1, op, &[sge]);
    pair.run();
    success(&pair, 1);
    let at = if what == Kind::Send { RECV_BASE } else { 0 };
    assert_eq!(pair.b.bytes(at, 10_000), sent);
    assert_eq!(pair.b.done.len(), usize::from(what == Kind::Send));
    // The last one is missed by nobody but the clock.
    let (naks, timeouts) = (
        pair.a.engine.stats().sequence_naks_in,
        pair.a.engine.stats().timeouts,
    );
    assert_eq!((naks, timeouts), if which == 9 { (0, 1) } else { (1, 0) });
}

#[test]
fn a_lost_acknowledgement_is_asked_for_again_and_nothing_is_done_twice() {
    let mut pair = Pair::new(1024);
    pair.a.fill(0, 3000, 1);
    pair.b.post_recv(2, 4000);
    let sge = pair.a.sge(0, 3000);
    lose_nth(&mut pair, Kind::Ack, 0);
    pair.a.post(1, SendOp::Send, &[sge]);
    while pair.a.done.is_empty() {
        assert!(pair.step());
    }
    let time = pair.now - pair.start;
    assert!(
        time < Duration::from_millis(50),
        "{time:?}: the timeout, not a probe"
    );
    pair.run();
    success(&pair, 1);
    assert_eq!(pair.b.done.len(), 1);
    assert_eq!(pair.b.engine.stats().duplicates, 3);
}

#[test]
fn a_repeated_write_is_not_done_again() {
    let mut pair = Pair::new(1024);
    let (sge, remote) = (pair.a.sge(0, 1000), pair.b.remote(0));
    pair.a.fill(0, 1000, 1);
    lose_nth(&mut pair, Kind::Ack, 0);
    pair.a.post(1, SendOp::Write(remote), &[sge]);
    while pair.b.engine.stats().bytes_in == 0 {
        assert!(pair.step());
    }
    let marked = pair.b.fill(0, 1000, 77);
    pair.run();
    success(&pair, 1);
    assert_eq!(pair.b.bytes(0, 1000), marked);
}

#[rstest::rstest]
fn a_lost_read_response_is_fetched_again_from_there(#[values(0, 1, 5, 31, 39)] which: u32) {
    let mut pair = Pair::new(1024);
    let there = pair.b.fill(0, 40_000, 2);
    let (sge, remote) = (pair.a.sge(0, 40_000), pair.b.remote(0));
    lose_nth(&mut pair, Kind::ReadResponse, which);
    pair.a.post(1, SendOp::Read(remote), &[sge]);
    pair.run();
    success(&pair, 1);
    assert_eq!(pair.a.bytes(0, 40_000), there);
    assert_eq!(pair.a.engine.stats().timeouts, u64::from(which == 39));
    let place = u64::from(which != 39);
    assert_eq!(pair.a.engine.stats().lost_responses, place);
}

#[rstest::rstest]
fn a_lost_read_request_is_sent_again(#[values(0, 1, 2)] which: u32) {
    let mut pair = Pair::new(1024);
    let there = pair.b.fill(0, 90_000, 2);
    let (sge, remote) = (pair.a.sge(0, 90_000), pair.b.remote(0));
    lose_nth(&mut pair, Kind::ReadRequest, which);
    pair.a.post(1, SendOp::Read(remote), &[sge]);
    pair.run();
    success(&pair, 1);
    assert_eq!(pair.a.bytes(0, 90_000), there);
}

#[test]
fn an_answer_to_what_follows_a_read_does_not_complete_the_read() {
    let mut pair = Pair::new(1024);
    let there = pair.b.fill(0, 3000, 2);
    pair.b.post_recv(2, 4000);
    let (sge, remote) = (pair.a.sge(0, 3000), pair.b.remote(0));
    let mut lost = 0;
    pair.lose(move |_, headers| {
        let hit = kind(headers) == Kind::ReadResponse && lost < 3;
        lost += u32::from(hit);
        hit
    });
    pair.a.post(1, SendOp::Read(remote), &[sge]);
    pair.a.post(2, SendOp::Send, &[sge]);
    pair.run();
    success(&pair, 2);
    assert_eq!(pair.a.bytes(0, 3000), there);
    assert_eq!((pair.a.done[0].wr_id, pair.b.done.len()), (1, 1));
    assert_eq!(pair.a.engine.stats().timeouts, 0);
}

#[test]
fn a_peer_without_a_buffer_is_waited_for_as_long_as_it_says() {
    let mut pair = Pair::new(1024);
    let sent = pair.a.fill(0, 3000, 1);
    let sge = pair.a.sge(0, 3000);
    pair.a.post(1, SendOp::Send, &[sge]);
    while pair.now - pair.start < Duration::from_micros(3000) {
        assert!(pair.step());
    }
    assert!(pair.a.done.is_empty());
    // 0.64 ms each.
    let naks = pair.a.engine.stats().rnr_naks_in;
    assert!((4..=5).contains(&naks), "{naks}");
    pair.b.post_recv(1, 4000);
    pair.run();
    success(&pair, 1);
    assert_eq!(pair.b.bytes(RECV_BASE, 3000), sent);
    assert_eq!(pair.a.engine.stats().timeouts, 0);
}

#[test]
fn a_peer_that_never_has_a_buffer_is_given_up_after_the_agreed_retries() {
    let mut pair = Pair::with(1024, Config::default(), |attrs| attrs.rnr_retry = 3);
    let sge = pair.a.sge(0, 10);
    pair.a.post(1, SendOp::Send, &[sge]);
    pair.a.post(2, SendOp::Send, &[sge]);
    pair.run();
    let order: Vec<_> = pair.a.done.iter().map(|c| (c.wr_id, c.status)).collect();
    assert_eq!(
        order,
        [(1, WcStatus::RnrRetryExceeded), (2, WcStatus::Flushed)]
    );
    assert_eq!(pair.a.engine.stats().rnr_naks_in, 4);
}

#[test]
fn a_silent_peer_is_given_up_after_the_agreed_time() {
    let mut pair = Pair::with(1024, Config::default(), |attrs| attrs.retry_count = 2);
    pair.lose(|_, _| true);
    let sge = pair.a.sge(0, 10);
    let remote = pair.b.remote(0);
    pair.a.post(1, SendOp::Write(remote), &[sge]);
    pair.a.post(2, SendOp::Send, &[sge]);
    pair.a.post(3, SendOp::Read(remote), &[sge]);
    pair.run();
    let order: Vec<_> = pair.a.done.iter().map(|c| (c.wr_id, c.status)).collect();
    assert_eq!(
        order,
        [
            (1, WcStatus::RetryExceeded),
            (2, WcStatus::Flushed),
            (3, WcStatus::Flushed)
        ]
    );
    // 67 ms, three times.
    let time = pair.now - pair.start;
    assert!(
        time > Duration::from_millis(200) && time < Duration::from_millis(220),
        "{time:?}"
    );
}

#[test]
fn a_gap_is_reported_once_however_much_comes_after_it() {
    let mut pair = Pair::new(1024);
    let mut naks = 0;
    let (sge, remote) = (pair.a.sge(0, 40_000), pair.b.remote(0));
    pair.network = Box::new(move |from, headers| {
        let late = from == Who::A && headers.reth.is_some();
        if let Some(AethKind::Nak(NakCode::PsnSequence)) = headers.aeth.map(|aeth| aeth.kind) {
            naks += 1;
            assert_eq!(naks, 1);
        }
        // The first packet is passed by all others.
        vec![if late { DELAY * 2 } else { DELAY }]
    });
    pair.a.post(1, SendOp::Write(remote), &[sge]);
    pair.run();
    success(&pair, 1);
}

#[test]
fn what_came_before_a_gap_is_acknowledged_before_the_gap_is_told_of() {
    let mut pair = Pair::new(1024);
    let (sge, remote) = (pair.a.sge(0, 10_000), pair.b.remote(0));
    let told = Rc::new(RefCell::new(Vec::new()));
    let (heard, mut sent) = (Rc::clone(&told), 0);
    pair.lose(move |from, headers| {
        if from == Who::B {
            let kind = headers.aeth.map(|aeth| aeth.kind);
            heard.borrow_mut().push((headers.bth.psn, kind));
            return false;
        }
        sent += 1;
        sent == 4
    });
    pair.a.post(1, SendOp::Write(remote), &[sge]);
    pair.run();
    success(&pair, 1);
    let told = told.borrow();
    let gap = told[1].0;
    assert_eq!(
        told[..2],
        [
            (gap.minus(1), Some(AethKind::Ack(Aeth::NO_CREDITS))),
            (gap, Some(AethKind::Nak(NakCode::PsnSequence)))
        ]
    );
    assert_eq!(told.len(), 3, "{told:?}");
}

#[test]
fn duplicates_of_everything_change_nothing() {
    let mut pair = Pair::new(1024);
    pair.network = Box::new(|_, _| vec![DELAY, DELAY]);
    let sent = pair.a.fill(0, 50_000, 1);
    let there = pair.b.fill(1 << 20, 50_000, 2);
    pair.b.post_recv(3, 60_000);
    let (from, into) = (pair.a.sge(0, 50_000), pair.a.sge(1 << 20, 50_000));
    let (to, source) = (pair.b.remote(0), pair.b.remote(1 << 20));
    pair.a.post(1, SendOp::Write(to), &[from]);
    pair.a.post(2, SendOp::Read(source), &[into]);
    pair.a.post(3, SendOp::Send, &[from]);
    pair.run();
    success(&pair, 3);
    assert_eq!(pair.b.done.len(), 1);
    assert_eq!(pair.b.bytes(0, 50_000), sent);
    assert_eq!(pair.a.bytes(1 << 20, 50_000), there);
}

#[rstest::rstest]
#[case::as_agreed(u32::MAX, 4 * 16_384)]
#[case::as_the_socket_takes(40_000, 40_000)]
#[case::at_least_one(1, 16_384)]
fn no_more_of_reads_is_waited_for_than_was_agreed_or_fits_the_socket(
    #[case] read_window: u32,
    #[case] most: u32,
) {
    let config = Config {
        read_window,
        read_chunk: 16 << 10,
        ..Config::default()
    };
    let mut pair = Pair::with(1024, config, |_| {});
    let there = pair.b.fill(0, 1 << 18, 2);
    let (sge, remote) = (pair.a.sge(0, 1 << 18), pair.b.remote(0));
    let (mut open, mut requests) = (0, 0);
    pair.network = Box::new(move |_, headers| {
        match kind(headers) {
            Kind::ReadRequest => {
                open += headers.reth.unwrap().len;
                requests += 1;
            }
            _ => open -= 1024,
        }
        assert!(open <= most, "{open} bytes after {requests} requests");
        vec![DELAY]
    });
    pair.a.post(1, SendOp::Read(remote), &[sge]);
    pair.run();
    success(&pair, 1);
    assert_eq!(pair.a.bytes(0, 1 << 18), there);
}
