//! librdmacm and the kernel, as far as a passive side sees them. It notes what
//! a caller must not do: use or destroy an identifier that is not there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{OTHER, V4, V6, addr};
use crate::nic::AddressVector;
use crate::verbs::cm::calls::{
    AcceptParam, CallAttrs, CallEvent, CallKind, CmCalls, CmId, Endpoint,
};

/// What the peer calls itself.
pub(super) const PEER: &str = "192.0.2.9:33333";

/// Attributes that the kernel gives for each request.
pub(super) const ATTRS: CallAttrs = CallAttrs {
    vector: AddressVector {
        port: 1,
        pkey_index: 0,
        sgid_index: 3,
        dgid: [7; 16],
        flow_label: 0x54321,
        hop_limit: 64,
        traffic_class: 0x20,
        is_global: true,
        dlid: 0,
        service_level: 0,
        source_path_bits: 0,
        static_rate: 0,
    },
    path_mtu: 3,
    remote_qpn: 0x1234,
    rq_psn: 11,
    sq_psn: 22,
    timeout: 17,
    retry_count: 6,
    rnr_retry: 5,
    device_initiator_depth: 16,
    device_responder_resources: 32,
};

/// An identifier.
#[derive(Debug)]
pub(super) struct Id {
    pub(super) at: Option<SocketAddr>,
    pub(super) device: Option<String>,
    pub(super) listens: bool,
    is_connection: bool,
}

#[derive(Debug)]
pub(super) struct Kernel {
    next: u64,
    pub(super) ids: BTreeMap<CmId, Id>,
    pub(super) devices: HashMap<IpAddr, String>,
    events: VecDeque<CallEvent>,
    /// Calls that fail, with these error numbers, until taken out.
    pub(super) fails: HashMap<&'static str, i32>,
    /// The calls that matter to peers, in order.
    pub(super) said: Vec<String>,
    /// Rules that were broken.
    pub(super) misuse: Vec<String>,
    pub(super) attrs: CallAttrs,
    /// Depths of the next requests: the kernel's, from the passive side's view.
    pub(super) depths: (u8, u8),
}

impl Default for Kernel {
    fn default() -> Self {
        let own = |text: &str, name: &str| (addr(text).ip(), name.to_owned());
        Self {
            next: 1,
            ids: BTreeMap::new(),
            devices: [own(V4, "rxe0"), own(V6, "rxe0"), own(OTHER, "rxe1")].into(),
            events: VecDeque::new(),
            fails: HashMap::new(),
            said: Vec::new(),
            misuse: Vec::new(),
            attrs: ATTRS,
            depths: (4, 8),
        }
    }
}

impl Kernel {
    fn new_id(&mut self, id: Id) -> CmId {
        let number = CmId(self.next);
        self.next += 1;
        self.ids.insert(number, id);
        number
    }

    fn may(&self, call: &'static str) -> io::Result<()> {
        match self.fails.get(call) {
            Some(&error) => Err(io::Error::from_raw_os_error(error)),
            None => Ok(()),
        }
    }

    fn get(&mut self, call: &'static str, id: CmId) -> io::Result<&mut Id> {
        self.may(call)?;
        if !self.ids.contains_key(&id) {
            self.misuse.push(format!("{call} of {id:?}, which is gone"));
        }
        self.ids
            .get_mut(&id)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

/// The kernel, shared between a test and the manager.
#[derive(Debug, Clone, Default)]
pub(super) struct Handle(Arc<Mutex<Kernel>>);

impl Handle {
    pub(super) fn lock(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }

    pub(super) fn fail(&self, call: &'static str, error: i32) {
        self.lock().fails.insert(call, error);
    }

    /// Broken rules and what was said to peers since the last time.
    pub(super) fn said(&self) -> Vec<String> {
        let mut kernel = self.lock();
        assert_eq!(kernel.misuse, [""; 0]);
        std::mem::take(&mut kernel.said)
    }

    /// A listener's identifier.
    pub(super) fn listener(&self, at: &str) -> Option<CmId> {
        let kernel = self.lock();
        let mut ids = kernel.ids.iter();
        ids.find(|(_, id)| id.at == Some(addr(at)) && !id.is_connection)
            .map(|(number, _)| *number)
    }

    pub(super) fn listens(&self, at: &str) -> bool {
        let id = self.listener(at);
        id.is_some_and(|id| self.lock().ids[&id].listens)
    }

    /// A peer asks for a connection by this device.
    pub(super) fn request(&self, device: &str) -> CmId {
        let mut kernel = self.lock();
        let id = kernel.new_id(Id {
            at: Some(addr(V4)),
            device: Some(device.to_owned()),
            listens: false,
            is_connection: true,
        });
        let (responder_resources, initiator_depth) = kernel.depths;
        kernel.events.push_back(CallEvent {
            id,
            kind: CallKind::ConnectRequest,
            status: 0,
            responder_resources,
            initiator_depth,
            private_data: Bytes::from_static(b"private"),
        });
        id
    }

    /// Something happens to an identifier, if it is there.
    pub(super) fn event(&self, id: CmId, kind: CallKind, status: i32) {
        let mut kernel = self.lock();
        if kernel.ids.contains_key(&id) {
            kernel.events.push_back(CallEvent {
                id,
                kind,
                status,
                responder_resources: 0,
                initiator_depth: 0,
                private_data: Bytes::new(),
            });
        }
    }

    /// A device is pulled out: all that was bound to it hears of it.
    pub(super) fn remove_device(&self, device: &str) {
        let mut kernel = self.lock();
        kernel.devices.retain(|_, name| name != device);
        let all = kernel.ids.iter();
        let ids = all.filter(|(_, id)| id.device.as_deref() == Some(device));
        let ids: Vec<CmId> = ids.map(|(number, _)| *number).collect();
        drop(kernel);
        for id in ids {
            self.event(id, CallKind::DeviceRemoval, 0);
        }
    }

    pub(super) fn add_device(&self, at: &str, device: &str) {
        self.lock().devices.insert(addr(at).ip(), device.to_owned());
    }
}

/// What the manager holds.
pub(super) struct Double {
    kernel: Handle,
    fd: File,
}

impl Double {
    pub(super) fn new(kernel: &Handle) -> Self {
        Self {
            kernel: kernel.clone(),
            fd: File::open("/dev/null").unwrap(),
        }
    }
}

impl CmCalls for Double {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn create(&mut self) -> io::Result<CmId> {
        let mut kernel = self.kernel.lock();
        kernel.may("create")?;
        Ok(kernel.new_id(Id {
            at: None,
            device: None,
            listens: false,
            is_connection: false,
        }))
    }

    fn bind(&mut self, id: CmId, at: SocketAddr) -> io::Result<()> {
        let mut kernel = self.kernel.lock();
        let device = kernel.devices.get(&at.ip()).cloned();
        if kernel
            .ids
            .values()
            .any(|other| other.at == Some(at) && !other.is_connection)
        {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        let id = kernel.get("bind", id)?;
        if device.is_none() && !at.ip().is_unspecified() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        (id.at, id.device) = (Some(at), device);
        Ok(())
    }

    fn listen(&mut self, id: CmId, backlog: i32) -> io::Result<()> {
        assert!(backlog > 0);
        self.kernel.lock().get("listen", id)?.listens = true;
        Ok(())
    }

    fn endpoint(&self, id: CmId) -> io::Result<Endpoint> {
        let mut kernel = self.kernel.lock();
        let id = kernel.get("endpoint", id)?;
        Ok(Endpoint {
            device: id.device.clone(),
            local: id.at,
            remote: id.is_connection.then(|| addr(PEER)),
        })
    }

    fn qp_attrs(&mut self, id: CmId) -> io::Result<CallAttrs> {
        let mut kernel = self.kernel.lock();
        kernel.get("qp_attrs", id)?;
        Ok(kernel.attrs)
    }

    fn accept(&mut self, id: CmId, param: AcceptParam<'_>) -> io::Result<()> {
        let mut kernel = self.kernel.lock();
        kernel.get("accept", id)?;
        kernel.said.push(format!(
            "accept qp {} resources {} depth {} rnr {} {:?}",
            param.qp,
            param.responder_resources,
            param.initiator_depth,
            param.rnr_retry,
            Bytes::copy_from_slice(param.private_data),
        ));
        Ok(())
    }

    fn reject(&mut self, id: CmId, private_data: &[u8]) -> io::Result<()> {
        let mut kernel = self.kernel.lock();
        kernel.get("reject", id)?;
        kernel.said.push(format!("reject {private_data:?}"));
        Ok(())
    }

    fn disconnect(&mut self, id: CmId) -> io::Result<()> {
        let mut kernel = self.kernel.lock();
        kernel.get("disconnect", id)?;
        kernel.said.push("disconnect".to_owned());
        Ok(())
    }

    fn destroy(&mut self, id: CmId) {
        let mut kernel = self.kernel.lock();
        // As the kernel does: nothing is heard of it any more.
        kernel.events.retain(|event| event.id != id);
        match kernel.ids.remove(&id) {
            Some(old) if old.is_connection => kernel.said.push("destroy".to_owned()),
            Some(_) => {}
            None => kernel
                .misuse
                .push(format!("destroy of {id:?}, which is gone")),
        }
    }

    fn next_event(&mut self) -> io::Result<Option<CallEvent>> {
        let mut kernel = self.kernel.lock();
        kernel.may("next_event")?;
        Ok(kernel.events.pop_front())
    }
}
