//! What NVMe over Fabrics puts on RDMA: private data and data pointers.

use sidelane_nvme::spec::{SQE_LEN, Sqe};
use sidelane_transport::nvmf::{
    ConnectAccept, ConnectReject, ConnectRequest, HostData, MAX_DESCRIPTORS,
    data_pointer as read_data_pointer,
};
use zerocopy::FromBytes;

use super::input::Input;

/// Private data of a request, a reply and a rejection.
pub fn private_data(bytes: &[u8]) {
    match ConnectRequest::parse(bytes) {
        Ok(request) => {
            assert!(bytes.starts_with(request.as_bytes()));
            assert!(request.send_queue_entries() >= 2 && request.receive_queue_entries() > 0);
            let (_, _) = (request.qid(), request.cntlid());
        }
        Err(status) => assert!(!status.to_string().is_empty()),
    }
    if let Some(accept) = ConnectAccept::parse(bytes) {
        assert!(bytes.starts_with(accept.as_bytes()));
        let _ = accept.receive_queue_entries();
    }
    if let Some(reject) = ConnectReject::parse(bytes) {
        assert!(bytes.starts_with(reject.as_bytes()));
        assert!(!reject.status().to_string().is_empty());
    }
}

/// A capsule: how many descriptors are taken, the command, and its data.
pub fn data_pointer(bytes: &[u8]) {
    let mut input = Input(bytes);
    let most = usize::from(input.u8());
    let sqe = Sqe::read_from_bytes(&input.array::<SQE_LEN>()).expect("any bytes do");
    let in_capsule = input.0;
    for most in [1, most] {
        let outcome = read_data_pointer(&sqe, in_capsule.len(), most, |range, list| {
            list.copy_from_slice(&in_capsule[range]);
            true
        });
        match outcome {
            Ok(HostData::None) => {}
            Ok(HostData::InCapsule { offset, len }) => {
                assert!(len > 0 && offset as usize + len as usize <= in_capsule.len());
            }
            Ok(HostData::Keyed(pieces)) => {
                let whole = HostData::Keyed(pieces.clone());
                // A descriptor alone needs no room in a list.
                assert!((1..=most.clamp(1, MAX_DESCRIPTORS)).contains(&pieces.len()));
                let sum: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
                assert_eq!(u64::from(whole.len()), sum);
                for piece in &pieces {
                    assert!(piece.len > 0 && piece.len < 1 << 24);
                    assert!(piece.addr.checked_add(piece.len.into()).is_some());
                }
                let invalidate = whole.invalidate();
                assert!(invalidate.is_none_or(|key| pieces.iter().any(|piece| piece.key == key)));
            }
            Err(error) => assert!(!error.status().is_success()),
        }
    }
}
