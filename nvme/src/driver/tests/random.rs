//! A controller whose registers and data are whatever they are.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::liar::Liar;
use super::*;
use crate::model::ModelEvent;

/// Registers that are altered.
const REGISTERS: [u32; 9] = [
    offset::CAP,
    offset::VS,
    offset::CRTO,
    offset::CC,
    offset::CSTS,
    offset::CMBLOC,
    offset::CMBSZ,
    offset::CMBMSC,
    offset::CMBSTS,
];

/// Bytes from a place on in the data of an admin command.
type Forgery = (usize, Vec<u8>);

#[derive(Debug, Clone, Copy)]
enum Step {
    Halt,
    Restart,
    Rescan,
    Events,
    Abort,
    Smart,
    Memory,
    QueuePair,
    Honesty(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Halt),
        Just(Step::Restart),
        Just(Step::Rescan),
        Just(Step::Events),
        Just(Step::Abort),
        Just(Step::Smart),
        Just(Step::Memory),
        Just(Step::QueuePair),
        any::<bool>().prop_map(Step::Honesty),
    ];
    proptest::collection::vec(step, 0..12)
}

fn flips() -> impl Strategy<Value = Vec<(u32, u64)>> {
    let bits = prop_oneof![any::<u64>(), (0..64u32).prop_map(|bit| 1 << bit)];
    let register = proptest::sample::select(&REGISTERS[..]);
    proptest::collection::vec((register, bits), 0..3)
}

fn forgeries() -> impl Strategy<Value = Vec<Option<Forgery>>> {
    let bytes = proptest::collection::vec(any::<u8>(), 1..64);
    let forgery = proptest::option::of((0usize..4096 - 64, bytes));
    proptest::collection::vec(forgery, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Nothing panics, and each call comes to an end: as many looks as a model
    /// without a clock needs, or the limits of this test's options.
    #[test]
    fn nothing_that_a_controller_says_of_itself_does_harm(
        flips in flips(), forgeries in forgeries(), steps in steps(), honest_at_first: bool,
    ) {
        let honest = Arc::new(AtomicBool::new(honest_at_first));
        let lies = |honest: &Arc<AtomicBool>| {
            let honest = Arc::clone(honest);
            move || !honest.load(Ordering::Relaxed)
        };
        let (lying, forging) = (lies(&honest), lies(&honest));
        let turn = Mutex::new(forgeries.into_iter().cycle());
        let liar = Liar::new()
            .seen(move |at, value| {
                // Not what only has the driver wait longer for the same.
                let value = if at == offset::CAP { value & !0xff00_0000 } else { value };
                let flips = flips.iter().filter(|(register, _)| lying() && *register == at);
                flips.fold(value, |value, (register, flip)| match *register {
                    offset::CAP => value ^ (flip & !0xff00_0000),
                    offset::CRTO => value,
                    _ => value ^ flip,
                })
            })
            .forging(move |data| {
                if let Some((at, bytes)) = lock(&turn).next().flatten().filter(|_| forging()) {
                    data.view().write(at, &bytes).unwrap();
                }
            });
        let model = liar.model.clone();
        let options = Options {
            io_queues: 3,
            shadow_doorbells: true,
            admin_timeout: Duration::from_millis(2),
            ..Options::default()
        };
        let Ok(controller) = Controller::open(liar, options) else { return Ok(()) };
        let mut queues = Vec::new();
        for step in steps {
            match step {
                Step::Halt => drop(controller.halt()),
                Step::Restart => drop(controller.restart()),
                Step::Rescan => drop(controller.rescan()),
                Step::Events => {
                    model.raise(ModelEvent::NamespaceChanged(1));
                    drop(controller.take_events());
                }
                Step::Abort => drop(controller.abort(1, 1)),
                Step::Smart => drop(controller.smart_log()),
                Step::Memory => drop(controller.enable_cmb()),
                Step::QueuePair => queues.extend(controller.create_io_queue_pair(8)),
                Step::Honesty(now) => honest.store(now, Ordering::Relaxed),
            }
            for namespace in controller.namespaces().iter() {
                prop_assert!(matches!(namespace.block_bytes, 512 | 4096) && namespace.blocks > 0);
            }
        }
        // The end is tried elsewhere: it waits for long when it is lied to.
        honest.store(true, Ordering::Relaxed);
        drop(queues);
        // Whatever was, an honest controller comes back, unless what it is now
        // is not what it first said.
        match controller.restart() {
            Ok(()) => prop_assert_eq!(controller.smart_log().unwrap().spare_percent, 100),
            Err(error) => {
                prop_assert!(matches!(error, DriverError::Unsupported { .. }), "{}", error);
            }
        }
    }
}
