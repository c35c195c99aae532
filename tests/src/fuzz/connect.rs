//! Connect and its data: a command and 1024 bytes from the input, to a queue of
//! nobody, while another association is there.
//!
//! Promised, whatever they say: the queue belongs to a controller if and only if
//! Connect has succeeded, to one that the host may have; one that was refused can
//! be tried again; and the other association does not notice.

use sidelane::session::Step;
use sidelane_nvme::spec::{CNTLID_DYNAMIC, ConnectData, SQE_LEN, Sqe};
use zerocopy::{FromBytes, IntoBytes};

use super::input::Input;
use crate::served::{SUBNQN, Served, connect as good_connect};

/// A Connect, and another one that is in order.
pub fn connect(bytes: &[u8]) {
    let mut input = Input(bytes);
    let served = Served::new();
    let (admin, io) = served.io_queue();
    let mut session = served.open();
    let sqe = Sqe::read_from_bytes(&input.array::<SQE_LEN>()).expect("any bytes do");
    let data = input.0;
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut step = session.command(&sqe, Ok(len), served.start);
    if let Step::Fetch { len: fetch } = step {
        assert!(fetch == len && fetch as usize == size_of::<ConnectData>());
        step = session.data(&sqe, data, served.start);
    }
    let Step::Complete(completion) = step else {
        unreachable!("{step:?}")
    };
    let cqe = session.completed(sqe.cid(), completion);
    let connected = cqe.status().is_success();
    assert_eq!(session.controller().is_some(), connected);
    if let Some(controller) = session.controller() {
        let said = cqe.dw0.get() as u16;
        assert_eq!(said, controller.cntlid());
        let qid = session.qid().unwrap_or_default();
        assert!(controller.qids().contains(qid) && qid != 1);
        assert!(session.queue().entries() >= 2);
    } else {
        let (command, data) = good_connect(0, SUBNQN, CNTLID_DYNAMIC);
        let fetch = session.command(&command, Ok(1024), served.start);
        assert!(matches!(fetch, Step::Fetch { len: 1024 }), "{fetch:?}");
        let step = session.data(&command, data.as_bytes(), served.start);
        let Step::Complete(completion) = step else {
            unreachable!("{step:?}")
        };
        assert!(completion.status.is_success(), "{}", completion.status);
    }
    assert!(admin.controller().is_some_and(|shared| !shared.is_dead()));
    assert_eq!((admin.qid(), io.qid()), (Some(0), Some(1)));
    drop((session, io, admin));
    assert!(served.subsystem.controllers().is_empty());
    assert!(served.target.discovery().controllers().is_empty());
}
