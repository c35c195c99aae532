//! Halting and restarting.

use super::*;
use crate::model::ModelNamespace;

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
    let options = Options {
        admin_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let controller = Controller::open(bench.near.backing(), options).unwrap();
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
