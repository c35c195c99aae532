//! The Persistent Memory Region: by the book, and regions that are not fit.

use super::*;
use sidelane_p2p::provider::MemoryProvider;

use crate::model::ModelPmr;
use crate::spec::{PmrCtl, PmrHealth, PmrMsc};

const LEN: usize = 1 << 20;

fn controller_with(pmr: Option<ModelPmr>) -> (Bench, Controller<ModelBacking>) {
    let options = ModelOptions {
        pmr,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options, ModelOptions::default());
    let controller = open(&bench.near);
    (bench, controller)
}

fn pmr_of(controller: &Controller<ModelBacking>) -> Region {
    let window = controller.enable_pmr().unwrap().unwrap();
    let provider = MemoryProvider::pmr(controller.backing().clone(), window);
    provider.open().unwrap().region
}

fn read_into(region: &Region) -> IoCommand<'_> {
    let data = DataPointer {
        region,
        offset: 4096,
        len: 512,
    };
    IoCommand::Read {
        nsid: 1,
        slba: 0,
        blocks: 1,
        data,
    }
}

#[test]
fn a_region_is_enabled_and_holds_data_of_both_directions() {
    let (bench, controller) = controller_with(Some(ModelPmr::new(LEN)));
    assert_eq!(controller.pmr_window(), None);
    let pmr = pmr_of(&controller);
    let expected = Window {
        bar: 4,
        offset: 0,
        len: LEN as u64,
        reads: true,
        writes: true,
    };
    assert_eq!(controller.pmr_window(), Some(expected));
    assert_eq!(
        controller.enable_pmr().unwrap(),
        Some(expected),
        "twice is once"
    );
    assert_eq!(controller.pmr_barrier(), Some("a read of PMRSTS"));
    assert_eq!(
        pmr.iova(),
        controller.backing().bar_info(4).unwrap().bus_address
    );
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    pmr.view().write(0, &[7; 512]).unwrap();
    let data = DataPointer {
        region: &pmr,
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
    assert!(run(&mut queue, read_into(&pmr)).is_success());
    assert_eq!(bytes_of(&pmr, 4096, 512), [7; 512]);
    assert_eq!(bench.near.touched().payload.own_pmr, 1024);
}

#[test]
fn a_controller_without_region_has_none() {
    let (_bench, controller) = controller_with(None);
    assert_eq!(controller.enable_pmr().unwrap(), None);
    assert_eq!(controller.pmr_barrier(), None);
}

#[rstest::rstest]
#[case::never_ready(ModelPmr { not_ready: u32::MAX, ..ModelPmr::new(LEN) }, "not ready after 500 ms")]
#[case::read_only(ModelPmr { health: PmrHealth::ReadOnly, ..ModelPmr::new(LEN) }, "read-only")]
#[case::unreliable(ModelPmr { health: PmrHealth::Unreliable, ..ModelPmr::new(LEN) }, "unreliable")]
#[case::unknown_health(ModelPmr { health: PmrHealth(5), ..ModelPmr::new(LEN) }, "not known")]
#[case::error(ModelPmr { error: 0x21, ..ModelPmr::new(LEN) }, "ERR 0x21")]
#[case::no_address(ModelPmr { refuse_address: true, ..ModelPmr::new(LEN) }, "CBAI 1")]
fn a_region_that_is_not_fit_is_refused_and_disabled_again(
    #[case] pmr: ModelPmr,
    #[case] said: &str,
) {
    let (_bench, controller) = controller_with(Some(pmr));
    let error = controller.enable_pmr().unwrap_err().to_string();
    assert!(error.contains(said), "{error}");
    assert!(error.contains("another provider"), "{error}");
    assert_eq!(controller.pmr_window(), None);
    let backing = controller.backing();
    let enabled = PmrCtl::from_raw(backing.read32(offset::PMRCTL)).en();
    assert!(!enabled && backing.read32(offset::PMRMSCL) == 0);
}

#[test]
fn a_region_that_lost_what_it_held_is_as_good_as_any() {
    let (_bench, controller) = controller_with(Some(ModelPmr {
        health: PmrHealth::RestoreError,
        ..ModelPmr::new(LEN)
    }));
    assert!(controller.enable_pmr().unwrap().is_some());
}

#[test]
fn a_controller_that_takes_no_addresses_in_its_region_offers_it_to_others_only() {
    let (bench, controller) = controller_with(Some(ModelPmr {
        by_address: false,
        ..ModelPmr::new(LEN)
    }));
    let pmr = pmr_of(&controller);
    let window = controller.pmr_window().unwrap();
    assert!(!window.reads && !window.writes);
    let mut own = controller.create_io_queue_pair(4).unwrap();
    assert!(!run(&mut own, read_into(&pmr)).is_success());
    let far = open(&bench.far);
    let mut queue = far.create_io_queue_pair(4).unwrap();
    assert!(run(&mut queue, read_into(&pmr)).is_success());
    assert_eq!(bench.far.touched().payload.peer, 512);
}

/// CC.EN is none of its business (3.7.2): a controller reset leaves it as it was.
#[test]
fn a_region_outlives_a_controller_reset_and_is_found_as_it_was() {
    let (_bench, controller) = controller_with(Some(ModelPmr::new(LEN)));
    let pmr = pmr_of(&controller);
    pmr.view().write(0, b"kept").unwrap();
    let backing = controller.backing();
    let cc = backing.read32(offset::CC);
    backing.write32(offset::CC, cc & !1);
    let base = backing.bar_info(4).unwrap().bus_address;
    let msc = PmrMsc::new().with_cmse(true).with_cba_pages(base >> 12);
    assert_eq!(backing.read32(offset::PMRCTL), 1);
    assert_eq!(backing.read32(offset::PMRMSCL), msc.raw() as u32);
    // A device that forgot it is told again.
    backing.write32(offset::PMRMSCL, 0);
    controller.restore_pmr().unwrap();
    assert_eq!(backing.read32(offset::PMRMSCL), msc.raw() as u32);
    assert_eq!(bytes_of(&pmr, 0, 4), b"kept");
}

#[rstest::rstest]
#[case::power_loss(|model: &ModelController| model.power_loss())]
#[case::pulled_and_put_back(|model: &ModelController| { model.vanish(); model.reappear() })]
fn a_region_that_lost_power_is_disabled_until_a_restart_announces_it_again(
    #[case] loss: fn(&ModelController),
) {
    let (bench, controller) = controller_with(Some(ModelPmr::new(LEN)));
    let pmr = pmr_of(&controller);
    pmr.view().write(0, b"kept").unwrap();
    let registers = || {
        let read = |at| controller.backing().read32(at);
        [offset::PMRCTL, offset::PMRMSCL, offset::PMRMSCU].map(read)
    };
    let announced = registers();
    assert!(announced[0] == 1 && announced[1] != 0);
    loss(&bench.near);
    assert_eq!(registers(), [0, 0, 0]);
    controller.halt().unwrap();
    controller.restart().unwrap();
    assert_eq!(registers(), announced);
    assert_eq!(bytes_of(&pmr, 0, 4), b"kept");
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    assert!(run(&mut queue, read_into(&pmr)).is_success());
}
