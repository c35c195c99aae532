//! Queues: wrapping, filling, batches, interrupts, the tap.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::model::{Fault, Matcher};
use crate::spec::{NvmOpcode, ReadWrite};

const ZERO: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

fn readable(queue: &IoQueuePair<ModelBacking>) -> bool {
    let event = queue.eventfd().unwrap();
    poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&ZERO)).unwrap() == 1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn thousands_of_commands_in_any_batches_each_complete_once(
        depth in 2u16..40,
        batches in proptest::collection::vec((1usize..50, 1usize..50), 200),
        defer: bool,
        shadow_doorbells: bool,
    ) {
        let options = ModelOptions {
            shadow_doorbells,
            ..ModelOptions::default()
        };
        let bench = Bench::new(options.clone(), options);
        let options = Options {
            shadow_doorbells,
            ..Options::default()
        };
        let controller = Controller::open(bench.near.backing(), options).unwrap();
        let mut queue = controller.create_io_queue_pair(depth).unwrap();
        prop_assert_eq!(queue.capacity(), usize::from(depth) - 1);
        bench.near.set_defer(defer);
        let mut expected = VecDeque::new();
        let mut tag = 0;
        for (submit, take) in batches {
            for _ in 0..submit {
                match queue.submit(IoCommand::Flush { nsid: 1 }, tag) {
                    Ok(()) => expected.push_back(tag),
                    Err(error) => {
                        prop_assert_eq!(error, SubmitError::QueueFull);
                        prop_assert_eq!(queue.outstanding(), queue.capacity());
                        break;
                    }
                }
                tag += 1;
            }
            queue.ring();
            if defer {
                for _ in 0..take {
                    bench.near.step();
                }
            }
            queue.poll(take, |completion| {
                assert_eq!(Some(completion.tag), expected.pop_front());
                assert!(completion.status.is_success());
            });
            prop_assert_eq!(queue.outstanding(), expected.len());
        }
        bench.near.set_defer(false);
        while bench.near.step() {}
        queue.poll(usize::MAX, |completion| {
            assert_eq!(Some(completion.tag), expected.pop_front());
        });
        prop_assert!(expected.is_empty());
        let stats = queue.stats();
        prop_assert_eq!((stats.submitted, stats.completed, stats.stale), (tag, tag, 0));
        prop_assert!(stats.doorbells <= 200, "one doorbell a batch");
        prop_assert!(shadow_doorbells || stats.spared_doorbells == 0);
    }
}

/// A controller that offers shadow doorbells, and a driver that wants them or not.
fn shadowed(wanted: bool) -> (Bench, Controller<ModelBacking>) {
    let model = ModelOptions {
        shadow_doorbells: true,
        ..ModelOptions::default()
    };
    let bench = Bench::new(model.clone(), model);
    let options = Options {
        shadow_doorbells: wanted,
        ..Options::default()
    };
    let controller = Controller::open(bench.near.backing(), options).unwrap();
    (bench, controller)
}

/// Submits two batches while the controller is awake, and gives what was rung.
fn two_batches(bench: &Bench, queue: &mut IoQueuePair<ModelBacking>) -> QueueStats {
    bench.near.set_defer(true);
    for _ in 0..2 {
        for tag in 0..3 {
            queue.submit(IoCommand::Flush { nsid: 1 }, tag).unwrap();
        }
        queue.ring();
        // It has seen some of the commands, and does not sleep yet.
        bench.near.step();
    }
    while bench.near.step() {}
    assert_eq!(queue.poll(16, |end| assert!(end.status.is_success())), 6);
    bench.near.set_defer(false);
    queue.stats()
}

#[test]
fn a_controller_that_is_awake_learns_of_commands_by_the_shadow() {
    let (bench, controller) = shadowed(true);
    for round in 0..3 {
        let mut queue = controller.create_io_queue_pair(64).unwrap();
        let stats = two_batches(&bench, &mut queue);
        assert!(stats.spared_doorbells > 0, "{stats:?}");
        let told = stats.doorbells + stats.head_doorbells + stats.spared_doorbells;
        assert_eq!(told, 3, "two batches and what was taken, round {round}");
        // The next one has the same identifier, and begins at 0 again.
        queue.delete().unwrap();
    }
}

#[test]
fn after_a_restart_shadows_are_handed_over_again() {
    let (bench, controller) = shadowed(true);
    let mut queue = controller.create_io_queue_pair(64).unwrap();
    two_batches(&bench, &mut queue);
    controller.halt().unwrap();
    controller.restart().unwrap();
    drop(queue);
    let mut queue = controller.create_io_queue_pair(64).unwrap();
    assert!(two_batches(&bench, &mut queue).spared_doorbells > 0);
}

#[test]
fn shadows_are_left_alone_where_they_are_not_wanted() {
    let (bench, controller) = shadowed(false);
    let mut queue = controller.create_io_queue_pair(64).unwrap();
    let stats = two_batches(&bench, &mut queue);
    assert_eq!(
        (
            stats.doorbells,
            stats.head_doorbells,
            stats.spared_doorbells
        ),
        (2, 1, 0)
    );
}

#[test]
fn a_full_queue_says_so_and_has_room_again_after_a_poll() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    for tag in 0..3 {
        queue.submit(IoCommand::Flush { nsid: 1 }, tag).unwrap();
    }
    let one_more = IoCommand::Flush { nsid: 1 };
    assert_eq!(queue.submit(one_more, 3), Err(SubmitError::QueueFull));
    assert_eq!(queue.poll(8, |_| panic!("nothing was rung")), 0);
    queue.ring();
    assert_eq!(queue.poll(1, |_| ()), 1);
    queue.submit(one_more, 3).unwrap();
    assert_eq!(queue.submit(one_more, 4), Err(SubmitError::QueueFull));
}

#[test]
fn a_command_that_is_not_answered_becomes_overdue_and_is_known_by_its_identifier() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    queue.set_tap(Box::new(move |sqe, _| log.lock().unwrap().push(sqe.cid())));
    bench.near.set_defer(true);
    queue.set_clock(1_000);
    for tag in [7, 8, 7] {
        queue.submit(IoCommand::Flush { nsid: 1 }, tag).unwrap();
    }
    queue.ring();
    let sent = seen.lock().unwrap().clone();
    assert_eq!(queue.cids_of(7).collect::<Vec<_>>(), [sent[0], sent[2]]);
    queue.set_clock(13_000);
    assert_eq!(queue.overdue(12_000).count(), 0);
    queue.set_clock(13_001);
    let overdue: Vec<_> = queue.overdue(12_000).collect();
    assert_eq!(overdue.len(), 3);
    assert_eq!(
        (overdue[1].tag, overdue[1].cid, overdue[1].age_ms),
        (8, sent[1], 12_001)
    );
    bench.near.set_defer(false);
    while bench.near.step() {}
    assert_eq!(queue.poll(8, |_| ()), 3);
    assert_eq!(queue.overdue(0).count() + queue.cids_of(7).count(), 0);
}

#[test]
fn a_depth_that_the_controller_does_not_allow_is_brought_into_bounds() {
    let options = ModelOptions {
        mqes_z: 15,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options.clone(), options);
    let controller = open(&bench.near);
    assert_eq!(controller.create_io_queue_pair(0).unwrap().capacity(), 1);
    assert_eq!(
        controller
            .create_io_queue_pair(u16::MAX)
            .unwrap()
            .capacity(),
        15
    );
}

#[test]
fn queue_pairs_run_out_and_come_back_when_deleted() {
    let options = ModelOptions {
        io_queues: 2,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options.clone(), options);
    let controller = open(&bench.near);
    let first = controller.create_io_queue_pair(4).unwrap();
    let second = controller.create_io_queue_pair(4).unwrap();
    assert_ne!(first.qid(), second.qid());
    let error = controller
        .create_io_queue_pair(4)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("2 I/O queue pairs"), "{error}");
    drop(first);
    let mut third = controller.create_io_queue_pair(4).unwrap();
    assert!(run(&mut third, IoCommand::Flush { nsid: 1 }).is_success());
}

#[test]
fn a_completion_of_no_command_is_counted_and_does_no_harm() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    queue.submit(IoCommand::Flush { nsid: 1 }, 1).unwrap();
    queue.ring();
    // The controller sends the same completion twice.
    let [_, completions, _] = queue.memory().map(Clone::clone);
    let twice = bytes_of(&completions, 0, 16);
    completions.view().write(16, &twice).unwrap();
    let mut tags = Vec::new();
    assert_eq!(queue.poll(8, |completion| tags.push(completion.tag)), 2);
    assert_eq!(
        (tags, queue.stats().stale, queue.outstanding()),
        (vec![1], 1, 0)
    );
}

proptest! {
    #[test]
    fn no_completion_that_a_controller_could_send_does_harm(
        garbage in proptest::collection::vec(any::<u8>(), 8 * 16),
    ) {
        let bench = Bench::with_cmbs();
        let controller = open(&bench.near);
        let mut queue = controller.create_io_queue_pair(8).unwrap();
        bench.near.set_defer(true);
        for tag in 0..5 {
            queue.submit(IoCommand::Flush { nsid: 1 }, tag).unwrap();
        }
        queue.memory()[1].view().write(0, &garbage).unwrap();
        let mut tags = BTreeSet::new();
        queue.poll(64, |completion| assert!(tags.insert(completion.tag)));
        prop_assert_eq!(queue.outstanding(), 5 - tags.len());
        // So that the queue pair can be deleted.
        bench.near.set_defer(false);
    }
}

#[test]
fn interrupts_come_with_completions_and_are_acknowledged() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    let mut other = controller.create_io_queue_pair(8).unwrap();
    assert_ne!(
        queue.eventfd().unwrap().as_raw_fd(),
        other.eventfd().unwrap().as_raw_fd()
    );
    assert!(!readable(&queue));
    queue.submit(IoCommand::Flush { nsid: 1 }, 0).unwrap();
    assert!(!readable(&queue), "not before the doorbell");
    queue.ring();
    assert!(readable(&queue) && !readable(&other));
    queue.acknowledge();
    assert!(!readable(&queue));
    queue.acknowledge();
    assert_eq!(queue.poll(8, |_| ()), 1);
    other.submit(IoCommand::Flush { nsid: 1 }, 0).unwrap();
    other.ring();
    assert!(readable(&other) && !readable(&queue));
}

#[test]
fn queues_without_a_vector_of_their_own_are_polled() {
    let options = ModelOptions {
        vectors: 2,
        ..ModelOptions::default()
    };
    let bench = Bench::new(options.clone(), options);
    let controller = open(&bench.near);
    assert!(
        controller
            .create_io_queue_pair(8)
            .unwrap()
            .eventfd()
            .is_some()
    );
    let _first = controller.create_io_queue_pair(8).unwrap();
    let mut second = controller.create_io_queue_pair(8).unwrap();
    assert!(second.eventfd().is_none());
    assert!(run(&mut second, IoCommand::Flush { nsid: 1 }).is_success());
}

#[test]
fn a_queue_pair_can_move_to_the_thread_that_will_own_it() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let queues: Vec<_> = (0..2)
        .map(|_| controller.create_io_queue_pair(8).unwrap())
        .collect();
    let threads: Vec<_> = queues
        .into_iter()
        .map(|mut queue| {
            std::thread::spawn(move || {
                for _ in 0..500 {
                    assert!(run(&mut queue, IoCommand::Flush { nsid: 1 }).is_success());
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_tap_sees_what_the_controller_will_read() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let cmb = cmb_of(&controller);
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    queue.set_tap(Box::new(move |sqe, list| {
        log.lock().unwrap().push((*sqe, list.to_vec()))
    }));
    bench.near.restart_record(true);

    let data = DataPointer {
        region: &cmb,
        offset: 512,
        len: 64 << 10,
    };
    let write = IoCommand::Write {
        nsid: 1,
        slba: 5,
        blocks: 128,
        data,
        fua: true,
    };
    assert!(run(&mut queue, write).is_success());
    let seen = seen.lock().unwrap();
    let [(sqe, list)] = &seen[..] else {
        panic!("one command")
    };
    let command = ReadWrite::from(*sqe);
    assert_eq!(sqe.opcode(), NvmOpcode::Write.0);
    assert_eq!(
        (
            command.slba.get(),
            command.cdw12.nlb_z(),
            command.cdw12.fua()
        ),
        (5, 127, true)
    );
    assert_eq!(command.dptr.prp1(), cmb.iova() + 512);
    assert_eq!(list.len(), 16);
    let first = cmb.iova() + 4096;
    assert!(
        list.iter()
            .enumerate()
            .all(|(i, entry)| *entry == first + i as u64 * 4096)
    );

    // Pages named by the command are those that the controller touched.
    let touched = bench.near.touched();
    let data: Vec<_> = touched
        .record
        .iter()
        .filter(|touch| touch.purpose == crate::model::Purpose::Data)
        .map(|touch| touch.range.start)
        .collect();
    assert_eq!(data[0], command.dptr.prp1());
    assert_eq!(&data[1..], &list[..]);
}

#[test]
fn rings_that_the_controller_did_not_delete_stay_mapped_until_it_is_closed() {
    let bench = Bench::with_cmbs();
    let options = Options {
        admin_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let controller = Controller::open(bench.near.backing(), options).unwrap();
    let far = open(&bench.far);
    let mut witness = far.create_io_queue_pair(4).unwrap();
    // Another controller finds out whether the address still answers.
    let mut answers = |iova| {
        let view = sidelane_p2p::MemView::anonymous(512);
        let ring = Region::new(
            "ring",
            sidelane_p2p::Placement::Host,
            iova,
            view,
            Box::new(()),
        );
        let data = DataPointer {
            region: &ring,
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
        run(&mut witness, write).is_success()
    };
    let deleted = controller.create_io_queue_pair(64).unwrap();
    let stuck = controller.create_io_queue_pair(64).unwrap();
    let gone = deleted.memory()[0].iova();
    let kept = stuck.memory()[0].iova();
    deleted.delete().unwrap();
    assert!(!answers(gone));
    bench.near.set_defer(true);
    assert!(matches!(stuck.delete(), Err(DriverError::Timeout { .. })));
    assert!(answers(kept));
    let error = controller.create_io_queue_pair(4).err().unwrap();
    assert!(matches!(error, DriverError::Halted { .. }), "{error}");
    drop(controller);
    assert!(!answers(kept));
}

#[test]
fn data_of_a_queue_that_could_not_be_deleted_is_not_touched_any_more() {
    let bench = Bench::with_cmbs();
    let controller = open_impatiently(&bench.near);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let region = super::host(&bench.bus, 4096);
    region.view().write(0, &[0xee; 512]).unwrap();
    let data = DataPointer {
        region: &region,
        offset: 0,
        len: 512,
    };
    let read = IoCommand::Read {
        nsid: 1,
        slba: 0,
        blocks: 1,
        data,
    };
    bench.near.set_defer(true);
    queue.submit(read, 1).unwrap();
    queue.ring();
    bench.near.inject(Matcher::any_admin(), Fault::StopQueue);
    assert!(matches!(queue.delete(), Err(DriverError::Timeout { .. })));
    // Late, as far as the driver knows.
    while bench.near.step() {}
    let mut bytes = [0; 512];
    region.view().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0xee; 512]);
    bench.near.disarm();
    bench.near.set_defer(false);
    controller.restart().unwrap();
    let mut again = controller.create_io_queue_pair(4).unwrap();
    assert!(run(&mut again, read).is_success());
}
