//! Getting over faults: abort, halt, restart.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::model::{Broken, Fault, Matcher};
use crate::spec::{AdminOpcode, NvmOpcode};

fn impatient(bench: &Bench) -> Controller<ModelBacking> {
    let options = Options {
        admin_timeout: Duration::from_millis(20),
        ..Options::default()
    };
    Controller::open(bench.near.backing(), options).unwrap()
}

fn poll(queue: &mut IoQueuePair<ModelBacking>) -> Vec<(u64, Status)> {
    let mut ended = Vec::new();
    queue.poll(64, |end| ended.push((end.tag, end.status)));
    ended
}

const FLUSH: IoCommand<'_> = IoCommand::Flush { nsid: 1 };

#[rstest]
#[case::held(Fault::Hold, true)]
#[case::delayed(Fault::Delay(1000), true)]
#[case::dropped(Fault::Drop, false)]
#[case::stopped(Fault::StopQueue, false)]
fn an_overdue_command_is_aborted_where_the_controller_still_has_it(
    #[case] fault: Fault,
    #[case] aborted: bool,
) {
    let bench = Bench::with_cmbs();
    let controller = impatient(&bench);
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    bench.near.inject(Matcher::any_io(), fault);
    queue.set_clock(1000);
    queue.submit(FLUSH, 5).unwrap();
    queue.ring();
    assert_eq!(poll(&mut queue), []);
    queue.set_clock(14_000);
    let overdue: Vec<_> = queue.overdue(12_000).collect();
    let [late] = overdue[..] else {
        panic!("{overdue:?}")
    };
    assert_eq!((late.tag, late.age_ms), (5, 13_000));
    assert_eq!(queue.cids_of(5).collect::<Vec<_>>(), [late.cid]);
    assert_eq!(controller.abort(queue.qid(), late.cid).unwrap(), aborted);
    let expected: &[_] = match aborted {
        true => &[(5, Status::ABORT_REQUESTED)],
        false => &[],
    };
    assert_eq!(poll(&mut queue), expected);
    // A second time there is nothing to abort, and it does not end again.
    assert!(!controller.abort(queue.qid(), late.cid).unwrap());
    bench.near.release();
    assert_eq!(poll(&mut queue), []);
}

#[rstest]
#[case(Fault::Drop)]
#[case(Fault::Hold)]
#[case(Fault::Break(Broken::Stopped))]
fn an_abort_that_is_not_answered_is_got_over_by_a_restart(#[case] fault: Fault) {
    let bench = Bench::with_cmbs();
    let controller = impatient(&bench);
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    bench.near.inject(Matcher::any_io(), Fault::Hold);
    bench.near.inject(Matcher::admin(AdminOpcode::Abort), fault);
    queue.submit(FLUSH, 5).unwrap();
    queue.ring();
    let cid = queue.cids_of(5).next().unwrap();
    let error = controller.abort(queue.qid(), cid).unwrap_err();
    assert!(matches!(error, DriverError::Timeout { .. }), "{error}");
    controller.restart().unwrap();
    assert_eq!(bench.near.release(), 0, "a reset forgets what it held");
    assert_eq!(poll(&mut queue), []);
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    assert!(run(&mut queue, FLUSH).is_success());
}

#[rstest]
#[case(Broken::Stopped)]
#[case(Broken::Fatal)]
fn a_breakage_is_cured_by_a_restart_unless_it_is_for_good(#[case] broken: Broken) {
    let bench = Bench::with_cmbs();
    let controller = impatient(&bench);
    bench.near.break_down(broken);
    controller.restart().unwrap();
    bench.near.break_for_good(broken);
    let error = controller.restart().unwrap_err();
    let expected = match broken {
        Broken::Fatal => matches!(error, DriverError::Fatal { .. }),
        _ => matches!(error, DriverError::Timeout { .. }),
    };
    assert!(expected, "{error}");
    bench.near.repair();
    controller.restart().unwrap();
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    assert!(run(&mut queue, FLUSH).is_success());
}

#[test]
fn a_controller_that_has_vanished_can_be_restarted_when_it_is_there_again() {
    let bench = Bench::with_cmbs();
    let controller = impatient(&bench);
    bench.near.vanish();
    for result in [controller.halt(), controller.restart()] {
        assert!(matches!(result, Err(DriverError::Gone { .. })));
    }
    bench.near.reappear();
    controller.restart().unwrap();
    let mut queue = controller.create_io_queue_pair(8).unwrap();
    assert!(run(&mut queue, FLUSH).is_success());
}

#[test]
fn memory_of_a_vanished_controller_does_not_answer_to_others() {
    let bench = Bench::with_cmbs();
    let near = open(&bench.near);
    let region = cmb_of(&near);
    let far = open(&bench.far);
    let mut queue = far.create_io_queue_pair(8).unwrap();
    let data = DataPointer {
        region: &region,
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
    assert!(run(&mut queue, write).is_success());
    bench.near.vanish();
    let status = run(&mut queue, write);
    assert!(status.same_code(Status::DATA_TRANSFER_ERROR), "{status}");
    bench.near.reappear();
}

/// What happens in a life full of mishaps.
#[derive(Debug, Clone)]
enum Step {
    Inject(Matcher, Fault),
    Submit {
        read: bool,
        slba: u64,
    },
    Ring,
    Poll,
    Release,
    Once,
    Abort,
    Restart,
    Halt,
    /// Ends all that lasts.
    Repair,
}

fn fault() -> impl Strategy<Value = Fault> {
    let broken = prop_oneof![
        Just(Broken::Stopped),
        Just(Broken::Fatal),
        Just(Broken::Vanished)
    ];
    let reorder = (1usize..6, any::<u64>());
    prop_oneof![
        Just(Fault::Drop),
        Just(Fault::Hold),
        (0u32..5).prop_map(Fault::Delay),
        reorder.prop_map(|(batch, seed)| Fault::Reorder { batch, seed }),
        Just(Fault::Status(Status::INTERNAL_ERROR)),
        any::<u16>().prop_map(Fault::WrongCid),
        Just(Fault::StalePhase),
        Just(Fault::Twice),
        Just(Fault::StopQueue),
        Just(Fault::DmaOutside),
        any::<u64>().prop_map(Fault::Corrupt),
        broken.clone().prop_map(Fault::Break),
        broken.prop_map(Fault::BreakForGood),
    ]
}

fn matcher() -> impl Strategy<Value = Matcher> {
    let kind = prop_oneof![
        3 => Just(Matcher::any_io()),
        2 => Just(Matcher::io(NvmOpcode::Read)),
        1 => Just(Matcher::any_admin()),
        1 => Just(Matcher::admin(AdminOpcode::Abort)),
    ];
    (kind, 0u64..4, 1u64..4).prop_map(|(kind, skip, times)| kind.after(skip).times(times))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (matcher(), fault()).prop_map(|(matcher, fault)| Step::Inject(matcher, fault)),
        8 => (any::<bool>(), 0u64..64).prop_map(|(read, slba)| Step::Submit { read, slba }),
        4 => Just(Step::Ring),
        4 => Just(Step::Poll),
        1 => Just(Step::Release),
        1 => Just(Step::Once),
        1 => Just(Step::Abort),
        1 => Just(Step::Restart),
        1 => Just(Step::Halt),
        1 => Just(Step::Repair),
    ]
}

struct Life {
    bench: Bench,
    controller: Controller<ModelBacking>,
    queue: Option<IoQueuePair<ModelBacking>>,
    /// What commands name; `others` lies around it and is named by none.
    data: Region,
    others: [Region; 2],
    /// Tags that are outstanding at the queue pair that is alive.
    out: BTreeSet<u64>,
    next: u64,
}

impl Life {
    fn new(shadow_doorbells: bool) -> Self {
        let near = ModelOptions {
            shadow_doorbells,
            ..ModelOptions::default()
        };
        let bench = Bench::new(near, ModelOptions::default());
        let options = Options {
            admin_timeout: Duration::from_millis(1),
            ..Options::default()
        };
        let controller = Controller::open(bench.near.backing(), options).unwrap();
        let guard = || {
            let region = host(&bench.bus, 8192);
            region.view().write(0, &[0xee; 8192]).unwrap();
            region
        };
        let (before, data, after) = (guard(), host(&bench.bus, 8192), guard());
        let queue = controller.create_io_queue_pair(8).ok();
        Self {
            bench,
            controller,
            queue,
            data,
            others: [before, after],
            out: BTreeSet::new(),
            next: 0,
        }
    }

    fn poll(&mut self) {
        let out = &mut self.out;
        if let Some(queue) = &mut self.queue {
            queue.poll(64, |end| {
                assert!(out.remove(&end.tag), "{} was not outstanding", end.tag);
            });
            assert_eq!(queue.outstanding(), out.len());
        }
    }

    /// Halted: what the dead queue pair had is given back by its owner, and the
    /// controller does not touch it any more, whatever it is made to do.
    fn after_halt(&mut self) {
        self.data.view().write(0, &[0xdd; 8192]).unwrap();
        self.bench.near.release();
        while self.bench.near.step() {}
        assert_eq!(bytes_of(&self.data, 0, 8192), [0xdd; 8192]);
        self.poll();
        self.out.clear();
        self.queue = None;
    }

    fn restart(&mut self) -> Result<(), DriverError> {
        self.controller.halt()?;
        self.after_halt();
        self.controller.restart()?;
        self.queue = Some(self.controller.create_io_queue_pair(8)?);
        Ok(())
    }

    fn act(&mut self, step: &Step) {
        let model = &self.bench.near;
        match step {
            Step::Inject(matcher, fault) => drop(model.inject(matcher.clone(), *fault)),
            Step::Submit { read, slba } => {
                let data = DataPointer {
                    region: &self.data,
                    offset: (self.next % 8) as usize * 1024,
                    len: 1024,
                };
                let (nsid, slba, blocks) = (1, *slba, 2);
                let command = match read {
                    true => IoCommand::Read {
                        nsid,
                        slba,
                        blocks,
                        data,
                    },
                    false => IoCommand::Write {
                        nsid,
                        slba,
                        blocks,
                        data,
                        fua: false,
                    },
                };
                let queue = self.queue.as_mut();
                if queue.is_some_and(|queue| queue.submit(command, self.next).is_ok()) {
                    self.out.insert(self.next);
                }
                self.next += 1;
            }
            Step::Ring => self.queue.iter_mut().for_each(IoQueuePair::ring),
            Step::Poll => self.poll(),
            Step::Release => drop(model.release()),
            Step::Once => drop(model.step()),
            Step::Abort => {
                let (queue, tag) = (self.queue.as_ref(), self.out.first());
                if let (Some(queue), Some(tag)) = (queue, tag)
                    && let Some(cid) = queue.cids_of(*tag).next()
                {
                    // Whatever it says.
                    let _ = self.controller.abort(queue.qid(), cid);
                }
            }
            Step::Restart => {
                if let Err(error) = self.restart() {
                    assert!(!error.to_string().is_empty());
                }
            }
            Step::Halt => {
                if self.controller.halt().is_ok() {
                    self.after_halt();
                }
            }
            Step::Repair => {
                model.repair();
                model.reappear();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn whatever_happens_each_command_ends_once_at_most_and_a_restart_brings_it_back(
        shadow_doorbells: bool,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut life = Life::new(shadow_doorbells);
        for step in &steps {
            life.act(step);
        }
        life.poll();
        let model = life.bench.near.clone();
        model.disarm();
        model.repair();
        model.reappear();
        life.restart().unwrap();
        let queue = life.queue.as_mut().unwrap();
        prop_assert!(run(queue, FLUSH).is_success());
        for region in &life.others {
            prop_assert_eq!(bytes_of(region, 0, 8192), [0xee; 8192]);
        }
    }
}
