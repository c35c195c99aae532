//! The initiator against the scripted target: what works, and its limits.

mod double;
mod faults;
mod target;

use std::time::{Duration, Instant};

use double::{Shared, pair};
use sidelane_nvme::spec::{AdminOpcode, Status};
use target::Target;
pub(crate) use target::{BLOCK, BLOCKS, Script};

use super::*;

pub(crate) fn endpoint(script: Script) -> (Shared, Endpoint) {
    let (fabric, nic, cm) = pair(Target::of(script));
    let options = EndpointOptions {
        io_queues: 2,
        depth: 8,
        data_len: 1 << 16,
    };
    (
        fabric,
        Endpoint::open(nic, cm, &ProcessMemory, options).unwrap(),
    )
}

pub(crate) fn options() -> HostOptions {
    let hostid = "01234567-89ab-cdef-0123-456789abcdef".parse().unwrap();
    let subnqn = "nqn.2026-01.com.example:disk".parse().unwrap();
    let hostnqn = "nqn.2026-01.com.example:host".parse().unwrap();
    HostOptions {
        io_queues: 2,
        depth: 8,
        timeout: Duration::from_millis(200),
        ..HostOptions::new("192.0.2.1:4420".parse().unwrap(), subnqn, hostnqn, hostid)
    }
}

fn io(kind: IoKind, lba: u64, blocks: u32, data: usize) -> Io {
    Io {
        kind,
        nsid: 7,
        lba,
        blocks,
        data,
        user: lba,
    }
}

/// Submits and polls until it has ended.
fn run(host: &mut Host<'_>, io: &Io) -> Status {
    host.submit(0, io).unwrap();
    let mut status = None;
    while status.is_none() {
        host.poll(|done| {
            assert_eq!(done.user, io.user);
            status = Some(done.status);
        })
        .unwrap();
    }
    status.unwrap()
}

fn connect_error(script: Script) -> String {
    let (fabric, mut endpoint) = endpoint(script);
    let Err(error) = Host::connect(&mut endpoint, options()) else {
        panic!("it connected")
    };
    let fabric = fabric.lock().unwrap();
    assert_eq!(
        (fabric.open_qps(), fabric.open_conns()),
        (0, 0),
        "nothing is left behind"
    );
    error.to_string()
}

#[test]
fn a_host_connects_reads_back_what_it_wrote_and_leaves_nothing_behind() {
    for (late, ioccsz) in [(false, 4), (true, 4), (false, 4 + 64)] {
        let (fabric, mut endpoint) = endpoint(Script {
            ioccsz,
            ..Script::default()
        });
        fabric.lock().unwrap().late_sends = late;
        let receives = fabric.lock().unwrap().posted_receives();
        let mut host = Host::connect(&mut endpoint, options()).unwrap();
        assert_eq!(host.controller().max_transfer, 16384);
        let namespaces: Vec<_> = host
            .namespaces()
            .iter()
            .map(|ns| (ns.nsid, ns.blocks))
            .collect();
        assert_eq!(namespaces, [(1, BLOCKS as u64), (7, BLOCKS as u64)]);
        assert_eq!((host.io_queues(), host.queue_places(0)), (2, 7));

        let pattern: Vec<u8> = (0..4 * BLOCK).map(|n| n as u8).collect();
        host.data().write(0, &pattern).unwrap();
        assert!(run(&mut host, &io(IoKind::Write, 3, 4, 0)).is_success());
        assert!(run(&mut host, &io(IoKind::Write, 9, 1, 0)).is_success());
        assert!(run(&mut host, &io(IoKind::Flush, 0, 0, 0)).is_success());
        assert!(run(&mut host, &io(IoKind::Read, 3, 4, 8192)).is_success());
        let mut back = vec![0; pattern.len()];
        host.data().read(8192, &mut back).unwrap();
        assert_eq!(back, pattern);
        host.disconnect().unwrap();

        let mut fabric = fabric.lock().unwrap();
        assert_eq!((fabric.open_qps(), fabric.open_conns()), (0, 0));
        assert_eq!(
            fabric.posted_receives(),
            receives,
            "each buffer is posted again"
        );
        assert_eq!(
            fabric.target.media(7)[9 * BLOCK..10 * BLOCK],
            pattern[..BLOCK]
        );
        let writes = fabric
            .target
            .log
            .iter()
            .filter(|(qid, opcode, _)| (*qid, *opcode) == (1, 1));
        let in_capsule: Vec<bool> = writes.map(|(_, _, in_capsule)| *in_capsule).collect();
        assert_eq!(
            in_capsule,
            [false, ioccsz > 4],
            "512 bytes fit the capsule, 2048 do not"
        );
    }
}

#[test]
fn a_queue_takes_as_many_commands_as_it_holds_and_then_says_that_it_is_full() {
    let (_, mut endpoint) = endpoint(Script::default());
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    for lba in 0..7 {
        host.submit(1, &io(IoKind::Read, lba, 1, 0)).unwrap();
    }
    assert_eq!(
        host.submit(1, &io(IoKind::Read, 7, 1, 0)),
        Err(SubmitError::QueueFull)
    );
    host.submit(0, &io(IoKind::Read, 8, 1, 0)).unwrap();
    let mut done = Vec::new();
    host.poll(|one| done.push(one.user)).unwrap();
    done.sort_unstable();
    assert_eq!(done, [0, 1, 2, 3, 4, 5, 6, 8]);
    host.submit(1, &io(IoKind::Read, 7, 1, 0)).unwrap();
}

#[test]
fn the_targets_receive_queue_size_and_number_of_queues_are_heeded() {
    let (_, mut endpoint) = endpoint(Script {
        crqsize: 3,
        queues: 1,
        ..Script::default()
    });
    let host = Host::connect(&mut endpoint, options()).unwrap();
    assert_eq!((host.io_queues(), host.queue_places(0)), (1, 3));
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_sent() {
    let (fabric, mut endpoint) = endpoint(Script::default());
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    let sent = fabric.lock().unwrap().target.log.len();
    let mut refuse = |queue, io: Io| host.submit(queue, &io).unwrap_err();
    let read = io(IoKind::Read, 0, 1, 0);
    assert_eq!(refuse(2, read), SubmitError::NoSuchQueue(2));
    assert_eq!(
        refuse(0, Io { nsid: 2, ..read }),
        SubmitError::NoSuchNamespace(2)
    );
    assert_eq!(
        refuse(0, Io { blocks: 0, ..read }),
        SubmitError::Length { blocks: 0, max: 32 }
    );
    assert_eq!(
        refuse(0, Io { blocks: 33, ..read }),
        SubmitError::Length {
            blocks: 33,
            max: 32
        }
    );
    assert!(matches!(
        refuse(
            0,
            Io {
                data: (1 << 16) - 511,
                ..read
            }
        ),
        SubmitError::Data(_)
    ));
    assert!(matches!(
        refuse(
            0,
            Io {
                data: usize::MAX,
                ..read
            }
        ),
        SubmitError::Data(_)
    ));
    assert_eq!(fabric.lock().unwrap().target.log.len(), sent);
    assert_eq!(
        run(&mut host, &io(IoKind::Read, BLOCKS as u64, 1, 0)),
        Status::LBA_OUT_OF_RANGE
    );
    assert!(
        run(&mut host, &read).is_success(),
        "an error status does not end the association"
    );
}

#[test]
fn an_endpoint_serves_one_host_after_the_other() {
    let (fabric, mut endpoint) = endpoint(Script {
        connect: Some((Status::INTERNAL_ERROR, 0)),
        ..Script::default()
    });
    assert!(Host::connect(&mut endpoint, options()).is_err());
    fabric.lock().unwrap().target.script.connect = None;
    for _ in 0..3 {
        let mut host = Host::connect(&mut endpoint, options()).unwrap();
        assert!(run(&mut host, &io(IoKind::Read, 0, 1, 0)).is_success());
    }
    assert_eq!(
        fabric.lock().unwrap().open_qps(),
        0,
        "dropping a host ends it"
    );
}

#[test]
fn keep_alive_is_sent_twice_in_its_time_and_its_failure_is_fatal() {
    let (fabric, mut endpoint) = endpoint(Script::default());
    let options = HostOptions {
        kato_ms: 40,
        ..options()
    };
    let mut host = Host::connect(&mut endpoint, options).unwrap();
    let started = Instant::now();
    let sent = || {
        let log = &fabric.lock().unwrap().target.log;
        log.iter()
            .filter(|(_, opcode, _)| *opcode == AdminOpcode::KeepAlive.0)
            .count()
    };
    while sent() < 4 {
        host.poll(|_| ()).unwrap();
        host.wait(Duration::from_secs(1)).unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{} in 5 s",
            sent()
        );
    }
    assert!(
        started.elapsed() >= Duration::from_millis(60),
        "four are sent in 80 ms, not earlier"
    );
    fabric.lock().unwrap().target.script.mangle = Some((0x18, |cqe| cqe[14] = 0x19 << 1));
    let error = loop {
        if let Err(error) = host.poll(|_| ()) {
            break error.to_string();
        }
        host.wait(Duration::from_secs(1)).unwrap();
    };
    assert!(error.contains("Keep Alive Timer Expired"), "{error}");
}

#[test]
fn the_discovery_log_is_read_whole_and_of_one_generation() {
    for entries in [0, 1, 4, 5, 11] {
        let script = Script {
            entries,
            changes: 2,
            ..Script::default()
        };
        let (fabric, mut endpoint) = endpoint(script);
        let options = options();
        let log = endpoint
            .discover(options.remote, &options.hostnqn, options.hostid)
            .unwrap();
        let ports: Vec<usize> = log.iter().map(|entry| entry.portid.get().into()).collect();
        assert_eq!(ports, (0..entries).collect::<Vec<_>>());
        assert_eq!(fabric.lock().unwrap().open_qps(), 0);
    }
    let (_, mut endpoint) = endpoint(Script {
        entries: 3,
        changes: 1 << 40,
        ..Script::default()
    });
    let options = options();
    let error = endpoint
        .discover(options.remote, &options.hostnqn, options.hostid)
        .unwrap_err();
    assert!(error.to_string().contains("changes faster"), "{error}");
}

#[test]
fn a_controller_that_shuts_down_gets_no_keep_alive() {
    let (fabric, mut endpoint) = endpoint(Script {
        shutdown_reads: 6,
        ..Script::default()
    });
    let options = HostOptions {
        kato_ms: 4,
        ..options()
    };
    // The target panics at any admin command that comes during the shutdown.
    Host::connect(&mut endpoint, options)
        .unwrap()
        .disconnect()
        .unwrap();
    assert_eq!(fabric.lock().unwrap().target.script.shutdown_reads, 0);
}
