//! The Controller Memory Buffer: both kinds, and refusals.

use super::*;
use sidelane_p2p::provider::BarOwner;

use crate::Backing;
use crate::model::CmbKind;
use crate::spec::CmbMsc;

fn controller_with(cmb: Option<ModelCmb>) -> (Bench, Controller<ModelBacking>) {
    let options = ModelOptions {
        cmb,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options, ModelOptions::default());
    let controller = open(&bench.near);
    (bench, controller)
}

#[rstest::rstest]
#[case(CmbKind::V1_4)]
#[case(CmbKind::Legacy)]
fn a_buffer_of_either_kind_is_found_and_used(#[case] kind: CmbKind) {
    let (bench, controller) = controller_with(Some(ModelCmb {
        kind,
        ..ModelCmb::new(2 << 20)
    }));
    assert_eq!(controller.cmb_window(), None);
    let expected = Window {
        bar: 2,
        offset: 0,
        len: 2 << 20,
        reads: true,
        writes: true,
    };
    assert_eq!(controller.enable_cmb().unwrap(), Some(expected));
    assert_eq!(
        controller.enable_cmb().unwrap(),
        Some(expected),
        "twice is once"
    );
    assert_eq!(controller.cmb_window(), Some(expected));

    let cmb = cmb_of(&controller);
    assert_eq!(
        cmb.iova(),
        controller.backing().bar_info(2).unwrap().bus_address
    );
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    cmb.view().write(0, &[9; 512]).unwrap();
    let data = DataPointer {
        region: &cmb,
        offset: 0,
        len: 512,
    };
    let write = IoCommand::Write {
        nsid: 1,
        slba: 0,
        blocks: 1,
        data,
        fua: false,
    };
    assert!(run(&mut queue, write).is_success());
    assert_eq!(bench.near.touched().payload.own_cmb, 512);
}

#[test]
fn a_controller_without_buffer_has_none() {
    let (_bench, controller) = controller_with(None);
    assert_eq!(controller.enable_cmb().unwrap(), None);
    assert_eq!(controller.cmb_window(), None);
}

#[test]
fn a_controller_that_does_not_accept_the_address_is_not_used_with_it() {
    let refusing = ModelCmb {
        refuse_address: true,
        ..ModelCmb::new(1 << 20)
    };
    let (_bench, controller) = controller_with(Some(refusing));
    let error = controller.enable_cmb().unwrap_err().to_string();
    assert!(
        error.contains("CBAI 1") && error.contains("another provider"),
        "{error}"
    );
    assert_eq!(controller.cmb_window(), None);
    let control = CmbMsc::from_raw(controller.backing().read64(offset::CMBMSC));
    assert!(!control.cmse(), "switched off again");
}

#[test]
fn the_window_says_what_the_buffer_may_hold() {
    let writes_only = ModelCmb {
        reads: false,
        ..ModelCmb::new(1 << 20)
    };
    let (bench, controller) = controller_with(Some(writes_only));
    let window = controller.enable_cmb().unwrap().unwrap();
    assert!(!window.reads && window.writes);
    // What it may not hold is refused by the controller, not done wrongly.
    let cmb = cmb_of(&controller);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let data = DataPointer {
        region: &cmb,
        offset: 0,
        len: 512,
    };
    let read = IoCommand::Read {
        nsid: 1,
        slba: 0,
        blocks: 1,
        data,
    };
    assert!(run(&mut queue, read).same_code(Status::INVALID_USE_OF_CMB));
    let write = IoCommand::Write {
        nsid: 1,
        slba: 0,
        blocks: 1,
        data,
        fua: false,
    };
    assert!(run(&mut queue, write).is_success());
    // Another controller sees plain memory.
    let far = open(&bench.far);
    let mut queue = far.create_io_queue_pair(4).unwrap();
    assert!(run(&mut queue, read).is_success());
    assert_eq!(bench.far.touched().payload.peer, 512);
}

/// The trap: the low dword latches the address, with what the high one held.
#[test]
fn the_low_dword_written_first_latches_a_wrong_address_in_the_model_too() {
    let (_bench, controller) = controller_with(Some(ModelCmb::new(1 << 20)));
    let backing = controller.backing();
    let base = backing.bar_info(2).unwrap().bus_address;
    let wanted = CmbMsc::new()
        .with_cre(true)
        .with_cmse(true)
        .with_cba_pages(base >> 12);
    backing.write32(offset::CMBMSC, wanted.raw() as u32);
    backing.write32(offset::CMBMSC + 4, (wanted.raw() >> 32) as u32);
    assert_eq!(
        backing.read64(offset::CMBMSC),
        wanted.raw(),
        "it reads as if all were well"
    );
    let cmb = backing.bar_region("cmb", 2, 0..1 << 20).unwrap();
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let data = DataPointer {
        region: &cmb,
        offset: 0,
        len: 512,
    };
    let read = IoCommand::Read {
        nsid: 1,
        slba: 0,
        blocks: 1,
        data,
    };
    assert!(run(&mut queue, read).same_code(Status::DATA_TRANSFER_ERROR));
}
