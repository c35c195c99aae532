//! Halting and restarting.

use std::sync::atomic::AtomicBool;

use super::liar::Liar;
use super::*;
use crate::model::{Broken, Fault, Matcher, ModelNamespace};

fn read_block<'a>(region: &'a Region, slba: u64) -> IoCommand<'a> {
    let data = DataPointer {
        region,
        offset: 0,
        len: 512,
    };
    IoCommand::Read {
        nsid: 1,
        slba,
        blocks: 1,
        data,
    }
}

#[test]
fn a_restarted_controller_serves_again_and_what_came_before_is_dead() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let cmb = cmb_of(&controller);
    let mut old: Vec<_> = (0..controller.max_io_queue_pairs())
        .map(|_| controller.create_io_queue_pair(4).unwrap())
        .collect();
    let mut first = old.remove(0);
    bench.near.set_defer(true);
    first.submit(read_block(&cmb, 0), 1).unwrap();
    first.ring();
    controller.halt().unwrap();
    let before = first.stats();
    assert_eq!(first.poll(8, |_| ()), 0);
    first.ring();
    assert_eq!(
        first.submit(read_block(&cmb, 0), 2),
        Err(SubmitError::Halted)
    );
    assert_eq!((first.stats(), first.outstanding()), (before, 1));
    assert!(matches!(
        controller.create_io_queue_pair(4).err(),
        Some(DriverError::Halted { .. })
    ));
    assert!(controller.smart_log().is_err() && controller.rescan().is_err());

    bench.near.set_defer(false);
    controller.restart().unwrap();
    // Dropped after the restart: what is new must not be touched by it.
    let mut new = controller.create_io_queue_pair(4).unwrap();
    drop((first, old));
    assert!(run(&mut new, read_block(&cmb, 0)).is_success());
    let most = controller.max_io_queue_pairs() - 1;
    let rest: Vec<_> = (0..most)
        .map(|_| controller.create_io_queue_pair(4).unwrap())
        .collect();
    let error = controller.create_io_queue_pair(4).err().unwrap();
    assert!(matches!(error, DriverError::NoQueueLeft { .. }), "{error}");
    drop((new, rest));
    controller.shutdown().unwrap();
    assert_eq!(bench.near.touched().faults, 0);
}

#[test]
fn halting_and_restarting_can_be_repeated_and_each_alone_is_enough() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let region = host(&bench.bus, 512);
    for _ in 0..3 {
        controller.halt().unwrap();
        controller.halt().unwrap();
        controller.restart().unwrap();
        controller.restart().unwrap();
        let mut queue = controller.create_io_queue_pair(4).unwrap();
        assert!(run(&mut queue, read_block(&region, 0)).is_success());
    }
    controller.halt().unwrap();
    controller.shutdown().unwrap();
    assert_eq!(bench.near.touched().faults, 0);
}

#[test]
fn a_queue_pair_made_before_a_shutdown_tells_the_controller_nothing_more() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let inner = Arc::clone(&controller.inner);
    controller.shutdown().unwrap();
    queue.ring();
    let flush = IoCommand::Flush { nsid: 1 };
    assert_eq!(queue.submit(flush, 1), Err(SubmitError::Halted));
    drop(queue);
    let again = Controller { inner };
    again.halt().unwrap();
    assert!(matches!(again.restart(), Err(DriverError::Halted { .. })));
}

/// The controller does not answer to admin commands any more.
#[test]
fn an_unanswered_admin_command_is_got_over_by_a_restart() {
    let bench = Bench::with_cmbs();
    let controller = open_impatiently(&bench.near);
    bench.near.set_defer(true);
    assert!(matches!(
        controller.smart_log(),
        Err(DriverError::Timeout { .. })
    ));
    assert!(matches!(
        controller.smart_log(),
        Err(DriverError::GivenUp { .. })
    ));
    assert!(matches!(
        controller.restart(),
        Err(DriverError::Timeout { .. })
    ));
    assert!(matches!(
        controller.smart_log(),
        Err(DriverError::Halted { .. })
    ));
    bench.near.set_defer(false);
    controller.restart().unwrap();
    assert_eq!(controller.smart_log().unwrap().spare_percent, 100);
}

#[test]
fn a_halt_ends_the_wait_of_another_thread_for_an_admin_command() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    bench.near.set_defer(true);
    let error = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| controller.smart_log().err());
        // It waits once the queue is locked.
        while controller.inner.admin.try_lock().is_ok() {
            std::thread::yield_now();
        }
        controller.halt().unwrap();
        waiting.join().unwrap()
    });
    // Or it came too late to begin.
    assert!(
        matches!(error, Some(DriverError::Halted { .. })),
        "{error:?}"
    );
    bench.near.set_defer(false);
    controller.restart().unwrap();
    controller.smart_log().unwrap();
}

#[test]
fn the_memory_buffer_is_where_it_was_after_a_restart() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let cmb = cmb_of(&controller);
    cmb.view().write(0, &[7; 512]).unwrap();
    let window = controller.cmb_window();
    controller.restart().unwrap();
    assert_eq!(controller.cmb_window(), window);
    assert_eq!(controller.enable_cmb().unwrap(), window);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let data = DataPointer {
        region: &cmb,
        offset: 0,
        len: 512,
    };
    let write = IoCommand::Write {
        nsid: 1,
        slba: 3,
        blocks: 1,
        data,
        fua: false,
    };
    assert!(run(&mut queue, write).is_success());
    let mut block = [0; 512];
    bench.near.read_media(1, 3 * 512, &mut block).unwrap();
    assert_eq!(block, [7; 512]);
}

#[test]
fn a_rescan_of_what_has_not_changed_says_nothing() {
    let options = ModelOptions {
        namespaces: vec![ModelNamespace::of_bytes(1 << 20); 3],
        ..ModelOptions::default()
    };
    let bench = Bench::new(options, ModelOptions::default());
    let controller = open(&bench.near);
    assert_eq!(controller.rescan().unwrap(), []);
    assert_eq!(controller.namespaces().len(), 3);
}

/// Breaks a controller; then a restart fails, or not.
#[rstest::rstest]
#[case::stopped(Broken::Stopped, false, None)]
#[case::fatal(Broken::Fatal, false, None)]
#[case::fatal_for_good(Broken::Fatal, true, Some("CSTS.CFS"))]
#[case::never_idle(Broken::NeverIdle, false, Some("idle after a reset"))]
#[case::never_ready(Broken::NeverReady, false, Some("become ready"))]
#[case::stopped_for_good(Broken::Stopped, true, Some("Identify Controller"))]
fn a_broken_controller_is_stopped_and_comes_back_when_it_can(
    #[case] broken: Broken,
    #[case] for_good: bool,
    #[case] words: Option<&str>,
) {
    let bench = Bench::with_cmbs();
    let controller = open_impatiently(&bench.near);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    let region = host(&bench.bus, 512);
    bench.near.inject(Matcher::any_io(), Fault::Hold);
    queue.submit(read_block(&region, 0), 1).unwrap();
    queue.ring();
    match for_good {
        true => bench.near.break_for_good(broken),
        false => bench.near.break_down(broken),
    }
    controller.halt().unwrap();
    // Of its rings nothing is left, and the data stays as it is.
    drop(queue);
    let before = bench.near.touched();
    bench.near.release();
    while bench.near.step() {}
    assert_eq!(bench.near.touched().payload, before.payload);

    let restarted = controller.restart();
    match words {
        None => restarted.unwrap(),
        Some(words) => {
            let error = restarted.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(matches!(
                controller.smart_log(),
                Err(DriverError::Halted { .. })
            ));
            bench.near.repair();
            controller.restart().unwrap();
        }
    }
    let region = host(&bench.bus, 512);
    let mut queue = controller.create_io_queue_pair(4).unwrap();
    assert!(run(&mut queue, read_block(&region, 0)).is_success());
}

#[test]
fn a_controller_that_is_gone_can_be_neither_halted_nor_restarted_until_it_is_back() {
    let bench = Bench::with_cmbs();
    let controller = open(&bench.near);
    let queue = controller.create_io_queue_pair(4).unwrap();
    bench.near.vanish();
    for gone in [controller.halt(), controller.restart()] {
        assert!(matches!(gone, Err(DriverError::Gone { .. })), "{gone:?}");
    }
    drop(queue);
    bench.near.reappear();
    controller.restart().unwrap();
    controller.create_io_queue_pair(4).unwrap();
}

#[test]
fn rings_of_a_queue_pair_that_was_not_deleted_are_given_back_by_a_halt() {
    let bench = Bench::with_cmbs();
    let controller = open_impatiently(&bench.near);
    let queue = controller.create_io_queue_pair(4).unwrap();
    let ring = queue.memory()[0].iova();
    bench.near.break_down(Broken::Stopped);
    assert!(matches!(queue.delete(), Err(DriverError::Timeout { .. })));
    let far = open(&bench.far);
    let mut witness = far.create_io_queue_pair(4).unwrap();
    let mut answers = || {
        let view = sidelane_p2p::MemView::anonymous(512);
        let host = sidelane_p2p::Placement::Host;
        let region = Region::new("ring", host, ring, view, Box::new(()));
        run(&mut witness, read_block(&region, 0)).is_success()
    };
    assert!(answers());
    controller.halt().unwrap();
    assert!(!answers());
}

#[rstest::rstest]
// SN of Identify Controller.
#[case::by_its_name(Some((4, "OTHER               ")), 0, "serial number OTHER")]
#[case::by_its_capabilities(None, 1, "CAP")]
fn another_controller_in_the_same_place_is_refused(
    #[case] identify: Option<(usize, &'static str)>,
    #[case] flip: u64,
    #[case] words: &str,
) {
    let other = Arc::new(AtomicBool::new(false));
    let (seen, forged) = (Arc::clone(&other), Arc::clone(&other));
    let liar = Liar::new()
        .seen(move |at, value| match at {
            offset::CAP if seen.load(Ordering::Relaxed) => value ^ flip,
            _ => value,
        })
        .forging(move |data| {
            if let Some((at, bytes)) = identify.filter(|_| forged.load(Ordering::Relaxed)) {
                data.view().write(at, bytes.as_bytes()).unwrap();
            }
        });
    let controller = Controller::open(liar, Options::default()).unwrap();
    controller.restart().unwrap();
    other.store(true, Ordering::Relaxed);
    let error = controller.restart().unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
    assert!(controller.smart_log().is_err());
}

#[rstest::rstest]
#[case::not_wanted(false, true, 1, false)]
#[case::not_offered(true, false, 1, false)]
#[case::both(true, true, 1, true)]
#[case::as_many_as_a_page_has_room_for(true, true, 511, true)]
#[case::more(true, true, 512, false)]
fn shadow_doorbells_are_announced_where_they_are_wanted_offered_and_large_enough(
    #[case] wanted: bool,
    #[case] offered: bool,
    #[case] io_queues: u16,
    #[case] used: bool,
) {
    let near = ModelOptions {
        shadow_doorbells: offered,
        io_queues,
        ..ModelOptions::default()
    };
    let bench = Bench::new(near, ModelOptions::default());
    let config = Matcher::admin(AdminOpcode::DoorbellBufferConfig);
    // A fault that changes nothing, to count.
    let told = bench.near.inject(config.always(), Fault::Delay(0));
    let options = Options {
        shadow_doorbells: wanted,
        io_queues,
        ..Options::default()
    };
    let controller = Controller::open(bench.near.backing(), options).unwrap();
    assert_eq!(controller.uses_shadow_doorbells(), used);
    controller.restart().unwrap();
    assert_eq!(controller.uses_shadow_doorbells(), used);
    assert_eq!(told.fired(), 2 * u64::from(used));
}
