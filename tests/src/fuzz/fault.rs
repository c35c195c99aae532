//! Faults of the modelled controller, read out of the fuzzer's bytes, and other
//! things that happen to it.

use sidelane_nvme::model::{Broken, Fault, Matcher, ModelController, ModelEvent};
use sidelane_nvme::spec::{AsyncEventResult, CriticalWarning, Status};

use super::input::Input;

fn matcher(input: &mut Input<'_>) -> Matcher {
    let matcher = match input.u8() % 4 {
        0 => Matcher::any(),
        1 => Matcher::any_admin(),
        2 => Matcher::any_io(),
        _ => Matcher::any_io().on_queue(1),
    };
    let when = input.u8();
    matcher
        .after((when & 3).into())
        .times(1 + u64::from(when >> 2 & 3))
}

/// Those that a reset does not end by itself are not among the answers that a
/// driver waits long for.
fn broken(input: &mut Input<'_>) -> Broken {
    [Broken::Stopped, Broken::Fatal, Broken::Vanished][input.pick(3)]
}

fn fault(input: &mut Input<'_>) -> Fault {
    match input.u8() % 13 {
        0 => Fault::Drop,
        1 => Fault::Hold,
        2 => Fault::Delay(u32::from(input.u8()) % 8),
        3 => Fault::Reorder {
            batch: input.pick(8),
            seed: input.u8().into(),
        },
        4 => Fault::Status(Status::from_bits(input.u16() & 0x7fff)),
        5 => Fault::WrongCid(input.u16()),
        6 => Fault::StalePhase,
        7 => Fault::Twice,
        8 => Fault::StopQueue,
        9 => Fault::DmaOutside,
        10 => Fault::Corrupt(input.u16().into()),
        11 => Fault::Break(broken(input)),
        _ => Fault::BreakForGood(broken(input)),
    }
}

/// Something befalls the controller; whether more than a reset may be needed.
pub(super) fn befall(model: &ModelController, input: &mut Input<'_>) -> bool {
    const NSID: u32 = 1;
    match input.u8() % 15 {
        0..=5 => {
            let (matcher, fault) = (matcher(input), fault(input));
            model.inject(matcher, fault);
            use Fault::{Break, BreakForGood};
            return matches!(fault, BreakForGood(_) | Break(Broken::Vanished));
        }
        6 => drop(model.release()),
        7 => drop(model.step()),
        8 => model.raise(match input.u8() % 4 {
            0 => ModelEvent::Error(input.u8()),
            1 => ModelEvent::Health(CriticalWarning::from_raw(input.u8())),
            2 => ModelEvent::NamespaceChanged(input.u8().into()),
            _ => ModelEvent::Other(AsyncEventResult::from_raw(input.u32())),
        }),
        9 => drop(model.resize(NSID, input.u16().into())),
        10 => drop(model.format(NSID, input.u8())),
        11 => drop(match input.u8() & 1 {
            0 => model.detach(NSID),
            _ => model.attach(NSID),
        }),
        12 => model.power_loss(),
        13 => {
            model.vanish();
            return true;
        }
        _ => model.reappear(),
    }
    false
}

/// Ends what a reset does not end.
pub(super) fn mend(model: &ModelController) {
    model.disarm();
    model.repair();
    model.reappear();
}
