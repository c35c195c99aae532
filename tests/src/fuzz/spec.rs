//! The wire types of NVMe: each is read from any bytes, shown, and asked for
//! what it can compute.

use std::fmt::Debug;

use sidelane_nvme::spec::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

type Reader = fn(&[u8]);

fn read<T: FromBytes + IntoBytes + Immutable + Debug>(bytes: &[u8], ask: impl Fn(&T)) {
    if let Ok((value, _)) = T::read_from_prefix(bytes) {
        assert_eq!(value.as_bytes(), &bytes[..size_of::<T>()]);
        assert!(!format!("{value:?}").is_empty());
        ask(&value);
    }
}

fn shown<T: FromBytes + IntoBytes + Immutable + Debug>(bytes: &[u8]) {
    read(bytes, |_: &T| ());
}

/// A command read from an SQE is the same SQE again.
fn command<T: From<Sqe> + Into<Sqe> + Debug>(sqe: &Sqe) {
    let command = T::from(*sqe);
    assert!(!format!("{command:?}").is_empty());
    assert_eq!(command.into(), *sqe);
}

fn sqe(bytes: &[u8]) {
    read(bytes, |sqe: &Sqe| {
        command::<Abort>(sqe);
        command::<Connect>(sqe);
        command::<CreateIoCq>(sqe);
        command::<CreateIoSq>(sqe);
        command::<DatasetManagement>(sqe);
        command::<DeleteIoQueue>(sqe);
        command::<Disconnect>(sqe);
        command::<FabricsCommand>(sqe);
        command::<Flush>(sqe);
        command::<GetFeatures>(sqe);
        command::<GetLogPage>(sqe);
        command::<Identify>(sqe);
        command::<KeepAlive>(sqe);
        command::<PropertyGet>(sqe);
        command::<PropertySet>(sqe);
        command::<ReadWrite>(sqe);
        command::<SetFeatures>(sqe);
        command::<WriteZeroes>(sqe);
        let log = GetLogPage::from(*sqe);
        let dwords = log.len_bytes() / 4;
        assert_eq!(log.with_len_dwords(dwords).len_bytes(), dwords * 4);
        descriptor(&sqe.dptr.sgl());
        let _ = (sqe.dptr.prp1(), sqe.dptr.prp2());
    });
}

/// What a descriptor says can be said again.
fn descriptor(descriptor: &SglDescriptor) {
    let again = match descriptor.decode() {
        Sgl::DataBlock { address, length } => SglDescriptor::data_block(address, length),
        Sgl::InCapsule { offset, length } => SglDescriptor::in_capsule(offset, length),
        Sgl::BitBucket { length } => SglDescriptor::bit_bucket(length),
        Sgl::Segment {
            address,
            length,
            in_capsule: false,
            last,
        } => SglDescriptor::segment(address, length, last),
        Sgl::Segment {
            address,
            length,
            last,
            ..
        } => SglDescriptor::in_capsule_segment(address, length, last),
        Sgl::Keyed {
            address,
            length,
            key,
            invalidate,
        } => SglDescriptor::keyed(address, length, key, invalidate).expect("24 bits of length"),
        Sgl::Transport { length } => SglDescriptor::transport(length),
        Sgl::Unknown(_) => return,
    };
    assert_eq!(again.decode(), descriptor.decode());
}

fn cqe(bytes: &[u8]) {
    read(bytes, |cqe: &Cqe| {
        let status = cqe.status();
        assert!(!status.to_string().is_empty());
        assert!(status.same_code(status));
        assert_eq!(
            Cqe::new(0, status).with_result(cqe.result()).result(),
            cqe.result()
        );
    });
}

fn name(bytes: &[u8]) {
    read(bytes, |field: &NqnField| match field.to_str() {
        Ok(text) => {
            assert!(field.0.starts_with(text.as_bytes()));
            if let Ok(nqn) = text.parse::<Nqn>() {
                assert_eq!(nqn.as_str(), text);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    });
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Err(error) = text.parse::<Nqn>()
    {
        assert!(!error.to_string().is_empty());
    }
}

fn namespace(bytes: &[u8]) {
    read(bytes, |identify: &IdentifyNamespace| {
        if let Some(format) = identify.format() {
            let _ = format.data_bytes();
        }
    });
}

const READERS: [Reader; 26] = [
    sqe,
    cqe,
    name,
    namespace,
    shown::<IdentifyController>,
    shown::<IdentifyControllerNvm>,
    shown::<IdentifyNamespaceNvm>,
    shown::<IdentifyNamespaceIndependent>,
    shown::<CommandSetList>,
    |bytes| {
        read(bytes, |list: &NamespaceList| {
            assert!(list.iter().count() <= 1024)
        })
    },
    |bytes| {
        read(bytes, |list: &NamespaceIdList| {
            assert!(list.iter().count() <= 4096)
        })
    },
    |bytes| {
        read(bytes, |entry: &ErrorLogEntry| {
            assert!(!entry.status().to_string().is_empty())
        })
    },
    shown::<SmartLog>,
    shown::<FirmwareSlotLog>,
    shown::<CommandEffectsLog>,
    shown::<SupportedLogPages>,
    shown::<DiscoveryHeader>,
    |bytes| {
        read(bytes, |entry: &DiscoveryEntry| {
            let _ = entry.subnqn.to_str();
            let _ = (entry.traddr.to_string(), entry.trsvcid.to_string());
        });
    },
    shown::<ConnectData>,
    shown::<DsmRange>,
    shown::<Cap>,
    shown::<Cc>,
    shown::<CmbLoc>,
    shown::<CmbSz>,
    shown::<CmbMsc>,
    shown::<Csts>,
];

/// A type, and its bytes.
pub fn spec(bytes: &[u8]) {
    if let Some((which, bytes)) = bytes.split_first() {
        READERS[usize::from(*which) % READERS.len()](bytes);
    }
}
