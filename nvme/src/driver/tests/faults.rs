//! A controller that fails: each fault of the model, and what the driver makes
//! of it. Whatever happens, a command ends at most once, and nothing outside of
//! what was named is touched.

use std::collections::BTreeMap;

use rstest::rstest;

use super::*;
use crate::model::{Broken, Fault, Matcher};
use crate::spec::NvmOpcode;

/// A queue pair of the near controller, with its own data.
struct Stage {
    bench: Bench,
    controller: Controller<ModelBacking>,
    queue: IoQueuePair<ModelBacking>,
    data: Region,
    ended: BTreeMap<u64, Status>,
}

impl Stage {
    fn new() -> Self {
        let bench = Bench::with_cmbs();
        let options = Options {
            admin_timeout: Duration::from_millis(50),
            ..Options::default()
        };
        let controller = Controller::open(bench.near.backing(), options).unwrap();
        let queue = controller.create_io_queue_pair(32).unwrap();
        let data = host(&bench.bus, 64 << 10);
        Self {
            bench,
            controller,
            queue,
            data,
            ended: BTreeMap::new(),
        }
    }

    fn model(&self) -> &ModelController {
        &self.bench.near
    }

    /// Reads one block, block `tag`, to the place `tag` in the data.
    fn read(&mut self, tag: u64) {
        let data = DataPointer {
            region: &self.data,
            offset: tag as usize * 512,
            len: 512,
        };
        let command = IoCommand::Read {
            nsid: 1,
            slba: tag,
            blocks: 1,
            data,
        };
        self.queue.submit(command, tag).unwrap();
    }

    /// Submits reads with these tags, rings once, and polls.
    fn reads(&mut self, tags: std::ops::Range<u64>) -> Vec<u64> {
        tags.for_each(|tag| self.read(tag));
        self.queue.ring();
        self.poll()
    }

    /// Tags of commands that have ended, in order.
    fn poll(&mut self) -> Vec<u64> {
        let mut order = Vec::new();
        let ended = &mut self.ended;
        self.queue.poll(64, |end| {
            let before = ended.insert(end.tag, end.status);
            assert_eq!(before, None, "command {} ended twice", end.tag);
            order.push(end.tag);
        });
        order
    }
}

fn first_read() -> Matcher {
    Matcher::io(NvmOpcode::Read)
}

#[test]
fn a_command_whose_completion_is_dropped_stays_outstanding_and_others_do_not() {
    let mut stage = Stage::new();
    let armed = stage.model().inject(first_read().after(1), Fault::Drop);
    assert_eq!(stage.reads(0..4), [0, 2, 3]);
    assert_eq!((armed.fired(), stage.queue.outstanding()), (1, 1));
    assert_eq!(stage.model().release(), 0);
    assert_eq!(stage.poll(), []);
}

#[test]
fn a_delayed_command_ends_after_as_many_others_as_were_said() {
    let mut stage = Stage::new();
    stage.model().inject(first_read(), Fault::Delay(2));
    assert_eq!(stage.reads(0..2), [1]);
    assert_eq!(stage.reads(2..4), [2, 0, 3]);
    assert!(stage.ended[&0].is_success());
}

#[test]
fn a_held_command_is_executed_when_it_is_released() {
    let mut stage = Stage::new();
    stage.model().inject(first_read(), Fault::Hold);
    stage.model().restart_record(false);
    assert_eq!(stage.reads(0..1), []);
    assert_eq!(stage.model().touched().payload.host, 0);
    assert_eq!(stage.model().release(), 1);
    assert_eq!(stage.poll(), [0]);
    assert_eq!(stage.model().touched().payload.host, 512);
}

#[rstest]
#[case(0)]
#[case(7)]
#[case(u64::MAX)]
fn completions_in_another_order_find_their_commands(#[case] seed: u64) {
    let mut stage = Stage::new();
    let fault = Fault::Reorder { batch: 5, seed };
    stage.model().inject(first_read().always(), fault);
    assert_eq!(stage.reads(0..4), []);
    let order = stage.reads(4..7);
    assert_ne!(order, [0, 1, 2, 3, 4]);
    assert_eq!(order.len(), 5);
    assert_eq!(stage.model().release(), 2);
    assert_eq!(stage.poll().len(), 2);
    assert_eq!(stage.queue.stats().stale, 0);
}

#[test]
fn a_status_is_handed_to_the_command_it_is_of() {
    let mut stage = Stage::new();
    let status = Status::UNRECOVERED_READ_ERROR.with_dnr(true);
    let blocks = first_read().lbas(2..4).always();
    let armed = stage.model().inject(blocks, Fault::Status(status));
    stage.reads(0..6);
    let failed: Vec<_> = stage.ended.iter().filter(|end| *end.1 == status).collect();
    assert_eq!(failed, [(&2, &status), (&3, &status)]);
    assert_eq!(armed.fired(), 2);
}

#[rstest]
// Another generation of the slot, another slot, an index outside, no command.
#[case(1 << 9)]
#[case(1)]
#[case(0x1f)]
#[case(0xffff)]
fn a_wrong_identifier_is_counted_and_harms_nobody(#[case] flip: u16) {
    let mut stage = Stage::new();
    // Nothing else is outstanding, so every other identifier is nobody's.
    stage.model().inject(first_read(), Fault::WrongCid(flip));
    assert_eq!(stage.reads(0..1), []);
    assert_eq!(stage.queue.stats().stale, 1);
    assert_eq!(stage.reads(1..4), [1, 2, 3]);
    assert_eq!(stage.queue.outstanding(), 1);
}

#[test]
fn a_completion_with_the_phase_of_the_round_before_is_not_taken() {
    let mut stage = Stage::new();
    // In every place of the ring, in both phases.
    for tag in 0..100 {
        stage.model().inject(first_read(), Fault::StalePhase);
        assert_eq!(stage.reads(tag..tag + 1), [], "round {tag}");
        stage.model().step();
        assert_eq!(stage.poll(), [tag]);
    }
    assert_eq!(stage.queue.stats().stale, 0);
}

#[test]
fn a_completion_that_comes_twice_ends_one_command() {
    let mut stage = Stage::new();
    let twice = stage.model().inject(first_read().always(), Fault::Twice);
    // More than there is room for: none is lost.
    for tags in [0..10, 10..30, 30..60] {
        assert!(!stage.reads(tags.clone()).is_empty());
        while stage.ended.len() as u64 != tags.end {
            stage.poll();
        }
    }
    stage.poll();
    assert_eq!(twice.fired(), 60);
    assert_eq!(stage.queue.stats().stale, 60);
}

#[test]
fn a_stopped_queue_stops_no_other() {
    let mut stage = Stage::new();
    let mut other = stage.controller.create_io_queue_pair(8).unwrap();
    let matcher = first_read().on_queue(stage.queue.qid());
    stage.model().inject(matcher, Fault::StopQueue);
    assert_eq!(stage.reads(0..3), []);
    assert!(run(&mut other, IoCommand::Flush { nsid: 1 }).is_success());
    assert!(stage.queue.check().is_ok());
    assert_eq!(stage.model().release(), 0);
    assert_eq!(stage.poll(), []);
}

#[test]
fn a_controller_that_stops_leaves_its_registers_alive() {
    let mut stage = Stage::new();
    let stop = Fault::Break(Broken::Stopped);
    stage.model().inject(first_read().after(2), stop);
    assert_eq!(stage.reads(0..5), [0, 1]);
    assert!(stage.controller.check().is_ok());
    let error = stage.controller.smart_log().unwrap_err();
    assert!(matches!(error, DriverError::Timeout { .. }), "{error}");
}

#[test]
fn a_fatal_controller_is_noticed() {
    let mut stage = Stage::new();
    let fatal = Fault::Break(Broken::Fatal);
    stage.model().inject(first_read().after(1), fatal);
    assert_eq!(stage.reads(0..3), [0]);
    let error = stage.queue.check().unwrap_err();
    assert!(matches!(error, DriverError::Fatal { .. }), "{error}");
    let error = stage.controller.smart_log().unwrap_err();
    assert!(matches!(error, DriverError::Fatal { .. }), "{error}");
}

#[test]
fn a_controller_that_vanishes_is_gone_and_touches_nothing() {
    let mut stage = Stage::new();
    stage.model().inject(first_read(), Fault::Hold);
    let gone = Fault::Break(Broken::Vanished);
    stage.model().inject(first_read().after(1), gone);
    assert_eq!(stage.reads(0..4), [1]);
    stage.model().restart_record(true);
    stage.model().release();
    assert_eq!(stage.poll(), []);
    assert_eq!(stage.model().touched().record, []);
    for error in [stage.queue.check(), stage.controller.check()] {
        assert!(matches!(error, Err(DriverError::Gone { .. })));
    }
    let error = stage.controller.smart_log().unwrap_err();
    assert!(matches!(error, DriverError::Gone { .. }), "{error}");
    assert!(matches!(
        Controller::open(stage.model().backing(), Options::default()),
        Err(DriverError::Gone { .. })
    ));
    let model = stage.model().clone();
    drop(stage);
    model.reappear();
    let controller = open(&model);
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    assert!(run(&mut queue, IoCommand::Flush { nsid: 1 }).is_success());
}

/// A region of the same bus that nothing was told to touch.
fn foreign(stage: &Stage) -> Region {
    let region = host(&stage.bench.bus, 64 << 10);
    region.view().write(0, &[0xee; 64 << 10]).unwrap();
    region
}

#[rstest]
#[case(true)]
#[case(false)]
fn dma_outside_of_what_was_named_fails_and_touches_nobody(#[case] write: bool) {
    let mut stage = Stage::new();
    let others = foreign(&stage);
    let before = pattern(3, 64 << 10);
    stage.data.view().write(0, &before).unwrap();
    let armed = stage.model().inject(Matcher::any_io(), Fault::DmaOutside);
    stage.model().restart_record(true);
    let data = DataPointer {
        region: &stage.data,
        offset: 0,
        len: 32 << 10,
    };
    let (nsid, slba, blocks) = (1, 0, 64);
    let command = match write {
        true => IoCommand::Write {
            nsid,
            slba,
            blocks,
            data,
            fua: false,
        },
        false => IoCommand::Read {
            nsid,
            slba,
            blocks,
            data,
        },
    };
    let status = run(&mut stage.queue, command);
    assert!(status.same_code(Status::DATA_TRANSFER_ERROR), "{status}");
    assert_eq!(armed.fired(), 1);
    let touched = stage.model().touched();
    assert!(touched.faults > 0);
    assert_eq!(touched.payload, crate::model::PayloadBytes::default());
    assert_eq!(bytes_of(&stage.data, 0, 64 << 10), before);
    assert_eq!(bytes_of(&others, 0, 64 << 10), [0xee; 64 << 10]);
    let mut media = vec![1; 32 << 10];
    stage.model().read_media(1, 0, &mut media).unwrap();
    assert_eq!(media, [0; 32 << 10]);
    assert!(run(&mut stage.queue, command).is_success());
}

#[rstest]
#[case(0)]
#[case(4096 * 8 + 5)]
#[case(u64::MAX)]
fn corrupt_data_differs_in_one_bit_and_the_command_succeeds(#[case] seed: u64) {
    let mut stage = Stage::new();
    let good = pattern(9, 8192);
    stage.data.view().write(0, &good).unwrap();
    let data = DataPointer {
        region: &stage.data,
        offset: 0,
        len: 8192,
    };
    let (nsid, slba, blocks) = (1, 16, 16);
    let write = IoCommand::Write {
        nsid,
        slba,
        blocks,
        data,
        fua: false,
    };
    let read = IoCommand::Read {
        nsid,
        slba,
        blocks,
        data,
    };
    let model = stage.bench.near.clone();
    let differing = |bytes: &[u8]| -> u32 {
        let pairs = bytes.iter().zip(&good);
        pairs.map(|(one, other)| (one ^ other).count_ones()).sum()
    };
    assert!(run(&mut stage.queue, write).is_success());
    model.inject(Matcher::io(NvmOpcode::Read), Fault::Corrupt(seed));
    for wrong in [1, 0] {
        assert!(run(&mut stage.queue, read).is_success());
        assert_eq!(differing(&bytes_of(&stage.data, 0, 8192)), wrong);
    }
    model.inject(Matcher::io(NvmOpcode::Write), Fault::Corrupt(seed));
    assert!(run(&mut stage.queue, write).is_success());
    let mut media = vec![0; 8192];
    model.read_media(1, 8192, &mut media).unwrap();
    assert_eq!(differing(&media), 1);
}

#[rstest]
#[case::never_ready(Broken::NeverReady, "to become ready")]
#[case::never_idle(Broken::NeverIdle, "to become idle")]
fn a_controller_that_does_not_change_its_state_is_waited_for_with_an_end(
    #[case] broken: Broken,
    #[case] words: &str,
) {
    let mut stage = Stage::new();
    stage.model().break_down(broken);
    let error = stage.controller.restart().unwrap_err();
    assert!(matches!(error, DriverError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains(words), "{error}");
    // Nothing that it does now reaches memory.
    let memory = stage.queue.memory()[1].clone();
    let before = bytes_of(&memory, 0, memory.len());
    stage.read(0);
    stage.model().release();
    while stage.model().step() {}
    assert_eq!(bytes_of(&memory, 0, memory.len()), before);
    stage.model().repair();
    stage.controller.restart().unwrap();
    let mut queue = stage.controller.create_io_queue_pair(8).unwrap();
    assert!(run(&mut queue, IoCommand::Flush { nsid: 1 }).is_success());
}
