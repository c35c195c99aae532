use sidelane_p2p::provider::PathReason;

use super::*;
use crate::nic::Nic;
use crate::verbs::double::fixture::{
    WRITABLE, event, host_region, open, opened, peer_region, settings, until,
};
use crate::verbs::double::{Call, Double, Step};
use crate::verbs::ffi::{AsyncEvent, GidType};

fn registrations(double: &Double, region: &Region) -> usize {
    let state = double.state();
    let is = |call: &&Call| match call {
        Call::RegisterHost { base, .. } => *base == region.view().as_ptr() as u64,
        Call::RegisterDmabuf { iova, .. } => *iova == region.iova(),
        _ => false,
    };
    state.log.iter().filter(is).count()
}

#[test]
fn one_registration_serves_all_reactors_and_ends_with_the_last() {
    for region in [host_region(8192), peer_region(8192)] {
        let double = Double::new();
        let (adapter, mut nics) = open(&double, 3);
        adapter.try_register(&region, WRITABLE).unwrap();
        let memories: Vec<_> = nics
            .iter_mut()
            .map(|nic| nic.register(&region, WRITABLE).unwrap())
            .collect();
        assert_eq!(registrations(&double, &region), 1);
        assert!(memories.iter().all(|memory| *memory == memories[0]));
        let gone = Call::Deregister(memories[0].lkey);
        for nic in &mut nics {
            assert_eq!(adapter.registered(), [region.id()]);
            assert!(!double.state().log.contains(&gone));
            nic.deregister(&memories[0]);
        }
        assert_eq!(adapter.registered(), []);
        until(&mut nics[0], |_, _| {
            double.state().log.contains(&gone).then_some(())
        });
    }
}

#[test]
fn memory_of_another_device_goes_by_its_dma_buf_and_host_memory_by_its_address() {
    let double = Double::new();
    let (_adapter, mut nics) = open(&double, 1);
    let (peer, host) = (peer_region(8192), host_region(4096));
    let memory = nics[0].register(&peer, WRITABLE).unwrap();
    assert_eq!((memory.base, memory.len), (peer.iova(), 8192));
    // The flush reads, so memory that takes data can be read.
    let access = MrAccess {
        local_write: true,
        remote_read: true,
        remote_write: false,
    };
    let expected = Call::RegisterDmabuf {
        lkey: memory.lkey,
        offset: 4096,
        len: 8192,
        iova: peer.iova(),
        access,
    };
    assert!(double.state().log.contains(&expected));
    let memory = nics[0].register(&host, WRITABLE).unwrap();
    assert_eq!(memory.base, host.view().as_ptr() as u64);
    let expected = Call::RegisterHost {
        lkey: memory.lkey,
        base: memory.base,
        len: 4096,
        access,
    };
    assert!(double.state().log.contains(&expected));
}

#[test]
fn a_refusal_at_any_step_leaves_nothing_open_and_says_what_to_do() {
    let steps = [
        (Step::Open, libc::EACCES, "/dev/infiniband"),
        (Step::Limits, libc::EIO, "dmesg"),
        (Step::Port, libc::EIO, "dmesg"),
        (Step::RegisterHost, libc::ENOSPC, "registrations"),
        (Step::CreateCq, libc::ENOSPC, "completion queues"),
        (Step::CreateSrq, libc::ENOSPC, "shared receive queues"),
        (Step::CreateQp, libc::ENOSPC, "max_io_queues"),
        (Step::Gids, libc::ENOENT, "/sys/class/infiniband"),
        (Step::Init, libc::EINVAL, "flush queue pair"),
        (Step::Rtr, libc::EINVAL, "flush queue pair"),
        (Step::Rts, libc::ENODEV, "flush queue pair"),
    ];
    for (step, errno, part) in steps {
        // The first time, and with a part that is there already.
        for before in [0, 1] {
            let double = Double::new();
            let mut answers = vec![0; before];
            answers.push(errno);
            if matches!(step, Step::Open | Step::Limits | Step::RegisterHost) {
                answers = vec![errno];
            }
            double.answers(step, &answers);
            let refused = VerbsAdapter::open_with(&double, "mlx5_0", settings(2)).err();
            let said = refused.map(|error| error.to_string()).unwrap_or_default();
            if step == Step::Port && before == 1 {
                // The second look at the port is the flush's, which takes none
                // for an answer.
                assert!(said.contains("no port"), "{said}");
            } else {
                assert!(said.contains(part), "{step:?} {before}: {said}");
            }
            assert_eq!(double.state().live, 0, "{step:?} {before}");
        }
    }
}

#[test]
fn what_is_left_goes_in_the_order_that_it_depends_on_each_other() {
    let double = Double::new();
    let (adapter, mut nics) = open(&double, 2);
    for nic in &mut nics {
        nic.register(&peer_region(4096), WRITABLE).unwrap();
        opened(nic);
    }
    drop(adapter);
    drop(nics);
    let state = double.state();
    assert_eq!(state.live, 0);
    let last = |is: fn(&Call) -> bool| state.log.iter().rposition(is).unwrap();
    let qp = last(|call| matches!(call, Call::DestroyQp(_)));
    let cq = last(|call| matches!(call, Call::DestroyCq));
    let srq = last(|call| matches!(call, Call::DestroySrq));
    let mr = last(|call| matches!(call, Call::Deregister(_)));
    let close = last(|call| matches!(call, Call::Close));
    assert!(qp < cq && qp < srq && cq < close && srq < close && mr < close);
    assert_eq!(close, state.log.len() - 1);
}

#[test]
fn a_refusal_to_register_says_whose_it_is() {
    let peer = peer_region(4096);
    let model = Region::new(
        "cmb",
        peer.placement(),
        1 << 32,
        MemView::anonymous(4096),
        Box::new(()),
    );
    let cases = [
        (
            peer.clone(),
            Step::RegisterDmabuf,
            libc::EOPNOTSUPP,
            "NIC cannot register",
            "Unsupported",
        ),
        (
            peer.clone(),
            Step::RegisterDmabuf,
            libc::EINVAL,
            "PCIe switch",
            "Unsupported",
        ),
        (
            peer,
            Step::RegisterDmabuf,
            libc::ENOSPC,
            "registrations",
            "Refused",
        ),
        (
            host_region(4096),
            Step::RegisterHost,
            libc::ENOSPC,
            "registrations",
            "Refused",
        ),
        (model, Step::Arm, libc::EIO, "software NIC", "NotExported"),
    ];
    for (region, step, errno, part, kind) in cases {
        let double = Double::new();
        let (adapter, _nics) = open(&double, 1);
        let before = double.state().live;
        double.answers(step, &[errno]);
        let error = adapter.try_register(&region, WRITABLE).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(part) && said.contains("mlx5_0"), "{said}");
        assert!(format!("{error:?}").starts_with(kind), "{error:?}");
        let not_exported = error.path_reason() == PathReason::NotExported;
        assert_eq!(not_exported, kind == "NotExported");
        assert_eq!(double.state().live, before);
    }
}

#[test]
fn a_small_device_is_used_for_less_or_not_at_all() {
    type Shrink = fn(&mut Limits);
    type Caps = (u32, u32, u32);
    let cases: [(Shrink, Result<Caps, &str>); 8] = [
        (|_| {}, Ok((160, 32, 4))),
        (|limits| limits.max_qp_wr = 100, Ok((100, 32, 4))),
        (|limits| limits.max_srq_wr = 16, Ok((160, 16, 4))),
        (|limits| limits.max_qp = 6, Ok((160, 32, 2))),
        (|limits| limits.max_cqe = 500, Ok((160, 32, 4))),
        (|limits| limits.max_cqe = 200, Err("max_queue_entries")),
        (|limits| limits.max_srq = 1, Err("cores")),
        (|limits| limits.iwarp = true, Err("iWARP")),
    ];
    for (shrink, expected) in cases {
        let double = Double::new();
        shrink(&mut double.state().limits);
        let opened = VerbsAdapter::open_with(&double, "mlx5_0", settings(2));
        let got = opened.map(|(adapter, _nics)| {
            let caps = adapter.caps();
            (caps.max_send_wr, caps.max_srq_wr, caps.max_qp)
        });
        match expected {
            Ok(caps) => assert_eq!(got.unwrap(), caps),
            Err(part) => {
                let said = got.unwrap_err().to_string();
                assert!(said.contains(part), "{said}");
            }
        }
    }
}

#[test]
fn without_a_gid_for_roce_version_2_there_is_no_flush_and_so_no_adapter() {
    let double = Double::new();
    double.state().gids[0].kind = GidType::IbOrRoceV1;
    let refused = VerbsAdapter::open_with(&double, "mlx5_0", settings(1)).err();
    let said = refused.unwrap().to_string();
    assert!(said.contains("no GID for RoCE version 2"), "{said}");
}

#[test]
fn the_state_follows_the_port_and_ends_with_the_device() {
    let double = Double::new();
    let (adapter, mut nics) = open(&double, 2);
    assert_eq!(adapter.state(), AdapterState::Up);
    let mut wait = |state| {
        until(&mut nics[0], |_, _| {
            (adapter.state() == state).then_some(())
        })
    };
    double.event(AsyncEvent::PortDown(1));
    wait(AdapterState::PortDown);
    double.event(AsyncEvent::PortUp(1));
    wait(AdapterState::Up);
    double.remove();
    wait(AdapterState::Gone);
    for nic in &mut nics {
        assert_eq!(event(nic), crate::nic::NicEvent::Gone);
    }
}

#[test]
fn anything_fatal_ends_the_adapter_for_all_its_parts_once() {
    let events = [
        AsyncEvent::DeviceFatal,
        AsyncEvent::CqFailed,
        AsyncEvent::SrqFailed,
    ];
    for fatal in events {
        let double = Double::new();
        let (adapter, mut nics) = open(&double, 2);
        double.event(fatal);
        double.event(fatal);
        for nic in &mut nics {
            assert_eq!(event(nic), crate::nic::NicEvent::Gone);
        }
        assert_eq!(adapter.state(), AdapterState::Gone);
        std::thread::sleep(std::time::Duration::from_millis(20));
        crate::verbs::double::fixture::now(&mut nics[0]);
        assert_eq!(nics[0].event(), None);
    }
}
