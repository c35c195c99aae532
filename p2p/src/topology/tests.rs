use std::fs;

use super::fixture::{self, Builder, Card};
use super::*;

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

#[test]
fn everything_that_sysfs_says_of_a_function_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let topology = fixture::lab(folder.path()).unwrap();
    let ssd = topology.function(at("03:00.0")).unwrap();
    assert_eq!(
        (ssd.vendor, ssd.device, ssd.class),
        (0x1b36, 0x0010, CLASS_NVME)
    );
    assert!(ssd.is_nvme() && !ssd.is_bridge());
    assert_eq!(topology.driver_of(ssd.address), Some("vfio-pci"));
    assert_eq!(
        (ssd.iommu_group, ssd.numa_node, ssd.physfn),
        (Some(4), None, None)
    );
    assert_eq!(ssd.upstream, [at("02:00.0"), at("01:00.0"), at("00:02.0")]);
    assert_eq!(
        ssd.link,
        Some(Link {
            speed: "16.0 GT/s PCIe".into(),
            width: 4
        })
    );
    let bar = ssd.bar(2).unwrap();
    assert_eq!(
        (bar.start, bar.len, bar.is_memory()),
        (0x38_0000_0000, 64 << 20, true)
    );
    assert_eq!(ssd.bar(1), None);
    let root_port = topology.function(at("00:02.0")).unwrap();
    assert!(root_port.is_bridge());
    assert_eq!(root_port.acs.redirects(), Some(true));
    assert_eq!(root_port.resources.len(), 2);
    assert_eq!(root_port.bar(14), None, "a window is not a BAR");
}

#[test]
fn controllers_are_found_by_class_and_groups_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let topology = fixture::lab(folder.path()).unwrap();
    let ssds: Vec<_> = topology
        .functions()
        .filter(|f| f.is_nvme())
        .map(|f| f.address)
        .collect();
    assert_eq!(ssds, [at("03:00.0"), at("04:00.0"), at("06:00.0")]);
    let group: Vec<_> = topology.group_members(4).map(|f| f.address).collect();
    assert_eq!(group, [at("02:00.0"), at("03:00.0")]);
    assert_eq!(topology.driver_of(at("09:00.0")), None);
}

#[test]
fn an_rdma_device_stands_where_its_function_stands() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Builder::new(folder.path()).unwrap();
    let (port, ssd, nic) = (
        "pci0000:00/0000:00:02.0",
        "pci0000:00/0000:00:02.0/0000:01:00.0",
        "pci0000:00/0000:00:02.0/0000:01:00.1",
    );
    tree.add(&Card::bridge(port)).unwrap();
    tree.add(&Card::nvme(ssd)).unwrap();
    tree.add(&Card {
        class: 0x02_0000,
        ..Card::nvme(nic)
    })
    .unwrap();
    tree.rdma("mlx5_0", Some(nic)).unwrap();
    tree.rdma("mlx5_1", Some(&format!("{nic}/mlx5_core.sf.4")))
        .unwrap();
    tree.rdma("rxe0", None).unwrap();
    let topology = tree.load().unwrap();
    let function = Some(at("01:00.1"));
    assert_eq!(topology.rdma_device("mlx5_0"), function);
    assert_eq!(topology.rdma_device("mlx5_1"), function, "a part of it");
    assert_eq!(topology.rdma_device("rxe0"), None);
    assert_eq!(topology.rdma_device("mlx5_9"), None);
    assert_eq!(
        topology.rdma_devices().collect::<Vec<_>>(),
        [("mlx5_0", function), ("mlx5_1", function), ("rxe0", None)]
    );
    let placement = crate::Placement::Peer {
        device: at("01:00.0"),
        bar: 2,
    };
    let clients = [topology.rdma_device("mlx5_0").unwrap()];
    let fitness = crate::provider::verdict(&topology, placement, &clients);
    assert!(fitness.is_peer(), "{}", fitness.text);
}

#[test]
fn a_machine_without_rdma_has_no_rdma_devices() {
    let folder = tempfile::tempdir().unwrap();
    let topology = fixture::lab(folder.path()).unwrap();
    assert_eq!(topology.rdma_devices().count(), 0);
    assert_eq!(topology.rdma_device("mlx5_0"), None);
}

#[test]
fn a_machine_without_sysfs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Topology::load(&folder.path().join("sys"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("sys/bus/pci/devices") && error.contains("mounted"),
        "{error}"
    );
}

#[test]
fn a_function_that_has_gone_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Builder::new(folder.path()).unwrap();
    tree.add(&Card::nvme("pci0000:00/0000:00:01.0")).unwrap();
    tree.add(&Card::nvme("pci0000:00/0000:00:02.0")).unwrap();
    fs::remove_dir_all(tree.root().join("devices/pci0000:00/0000:00:01.0")).unwrap();
    let topology = tree.load().unwrap();
    assert_eq!(topology.functions().count(), 1);
}

#[rstest::rstest]
#[case("vendor", "1b36\n")]
#[case("class", "nvme\n")]
#[case("resource", "0x0 0x0\n")]
#[case("resource", "zero zero zero\n")]
fn what_the_kernel_would_not_write_is_refused_with_its_place(
    #[case] file: &str,
    #[case] text: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let tree = Builder::new(folder.path()).unwrap();
    tree.add(&Card::nvme("pci0000:00/0000:00:01.0")).unwrap();
    fs::write(
        tree.root()
            .join("devices/pci0000:00/0000:00:01.0")
            .join(file),
        text,
    )
    .unwrap();
    let error = tree.load().unwrap_err().to_string();
    assert!(
        error.contains(file) && error.contains(text.trim()),
        "{error}"
    );
}
