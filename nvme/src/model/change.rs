//! What happens to a modelled controller from outside: namespaces change under
//! its host, it vanishes, it loses power.

use super::events::ModelEvent;
use super::options::ModelNamespace;
use super::registers::Registers;
use super::state::{Namespace, State};
use super::{Broken, ModelController};

impl ModelController {
    /// Lets an event happen. It is reported when the host wants to hear of such
    /// (Asynchronous Event Configuration, where nothing is asked for after a
    /// reset; errors are always wanted), has a request outstanding, and has read
    /// the log page of the last event of that type.
    pub fn raise(&self, event: ModelEvent) {
        self.state().raise(event);
    }

    /// Changes the size of a namespace, and tells the host. Blocks that it loses
    /// read as zeros if they come back. `false` when there is no such namespace.
    pub fn resize(&self, nsid: u32, blocks: u64) -> bool {
        let blocks = blocks.min(u64::MAX >> 12);
        self.change(nsid, |namespace| {
            let lbads = namespace.shape.lbads;
            namespace.storage.zero(blocks << lbads, u64::MAX, true);
            namespace.shape.blocks = blocks;
        })
    }

    /// Formats a namespace with blocks of `2^lbads` bytes (9 to 12), and tells
    /// the host. Its data is gone. `false` when there is no such namespace.
    pub fn format(&self, nsid: u32, lbads: u8) -> bool {
        self.change(nsid, |namespace| {
            let shape = &mut namespace.shape;
            let lbads = lbads.clamp(9, 12);
            shape.blocks = shape.blocks << shape.lbads >> lbads;
            shape.lbads = lbads;
            namespace.storage.zero(0, u64::MAX, true);
        })
    }

    /// Detaches a namespace, and tells the host. Its data stays. `false` when
    /// there is no such namespace.
    pub fn detach(&self, nsid: u32) -> bool {
        self.change(nsid, |namespace| namespace.attached = false)
    }

    /// Attaches a namespace that was detached, and tells the host. `false` when
    /// there is no such namespace.
    pub fn attach(&self, nsid: u32) -> bool {
        self.change(nsid, |namespace| namespace.attached = true)
    }

    /// Makes one more namespace and attaches it, and tells the host. Gives its
    /// identifier.
    pub fn add_namespace(&self, shape: ModelNamespace) -> u32 {
        let mut state = self.state();
        let forgetful = state.options.forgetful;
        state.namespaces.push(Namespace::new(shape, forgetful));
        let nsid = state.namespaces.len() as u32;
        state.raise(ModelEvent::NamespaceChanged(nsid));
        nsid
    }

    fn change(&self, nsid: u32, f: impl FnOnce(&mut Namespace)) -> bool {
        let mut state = self.state();
        let known = state.namespace_mut(nsid).map(f).is_some();
        if known {
            state.raise(ModelEvent::NamespaceChanged(nsid));
        }
        known
    }

    /// Takes the controller off the bus without a warning, as when a drive is
    /// pulled. Regions of its memory are not revoked by this: who plays the
    /// kernel calls [`revoke_memory`](Self::revoke_memory) when it would.
    pub fn vanish(&self) {
        self.break_down(Broken::Vanished);
    }

    /// The controller is on the bus again, as after power-on, with its data. It
    /// is that one which had vanished: the same address and serial number. One
    /// that has not vanished is left as it is.
    pub fn reappear(&self) {
        let mut state = self.state();
        if !state.health.is(Broken::Vanished) {
            return;
        }
        state.health.remove(|broken| broken == Broken::Vanished);
        state.set_gone(false);
        state.power_on();
    }

    /// The power fails and returns. What was written is lost unless it was
    /// flushed, written with FUA, or the write cache was off; a model that is
    /// not [`forgetful`](super::ModelOptions::forgetful) has luck, and keeps all.
    pub fn power_loss(&self) {
        let mut state = self.state();
        for namespace in &mut state.namespaces {
            namespace.storage.lose();
        }
        state.power_on();
    }

    /// Breaks the controller now. A reset cures [`Broken::Stopped`] and
    /// [`Broken::Fatal`].
    pub fn break_down(&self, broken: Broken) {
        self.state().break_down(broken, false);
    }

    /// Breaks the controller now, and no reset helps.
    pub fn break_for_good(&self, broken: Broken) {
        self.state().break_down(broken, true);
    }

    /// Cures all but having vanished. What a breakage has changed already, such
    /// as CSTS.CFS, stays until the next reset.
    pub fn repair(&self) {
        let vanished = |broken| broken == Broken::Vanished;
        self.state().health.remove(|broken| !vanished(broken));
    }
}

impl State {
    fn power_on(&mut self) {
        self.registers = Registers::default();
        self.forget_queues();
        if let Some(cmb) = &mut self.dma.cmb {
            cmb.write_control_low(0);
            cmb.write_control_high(0);
        }
        if let Some(pmr) = &mut self.dma.pmr {
            pmr.reset();
        }
    }

    pub(super) fn flush_all(&mut self) {
        for namespace in &mut self.namespaces {
            namespace.storage.flush();
        }
    }
}
