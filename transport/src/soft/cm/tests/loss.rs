//! Both sides over bad networks, in virtual time.

use std::collections::HashMap;
use std::time::Duration;

use super::pair::*;
use crate::cm::{CmEvent, ConnId};

/// What a consumer of one side knows of its connections.
#[derive(Default)]
struct Consumer {
    /// Whether the connection is up, for each that has not ended.
    open: HashMap<ConnId, bool>,
    ended: Vec<ConnId>,
    seen: usize,
}

impl Consumer {
    /// Takes in new events as a consumer must be able to, and reacts.
    fn react(&mut self, pair: &mut Pair, side: usize, next_qpn: &mut u32) {
        while let Some(event) = pair.events[side].get(self.seen).cloned() {
            self.seen += 1;
            let now = pair.now;
            match event {
                CmEvent::ConnectRequest { id, .. } => {
                    assert_eq!(side, SERVER);
                    assert!(self.open.insert(id, false).is_none());
                    *next_qpn += 1;
                    let _ = pair.sides[side].accept(id, &params(*next_qpn, b""), now);
                }
                CmEvent::Accepted { id, .. } => {
                    assert_eq!(self.open.insert(id, true), Some(false));
                    let _ = pair.sides[side].establish(id);
                }
                CmEvent::Established { id } => {
                    assert_eq!(self.open.insert(id, true), Some(false));
                }
                CmEvent::Failed { id, .. } | CmEvent::Disconnected { id } => {
                    assert!(self.open.remove(&id).is_some(), "ended twice");
                    self.ended.push(id);
                }
            }
        }
    }
}

fn settle(pair: &mut Pair, consumers: &mut [Consumer; 2], qpn: &mut u32) {
    let end = pair.now + Duration::from_secs(150);
    let mut go_on = true;
    while go_on {
        go_on = pair.step(end);
        for side in [CLIENT, SERVER] {
            consumers[side].react(pair, side, qpn);
        }
    }
}

/// Connections are asked for, come up, and are ended by one side or both.
fn story(seed: u64) {
    let family = if seed.is_multiple_of(2) { V4 } else { V6 };
    let weather = Weather::of(seed);
    let bearable = weather.is_bearable();
    let connections = 1 + (seed >> 1) as u32 % 4;
    let mut pair = Pair::new(family, seed);
    pair.weather = weather;
    let mut consumers = [Consumer::default(), Consumer::default()];
    let mut qpn = 0x100;
    for n in 0..connections {
        let id = pair.connect_with(2 + n);
        consumers[CLIENT].open.insert(id, false);
    }
    settle(&mut pair, &mut consumers, &mut qpn);
    for (side, consumer) in consumers.iter().enumerate() {
        assert!(
            consumer.open.values().all(|&up| up),
            "side {side} still waits after 150 s"
        );
    }
    let up = consumers[CLIENT].open.len();
    if bearable {
        assert_eq!(
            up, connections as usize,
            "a network this good carries all of them"
        );
        assert_eq!(consumers[SERVER].open.len(), up);
    }
    // Each side ends some; some are ended by both.
    for side in [CLIENT, SERVER] {
        let mut ids: Vec<_> = consumers[side].open.keys().copied().collect();
        ids.sort_unstable();
        for (n, id) in ids.into_iter().enumerate() {
            if !bearable || n % 3 != side {
                let now = pair.now;
                pair.sides[side].disconnect(id, now).unwrap();
            }
        }
    }
    settle(&mut pair, &mut consumers, &mut qpn);
    // Where every request to disconnect was lost, only the data path would notice.
    for side in [CLIENT, SERVER] {
        for id in consumers[side].open.keys() {
            let now = pair.now;
            pair.sides[side].disconnect(*id, now).unwrap();
        }
    }
    settle(&mut pair, &mut consumers, &mut qpn);
    for side in [CLIENT, SERVER] {
        let left = &consumers[side].open;
        assert!(
            left.is_empty(),
            "side {side} has connections left: {left:?}"
        );
        assert_eq!(pair.sides[side].live(), 0);
        assert_eq!(pair.sides[side].deadline(), None);
    }
}

/// Over a good network every connection comes up and ends on both sides; over a
/// hopeless one it still comes to one end on each side.
#[rstest::rstest]
fn connections_come_up_and_end_in_any_weather(#[values(0, 1, 2, 3)] part: u64) {
    for seed in 1000 * part..1000 * (part + 1) {
        let told = std::panic::catch_unwind(|| story(seed));
        assert!(told.is_ok(), "seed {seed}: {:?}", Weather::of(seed));
    }
}
