mod events;
mod exports;
mod plain;

use std::ops::Range;

use super::*;
use crate::Placement;
use crate::topology::Topology;
use crate::topology::fixture;
use crate::vfio::Container;
use crate::vfio::fake::Fake;

fn lab() -> Topology {
    fixture::lab(tempfile::tempdir().unwrap().path()).unwrap()
}

fn open(fake: &Arc<Fake>, address: &str) -> (Arc<Container>, Arc<Device>) {
    let container = fake.container();
    let device = container
        .open_device(address.parse().unwrap(), &lab())
        .unwrap();
    fake.diary();
    (container, device)
}

const CMB: u64 = 0x38_0000_0000;
const CMB_LEN: usize = 64 << 20;

#[test]
fn a_device_answers_on_its_bars_from_the_start_but_does_no_dma() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let command = || u16::from_le_bytes(fake.config.lock().unwrap()[4..6].try_into().unwrap());
    assert_eq!(command(), MEMORY_ENABLE);
    device.enable_bus_master().unwrap();
    assert_eq!(command(), MEMORY_ENABLE | BUS_MASTER);
    device.enable_bus_master().unwrap();
    assert_eq!(fake.diary(), ["config 0x4 [06, 00]"]);
    device.disable_bus_master().unwrap();
    assert_eq!(command(), MEMORY_ENABLE);
}

#[test]
fn a_bar_is_where_sysfs_says_and_is_mapped_once() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    assert_eq!(
        device.bar_info(2).unwrap(),
        BarInfo {
            bus_address: CMB,
            len: CMB_LEN
        }
    );
    let (one, two) = (device.map_bar(2).unwrap(), device.map_bar(2).unwrap());
    assert_eq!(one.len(), CMB_LEN);
    assert_eq!(one.as_ptr(), two.as_ptr());
    assert_eq!(fake.diary(), ["mmap 0000:03:00.0 BAR 2 0x4000000"]);
}

#[rstest::rstest]
#[case(1)]
#[case(6)]
#[case(255)]
fn a_bar_that_is_not_there_is_named(#[case] bar: u8) {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let text = device.map_bar(bar).unwrap_err().to_string();
    assert!(
        text.contains(&format!("BAR {bar} of 0000:03:00.0")),
        "{text}"
    );
    assert!(device.bar_region("x", bar, 0..4096).is_err());
}

#[rstest::rstest]
#[case::the_part_before_the_msix_table(vec![(0x3000, 0x1000), (0, 0x2000)], Some(0x2000))]
#[case::all_in_one_area(vec![(0, 0x4000)], Some(0x4000))]
#[case::more_than_there_is(vec![(0, 0x8000)], Some(0x4000))]
#[case::not_from_the_start(vec![(0x2000, 0x2000)], None)]
#[case::nothing(vec![], None)]
fn of_a_bar_with_areas_the_part_from_its_start_is_mapped(
    #[case] areas: Vec<(u64, u64)>,
    #[case] len: Option<usize>,
) {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    *fake.bar_sparse.lock().unwrap() = Some(areas);
    assert_eq!(device.map_bar(0).ok().map(|view| view.len()), len);
    assert_eq!(
        device.bar_region("registers", 0, 0..0x3000).is_ok(),
        len == Some(0x4000)
    );
}

#[test]
fn a_bar_that_cannot_be_mapped_is_refused() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    *fake.bar_flags.lock().unwrap() = 3;
    let text = device.map_bar(2).unwrap_err().to_string();
    assert!(text.contains("does not let it be mapped"), "{text}");
}

#[test]
fn a_region_of_a_bar_stands_at_its_bus_address() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0x10000..0x30000).unwrap();
    assert_eq!((region.iova(), region.len()), (CMB + 0x10000, 0x20000));
    assert_eq!(
        region.placement(),
        Placement::Peer {
            device: device.address(),
            bar: 2
        }
    );
    let bar = device.map_bar(2).unwrap();
    bar.write(0x10000, b"here").unwrap();
    let mut bytes = [0; 4];
    region.view().read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
    assert!(
        fake.diary()
            .contains(&"map 0x3800010000 0x20000".to_owned())
    );
}

#[rstest::rstest]
#[case::unaligned_start(100..4196)]
#[case::part_of_a_page(0..100)]
#[case::nothing(4096..4096)]
#[case::past_the_end(CMB_LEN - 4096..CMB_LEN + 4096)]
#[case::far_past_the_end(usize::MAX - 4095 - 4096..usize::MAX - 4095)]
fn only_whole_pages_of_the_bar_become_a_region(#[case] range: Range<usize>) {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let text = device.bar_region("cmb", 2, range).unwrap_err().to_string();
    assert!(text.contains("BAR 2 of 0000:03:00.0"), "{text}");
    assert!(!fake.diary().iter().any(|line| line.starts_with("map")));
}

#[test]
fn a_part_is_mapped_once_at_a_time() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let first = device.bar_region("cmb", 2, 0..8192).unwrap();
    let text = device
        .bar_region("cmb", 2, 4096..12288)
        .unwrap_err()
        .to_string();
    assert!(text.contains("already"), "{text}");
    drop(first);
    device.bar_region("cmb", 2, 4096..12288).unwrap();
}

#[test]
fn a_refused_bar_names_the_width_of_the_iommu() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    fake.refuse("map", libc::EINVAL);
    let text = device
        .bar_region("cmb", 2, 0..8192)
        .unwrap_err()
        .to_string();
    assert!(text.contains("aw-bits"), "{text}");
}

#[test]
fn a_device_is_closed_after_everything_on_it_is_unmapped() {
    let fake = Fake::new();
    let (container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0..8192).unwrap();
    let registers = device.map_bar(0).unwrap();
    fake.diary();
    drop((container, device));
    assert!(fake.is_open("0000:03:00.0"));
    drop(region);
    assert_eq!(
        fake.diary(),
        ["unmap 0x3800000000 0x2000", "munmap 0000:03:00.0 BAR 2"]
    );
    assert!(fake.is_open("0000:03:00.0"), "a view keeps its device");
    drop(registers);
    assert_eq!(fake.diary(), ["munmap 0000:03:00.0 BAR 0"]);
    assert!(!fake.is_open("0000:03:00.0") && !fake.is_open("4") && !fake.is_open("vfio"));
}

#[test]
fn a_reset_leaves_the_bars_reachable() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    fake.config.lock().unwrap()[4] = 0;
    assert!(device.reset().unwrap());
    assert_eq!(fake.diary(), ["reset 0000:03:00.0", "config 0x4 [02, 00]"]);
}

#[test]
fn what_cannot_be_reset_is_not() {
    let fake = Fake::new();
    *fake.device_flags.lock().unwrap() = uapi::VFIO_DEVICE_FLAGS_PCI;
    let (_container, device) = open(&fake, "03:00.0");
    assert!(!device.reset().unwrap());
    assert_eq!(fake.diary(), [""; 0]);
}

#[rstest::rstest]
#[case(1, 1)]
#[case(4, 4)]
#[case(100, 4)]
#[case(0, 1)]
fn vectors_are_as_many_as_the_device_has_at_most(#[case] asked: usize, #[case] given: usize) {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let events = device.enable_msix(asked).unwrap();
    assert_eq!(events.len(), given);
    let mut count = [0; 8];
    let empty = rustix::io::read(&events[0], &mut count);
    assert_eq!(empty, Err(rustix::io::Errno::AGAIN));
    assert_eq!(fake.diary(), [format!("triggers 2 {given}")]);
}

#[test]
fn vectors_are_turned_off_before_their_number_changes_and_only_when_on() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    device.disable_interrupts().unwrap();
    assert_eq!(
        fake.diary(),
        [""; 0],
        "the kernel refuses to turn off what is not on"
    );
    device.enable_msix(2).unwrap();
    device.enable_msix(3).unwrap();
    device.disable_interrupts().unwrap();
    assert_eq!(
        fake.diary(),
        [
            "triggers 2 2",
            "triggers 2 0",
            "triggers 2 3",
            "triggers 2 0"
        ]
    );
}

#[test]
fn a_device_without_msix_is_to_be_polled() {
    let fake = Fake::new();
    *fake.vectors.lock().unwrap() = 0;
    let (_container, device) = open(&fake, "03:00.0");
    assert!(matches!(
        device.enable_msix(1),
        Err(VfioError::NoMsix { .. })
    ));
}

#[test]
fn configuration_space_is_read_and_written_within_its_bounds() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    device.write_config(0x40, &[1, 2, 3]).unwrap();
    let mut bytes = [0; 3];
    device.read_config(0x40, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3]);
    assert!(device.read_config(254, &mut bytes).is_err());
    assert!(device.write_config(u16::MAX, &[0]).is_err());
}
