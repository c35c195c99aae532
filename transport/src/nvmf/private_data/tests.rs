use proptest::prelude::*;

use super::*;

/// As Linux' nvme-rdma makes it, behind the IP header: 56 bytes.
fn linux_request(qid: u16, depth: u16) -> Vec<u8> {
    let mut bytes = vec![0; 56];
    bytes[2..4].copy_from_slice(&qid.to_le_bytes());
    bytes[4..6].copy_from_slice(&depth.to_le_bytes());
    bytes[6..8].copy_from_slice(&(depth - 1).to_le_bytes());
    bytes
}

#[rstest::rstest]
#[case(0, 32)]
#[case(5, 128)]
fn a_request_of_linux_is_understood(#[case] qid: u16, #[case] depth: u16) {
    let request = ConnectRequest::parse(&linux_request(qid, depth)).unwrap();
    assert_eq!(request.qid(), qid);
    assert_eq!(request.send_queue_entries(), depth);
    assert_eq!(request.receive_queue_entries(), depth);
    assert_eq!(request.cntlid(), 0);
    assert_eq!(request, ConnectRequest::new(qid, 0, depth, depth).unwrap());
}

#[rstest::rstest]
#[case::empty(&[], RejectStatus::InvalidLength)]
#[case::half_a_format(&[0], RejectStatus::InvalidLength)]
#[case::format_only(&[0, 0], RejectStatus::InvalidLength)]
#[case::one_byte_short(&[0; 31], RejectStatus::InvalidLength)]
#[case::other_format(&[1, 0, 0, 0], RejectStatus::InvalidRecordFormat)]
#[case::one_entry(&[0; 32], RejectStatus::InvalidSendQueueSize)]
fn an_unfit_request_names_its_status(#[case] bytes: &[u8], #[case] status: RejectStatus) {
    assert_eq!(ConnectRequest::parse(bytes), Err(status));
}

#[rstest::rstest]
#[case::sends_that_wrap(6, 0xffff, RejectStatus::InvalidSendQueueSize)]
#[case::no_sends(6, 0, RejectStatus::InvalidSendQueueSize)]
#[case::no_receives(4, 0, RejectStatus::InvalidReceiveQueueSize)]
fn sizes_that_cannot_be_are_refused(
    #[case] at: usize,
    #[case] value: u16,
    #[case] status: RejectStatus,
) {
    let mut bytes = linux_request(1, 128);
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    assert_eq!(ConnectRequest::parse(&bytes), Err(status));
}

#[test]
fn answers_have_the_bytes_that_hosts_expect() {
    let accept = ConnectAccept::new(0x0102);
    assert_eq!(accept.as_bytes()[..6], [0, 0, 2, 1, 0, 0]);
    assert_eq!(ConnectAccept::parse(accept.as_bytes()), Some(accept));
    let reject = ConnectReject::new(RejectStatus::NoResources);
    assert_eq!(reject.as_bytes(), [0, 0, 6, 0]);
    let mut received = [0; 148];
    received[..4].copy_from_slice(reject.as_bytes());
    assert_eq!(
        ConnectReject::parse(&received).unwrap().status(),
        RejectStatus::NoResources
    );
}

#[test]
fn every_status_has_words_and_an_unknown_one_keeps_its_number() {
    for code in 1..=9 {
        assert!(
            !RejectStatus(code).text().contains("unknown here"),
            "{code}"
        );
    }
    assert_eq!(
        RejectStatus(77).to_string(),
        "a status unknown here (status 0x4d)"
    );
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was_made(
        qid: u16, cntlid: u16, commands in 2u16..=u16::MAX, responses in 1u16..,
    ) {
        let request = ConnectRequest::new(qid, cntlid, commands, responses).unwrap();
        let read = ConnectRequest::parse(request.as_bytes()).unwrap();
        prop_assert_eq!(read, request);
        prop_assert_eq!((read.qid(), read.cntlid()), (qid, cntlid));
        prop_assert_eq!(read.send_queue_entries(), commands);
        prop_assert_eq!(read.receive_queue_entries(), responses);
    }

    #[test]
    fn arbitrary_private_data_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = ConnectRequest::parse(&bytes);
        let _ = ConnectAccept::parse(&bytes);
        let _ = ConnectReject::parse(&bytes).map(|reject| reject.status().to_string());
    }
}
