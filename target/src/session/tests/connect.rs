//! Connect: each way in which it can be wrong.

use sidelane_nvme::spec::{
    CNTLID_DYNAMIC, CNTLID_STATIC, Connect, ConnectData, DISCOVERY_NQN, HostId, NqnField, Status,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;

use super::host::*;

/// Dword 0 of a refused Connect: the field's offset, and whether in the data.
fn place(offset: u32, in_data: bool) -> u32 {
    offset | u32::from(in_data) << 16
}

type Change = fn(&mut Connect, &mut ConnectData);

#[test]
fn an_admin_connect_that_is_wrong_is_refused_with_the_place() {
    let invalid = Status::CONNECT_INVALID_PARAMETERS;
    let cases: &[(&str, Change, Status, u32)] = &[
        (
            "format",
            |c, _| c.recfmt = U16::new(1),
            Status::CONNECT_INCOMPATIBLE_FORMAT,
            0,
        ),
        (
            "size 0",
            |c, _| c.sqsize_z = U16::new(0),
            invalid,
            place(44, false),
        ),
        (
            "size above MQES",
            |c, _| c.sqsize_z = U16::new(128),
            invalid,
            place(44, false),
        ),
        (
            "size above all",
            |c, _| c.sqsize_z = U16::new(0xffff),
            invalid,
            place(44, false),
        ),
        (
            "host id",
            |_, d| d.hostid = HostId([0; 16]),
            invalid,
            place(0, true),
        ),
        (
            "cntlid 0",
            |_, d| d.cntlid = U16::new(0),
            invalid,
            place(16, true),
        ),
        (
            "cntlid static",
            |_, d| d.cntlid = U16::new(CNTLID_STATIC),
            invalid,
            place(16, true),
        ),
        (
            "no subsystem",
            |_, d| d.subnqn = nqn_field(STRANGER),
            invalid,
            place(256, true),
        ),
        (
            "no name",
            |_, d| d.subnqn = NqnField::default(),
            invalid,
            place(256, true),
        ),
        (
            "endless name",
            |_, d| d.subnqn = NqnField([b'a'; 256]),
            invalid,
            place(256, true),
        ),
        (
            "no text",
            |_, d| d.hostnqn = NqnField([0xff; 256]),
            invalid,
            place(512, true),
        ),
        (
            "no host",
            |_, d| d.hostnqn = NqnField::default(),
            invalid,
            place(512, true),
        ),
        (
            "a stranger",
            |_, d| d.hostnqn = nqn_field(STRANGER),
            Status::CONNECT_INVALID_HOST,
            0,
        ),
    ];
    let lab = Lab::new();
    for (what, change, status, dword) in cases {
        let mut host = lab.open();
        let (mut command, mut data) = (connect(0, 31, 5000), connect_data(SUBNQN, CNTLID_DYNAMIC));
        change(&mut command, &mut data);
        let cqe = host.connect(command, &data);
        assert!(cqe.status().same_code(*status), "{what}: {}", cqe.status());
        assert!(cqe.status().dnr(), "{what}");
        assert_eq!(cqe.dw0.get(), *dword, "{what}");
        assert!(lab.subsystem.controllers().is_empty(), "{what}");
        // The connection is none the worse for it.
        let cqe = host.connect(connect(0, 31, 5000), &connect_data(SUBNQN, CNTLID_DYNAMIC));
        assert_eq!(cqe.status(), Status::SUCCESS, "{what}");
    }
}

#[test]
fn an_io_connect_that_is_wrong_is_refused() {
    let lab = Lab::new();
    let admin = lab.controller();
    let _in_use = lab.io_queue(&admin, 1);
    let invalid = Status::CONNECT_INVALID_PARAMETERS;
    let sequence = Status::COMMAND_SEQUENCE_ERROR;
    let cases: &[(&str, Change, Status, u32)] = &[
        ("qid in use", |c, _| c.qid = U16::new(1), sequence, 0),
        (
            "qid above limit",
            |c, _| c.qid = U16::new(5),
            invalid,
            place(42, false),
        ),
        (
            "qid above all",
            |c, _| c.qid = U16::new(0xffff),
            invalid,
            place(42, false),
        ),
        (
            "size 0",
            |c, _| c.sqsize_z = U16::new(0),
            invalid,
            place(44, false),
        ),
        (
            "size above MQES",
            |c, _| c.sqsize_z = U16::new(128),
            invalid,
            place(44, false),
        ),
        (
            "other host id",
            |_, d| d.hostid = HostId([1; 16]),
            invalid,
            place(0, true),
        ),
        (
            "no controller",
            |_, d| d.cntlid = U16::new(99),
            invalid,
            place(16, true),
        ),
        (
            "dynamic",
            |_, d| d.cntlid = U16::new(CNTLID_DYNAMIC),
            invalid,
            place(16, true),
        ),
        (
            "discovery",
            |_, d| d.subnqn = nqn_field(DISCOVERY_NQN),
            invalid,
            place(42, false),
        ),
        (
            "a stranger",
            |_, d| d.hostnqn = nqn_field(STRANGER),
            Status::CONNECT_INVALID_HOST,
            0,
        ),
    ];
    for (what, change, status, dword) in cases {
        let mut host = lab.open();
        let (mut command, mut data) = (connect(2, 127, 0), connect_data(SUBNQN, admin.cntlid()));
        change(&mut command, &mut data);
        let cqe = host.connect(command, &data);
        assert!(cqe.status().same_code(*status), "{what}: {}", cqe.status());
        assert_eq!(cqe.dw0.get(), *dword, "{what}");
        assert_eq!(
            admin.session.controller().unwrap().qids().len(),
            2,
            "{what}"
        );
    }
}

#[test]
fn connect_data_of_another_length_are_a_wrong_sgl_length() {
    let lab = Lab::new();
    let data = connect_data(SUBNQN, CNTLID_DYNAMIC);
    for len in [0, 1023, 1025, 4096] {
        let outcome = lab.open().send(connect(0, 31, 0), data.as_bytes(), len);
        assert!(
            outcome.is(Status::DATA_SGL_LENGTH_INVALID),
            "{len}: {}",
            outcome.status()
        );
    }
    let command = connect(0, 31, 0).into();
    let outcome = lab
        .open()
        .send_as_is(&command, &[], Err(Status::SGL_TYPE_INVALID));
    assert!(outcome.is(Status::SGL_TYPE_INVALID));
}

#[test]
fn only_connect_works_before_connect() {
    let lab = Lab::new();
    for opcode in 0..=u8::MAX {
        let mut host = lab.open();
        // 0x7f with FCTYPE 0 is Property Set.
        let outcome = host.send(sqe(opcode, 0), &[], 4096);
        assert!(outcome.is(Status::COMMAND_SEQUENCE_ERROR), "{opcode:#x}");
    }
}

#[test]
fn a_second_connect_on_a_queue_is_a_sequence_error() {
    let lab = Lab::new();
    let mut admin = lab.controller();
    let mut io = lab.io_queue(&admin, 1);
    let again = admin.connect(connect(0, 31, 0), &connect_data(SUBNQN, CNTLID_DYNAMIC));
    assert!(again.status().same_code(Status::COMMAND_SEQUENCE_ERROR));
    let again = io.connect(connect(2, 127, 0), &connect_data(SUBNQN, admin.cntlid()));
    assert!(again.status().same_code(Status::COMMAND_SEQUENCE_ERROR));
    assert_eq!(lab.subsystem.controllers().len(), 1);
}

#[test]
fn of_two_connects_whose_data_are_under_way_only_the_first_counts() {
    let lab = Lab::new();
    let mut host = lab.open();
    let data = connect_data(SUBNQN, CNTLID_DYNAMIC);
    let mut commands = [connect(0, 31, 0), connect(0, 31, 0)];
    commands[1].cdw0.set_cid(1);
    for command in commands {
        host.session.command(&command.into(), Ok(1024), host.now);
    }
    let statuses: Vec<Status> = commands
        .map(|command| {
            match host
                .session
                .data(&command.into(), data.as_bytes(), host.now)
            {
                crate::session::Step::Complete(completion) => host
                    .session
                    .completed(command.cdw0.cid(), completion)
                    .status(),
                other => panic!("{other:?}"),
            }
        })
        .to_vec();
    assert_eq!(statuses[0], Status::SUCCESS);
    assert!(statuses[1].same_code(Status::COMMAND_SEQUENCE_ERROR));
    assert_eq!(lab.subsystem.controllers().len(), 1);
}

#[test]
fn io_queues_wait_until_the_controller_is_enabled() {
    let lab = Lab::new();
    let mut admin = lab.open();
    admin.connect(connect(0, 31, 0), &connect_data(SUBNQN, CNTLID_DYNAMIC));
    let data = connect_data(SUBNQN, admin.cntlid());
    let early = lab.open().connect(connect(1, 127, 0), &data);
    assert!(early.status().same_code(Status::COMMAND_SEQUENCE_ERROR));
    admin.enable();
    assert_eq!(
        lab.open().connect(connect(1, 127, 0), &data).status(),
        Status::SUCCESS
    );
}

#[test]
fn flow_control_is_disabled_when_the_host_asks_for_it() {
    let lab = Lab::new();
    let mut command = connect(0, 31, 0);
    command.cattr.set_disable_sq_flow_control(true);
    let mut host = lab.open();
    let cqe = host.connect(command, &connect_data(SUBNQN, CNTLID_DYNAMIC));
    assert_eq!((cqe.status(), cqe.sqhd.get()), (Status::SUCCESS, 0xffff));
}

#[test]
fn controllers_are_bounded_and_their_identifiers_come_back_late() {
    let lab = Lab::new();
    let limited = crate::subsystem::Subsystem::new(crate::subsystem::SubsystemConfig {
        nqn: "nqn.2026-01.com.example:small".parse().unwrap(),
        serial: "1".into(),
        model: "m".into(),
        firmware: "1".into(),
        hosts: crate::subsystem::AllowedHosts::Any,
        namespaces: Vec::new(),
        limits: crate::subsystem::Limits {
            max_controllers: 2,
            ..Default::default()
        },
        health: std::sync::Arc::new(crate::subsystem::NoHealth),
    })
    .unwrap();
    lab.target.add(limited).unwrap();
    let data = connect_data("nqn.2026-01.com.example:small", CNTLID_DYNAMIC);
    let (mut first, mut second) = (lab.open(), lab.open());
    assert_eq!(first.connect(connect(0, 31, 0), &data).dw0.get(), 1);
    assert_eq!(second.connect(connect(0, 31, 0), &data).dw0.get(), 2);
    let busy = lab.open().connect(connect(0, 31, 0), &data).status();
    assert!(busy.same_code(Status::CONNECT_CONTROLLER_BUSY) && !busy.dnr());
    first.session.closed();
    assert_eq!(lab.open().connect(connect(0, 31, 0), &data).dw0.get(), 3);
}
