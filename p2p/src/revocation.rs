//! Whether memory was taken away, and who wants to know.
//!
//! A device's memory can go while others use it: by a reset, by removal, by a
//! fatal error. A NIC's registration of it then faults. Reactors must learn of
//! it as of any other event, so this is a flag that costs one load to look at,
//! and a list of those to tell when it is set.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

type Listener = Box<dyn FnOnce(&str) + Send>;

/// Says whether a region's memory was taken away. Set once, never cleared.
///
/// Cheap to clone; all clones are one flag.
#[derive(Clone, Default)]
pub struct Revocation(Arc<Flag>);

#[derive(Default)]
struct Flag {
    reason: OnceLock<String>,
    listeners: Mutex<Vec<Listener>>,
}

impl Revocation {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the memory was taken away: one load, fit for a reactor's loop.
    pub fn is_revoked(&self) -> bool {
        self.0.reason.get().is_some()
    }

    /// Why it was taken away, in an operator's words.
    pub fn reason(&self) -> Option<&str> {
        self.0.reason.get().map(String::as_str)
    }

    /// Sets the flag and tells everyone who asked, on this thread, before it
    /// returns. Says whether it was this call that set it: a later one changes
    /// neither reason nor flag, and tells nobody.
    pub fn revoke(&self, reason: impl Into<String>) -> bool {
        if self.0.reason.set(reason.into()).is_err() {
            return false;
        }
        // Taken out first: a listener may come back here.
        let listeners = std::mem::take(&mut *self.listeners());
        let reason = self.reason().unwrap_or_default();
        for listener in listeners {
            listener(reason);
        }
        true
    }

    /// Has `listener` called with the reason when the memory is taken away, on
    /// the thread that notices; at once, if it was already. Called at most once,
    /// and dropped with the last clone of this otherwise. It should do no more
    /// than send a message, and must not hold the region: that would then never
    /// go.
    pub fn on_revoked(&self, listener: impl FnOnce(&str) + Send + 'static) {
        let mut listeners = self.listeners();
        match self.reason() {
            None => listeners.push(Box::new(listener)),
            Some(reason) => {
                drop(listeners);
                listener(reason);
            }
        }
    }

    /// For the device that has the memory: does not keep the flag alive.
    pub(crate) fn downgrade(&self) -> WeakRevocation {
        WeakRevocation(Arc::downgrade(&self.0))
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        // A list is whole at any moment.
        self.0
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revocation({:?})", self.reason())
    }
}

/// A [`Revocation`] that may be gone with its region.
pub(crate) struct WeakRevocation(Weak<Flag>);

impl WeakRevocation {
    pub(crate) fn upgrade(&self) -> Option<Revocation> {
        self.0.upgrade().map(Revocation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn the_first_reason_stands_and_is_told_once() {
        let revocation = Revocation::new();
        let (tell, told) = channel();
        revocation.on_revoked(move |reason| tell.send(reason.to_owned()).unwrap());
        assert!(!revocation.is_revoked() && revocation.reason().is_none());
        assert!(revocation.clone().revoke("unplugged"));
        assert!(!revocation.revoke("reset"));
        assert!(revocation.is_revoked());
        assert_eq!(revocation.reason(), Some("unplugged"));
        assert_eq!(told.iter().collect::<Vec<_>>(), ["unplugged"]);
    }

    #[test]
    fn who_asks_too_late_is_told_at_once() {
        let revocation = Revocation::new();
        revocation.revoke("unplugged");
        let (tell, told) = channel();
        revocation.on_revoked(move |reason| tell.send(reason.to_owned()).unwrap());
        assert_eq!(told.try_recv().unwrap(), "unplugged");
    }

    #[test]
    fn a_listener_may_look_revoke_and_listen_itself() {
        let revocation = Revocation::new();
        let (tell, told) = channel();
        let inner = revocation.clone();
        revocation.on_revoked(move |_| {
            assert!(inner.is_revoked() && !inner.revoke("again"));
            inner.on_revoked(move |reason| tell.send(reason.to_owned()).unwrap());
        });
        revocation.revoke("unplugged");
        assert_eq!(told.try_recv().unwrap(), "unplugged");
    }

    #[test]
    fn everyone_is_told_exactly_once_when_asking_and_revoking_race() {
        for _ in 0..200 {
            let revocation = Revocation::new();
            let (tell, told) = channel();
            std::thread::scope(|scope| {
                scope.spawn(|| revocation.revoke("unplugged"));
                let tell = tell;
                revocation.on_revoked(move |_| tell.send(()).unwrap());
            });
            assert_eq!(told.iter().count(), 1);
        }
    }
}
