//! Properties of a controller (NVMe 2.0, 3.1.3, 6.5 and 6.6): what registers
//! are to a PCIe controller.

use sidelane_nvme::spec::{
    Cap, Cc, CommandSetSelected, Csts, PropertyGet, PropertySet, ShutdownNotification,
    ShutdownStatus, Version, offset,
};
use zerocopy::little_endian::{U32, U64};

use super::admin::AdminQueue;
use super::commands::Queue;
use super::features::Features;
use super::refusal::{Refusal, at};
use super::step::{Completion, Step};

/// The version that all controllers follow (VS, VER).
pub const VERSION: Version = Version::V1_4;

/// Longest wait for CSTS.RDY to change, in units of 500 ms. It changes at once.
const READY_TIMEOUT: u8 = 30;

/// Base-two logarithms of the entry sizes that I/O queues have.
const IOSQES: u8 = 6;
const IOCQES: u8 = 4;

impl AdminQueue {
    fn cap(&self) -> Cap {
        Cap::new()
            .with_mqes_z(self.subsystem.limits().max_queue_entries.saturating_sub(1))
            .with_cqr(true)
            .with_to(READY_TIMEOUT)
            .with_css_nvm(true)
    }

    /// Property Get. A property that is not there is an invalid field, which
    /// tools that ask for each of them expect.
    pub(super) fn property_get(&self, command: &PropertyGet) -> Result<Step, Refusal> {
        let dword = |bits: U32| Ok((0, u64::from(bits.get())));
        let (size, value) = match command.offset.get() {
            offset::CAP => {
                let bits: U64 = zerocopy::transmute!(self.cap());
                Ok((1, bits.get()))
            }
            offset::VS => dword(zerocopy::transmute!(VERSION)),
            offset::CC => dword(zerocopy::transmute!(self.cc)),
            offset::CSTS => dword(zerocopy::transmute!(self.status())),
            // No subsystem reset: reads as zero.
            offset::NSSR => dword(U32::ZERO),
            _ => Self::field(at::PROPERTY, "there is no such property"),
        }?;
        if command.attributes.size() != size {
            return Self::field(at::CDW10, "the property has another size");
        }
        Ok(Step::Complete(Completion {
            result: value,
            ..Completion::OK
        }))
    }

    /// Property Set. Only CC can be written.
    pub(super) fn property_set(
        &mut self,
        command: &PropertySet,
        queue: &mut Queue,
    ) -> Result<Step, Refusal> {
        if command.offset.get() != offset::CC {
            return Self::field(at::PROPERTY, "the property cannot be set");
        }
        if command.attributes.size() != 0 {
            return Self::field(at::CDW10, "the property has another size");
        }
        let Ok(value) = u32::try_from(command.value.get()) else {
            return Self::field(at::PROPERTY_VALUE, "the value has more than 32 bits");
        };
        self.configure(zerocopy::transmute!(U32::new(value)), queue);
        Ok(Step::Complete(Completion::OK))
    }

    /// A new CC (3.1.3.5): enable, reset and shutdown.
    fn configure(&mut self, new: Cc, queue: &mut Queue) {
        let old = std::mem::replace(&mut self.cc, new);
        match (old.en(), new.en()) {
            (false, true) => self.enable(),
            (true, false) => self.reset(queue),
            _ => (),
        }
        if new.shn() != ShutdownNotification::None && old.shn() != new.shn() {
            // Nothing is cached above the backends, whose power stays on.
            self.csts.set_shst(ShutdownStatus::Complete);
            self.shared.end_io_queues();
        }
        let running = self.csts.rdy() && self.csts.shst() == ShutdownStatus::Normal;
        self.shared.set_ready(running);
        let (cntlid, csts) = (self.shared.cntlid(), self.csts);
        tracing::debug!(cntlid, ?new, ?csts, "controller configured");
    }

    /// CSTS as the host sees it (3.1.3.6): a reset or shutdown is complete when all
    /// I/O queues have ended, and nothing that they had asked for is done any more.
    fn status(&self) -> Csts {
        let mut csts = self.csts;
        if !self.shared.has_io() {
            return csts;
        }
        if csts.shst() == ShutdownStatus::Complete {
            csts.set_shst(ShutdownStatus::Occurring);
        }
        if !self.cc.en() && !csts.cfs() {
            csts.set_rdy(true);
        }
        csts
    }

    fn enable(&mut self) {
        let cc = self.cc;
        let usable = cc.css() == CommandSetSelected::Nvm
            && cc.mps() == 0
            && cc.ams() == 0
            && (self.is_discovery() || (cc.iosqes() == IOSQES && cc.iocqes() == IOCQES));
        self.csts = Csts::new().with_rdy(usable).with_cfs(!usable);
    }

    /// Controller reset (3.7.2): features go back to their defaults, but for the
    /// keep-alive timeout that Connect set; held requests are never answered, and
    /// I/O queues end with all their commands.
    fn reset(&mut self, queue: &mut Queue) {
        self.csts = Csts::new();
        self.shared.set_ready(false);
        self.shared.end_io_queues();
        self.features = Features::new(self.features.kato_ms);
        let aborts = self.shared.aborts().reset();
        for cid in self.aers.reset().into_iter().chain(aborts) {
            queue.forget(cid);
            // There is room for all, unless nobody looks at what was forgotten.
            let _ = self.forgotten.try_push(cid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_one_that_every_part_of_identify_agrees_with() {
        let bits: U32 = zerocopy::transmute!(VERSION);
        assert_eq!(bits.get(), 0x0001_0400);
    }
}
