//! Shadow doorbells.

use super::*;

fn offered() -> Host {
    Host::new(ModelOptions {
        shadow_doorbells: true,
        ..ModelOptions::default()
    })
}

fn configure(host: &mut Host) {
    let sqe = Sqe {
        dptr: DataPtr::from_prp(host.at(DOORBELLS), host.at(EVENTS)),
        ..Sqe::new(AdminOpcode::DoorbellBufferConfig.0, 0)
    };
    host.admin(sqe).unwrap();
}

/// Where doorbell `index` has its place in a page.
fn place(page: usize, index: usize) -> usize {
    page * PAGE + 4 * index
}

/// Whether the move of a doorbell passes the event index, in the arithmetic of
/// 16 bits that the specification and Linux use.
fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Moves a shadow, and rings the doorbell if that is wanted; whether it was.
fn update(host: &Host, index: usize, old: u16, new: u16) -> bool {
    host.write(place(DOORBELLS, index), &u32::from(new).to_le_bytes());
    let event = host.read::<[u8; 4]>(place(EVENTS, index));
    let wanted = passes(u32::from_le_bytes(event) as u16, old, new);
    if wanted {
        let doorbell = offset::DOORBELLS + 4 * index as u32;
        host.backing.write32(doorbell, new.into());
    }
    wanted
}

const SQ: usize = 2;
const CQ: usize = 3;

#[test]
fn a_controller_that_offers_none_refuses_the_buffers_and_one_that_does_checks_them() {
    let config = AdminOpcode::DoorbellBufferConfig.0;
    let mut host = Host::new(ModelOptions::default());
    let refused = host.admin(Sqe::new(config, 0)).unwrap_err();
    assert!(refused.same_code(Status::INVALID_OPCODE));
    let mut host = offered();
    for (first, second) in [(8, 0), (0, 2048)] {
        let sqe = Sqe {
            dptr: DataPtr::from_prp(host.at(DOORBELLS) + first, host.at(EVENTS) + second),
            ..Sqe::new(config, 0)
        };
        let refused = host.admin(sqe).unwrap_err();
        assert!(refused.same_code(Status::INVALID_FIELD), "{refused}");
    }
}

#[test]
fn a_sleeping_controller_wants_to_be_woken_and_then_goes_by_the_shadow() {
    let mut host = offered();
    // Some commands before, so that it begins in the middle of the ring.
    for _ in 0..5 {
        assert!(host.io(Sqe::new(NvmOpcode::Flush.0, 1)).is_success());
    }
    configure(&mut host);
    let mut tail = 5;
    for round in 0..100 {
        let count = 1 + round % 4;
        let mut new = tail;
        for _ in 0..count {
            (_, new) = host.put_io(Sqe::new(NvmOpcode::Flush.0, 1));
        }
        let head = host.io_head();
        assert!(update(&host, SQ, tail, new), "round {round}");
        tail = new;
        assert_eq!(host.take(true, true).len(), count);
        update(&host, CQ, head, host.io_head());
    }
}

#[test]
fn a_controller_that_is_awake_is_told_nothing() {
    let mut host = offered();
    configure(&mut host);
    host.model.set_defer(true);
    let (_, one) = host.put_io(Sqe::new(NvmOpcode::Flush.0, 1));
    assert!(update(&host, SQ, 0, one));
    let (_, two) = host.put_io(Sqe::new(NvmOpcode::Flush.0, 1));
    assert!(!update(&host, SQ, one, two), "it did not sleep yet");
    let (_, three) = host.put_io(Sqe::new(NvmOpcode::Flush.0, 1));
    assert!(!update(&host, SQ, two, three));
    let steps = (0..9).take_while(|_| host.model.step()).count();
    assert_eq!(steps, 3);
    assert_eq!(host.take(true, true).len(), 3);
    let (_, four) = host.put_io(Sqe::new(NvmOpcode::Flush.0, 1));
    assert!(update(&host, SQ, three, four), "it sleeps");
}

#[test]
fn a_full_completion_queue_goes_on_when_its_shadow_moves() {
    let mut host = offered();
    configure(&mut host);
    // Its head is at 1 then, so that the one of 15 more passes that alone, not
    // the event index of 0 that the page began with.
    let mut tail = 0;
    let mut send = |host: &mut Host, count| {
        let mut new = tail;
        for _ in 0..count {
            (_, new) = host.put_io(Sqe::new(NvmOpcode::Flush.0, 1));
        }
        update(host, SQ, tail, new);
        tail = new;
    };
    send(&mut host, 1);
    assert_eq!(host.take(true, true).len(), 1);
    update(&host, CQ, 0, 1);
    // 15 fill it, and two wait.
    send(&mut host, 10);
    send(&mut host, 5);
    send(&mut host, 2);
    assert_eq!(host.take(true, true).len(), 15);
    let wanted = update(&host, CQ, 1, host.io_head());
    assert!(wanted, "a full queue waits for its head");
    assert_eq!(host.take(true, true).len(), 2);
}

#[test]
fn the_admin_queue_stays_with_its_doorbells_and_a_reset_ends_shadows() {
    let mut host = offered();
    configure(&mut host);
    let features = [FeatureId::Arbitration; 3];
    for fid in features {
        host.set_feature(fid, 7).unwrap();
    }
    host.enable();
    host.write(place(DOORBELLS, SQ), &9u32.to_le_bytes());
    assert!(host.io(Sqe::new(NvmOpcode::Flush.0, 1)).is_success());
}

#[test]
fn a_shadow_that_makes_no_sense_is_not_followed() {
    let mut host = offered();
    configure(&mut host);
    for value in [16, 0xffff, u32::MAX] {
        host.write(place(DOORBELLS, SQ), &value.to_le_bytes());
        assert!(!host.model.step());
    }
    let (_, tail) = host.put_io(Sqe::new(NvmOpcode::Flush.0, 1));
    assert!(update(&host, SQ, 0, tail));
    assert_eq!(host.take(true, true).len(), 1);
}
