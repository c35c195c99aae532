//! The flush rule, where payload goes by more than one memory.

use arrayvec::ArrayVec;
use sidelane_p2p::provider::PathReason;
use sidelane_transport::nvmf::{HostData, KeyedData};

use super::*;
use crate::backend::NullBackend;

/// To read one device back says nothing of what is on its way to another.
#[test]
fn what_was_placed_in_two_memories_takes_a_flush_of_each() {
    let script = Script::new();
    let (mut spec, _reports) = spec(&script);
    let region = |name: &str| spec.space.host_region(name, 64 << 10).unwrap();
    spec.pools = ["one", "other"]
        .map(|name| PoolSpec::new(region(name)))
        .into();
    let way = |pool| DataPath {
        pool,
        path: PathReason::Peer,
        spare: false,
    };
    let route = Route::new(vec![way(1), way(2)]);
    spec.namespaces = vec![Namespace {
        backend: Some(Box::new(NullBackend::new())),
        block_bytes: 512,
        routes: vec![Routes {
            reads: route.clone(),
            writes: route,
        }],
        in_capsule: false,
    }];
    spec.counters = ReactorCounters::new(0, 1, 2);
    let (_mailbox, inbox) = mailbox().unwrap();
    let mut reactor = Reactor::new(spec, inbox).unwrap();
    for (slot, pool) in [(0, 1), (1, 2), (2, 1)] {
        let buffer = reactor.pools[pool].pool.as_ref().unwrap().alloc(4096);
        let data = KeyedData {
            addr: 0x1000,
            len: 4096,
            key: 9,
            invalidate: false,
        };
        let request = &mut reactor.requests[slot];
        request.pool = pool;
        request.buffer = Some(buffer.unwrap());
        request.host = HostData::Keyed(ArrayVec::from_iter([data]));
        reactor.placed[0].push(slot);
    }
    reactor.flush_placed(0, Instant::now());
    assert!(reactor.placed[0].is_empty());
    let key = |pool: usize| reactor.ports[0].pool_memory[pool].unwrap().lkey;
    assert_eq!(script.state().flushes, [(key(1), 2), (key(2), 1)]);
}
