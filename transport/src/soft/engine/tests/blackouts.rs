//! A network that goes dark for a while, and one that alters what it carries.

use std::time::Duration;

use super::super::Config;
use super::super::pair::{Pair, Sky, Weather};
use crate::nic::{RemoteMemory, SendOp, WcStatus};

/// 4.096 µs times two to the power of 14.
const TIMEOUT: Duration = Duration::from_nanos(4096 << 14);

fn dark(pair: &mut Pair, len: Duration) {
    let blackouts = vec![Duration::ZERO..len];
    let weather = Weather {
        blackouts,
        ..Weather::default()
    };
    pair.sky = Sky::new(weather, 1);
}

/// The requester goes on for as many timeouts as retries were agreed on, and one.
#[rstest::rstest]
fn a_blackout_is_survived_when_it_ends_before_the_last_retry(
    #[values(0, 1, 3, 7)] retry_count: u8,
    #[values(false, true)] longer: bool,
    #[values(|_| SendOp::Send, SendOp::Write, SendOp::Read)] op: fn(RemoteMemory) -> SendOp,
) {
    let mut pair = Pair::with(1024, Config::default(), |attrs| {
        attrs.retry_count = retry_count;
    });
    pair.b.post_recv(2, 4000);
    let (sge, there) = (pair.a.sge(0, 3000), pair.b.remote(0));
    let patience = TIMEOUT * (u32::from(retry_count) + 1);
    let len = if longer {
        patience + Duration::from_millis(1)
    } else {
        patience * 3 / 10
    };
    dark(&mut pair, len);
    pair.a.post(1, op(there), &[sge]);
    pair.a.post(2, SendOp::Send, &[sge]);
    while pair.a.done.is_empty() {
        assert!(pair.step());
    }
    let took = pair.now - pair.start;
    pair.run();
    let statuses: Vec<_> = pair.a.done.iter().map(|c| (c.wr_id, c.status)).collect();
    let good = WcStatus::Success;
    if longer {
        let expected = [(1, WcStatus::RetryExceeded), (2, WcStatus::Flushed)];
        assert_eq!(statuses, expected);
        assert!(
            took >= patience && took < patience + TIMEOUT / 2,
            "{took:?}"
        );
        assert_eq!(pair.a.engine.failed_qp(), Some(pair.a.qp));
    } else {
        assert_eq!(statuses, [(1, good), (2, good)]);
        assert!(took < patience, "{took:?}");
    }
}

#[test]
fn altered_packets_are_dropped_and_counted_and_nothing_else_is_seen_of_them() {
    let mut pair = Pair::new(1024);
    let weather = Weather {
        corrupt: 50,
        ..Weather::default()
    };
    pair.sky = Sky::new(weather, 5);
    let sent = pair.a.fill(0, 400_000, 1);
    let (sge, into) = (pair.a.sge(0, 400_000), pair.a.sge(1 << 20, 400_000));
    let there = pair.b.remote(0);
    pair.a.post(1, SendOp::Write(there), &[sge]);
    pair.a.post(2, SendOp::Read(there), &[into]);
    pair.run();
    assert!(pair.a.done.iter().all(|c| c.status == WcStatus::Success));
    assert!(pair.b.bytes(0, 400_000) == sent && pair.a.bytes(1 << 20, 400_000) == sent);
    for stats in [pair.a.engine.stats(), pair.b.engine.stats()] {
        assert!(stats.drops.bad_icrc > 10, "{stats:?}");
        assert_eq!(stats.drops.malformed + stats.drops.unknown_qp, 0);
    }
    pair.a.assert_guards();
    pair.b.assert_guards();
}
