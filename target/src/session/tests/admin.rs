//! Properties, Identify, features and log pages: what is refused, and how.

use sidelane_nvme::spec::{
    AdminOpcode, Cc, Cns, Csi, ErrorLogEntry, FabricsType, FeatureId, FeatureSelect,
    FirmwareSlotLog, Fuse, GetFeatures, GetLogPage, Identify, LogId, NSID_ALL, PropertyGet, Psdt,
    SetFeatures, ShutdownNotification, Sqe, Status, offset,
};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::host::*;
use super::linux::{identify, log_page, set_feature};
use crate::session::{CloseReason, Step};
use crate::subsystem::{ERROR_LOG_LEN, NSID_MAX};

#[test]
fn a_property_that_is_not_there_is_an_invalid_field() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let there = [
        offset::CAP,
        offset::VS,
        offset::CC,
        offset::CSTS,
        offset::NSSR,
    ];
    for at in (0..0x80).chain([0xe00, 0x1000, u32::MAX]) {
        for size in 0..8 {
            let expected = there.contains(&at) && size == u8::from(at == offset::CAP);
            let outcome = host.property(at, size);
            let status = if expected {
                Status::SUCCESS
            } else {
                Status::INVALID_FIELD
            };
            assert!(
                outcome.is(status),
                "{at:#x} size {size}: {}",
                outcome.status()
            );
        }
    }
    for (at, size, value) in [
        (offset::CAP, 1, 0),
        (offset::VS, 0, 0),
        (offset::CSTS, 0, 0),
        (offset::NSSR, 0, 0x4e56_4d65),
        (offset::CC, 1, 0),
        (offset::CC, 0, 1 << 32),
    ] {
        assert!(
            host.set_property(at, size, value).is(Status::INVALID_FIELD),
            "{at:#x}"
        );
    }
}

#[test]
fn commands_need_an_enabled_controller() {
    let lab = Lab::new();
    let mut host = lab.controller();
    host.configure(enabled().with_en(false));
    assert!(identify(&mut host, Cns::Controller, 0).is(Status::COMMAND_SEQUENCE_ERROR));
    let connect = |lab: &Lab, cntlid| {
        lab.open()
            .connect(connect(1, 127, 0), &connect_data(SUBNQN, cntlid))
    };
    let cqe = connect(&lab, host.cntlid());
    assert!(cqe.status().same_code(Status::COMMAND_SEQUENCE_ERROR) && !cqe.status().dnr());
    host.enable();
    assert!(identify(&mut host, Cns::Controller, 0).is(Status::SUCCESS));
    host.configure(enabled().with_shn(ShutdownNotification::Abrupt));
    let cqe = connect(&lab, host.cntlid());
    assert!(cqe.status().same_code(Status::COMMAND_SEQUENCE_ERROR));
}

#[rstest::rstest]
#[case::by_a_reset(enabled().with_en(false), 0b0001, 0b0000)]
#[case::by_a_shutdown(enabled().with_shn(ShutdownNotification::Normal), 0b0101, 0b1001)]
#[case::by_an_abrupt_shutdown(enabled().with_shn(ShutdownNotification::Abrupt), 0b0101, 0b1001)]
fn a_controller_that_is_stopped_says_so_when_its_io_queues_have_ended(
    #[case] stop: Cc,
    #[case] meanwhile: u64,
    #[case] afterwards: u64,
) {
    let lab = Lab::new();
    let mut host = lab.controller();
    let (mut idle, mut busy) = (lab.io_queue(&host, 1), lab.io_queue(&host, 2));
    let mut read: Sqe = sqe(0x02, 1);
    read.cdw0.set_cid(1);
    assert!(matches!(
        busy.session.command(&read, Ok(512), busy.now),
        Step::Io(_)
    ));
    assert_eq!(host.register(offset::CSTS), 1);
    host.configure(stop);
    assert_eq!(host.register(offset::CSTS), meanwhile);
    for io in [&mut idle, &mut busy] {
        assert_eq!(io.wakes(), 1);
        assert_eq!(
            io.session.tick(io.now),
            Some(CloseReason::ControllerStopped)
        );
        let outcome = io.send(sqe(0x00, 1), &[], 0);
        assert_eq!(outcome.close, Some(CloseReason::ControllerStopped));
        io.session.closed();
    }
    drop(idle);
    assert_eq!(
        host.register(offset::CSTS),
        meanwhile,
        "a command is under way"
    );
    drop(busy);
    assert_eq!(host.register(offset::CSTS), afterwards);
    host.configure(enabled().with_en(false));
    host.enable();
    assert_eq!(host.register(offset::CSTS), 1);
    assert!(
        lab.io_queue(&host, 1)
            .send(sqe(0x00, 1), &[], 0)
            .is(Status::SUCCESS)
    );
}

#[test]
fn a_configuration_that_cannot_be_is_a_fatal_status() {
    let lab = Lab::new();
    let mut host = lab.controller();
    for cc in [
        enabled().with_iosqes(7),
        enabled().with_iocqes(5),
        enabled().with_mps(1),
        enabled().with_ams(1),
        enabled().with_css(sidelane_nvme::spec::CommandSetSelected::AdminOnly),
    ] {
        host.configure(cc.with_en(false));
        assert_eq!(host.configure(cc), Status::SUCCESS);
        assert_eq!(host.register(offset::CSTS), 0b10, "{cc:?}");
        assert!(identify(&mut host, Cns::Controller, 0).is(Status::COMMAND_SEQUENCE_ERROR));
    }
}

#[test]
fn fused_commands_prps_and_metadata_are_invalid_fields() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let mut io = lab.io_queue(&host, 1);
    let cases: [fn(&mut Sqe); 5] = [
        |sqe| sqe.cdw0.set_fuse(Fuse::First),
        |sqe| sqe.cdw0.set_fuse(Fuse::Second),
        |sqe| sqe.cdw0.set_psdt(Psdt::Prp),
        |sqe| sqe.cdw0.set_psdt(Psdt::SglMetadata),
        |sqe| sqe.cdw0.set_psdt(Psdt::from_bits(3)),
    ];
    for change in cases {
        let mut command = admin(AdminOpcode::KeepAlive, 0);
        change(&mut command);
        assert!(host.send(command, &[], 0).is(Status::INVALID_FIELD));
        let mut command = sqe(0x00, 1);
        change(&mut command);
        assert!(io.send(command, &[], 0).is(Status::INVALID_FIELD));
    }
}

#[test]
fn every_opcode_that_is_not_supported_is_an_invalid_opcode() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let known = [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0x7f];
    for opcode in (0..=u8::MAX).filter(|opcode| !known.contains(opcode)) {
        let outcome = host.send(sqe(opcode, 1), &[], 0);
        assert!(
            outcome.is(Status::INVALID_OPCODE) && outcome.status().dnr(),
            "{opcode:#x}"
        );
    }
    for fctype in (0..=u8::MAX).filter(|fctype| ![0x00, 0x01, 0x04, 0x08].contains(fctype)) {
        let mut command = PropertyGet::from(admin(AdminOpcode::Fabrics, 0));
        command.fctype = FabricsType::from_bits(fctype);
        assert!(
            host.send(command, &[], 0).is(Status::INVALID_OPCODE),
            "{fctype:#x}"
        );
    }
    let mut disconnect = PropertyGet::from(admin(AdminOpcode::Fabrics, 0));
    disconnect.fctype = FabricsType::Disconnect;
    assert!(
        host.send(disconnect, &[], 0)
            .is(Status::DISCONNECT_INVALID_QUEUE_TYPE)
    );
}

#[test]
fn identify_answers_what_there_is_and_names_what_there_is_not() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let ok = Status::SUCCESS;
    let namespace = Status::INVALID_NAMESPACE;
    let field = Status::INVALID_FIELD;
    let cases = [
        (Cns::Namespace, 1, ok),
        (Cns::Namespace, 4, ok),
        (Cns::Namespace, NSID_MAX, ok),
        (Cns::Namespace, NSID_MAX + 1, namespace),
        (Cns::Namespace, 0, namespace),
        (Cns::Namespace, NSID_ALL, namespace),
        (Cns::Controller, 0, ok),
        (Cns::ActiveNamespaces, 0, ok),
        (Cns::ActiveNamespaces, 0xffff_fffd, ok),
        (Cns::ActiveNamespaces, 0xffff_fffe, namespace),
        (Cns::ActiveNamespaces, NSID_ALL, namespace),
        (Cns::NamespaceDescriptors, 5, ok),
        (Cns::NamespaceDescriptors, 4, field),
        (Cns::NamespaceDescriptors, 0, namespace),
        (Cns::CommandSetNamespace, 1, ok),
        (Cns::CommandSetController, 0, ok),
        (Cns::CommandSetActiveNamespaces, 0, ok),
        (Cns::IndependentNamespace, 1, ok),
        (Cns::IndependentNamespace, NSID_ALL, namespace),
        (Cns::CommandSets, 0, ok),
        (Cns::NvmSets, 0, field),
        (Cns::UuidList, 0, field),
        (Cns::AllocatedNamespaces, 0, field),
        (Cns::from_bits(0xff), 0, field),
    ];
    for (cns, nsid, status) in cases {
        let outcome = identify(&mut host, cns, nsid);
        assert!(
            outcome.is(status),
            "{cns:?} {nsid:#x}: {}",
            outcome.status()
        );
    }
    assert!(
        identify(&mut host, Cns::Namespace, 4)
            .data
            .iter()
            .all(|byte| *byte == 0)
    );
    let mut zoned = Identify::from(admin(AdminOpcode::Identify, 0));
    zoned.cns = Cns::CommandSetController;
    zoned.csi = Csi::Zoned;
    assert!(host.send(zoned, &[], 4096).is(field));
    let mut short = Identify::from(admin(AdminOpcode::Identify, 0));
    short.cns = Cns::Controller;
    for len in [0, 4095, 8192] {
        assert!(
            host.send(short, &[], len)
                .is(Status::DATA_SGL_LENGTH_INVALID)
        );
    }
}

fn get_feature(host: &mut Host, fid: FeatureId, sel: FeatureSelect, cdw11: u32) -> Outcome {
    let mut command = GetFeatures::from(admin(AdminOpcode::GetFeatures, 0));
    command.cdw10.set_fid(fid);
    command.cdw10.set_sel(sel);
    command.cdw11 = U32::new(cdw11);
    let len = if fid == FeatureId::HostId { 16 } else { 0 };
    host.send(command, &[], len)
}

#[test]
fn features_are_as_set_and_as_new_after_a_reset() {
    let lab = Lab::new();
    let mut host = lab.controller();
    // Feature, value to set, value then, value after a reset.
    let cases = [
        (FeatureId::Arbitration, 0x0102_0307, 0x0102_0307, 0),
        (FeatureId::PowerManagement, 0x20, 0x20, 0),
        (FeatureId::TemperatureThreshold, 0x0150, 0x0150, 343),
        (FeatureId::ErrorRecovery, 7, 7, 0),
        (FeatureId::WriteAtomicity, 1, 1, 0),
        (FeatureId::AsyncEventConfig, 0x100, 0x100, 0),
        (FeatureId::KeepAliveTimer, 7001, 8000, 8000),
        (FeatureId::InterruptCoalescing, 0, 0, 0),
        (FeatureId::VolatileWriteCache, 1, 1, 1),
    ];
    let value = |host: &mut Host, fid| {
        get_feature(host, fid, FeatureSelect::Current, 0)
            .cqe
            .unwrap()
            .dw0
            .get()
    };
    for (fid, set, then, _) in cases {
        assert!(
            set_feature(&mut host, fid, set).is(Status::SUCCESS),
            "{fid:?}"
        );
        assert_eq!(value(&mut host, fid), then, "{fid:?}");
    }
    host.configure(enabled().with_en(false));
    host.enable();
    for (fid, _, _, after) in cases {
        assert_eq!(value(&mut host, fid), after, "{fid:?}");
    }
    let hostid = get_feature(&mut host, FeatureId::HostId, FeatureSelect::Current, 1);
    assert_eq!(hostid.data, [0x42; 16]);
    let can = get_feature(
        &mut host,
        FeatureId::KeepAliveTimer,
        FeatureSelect::Supported,
        0,
    );
    assert_eq!(can.cqe.unwrap().dw0.get(), 0b100);
    let can = get_feature(
        &mut host,
        FeatureId::VolatileWriteCache,
        FeatureSelect::Supported,
        0,
    );
    assert_eq!(can.cqe.unwrap().dw0.get(), 0);
}

#[test]
fn a_feature_that_cannot_be_set_so_is_refused() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let cases = [
        (
            FeatureId::VolatileWriteCache,
            0,
            Status::FEATURE_NOT_CHANGEABLE,
        ),
        (
            FeatureId::InterruptCoalescing,
            1,
            Status::FEATURE_NOT_CHANGEABLE,
        ),
        (FeatureId::HostId, 1, Status::COMMAND_SEQUENCE_ERROR),
        (FeatureId::PowerManagement, 1, Status::INVALID_FIELD),
        (FeatureId::ErrorRecovery, 1 << 16, Status::INVALID_FIELD),
        (
            FeatureId::TemperatureThreshold,
            0x0001_0000,
            Status::INVALID_FIELD,
        ),
        (
            FeatureId::NumberOfQueues,
            0xffff_0000,
            Status::INVALID_FIELD,
        ),
        (
            FeatureId::NumberOfQueues,
            0x0000_ffff,
            Status::INVALID_FIELD,
        ),
        (FeatureId::ReservationPersistence, 0, Status::INVALID_FIELD),
        (FeatureId::from_bits(0), 0, Status::INVALID_FIELD),
        (FeatureId::from_bits(0xff), 0, Status::INVALID_FIELD),
    ];
    for (fid, value, status) in cases {
        let outcome = set_feature(&mut host, fid, value);
        assert!(outcome.is(status), "{fid:?}: {}", outcome.status());
    }
    let mut command = SetFeatures::from(admin(AdminOpcode::SetFeatures, 0));
    command.cdw10.set_fid(FeatureId::Arbitration);
    command.cdw10.set_save(true);
    assert!(host.send(command, &[], 0).is(Status::FEATURE_NOT_SAVEABLE));
    command.cdw10.set_save(false);
    command.nsid = U32::new(1);
    assert!(
        host.send(command, &[], 0)
            .is(Status::FEATURE_NOT_NAMESPACE_SPECIFIC)
    );
    let short_id = get_feature(&mut host, FeatureId::HostId, FeatureSelect::Current, 0);
    assert!(short_id.is(Status::INVALID_FIELD));
    let _io = lab.io_queue(&host, 1);
    let late = set_feature(&mut host, FeatureId::NumberOfQueues, 0);
    assert!(late.is(Status::COMMAND_SEQUENCE_ERROR));
}

#[test]
fn log_pages_are_cut_by_offset_and_length() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let whole = log_page(&mut host, LogId::FirmwareSlot, 0, 512).data;
    let slots = FirmwareSlotLog::read_from_bytes(&whole).unwrap();
    assert_eq!(
        (slots.afi.active_slot(), slots.revisions[0].to_string()),
        (1, "0.1".into())
    );
    assert_eq!(
        log_page(&mut host, LogId::FirmwareSlot, 8, 16).data,
        whole[8..24]
    );
    let beyond = log_page(&mut host, LogId::FirmwareSlot, 508, 1 << 20).data;
    assert!(beyond.len() == 1 << 20 && beyond.iter().all(|byte| *byte == 0));
    assert!(log_page(&mut host, LogId::FirmwareSlot, 512, 4).is(Status::SUCCESS));
    for at in [516, 2, 510, u64::MAX - 3, u64::MAX] {
        assert!(
            log_page(&mut host, LogId::FirmwareSlot, at, 4).is(Status::INVALID_FIELD),
            "{at}"
        );
    }
    // 17 bits of dwords: the upper half of the count matters.
    assert!(log_page(&mut host, LogId::FirmwareSlot, 0, (1 << 20) + 4).is(Status::INVALID_FIELD));
    let mut huge = GetLogPage::from(admin(AdminOpcode::GetLogPage, NSID_ALL));
    huge.cdw10.set_lid(LogId::Error);
    assert!(
        host.send(huge.with_len_dwords(1 << 32), &[], 4)
            .is(Status::INVALID_FIELD)
    );
    assert!(
        host.send(huge.with_len_dwords(2), &[], 4)
            .is(Status::DATA_SGL_LENGTH_INVALID)
    );
    huge.lpo = U64::new(u64::MAX - 3);
    assert!(
        host.send(huge.with_len_dwords(1), &[], 4)
            .is(Status::INVALID_FIELD)
    );
}

#[test]
fn a_log_page_that_is_not_there_is_an_invalid_log_page() {
    let lab = Lab::new();
    let mut host = lab.controller();
    for lid in (0..=u8::MAX).filter(|lid| !(0x01..=0x05).contains(lid)) {
        let outcome = log_page(&mut host, LogId::from_bits(lid), 0, 512);
        assert!(outcome.is(Status::INVALID_LOG_PAGE), "{lid:#x}");
    }
    let mut one_namespace = GetLogPage::from(admin(AdminOpcode::GetLogPage, 1));
    one_namespace.cdw10.set_lid(LogId::Smart);
    let outcome = host.send(one_namespace.with_len_dwords(128), &[], 512);
    assert!(outcome.is(Status::INVALID_FIELD));
}

#[test]
fn failures_are_in_the_error_log_of_the_controller() {
    let lab = Lab::new();
    let mut host = lab.controller();
    let mut io = lab.io_queue(&host, 3);
    let mut command = sqe(0x02, 1);
    command.cdw10 = U32::new(1 << 20);
    let refused = io.send(command, &[], 512);
    assert!(refused.is(Status::LBA_OUT_OF_RANGE) && refused.status().more());
    io.session
        .record_failure(&sqe(0x01, 2), Status::WRITE_FAULT);
    let page = log_page(&mut host, LogId::Error, 0, 64 * ERROR_LOG_LEN as u32).data;
    let entry = |at: usize| ErrorLogEntry::read_from_bytes(&page[64 * at..64 * at + 64]).unwrap();
    assert!(entry(0).status().same_code(Status::WRITE_FAULT));
    assert_eq!((entry(0).error_count.get(), entry(0).nsid.get()), (2, 2));
    assert_eq!(entry(1).status(), refused.status());
    assert_eq!(
        (
            entry(1).sqid.get(),
            entry(1).lba.get(),
            entry(1).location.get()
        ),
        (3, 1 << 20, 40)
    );
    assert_eq!(entry(2).error_count.get(), 0);
}
