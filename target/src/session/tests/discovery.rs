//! The discovery service.

use sidelane_nvme::spec::{
    AddressFamily, AdminOpcode, Cns, ControllerType, DISCOVERY_NQN, DiscoveryEntry,
    DiscoveryHeader, FeatureId, IdentifyController, LogId, Status, SubsystemType, TransportType,
};
use zerocopy::FromBytes;

use super::host::*;
use super::linux::{identify, log_page, set_feature};
use crate::subsystem::{AllowedHosts, Listener};

fn header(host: &mut Host) -> DiscoveryHeader {
    let outcome = log_page(host, LogId::Discovery, 0, 1024);
    DiscoveryHeader::read_from_bytes(&outcome.data).unwrap()
}

fn entry(host: &mut Host, at: u64) -> DiscoveryEntry {
    let outcome = log_page(host, LogId::Discovery, 1024 * (at + 1), 1024);
    DiscoveryEntry::read_from_bytes(&outcome.data).unwrap()
}

#[test]
fn a_host_sees_the_subsystems_that_admit_it_at_the_portal_it_used() {
    let lab = Lab::new();
    let hidden = subsystem(
        "nqn.2026-01.com.example:hidden",
        AllowedHosts::Nobody,
        vec![],
    );
    let open = subsystem("nqn.2026-01.com.example:open", AllowedHosts::Any, vec![]);
    lab.target.add(hidden).unwrap();
    lab.target.add(open).unwrap();
    let listener = |port_id, address: &str| Listener {
        port_id,
        address: address.parse().unwrap(),
    };
    lab.target.set_listeners(vec![
        listener(1, "192.0.2.1:4420"),
        listener(2, "192.0.2.2:4420"),
        listener(3, "0.0.0.0:4430"),
    ]);
    let mut host = lab.discovery();
    let header = header(&mut host);
    assert_eq!((header.numrec.get(), header.recfmt.get()), (4, 0));
    assert_eq!(header.genctr.get(), lab.target.discovery_generation());
    let entries: Vec<DiscoveryEntry> = (0..4).map(|at| entry(&mut host, at)).collect();
    let seen: Vec<(u16, String, String)> = entries
        .iter()
        .map(|e| {
            (
                e.portid.get(),
                e.trsvcid.to_string(),
                e.subnqn.to_str().unwrap().to_owned(),
            )
        })
        .collect();
    let open = "nqn.2026-01.com.example:open";
    let expected = [
        (1, "4420", SUBNQN),
        (1, "4420", open),
        (3, "4430", SUBNQN),
        (3, "4430", open),
    ];
    assert_eq!(
        seen,
        expected.map(|(id, port, nqn)| (id, port.to_owned(), nqn.to_owned()))
    );
    for e in entries {
        assert_eq!(
            (e.trtype, e.adrfam),
            (TransportType::Rdma, AddressFamily::Ipv4)
        );
        assert_eq!((e.subtype, e.cntlid.get()), (SubsystemType::Nvm, 0xffff));
        assert_eq!(e.traddr.to_string(), "192.0.2.1");
        assert!(e.asqsz.get() >= 32);
    }
    // The whole in one go is the same as its parts.
    let whole = log_page(&mut host, LogId::Discovery, 0, 5 * 1024).data;
    let second = log_page(&mut host, LogId::Discovery, 2048, 1024).data;
    assert_eq!(whole[2048..3072], second);
    assert!(log_page(&mut host, LogId::Discovery, 6 * 1024, 4).is(Status::INVALID_FIELD));
}

#[test]
fn a_discovery_controller_is_one_and_no_more() {
    let lab = Lab::new();
    let mut host = lab.discovery();
    let outcome = identify(&mut host, Cns::Controller, 0);
    let id = IdentifyController::read_from_bytes(&outcome.data).unwrap();
    assert_eq!(id.cntrltype, ControllerType::Discovery);
    assert_eq!(id.subnqn.to_str().unwrap(), DISCOVERY_NQN);
    assert!(id.maxcmd.get() > 0 && id.sgls.keyed() && id.oaes.discovery_log());
    assert_eq!((id.nn.get(), id.icdoff.get()), (0, 0));
    for cns in [
        Cns::Namespace,
        Cns::ActiveNamespaces,
        Cns::CommandSetController,
    ] {
        assert!(
            identify(&mut host, cns, 0).is(Status::INVALID_FIELD),
            "{cns:?}"
        );
    }
    assert!(log_page(&mut host, LogId::Smart, 0, 512).is(Status::INVALID_LOG_PAGE));
    assert!(set_feature(&mut host, FeatureId::Arbitration, 0).is(Status::INVALID_FIELD));
    assert!(set_feature(&mut host, FeatureId::KeepAliveTimer, 30_000).is(Status::SUCCESS));
    assert!(
        host.send(admin(AdminOpcode::Abort, 0), &[], 0)
            .is(Status::INVALID_OPCODE)
    );
    assert!(
        host.send(admin(AdminOpcode::KeepAlive, 0), &[], 0)
            .is(Status::SUCCESS)
    );
}

#[test]
fn a_change_of_the_log_is_counted_and_said() {
    let lab = Lab::new();
    let mut host = lab.discovery();
    set_feature(&mut host, FeatureId::AsyncEventConfig, 1 << 31);
    assert!(
        host.send(admin(AdminOpcode::AsyncEventRequest, 0), &[], 0)
            .cqe
            .is_none()
    );
    let before = header(&mut host).genctr.get();
    assert_eq!(host.events(), []);
    lab.target.remove(lab.subsystem.nqn());
    let events = host.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].1, 0x0070_f002);
    let after = header(&mut host);
    assert!(after.genctr.get() > before && after.numrec.get() == 0);
}
