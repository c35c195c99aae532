//! Memory of a device as dma-bufs, and resets that would revoke them.

use super::*;
use crate::ExportError;
use std::sync::mpsc::channel;

const BUF: &str = "dma-buf of 0000:03:00.0 BAR 2";

#[test]
fn a_region_is_exported_as_the_part_of_its_bar_that_it_is() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0x10000..0x30000).unwrap();
    fake.diary();
    let exported = region.export().unwrap();
    assert_eq!((exported.offset, exported.len), (0, 0x20000));
    assert_eq!(fake.diary(), ["export 0000:03:00.0 BAR 2 0x10000 0x20000"]);
    assert!(fake.is_open(BUF));
    drop(exported);
    assert!(!fake.is_open(BUF));
}

#[rstest::rstest]
#[case::nothing(2, 0, 0, "whole pages")]
#[case::unaligned_start(2, 100, 4096, "whole pages")]
#[case::part_of_a_page(2, 0, 4097, "whole pages")]
#[case::past_the_end(2, CMB_LEN as u64 - 4096, 8192, "inside its 0x4000000")]
#[case::far_past_the_end(2, u64::MAX - 4095, 8192, "inside its 0x4000000")]
#[case::no_such_bar(1, 0, 4096, "does not have it")]
#[case::no_bar_at_all(200, 0, 4096, "does not have it")]
fn only_whole_pages_of_a_bar_are_exported(
    #[case] bar: u8,
    #[case] offset: u64,
    #[case] len: u64,
    #[case] reason: &str,
) {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let text = device
        .export_dma_buf(bar, offset, len)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&format!("BAR {bar} of 0000:03:00.0")) && text.contains(reason),
        "{text}"
    );
    assert_eq!(fake.diary(), [""; 0], "the kernel was not asked");
}

#[rstest::rstest]
#[case(libc::ENOTTY, "from 6.19 on, built with VFIO_PCI_DMABUF")]
#[case(libc::EOPNOTSUPP, "plain vfio-pci does")]
#[case(libc::EINVAL, "no peer-to-peer provider for it on this topology")]
#[case(libc::ENODEV, "is gone, or no longer under vfio-pci")]
#[case(libc::EMFILE, "ulimit -n")]
#[case(libc::ENOMEM, "out of memory")]
#[case(libc::EPERM, "not permitted")]
#[case(libc::EIO, "dmesg")]
fn a_refused_export_is_explained_with_its_remedy(#[case] errno: i32, #[case] expected: &str) {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0..8192).unwrap();
    fake.refuse("export", errno);
    let error = region.export().unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ExportError::NotExportable { .. }), "{text}");
    assert!(
        text.starts_with("cmb cannot be exported as a dma-buf: BAR 2 of 0000:03:00.0: ")
            && text.contains(expected)
            && text.contains(&format!("os error {errno}")),
        "{text}"
    );
    let probed = device.probe_export().unwrap_err().to_string();
    assert!(
        probed.starts_with("0000:03:00.0 cannot") && probed.contains(expected),
        "{probed}"
    );
    // What was refused is not counted as live.
    assert!(device.reset().unwrap());
}

#[test]
fn a_kernel_that_exports_says_so_before_anything_is_exported() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    device.probe_export().unwrap();
    assert_eq!(fake.diary(), [""; 0]);
}

#[test]
fn an_export_keeps_its_device_open_when_all_else_is_gone() {
    let fake = Fake::new();
    let (container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0..8192).unwrap();
    let exported = region.export().unwrap();
    fake.diary();
    drop((container, device, region));
    assert_eq!(
        fake.diary(),
        ["unmap 0x3800000000 0x2000", "munmap 0000:03:00.0 BAR 2"],
        "unmapped while the dma-buf and the device are open"
    );
    assert!(fake.is_open(BUF) && fake.is_open("0000:03:00.0"));
    drop(exported);
    assert!(!fake.is_open(BUF) && !fake.is_open("0000:03:00.0") && !fake.is_open("vfio"));
}

#[test]
fn a_device_is_not_reset_under_live_exports() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0..8192).unwrap();
    let exports = [region.export().unwrap(), region.export().unwrap()];
    fake.diary();
    let text = device.reset().unwrap_err().to_string();
    assert!(
        text.contains("0000:03:00.0 is not reset")
            && text.contains("live exports: 2")
            && text.contains("drop"),
        "{text}"
    );
    assert_eq!(fake.diary(), [""; 0]);
    assert!(!region.revocation().is_revoked());
    drop(exports);
    assert!(device.reset().unwrap());
    assert!(!region.revocation().is_revoked());
}

#[test]
fn a_forced_reset_first_tells_every_region_and_new_ones_are_whole() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let first = device.bar_region("first", 2, 0..8192).unwrap();
    let second = device.bar_region("second", 2, 8192..16384).unwrap();
    let _exported = first.export().unwrap();
    let (tell, told) = channel();
    let watched = Arc::clone(&fake);
    fake.diary();
    second
        .revocation()
        .on_revoked(move |reason| tell.send((reason.to_owned(), watched.diary())).unwrap());
    assert!(device.reset_revoking("firmware update").unwrap());
    let (reason, before) = told.try_recv().unwrap();
    assert_eq!(reason, "0000:03:00.0 is reset: firmware update");
    assert_eq!(before, [""; 0], "told before the reset");
    assert_eq!(fake.diary(), ["reset 0000:03:00.0"]);
    let refused = first.export().unwrap_err();
    assert!(matches!(refused, ExportError::Revoked { .. }), "{refused}");
    drop(first);
    let anew = device.bar_region("first", 2, 0..8192).unwrap();
    assert!(!anew.revocation().is_revoked());
    anew.export().unwrap();
}

#[test]
fn a_device_that_cannot_be_reset_loses_nothing_when_forced() {
    let fake = Fake::new();
    *fake.device_flags.lock().unwrap() = uapi::VFIO_DEVICE_FLAGS_PCI;
    let (_container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0..8192).unwrap();
    let _exported = region.export().unwrap();
    assert!(!device.reset().unwrap());
    assert!(!device.reset_revoking("why not").unwrap());
    assert!(!region.revocation().is_revoked());
}
