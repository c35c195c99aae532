//! The state machine over a double of librdmacm and the kernel behind it.

mod attrs;
mod devices;
mod double;
mod endings;
mod listeners;
mod random;
mod requests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::double::{Double, Handle};
use super::{Bounds, RdmaCm};
use crate::cm::{CmEvent, ConnId, ConnParams, ConnectionManager};
use crate::nic::QpNumber;
use crate::verbs::OpenError;
use crate::verbs::cm::calls::{CallKind, CmId};

/// Two devices: rxe0 with the first two addresses, rxe1 with the third.
const V4: &str = "192.0.2.1:4420";
const V6: &str = "[2001:db8::1]:4420";
const OTHER: &str = "192.0.2.2:4420";

const BOUNDS: Bounds = Bounds {
    connections: 6,
    half_open: 3,
};

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A manager, the kernel under it, and a clock.
struct Pair {
    cm: RdmaCm,
    kernel: Handle,
    now: Instant,
}

impl Pair {
    fn bind(listen: &[&str]) -> Result<Self, OpenError> {
        Self::over(Handle::default(), listen)
    }

    fn over(kernel: Handle, listen: &[&str]) -> Result<Self, OpenError> {
        let listen: Vec<_> = listen.iter().map(|text| addr(text)).collect();
        let mut cm = RdmaCm::over(Box::new(Double::new(&kernel)), &listen, BOUNDS)?;
        cm.set_adapters(vec!["rxe0".to_owned(), "rxe1".to_owned()]);
        Ok(Self {
            cm,
            kernel,
            now: Instant::now(),
        })
    }

    /// Listens on all of them.
    fn new(listen: &[&str]) -> Self {
        let mut this = Self::bind(listen).unwrap();
        for text in listen {
            this.cm.listen(addr(text)).unwrap();
        }
        this
    }

    fn poll(&mut self) -> Vec<CmEvent> {
        std::iter::from_fn(|| self.cm.poll(self.now)).collect()
    }

    fn pass(&mut self, time: Duration) -> Vec<CmEvent> {
        self.now += time;
        self.poll()
    }

    /// A request that was told to the consumer.
    fn requested(&mut self) -> ConnId {
        let id = self.kernel.request("rxe0");
        let told = self.poll();
        assert!(
            matches!(told[..], [CmEvent::ConnectRequest { id: told, .. }] if told == conn(id)),
            "{told:?}"
        );
        conn(id)
    }

    fn accepted(&mut self) -> ConnId {
        let id = self.requested();
        self.cm.accept(id, params(), self.now).unwrap();
        id
    }

    fn up(&mut self) -> ConnId {
        let id = self.accepted();
        assert_eq!(
            self.tell(id, CallKind::Established, 0),
            [CmEvent::Established { id }]
        );
        id
    }

    /// What the consumer hears of an event of the kernel's.
    fn tell(&mut self, id: ConnId, kind: CallKind, status: i32) -> Vec<CmEvent> {
        self.kernel.event(CmId(id.0), kind, status);
        self.poll()
    }
}

fn conn(id: CmId) -> ConnId {
    ConnId(id.0)
}

fn params() -> ConnParams {
    ConnParams {
        qp: QpNumber(17),
        private_data: Bytes::from_static(b"hello"),
    }
}
