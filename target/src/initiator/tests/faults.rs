//! The initiator against targets that refuse, fall silent or break the protocol.

use std::time::{Duration, Instant};

use sidelane_nvme::spec::{NvmOpcode, Sgls};

use super::double::pair;
use super::target::{Script, Target};
use super::*;

const FABRICS: u8 = 0x7f;

#[test]
fn refusals_are_told_in_words() {
    let reject = |reason, status| {
        connect_error(Script {
            rejects: Some((reason, status)),
            ..Script::default()
        })
    };
    assert!(
        reject(28, 6).contains("no resources left"),
        "{}",
        reject(28, 6)
    );
    assert!(reject(28, 4).contains("size of the host's send queue"));
    assert!(reject(8, 0).contains("nothing listens"));
    assert!(reject(28, 77).contains("0x4d"));
    let connect = |status, dw0| {
        connect_error(Script {
            connect: Some((status, dw0)),
            ..Script::default()
        })
    };
    let denied = connect(Status::CONNECT_INVALID_HOST, 0);
    assert!(
        denied.contains("Connect Invalid Host") && denied.contains("does not allow"),
        "{denied}"
    );
    let invalid = connect(Status::CONNECT_INVALID_PARAMETERS, 1 << 16 | 256);
    assert!(
        invalid.contains("does not take the subsystem NQN"),
        "{invalid}"
    );
    assert!(
        !invalid.contains("Read Only"),
        "only the meaning that Connect has: {invalid}"
    );
    assert!(connect(Status::SUCCESS, 5 | 1 << 17).contains("authentication"));
    let keyless = |data: &mut _| set_sgls(data);
    assert!(
        connect_error(Script {
            identify: keyless,
            ..Script::default()
        })
        .contains("keyed")
    );
}

fn set_sgls(data: &mut sidelane_nvme::spec::IdentifyController) {
    data.sgls = Sgls::new().with_support(1);
}

#[test]
fn nothing_is_waited_for_longer_than_allowed() {
    let started = Instant::now();
    let silent = connect_error(Script {
        answers_cm: false,
        ..Script::default()
    });
    assert!(silent.contains("setting up the connection"), "{silent}");
    let identify = Some(AdminOpcode::Identify.0);
    assert!(
        connect_error(Script {
            mute: identify,
            ..Script::default()
        })
        .contains("Identify took")
    );
    let unready = connect_error(Script {
        ready: false,
        ..Script::default()
    });
    assert!(unready.contains("get ready"), "{unready}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn an_io_that_is_never_answered_ends_the_association() {
    let (_, mut endpoint) = endpoint(Script {
        mute: Some(NvmOpcode::Read.0),
        ..Script::default()
    });
    let mut host = Host::connect(&mut endpoint, options()).unwrap();
    host.submit(0, &io(IoKind::Read, 0, 1, 0)).unwrap();
    let started = Instant::now();
    let error = loop {
        if let Err(error) = host.poll(|_| panic!("not answered")) {
            break error;
        }
        host.wait(Duration::from_millis(50)).unwrap();
        assert!(started.elapsed() < Duration::from_secs(5));
    };
    assert!(
        matches!(
            error,
            HostError::Timeout {
                what: "a command",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_target_that_breaks_the_protocol_is_named_for_it() {
    let mangled = |opcode, mangle| {
        connect_error(Script {
            mangle: Some((opcode, mangle)),
            ..Script::default()
        })
    };
    assert!(mangled(FABRICS, |cqe| cqe[12] ^= 1).contains("response to no command"));
    assert!(mangled(FABRICS, |cqe| cqe[13] ^= 0x80).contains("response to no command"));
    assert!(mangled(6, |cqe| cqe[8] = 32).contains("queue head of 32"));
    assert!(mangled(6, |cqe| cqe.truncate(12)).contains("response of 12 bytes"));
    assert!(mangled(6, |cqe| cqe.resize(20, 0)).contains("response of 20 bytes"));
    let invalidates = Script {
        invalidates: Some(0x22),
        ..Script::default()
    };
    assert!(connect_error(invalidates).contains("invalidated a key"));
    let twice = Script {
        nsids: vec![3, 3],
        ..Script::default()
    };
    assert!(connect_error(twice).contains("namespace 3 follows 3"));
    let stranger = Script {
        identify: |data| data.cntlid.set(6),
        ..Script::default()
    };
    assert!(connect_error(stranger).contains("calls itself 6"));
}

#[test]
fn a_lost_connection_is_an_error_and_not_a_wait() {
    let hangs_up = Script {
        hangs_up_on: Some(6),
        mute: Some(6),
        ..Script::default()
    };
    assert!(connect_error(hangs_up).contains("ended the connection of queue 0"));
    let breaks = Script {
        breaks_on: Some(6),
        ..Script::default()
    };
    assert!(connect_error(breaks).contains("does not answer any more"));
}

#[test]
fn sizes_that_the_adapter_does_not_have_are_refused_with_the_number() {
    let open = |options, limit: fn(&mut sidelane_transport::nic::NicCaps)| {
        let (_, mut nic, cm) = pair(Target::default());
        limit(nic.caps_mut());
        Endpoint::open(nic, cm, &ProcessMemory, options)
            .err()
            .map(|error| error.to_string())
    };
    let options = EndpointOptions {
        io_queues: 2,
        depth: 8,
        data_len: 4096,
    };
    assert_eq!(open(options.clone(), |_| ()), None);
    let error = open(options.clone(), |caps| caps.max_srq_wr = 63).unwrap();
    assert!(
        error.contains("64 receive buffers") && error.contains("room for 63"),
        "{error}"
    );
    let error = open(options.clone(), |caps| caps.max_qp = 2).unwrap();
    assert!(error.contains("3 queue pairs"), "{error}");
    assert!(
        open(
            EndpointOptions {
                depth: 1,
                ..options.clone()
            },
            |_| ()
        )
        .is_some()
    );
    assert!(
        open(
            EndpointOptions {
                io_queues: 0,
                ..options
            },
            |_| ()
        )
        .is_some()
    );
}
