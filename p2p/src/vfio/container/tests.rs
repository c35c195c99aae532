use super::*;
use crate::topology::fixture::{self, Builder, Card};
use crate::vfio::fake::Fake;

fn lab() -> Topology {
    fixture::lab(tempfile::tempdir().unwrap().path()).unwrap()
}

/// One SSD in a group, with a neighbour in it, as given.
fn machine(ssd: Card<'_>, neighbour: Option<&str>) -> Topology {
    let folder = tempfile::tempdir().unwrap();
    let tree = Builder::new(folder.path()).unwrap();
    tree.add(&Card {
        group: Some(4),
        driver: Some("pcieport"),
        ..Card::bridge(RP)
    })
    .unwrap();
    tree.add(&ssd).unwrap();
    let other = Card {
        group: Some(4),
        driver: neighbour,
        ..Card::nvme(NEIGHBOUR)
    };
    tree.add(&other).unwrap();
    tree.load().unwrap()
}

const RP: &str = "pci0000:00/0000:00:01.0";
const SSD: &str = "pci0000:00/0000:00:01.0/0000:01:00.0";
const NEIGHBOUR: &str = "pci0000:00/0000:00:01.0/0000:01:00.1";

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

#[rstest::rstest]
#[case("open", libc::ENOENT, "modprobe vfio-pci")]
#[case("open", libc::EACCES, "run as root")]
#[case("type1", 0, "modprobe vfio_iommu_type1")]
fn a_system_without_vfio_is_told_what_to_load(
    #[case] call: &'static str,
    #[case] errno: i32,
    #[case] remedy: &str,
) {
    let fake = Fake::new();
    fake.refuse(call, errno);
    let error = Container::open_with(fake).err().unwrap().to_string();
    assert!(error.contains(remedy), "{error}");
}

#[test]
fn the_first_device_makes_the_address_space_and_others_join_it() {
    let (fake, topology) = (Fake::new(), lab());
    let container = fake.container();
    let near = container.open_device(at("03:00.0"), &topology).unwrap();
    let far = container.open_device(at("06:00.0"), &topology).unwrap();
    assert_eq!(
        (near.address(), far.address()),
        (at("03:00.0"), at("06:00.0"))
    );
    let asked = fake.diary();
    let asked: Vec<_> = asked
        .iter()
        .filter(|line| !line.starts_with("config"))
        .collect();
    assert_eq!(
        asked,
        [
            "open vfio",
            "open_group 4",
            "join 4",
            "set_iommu 3",
            "device 0000:03:00.0",
            "open_group 7",
            "join 7",
            "device 0000:06:00.0",
        ]
    );
}

#[rstest::rstest]
#[case::absent(Card { path: NEIGHBOUR, ..ssd() }, &["no PCI function 0000:01:00.0"])]
#[case::no_iommu(Card { group: None, ..ssd() }, &["no IOMMU group", "intel_iommu=on"])]
#[case::of_the_kernel(
    Card { driver: Some("nvme"), ..ssd() },
    &["kernel driver `nvme`", "lsblk", "driver_override", "0000:01:00.0/driver/unbind", "drivers_probe"]
)]
#[case::of_nobody(Card { driver: None, ..ssd() }, &["no driver", "driver_override"])]
fn a_device_that_cannot_be_used_is_explained_and_left_alone(
    #[case] card: Card<'static>,
    #[case] expected: &[&str],
) {
    let folder = tempfile::tempdir().unwrap();
    let tree = Builder::new(folder.path()).unwrap();
    tree.add(&card).unwrap();
    let fake = Fake::new();
    let container = fake.container();
    fake.diary();
    let error = container
        .open_device(at("01:00.0"), &tree.load().unwrap())
        .unwrap_err();
    let text = error.to_string();
    assert!(expected.iter().all(|part| text.contains(part)), "{text}");
    assert_eq!(fake.diary(), [""; 0]);
}

fn ssd() -> Card<'static> {
    Card {
        driver: Some("vfio-pci"),
        group: Some(4),
        ..Card::nvme(SSD)
    }
}

#[test]
fn commands_for_an_unbound_device_do_not_unbind() {
    let error = VfioError::Unbound {
        device: at("01:00.0"),
    }
    .to_string();
    assert!(!error.contains("driver/unbind"), "{error}");
}

#[test]
fn a_group_that_is_not_viable_names_who_is_in_the_way() {
    let fake = Fake::new();
    *fake.viable.lock().unwrap() = false;
    let error = fake
        .container()
        .open_device(at("01:00.0"), &machine(ssd(), Some("ixgbe")));
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("group 4") && text.contains("0000:01:00.1 (ixgbe)"),
        "{text}"
    );
    assert!(!text.contains("pcieport"), "{text}");
}

#[rstest::rstest]
#[case::alone(ssd(), None, "")]
#[case::with_a_neighbour_under_vfio(ssd(), Some("vfio-pci"), "")]
#[case::with_a_neighbour_of_the_kernel(ssd(), Some("ixgbe"), "0000:01:00.1 (ixgbe)")]
#[case::of_the_kernel(Card { driver: Some("nvme"), ..ssd() }, None, "kernel driver `nvme`")]
#[case::absent(Card { path: "pci0000:00/0000:00:05.0", ..ssd() }, None, "no PCI function")]
fn what_sysfs_tells_is_known_before_anything_is_opened(
    #[case] card: Card<'static>,
    #[case] neighbour: Option<&str>,
    #[case] obstacle: &str,
) {
    let result = openable(at("01:00.0"), &machine(card, neighbour));
    let text = result
        .as_ref()
        .err()
        .map(ToString::to_string)
        .unwrap_or_default();
    assert_eq!(result.is_ok(), obstacle.is_empty(), "{text}");
    assert!(text.contains(obstacle), "{text}");
}

#[rstest::rstest]
#[case::group_open_elsewhere("open_group", libc::EBUSY, "fuser -v /dev/vfio/4")]
#[case::device_open_elsewhere("device", libc::EBUSY, "fuser -v /dev/vfio/4")]
#[case::no_file("open_group", libc::ENOENT, "modprobe vfio-pci")]
#[case::not_permitted("open_group", libc::EACCES, "chown")]
#[case::no_interrupt_remapping("set_iommu", libc::EPERM, "interrupt remapping")]
#[case::gone("device", libc::ENODEV, "no longer under vfio-pci")]
#[case::odd("join", libc::EIO, "dmesg")]
#[case::no_ranges("iommu_info", libc::EIO, "address ranges")]
fn what_the_kernel_refuses_comes_with_a_remedy_and_leaves_nothing_open(
    #[case] call: &'static str,
    #[case] errno: i32,
    #[case] expected: &str,
) {
    let fake = Fake::new();
    let container = fake.container();
    fake.refuse(call, errno);
    let topology = machine(ssd(), None);
    let text = container
        .open_device(at("01:00.0"), &topology)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("0000:01:00.0") && text.contains(expected),
        "{text}"
    );
    assert!(!fake.is_open("0000:01:00.0"));
    fake.refuses.lock().unwrap().clear();
    container.open_device(at("01:00.0"), &topology).unwrap();
}

#[test]
fn host_memory_is_rounded_to_pages_and_kept_out_of_every_window() {
    let (fake, topology) = (Fake::new(), lab());
    let container = fake.container();
    let _device = container.open_device(at("03:00.0"), &topology).unwrap();
    fake.diary();
    let regions: Vec<_> = [1, 5000, 3 << 20]
        .map(|len| container.host_region("queues", len).unwrap())
        .into();
    assert_eq!(
        regions.iter().map(Region::len).collect::<Vec<_>>(),
        [4096, 8192, 3 << 20]
    );
    let windows = windows(&topology);
    assert!(windows.len() > 5);
    for region in &regions {
        assert_eq!(region.placement(), Placement::Host);
        let (start, last) = (region.iova(), region.iova() + region.len() as u64 - 1);
        assert!(
            windows
                .iter()
                .all(|window| last < *window.start() || start > *window.end())
        );
    }
    assert_eq!(fake.diary().len(), 3);
}

#[test]
fn before_the_first_device_there_is_no_address_space() {
    let container = Fake::new().container();
    let error = container.host_region("queues", 1).unwrap_err().to_string();
    assert!(error.contains("open one first"), "{error}");
}

#[test]
fn a_refused_mapping_gives_its_addresses_and_memory_back() {
    let fake = Fake::new();
    let container = fake.container();
    let _device = container.open_device(at("03:00.0"), &lab()).unwrap();
    fake.diary();
    fake.refuse("map", libc::ENOMEM);
    let error = container
        .host_region("queues", 4096)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("queues") && error.contains("RLIMIT_MEMLOCK is 65536"),
        "{error}"
    );
    assert_eq!(fake.diary(), ["munmap anonymous"]);
    fake.refuses.lock().unwrap().clear();
    assert_eq!(
        container.host_region("queues", 4096).unwrap().iova(),
        1 << 32
    );
    fake.refuse("anonymous", libc::ENOMEM);
    assert!(matches!(
        container.host_region("q", 1),
        Err(DmaError::Memory { .. })
    ));
    assert!(matches!(
        container.host_region("q", usize::MAX),
        Err(DmaError::Memory { .. })
    ));
}

#[test]
fn too_much_for_the_address_space_is_refused() {
    let fake = Fake::new();
    let container = fake.container();
    let _device = container.open_device(at("03:00.0"), &lab()).unwrap();
    assert!(matches!(
        container.host_region("q", 1 << 40),
        Err(DmaError::Full { .. })
    ));
}

#[test]
fn memory_is_unmapped_from_devices_before_the_cpu_lets_go_of_it() {
    let fake = Fake::new();
    let container = fake.container();
    let device = container.open_device(at("03:00.0"), &lab()).unwrap();
    let region = container.host_region("queues", 4096).unwrap();
    drop((container, device));
    fake.diary();
    assert!(fake.is_open("vfio"), "the region keeps its address space");
    drop(region);
    assert_eq!(
        fake.diary(),
        ["unmap 0x100000000 0x1000", "munmap anonymous"]
    );
    assert!(!fake.is_open("vfio") && !fake.is_open("4"));
}

#[test]
fn addresses_whose_unmapping_failed_are_not_used_again() {
    let fake = Fake::new();
    let container = fake.container();
    let _device = container.open_device(at("03:00.0"), &lab()).unwrap();
    fake.refuse("unmap", libc::EIO);
    drop(container.host_region("queues", 4096).unwrap());
    assert_ne!(
        container.host_region("queues", 4096).unwrap().iova(),
        1 << 32
    );
}

#[test]
fn a_group_is_given_back_with_its_last_device_unless_it_is_the_last_group() {
    let (fake, topology) = (Fake::new(), lab());
    let container = fake.container();
    let near = container.open_device(at("03:00.0"), &topology).unwrap();
    let far = container.open_device(at("06:00.0"), &topology).unwrap();
    fake.diary();
    drop(near);
    assert_eq!(fake.diary(), ["leave 4"]);
    assert!(!fake.is_open("4") && !fake.is_open("0000:03:00.0"));
    drop(far);
    assert_eq!(
        fake.diary(),
        [""; 0],
        "mappings would be lost with the last group"
    );
    let _again = container.open_device(at("03:00.0"), &topology).unwrap();
    assert!(fake.diary().contains(&"leave 7".to_owned()));
}
