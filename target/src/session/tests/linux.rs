//! What a Linux host does from `nvme connect` to `nvme disconnect`.

use sidelane_nvme::spec::{
    AdminOpcode, CNTLID_DYNAMIC, Cap, Cns, CommandEffectsLog, ControllerType, Csts, Disconnect,
    FabricsType, FeatureId, GetLogPage, Identify, IdentifyController, IdentifyControllerNvm,
    IdentifyNamespace, LogId, NSID_ALL, NamespaceId, NamespaceIdList, NamespaceList, NvmOpcode,
    ReadWrite, SetFeatures, ShutdownNotification, ShutdownStatus, SmartLog, Status, Version,
    offset,
};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::host::*;
use crate::session::{CloseReason, IoOp};

pub fn identify(host: &mut Host, cns: Cns, nsid: u32) -> Outcome {
    let mut command = Identify::from(admin(AdminOpcode::Identify, nsid));
    command.cns = cns;
    host.send(command, &[], 4096)
}

pub fn log_page(host: &mut Host, lid: LogId, at: u64, len: u32) -> Outcome {
    let mut command = GetLogPage::from(admin(AdminOpcode::GetLogPage, NSID_ALL));
    command.cdw10.set_lid(lid);
    command.lpo = U64::new(at);
    let command = command.with_len_dwords(u64::from(len / 4));
    host.send(command, &[], len)
}

pub fn set_feature(host: &mut Host, fid: FeatureId, value: u32) -> Outcome {
    let mut command = SetFeatures::from(admin(AdminOpcode::SetFeatures, 0));
    command.cdw10.set_fid(fid);
    command.cdw11 = U32::new(value);
    host.send(command, &[], 0)
}

#[test]
fn a_linux_host_connects_does_io_and_disconnects() {
    let lab = Lab::new();
    let mut host = lab.open();

    // Connect, and the controller is enabled.
    let cqe = host.connect(connect(0, 31, 5000), &connect_data(SUBNQN, CNTLID_DYNAMIC));
    assert_eq!(cqe.status(), Status::SUCCESS);
    let cntlid = cqe.dw0.get() as u16;
    assert!((1..=0xffef).contains(&cntlid));
    assert_eq!((cqe.dw0.get() >> 16, cqe.sqhd.get()), (0, 1));
    let cap: Cap = zerocopy::transmute!(U64::new(host.register(offset::CAP)));
    assert!(cap.css_nvm() && cap.cqr() && cap.mpsmin() == 0 && cap.to() > 0);
    assert_eq!(cap.mqes_z(), 127);
    let csts = |host: &mut Host| -> Csts {
        zerocopy::transmute!(U32::new(host.register(offset::CSTS) as u32))
    };
    assert!(!csts(&mut host).rdy());
    assert_eq!(host.enable(), Status::SUCCESS);
    assert!(csts(&mut host).rdy());
    assert_eq!(host.register(offset::VS), 0x0001_0400);

    // What nvme_init_identify and the RDMA transport look at.
    let outcome = identify(&mut host, Cns::Controller, 0);
    let id = IdentifyController::read_from_bytes(&outcome.data).unwrap();
    assert_eq!((id.cntlid.get(), id.ver), (cntlid, Version::V1_4));
    assert_eq!(id.cntrltype, ControllerType::Io);
    assert!(id.sgls.support() == 1 && id.sgls.keyed() && id.sgls.offset());
    assert_eq!(
        (id.icdoff.get(), id.ioccsz.get(), id.iorcsz.get()),
        (0, (64 + 4096) / 16, 1)
    );
    assert_eq!((id.msdbd, id.maxcmd.get(), id.kas.get()), (16, 128, 10));
    assert!(4096_u64 << id.mdts >= 1 << 20);
    assert!(id.ctratt.traffic_keep_alive() && id.cmic.multi_controller() && !id.cmic.ana());
    assert_eq!(id.subnqn.to_str().unwrap(), SUBNQN);
    assert_eq!(
        (id.sn.to_string(), id.mn.to_string()),
        ("SL0001".into(), "Sidelane".into())
    );
    assert!(id.oncs.dsm() && id.oncs.write_zeroes() && id.vwc.present());
    assert!(id.lpa.command_effects() && id.lpa.extended_data());
    assert_eq!(zerocopy::IntoBytes::as_bytes(&id)[512..514], [0x66, 0x44]);

    let outcome = identify(&mut host, Cns::CommandSetController, 0);
    let nvm = IdentifyControllerNvm::read_from_bytes(&outcome.data).unwrap();
    assert_eq!(nvm.wzsl, id.mdts);
    let outcome = log_page(&mut host, LogId::CommandEffects, 0, 4096);
    let effects = CommandEffectsLog::read_from_bytes(&outcome.data).unwrap();
    assert!(effects.io[usize::from(NvmOpcode::Write.0)].block_content());
    assert!(!effects.io[usize::from(NvmOpcode::Compare.0)].supported());
    // The sensor code reads the SMART log of every controller.
    let outcome = log_page(&mut host, LogId::Smart, 0, 512);
    let smart = SmartLog::read_from_bytes(&outcome.data).unwrap();
    assert_eq!(smart.temperature_k.get(), 298);

    // Number of queues, events, I/O queues.
    let queues = set_feature(&mut host, FeatureId::NumberOfQueues, 0x0001_0001);
    assert_eq!(queues.cqe.unwrap().dw0.get(), 0x0003_0003);
    assert!(set_feature(&mut host, FeatureId::AsyncEventConfig, 0x100).is(Status::SUCCESS));
    let aer = host.send(admin(AdminOpcode::AsyncEventRequest, 0), &[], 0);
    assert!(aer.cqe.is_none() && aer.close.is_none());
    let mut io = lab.io_queue(&host, 1);
    let mut other = lab.io_queue(&host, 2);

    // The scan.
    let outcome = identify(&mut host, Cns::ActiveNamespaces, 0);
    let list = NamespaceList::read_from_bytes(&outcome.data).unwrap();
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 2, 3, 5]);
    for nsid in list.iter() {
        let outcome = identify(&mut host, Cns::NamespaceDescriptors, nsid);
        let ids = NamespaceIdList::read_from_bytes(&outcome.data).unwrap();
        let ids: Vec<NamespaceId> = ids.iter().collect();
        assert!(ids.contains(&NamespaceId::Nguid(namespace(nsid).nguid)));
        assert!(ids.contains(&NamespaceId::Uuid(namespace(nsid).uuid.into_bytes())));
        let outcome = identify(&mut host, Cns::Namespace, nsid);
        let id = IdentifyNamespace::read_from_bytes(&outcome.data).unwrap();
        let bytes = id.format().unwrap().data_bytes().unwrap();
        assert_eq!(
            (id.nsze.get(), bytes),
            (1 << 20, if nsid == 2 { 4096 } else { 512 })
        );
        assert!(id.nguid != [0; 16] && id.nmic.shared());
    }

    // A megabyte, in one command.
    let mut read = ReadWrite::from(sqe(NvmOpcode::Read.0, 2));
    read.slba = U64::new(16);
    read.cdw12.set_nlb_z(255);
    let request = io.send(read, &[], 1 << 20).io.unwrap();
    assert_eq!(
        (request.op, request.slba, request.blocks),
        (IoOp::Read, 16, 256)
    );
    assert_eq!((request.bytes, request.backend), (1 << 20, 20));

    // nvme disconnect: I/O queues go, then a shutdown, then the admin queue.
    let mut disconnect = Disconnect::from(admin(AdminOpcode::Fabrics, 0));
    disconnect.fctype = FabricsType::Disconnect;
    let outcome = io.send(disconnect, &[], 0);
    assert_eq!(outcome.close, Some(CloseReason::Disconnected));
    assert!(outcome.is(Status::SUCCESS));
    io.session.closed();
    other.session.closed();
    assert!(!host.session.controller().unwrap().qids().contains(1));
    host.configure(enabled().with_shn(ShutdownNotification::Normal));
    assert_eq!(csts(&mut host).shst(), ShutdownStatus::Complete);
    host.session.closed();
    assert!(lab.subsystem.controllers().is_empty());
}
