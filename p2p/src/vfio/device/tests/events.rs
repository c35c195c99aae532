//! What the kernel tells of a device as a whole.

use std::sync::mpsc::channel;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::ExportError;

const REQ: u32 = uapi::VFIO_PCI_REQ_IRQ_INDEX;
const ERR: u32 = uapi::VFIO_PCI_ERR_IRQ_INDEX;

fn readable(watch: &DeviceWatch) -> bool {
    let mut ends = [PollFd::new(watch, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut ends, Some(&now)).unwrap() == 1
}

#[rstest::rstest]
#[case(REQ, DeviceEvent::RemovalRequested, "wants the device back")]
#[case(ERR, DeviceEvent::FatalError, "fatal PCI error")]
fn an_event_takes_all_memory_of_the_device_away(
    #[case] index: u32,
    #[case] event: DeviceEvent,
    #[case] words: &str,
) {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0..8192).unwrap();
    let other = device.bar_region("rest", 2, 8192..16384).unwrap();
    let (tell, told) = channel();
    region
        .revocation()
        .on_revoked(move |reason| tell.send(reason.to_owned()).unwrap());
    let watch = device.watch().unwrap();
    assert!(!readable(&watch));
    assert_eq!(watch.read_event(), None);

    assert!(fake.fire(index));
    assert!(readable(&watch));
    assert!(!region.revocation().is_revoked(), "nobody has read it yet");
    assert_eq!(watch.read_event(), Some(event));
    assert!(!readable(&watch));
    assert_eq!(watch.read_event(), None);

    let reason = told.try_recv().unwrap();
    assert!(
        reason.starts_with("0000:03:00.0: ") && reason.contains(words),
        "{reason}"
    );
    assert!(other.revocation().is_revoked());
    let refused = other.export().unwrap_err();
    assert!(matches!(refused, ExportError::Revoked { .. }), "{refused}");
    let refused = device.bar_region("new", 2, 16384..24576).unwrap_err();
    assert!(refused.to_string().contains(words), "{refused}");
    let refused = device.export_dma_buf(2, 0, 4096).unwrap_err();
    assert!(matches!(refused, VfioError::Lost { .. }), "{refused}");
}

#[test]
fn a_repeated_request_is_read_again_and_the_first_reason_stands() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0..8192).unwrap();
    let watch = device.watch().unwrap();
    fake.fire(REQ);
    fake.fire(REQ);
    assert_eq!(watch.read_event(), Some(DeviceEvent::RemovalRequested));
    assert_eq!(watch.read_event(), None);
    let first = region.revocation().reason().unwrap().to_owned();
    fake.fire(REQ);
    fake.fire(ERR);
    assert_eq!(watch.read_event(), Some(DeviceEvent::RemovalRequested));
    assert_eq!(watch.read_event(), Some(DeviceEvent::FatalError));
    assert_eq!(watch.read_event(), None);
    assert_eq!(region.revocation().reason(), Some(&*first));
}

#[test]
fn watching_twice_is_watching_once() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let (one, two) = (device.watch().unwrap(), device.watch().unwrap());
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!(fake.diary(), ["triggers 4 1", "triggers 3 1"]);
}

#[test]
fn a_device_without_error_reports_is_watched_for_its_removal() {
    let fake = Fake::new();
    fake.refuse("err_info", libc::EINVAL);
    let (_container, device) = open(&fake, "03:00.0");
    let watch = device.watch().unwrap();
    assert_eq!(fake.diary(), ["triggers 4 1"]);
    assert!(fake.fire(REQ) && !fake.fire(ERR));
    assert_eq!(watch.read_event(), Some(DeviceEvent::RemovalRequested));
}

#[test]
fn a_kernel_that_refuses_to_tell_is_named_and_can_be_asked_again() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    fake.refuse("triggers", libc::ENODEV);
    let text = device.watch().unwrap_err().to_string();
    assert!(
        text.contains("0000:03:00.0: asking to be told") && text.contains("gone"),
        "{text}"
    );
    fake.refuses.lock().unwrap().clear();
    device.watch().unwrap();
}

#[test]
fn a_watch_does_not_keep_the_device_that_the_kernel_wants_back() {
    let fake = Fake::new();
    let (container, device) = open(&fake, "03:00.0");
    let watch = device.watch().unwrap();
    drop((container, device));
    assert!(!fake.is_open("0000:03:00.0"));
    assert_eq!(watch.read_event(), None);
}

#[test]
fn memory_that_is_given_up_while_it_is_taken_away_is_no_trouble() {
    let fake = Fake::new();
    let (_container, device) = open(&fake, "03:00.0");
    let region = device.bar_region("cmb", 2, 0..8192).unwrap();
    let revocation = region.revocation().clone();
    // As a control thread might: the listener lets go of exports.
    let exported = region.export().unwrap();
    revocation.on_revoked(move |_| drop((exported, region)));
    let watch = device.watch().unwrap();
    fake.fire(REQ);
    assert_eq!(watch.read_event(), Some(DeviceEvent::RemovalRequested));
    assert!(revocation.is_revoked());
    assert!(fake.diary().contains(&"unmap 0x3800000000 0x2000".into()));
    assert!(device.reset().unwrap());
}
