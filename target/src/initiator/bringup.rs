//! From nothing to a controller that is ready (Base 3.5.1), and back (3.6.1).

use std::time::{Duration, Instant};

use sidelane_nvme::spec::{
    CNTLID_DYNAMIC, Cap, Cc, Cns, Csts, IdentifyController, IdentifyNamespace, NSID_ALL,
    NamespaceList, Nqn, NumberOfQueues, ShutdownNotification, ShutdownStatus, Version, offset,
};

use super::host::{Data, Host};
use super::memory::ADMIN_DATA_LEN;
use super::options::ADMIN_QUEUE_ENTRIES;
use super::{ControllerInfo, Endpoint, HostError, HostOptions, NamespaceInfo, command};

/// Namespaces that this host looks at.
const NAMESPACES_MAX: usize = 1024;

/// How long the connections may take to end before they are left alone.
const END_WITHIN: Duration = Duration::from_secs(2);

impl<'a> Host<'a> {
    /// Connects to a subsystem: admin queue, controller, namespaces, I/O queues.
    ///
    /// # Errors
    /// When any step is refused, fails or takes too long. What was connected by
    /// then is disconnected again, and the endpoint can be used for another try.
    pub fn connect(endpoint: &'a mut Endpoint, options: HostOptions) -> Result<Self, HostError> {
        let sizes = &endpoint.options;
        if options.hostid.is_zero() {
            return Err(HostError::Options(
                "the host identifier must not be all zero".to_owned(),
            ));
        }
        if !(1..=sizes.io_queues).contains(&options.io_queues)
            || !(2..=sizes.depth).contains(&options.depth)
        {
            return Err(HostError::Options(format!(
                "{} I/O queues of {} entries asked for; the endpoint was opened for {} of {}",
                options.io_queues, options.depth, sizes.io_queues, sizes.depth
            )));
        }
        let mut host = Self::new(endpoint, options);
        let subnqn = host.options.subnqn.clone();
        let cap = host.enable(&subnqn)?;
        let entries = host.identify_controller(cap, &subnqn)?;
        host.identify_namespaces()?;
        let queues = host.negotiate_queues()?;
        for qid in 1..=queues {
            let cntlid = host.open_queue(qid, entries, host.controller.cntlid, &subnqn)?;
            if cntlid != host.controller.cntlid {
                let what = format!(
                    "queue of controller {} joined {cntlid}",
                    host.controller.cntlid
                );
                return Err(HostError::protocol(qid, what));
            }
        }
        Ok(host)
    }

    /// Connects the admin queue and makes the controller ready.
    pub(super) fn enable(&mut self, subnqn: &Nqn) -> Result<Cap, HostError> {
        let cntlid = self.open_queue(0, ADMIN_QUEUE_ENTRIES, CNTLID_DYNAMIC, subnqn)?;
        self.controller.cntlid = cntlid;
        if self.options.kato_ms > 0 {
            let every = Duration::from_millis(u64::from(self.options.kato_ms)) / 2;
            self.keep_alive_at = Some(Instant::now() + every);
        }
        let cap = Cap::from_bits(self.property(offset::CAP, true)?.into());
        let version = Version::from_bits((self.property(offset::VS, false)? as u32).into());
        self.controller.version = (version.major(), version.minor(), version.tertiary());
        if cap.mpsmin() > 0 {
            let what = format!("its smallest memory page is {} KiB", 4u64 << cap.mpsmin());
            return Err(HostError::Unusable(what));
        }
        self.set_property(offset::CC, enabled().into_bits().get())?;
        // CAP.TO is in units of 500 ms; a controller may take that long.
        let ready_within = Duration::from_millis(u64::from(cap.to().max(1)) * 500);
        self.await_status("the controller to get ready", ready_within, |csts| {
            csts.rdy()
        })?;
        Ok(cap)
    }

    fn property(&mut self, at: u32, wide: bool) -> Result<u64, HostError> {
        let sqe = command::property_get(at, wide);
        Ok(self.command("Property Get", 0, sqe, Data::None)?.result())
    }

    fn set_property(&mut self, at: u32, value: u32) -> Result<(), HostError> {
        self.command(
            "Property Set",
            0,
            command::property_set(at, value),
            Data::None,
        )?;
        Ok(())
    }

    fn await_status(
        &mut self,
        what: &'static str,
        after: Duration,
        reached: impl Fn(&Csts) -> bool,
    ) -> Result<(), HostError> {
        let deadline = Instant::now() + after;
        let mut pause = Duration::from_millis(1);
        loop {
            let csts = Csts::from_bits((self.property(offset::CSTS, false)? as u32).into());
            if reached(&csts) {
                return Ok(());
            }
            if csts.cfs() {
                let what = "it reports a fatal error (CSTS.CFS)".to_owned();
                return Err(HostError::Unusable(what));
            }
            if Instant::now() >= deadline {
                return Err(HostError::Timeout { what, after });
            }
            let until = Instant::now() + pause;
            while Instant::now() < until {
                self.pump()?;
                self.sleep(until)?;
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Reads a structure of up to 4096 bytes by an admin command.
    fn identify<T>(&mut self, cns: Cns, nsid: u32) -> Result<Box<T>, HostError>
    where
        T: zerocopy::FromBytes + zerocopy::IntoBytes,
    {
        self.endpoint.memory.admin_clear()?;
        let sge = self.endpoint.memory.admin_sge(ADMIN_DATA_LEN);
        self.command(
            "Identify",
            0,
            command::identify(cns, nsid),
            Data::Keyed(sge),
        )?;
        Ok(self.endpoint.memory.admin_read()?)
    }

    fn identify_controller(&mut self, cap: Cap, subnqn: &Nqn) -> Result<u16, HostError> {
        let data: Box<IdentifyController> = self.identify(Cns::Controller, 0)?;
        let (cntlid, (major, minor, tertiary)) = (self.controller.cntlid, self.controller.version);
        if data.cntlid.get() != cntlid {
            let what = format!("controller {cntlid} calls itself {}", data.cntlid);
            return Err(HostError::protocol(0, what));
        }
        if data.subnqn.to_str() != Ok(subnqn.as_str()) {
            let what = format!("{subnqn} calls itself {:?}", data.subnqn);
            return Err(HostError::protocol(0, what));
        }
        let version = Version::of(major, minor, tertiary);
        self.controller = ControllerInfo::new(cap, version, &data, self.options.in_capsule_max)?;
        let entries = ControllerInfo::entries(cap, &data, self.options.depth);
        self.controller.queue_entries = entries;
        Ok(entries)
    }

    fn identify_namespaces(&mut self) -> Result<(), HostError> {
        let mut last = 0;
        loop {
            let list: Box<NamespaceList> = self.identify(Cns::ActiveNamespaces, last)?;
            let mut count = 0;
            for nsid in list.iter() {
                if nsid <= last || nsid == NSID_ALL || self.namespaces.len() == NAMESPACES_MAX {
                    let what = format!("namespace {nsid} follows {last} in a list of at most 1024");
                    return Err(HostError::protocol(0, what));
                }
                (last, count) = (nsid, count + 1);
                let data: Box<IdentifyNamespace> = self.identify(Cns::Namespace, nsid)?;
                match NamespaceInfo::new(nsid, &data, self.controller.max_transfer) {
                    Ok(info) => self.namespaces.push(info),
                    Err(why) => tracing::warn!(nsid, why, "namespace left out"),
                }
            }
            if count < list.nsids.len() {
                return Ok(());
            }
        }
    }

    fn negotiate_queues(&mut self) -> Result<u16, HostError> {
        let wanted = self.options.io_queues;
        let sqe = command::number_of_queues(wanted);
        let cqe = self.command("Set Features (Number of Queues)", 0, sqe, Data::None)?;
        let given = NumberOfQueues::from_bits(cqe.dw0);
        let given = given
            .submission_z()
            .min(given.completion_z())
            .saturating_add(1);
        Ok(wanted.min(given))
    }

    /// Waits for what is outstanding, ends the I/O queues, shuts the controller
    /// down and ends the admin queue.
    ///
    /// # Errors
    /// When the target does not go along in time. The connections are ended all
    /// the same.
    pub fn disconnect(mut self) -> Result<(), HostError> {
        let deadline = Instant::now() + self.options.timeout;
        while self.queues.iter().any(|queue| queue.outstanding() > 0) {
            self.pump()?;
            self.discard_ready();
            if Instant::now() >= deadline {
                let after = self.options.timeout;
                return Err(HostError::Timeout {
                    what: "outstanding commands",
                    after,
                });
            }
            self.sleep(deadline)?;
        }
        self.shut_down()?;
        self.end_queues(0);
        Ok(())
    }

    fn discard_ready(&mut self) {
        while let Some((qid, finished)) = self.ready.pop_front() {
            self.queues[usize::from(qid)].give_back(finished.place);
        }
    }

    /// Ends the I/O queues and tells the controller to shut down.
    pub(super) fn shut_down(&mut self) -> Result<(), HostError> {
        // A controller that shuts down takes no Keep Alive any more: none may
        // come due, and none be on its way.
        self.keep_alive_at = None;
        let deadline = Instant::now() + self.options.timeout;
        while self.keep_alive_out {
            self.turn(deadline, "Keep Alive")?;
        }
        self.end_queues(1);
        let cc = enabled()
            .with_shn(ShutdownNotification::Normal)
            .into_bits()
            .get();
        self.set_property(offset::CC, cc)?;
        let within = self.options.timeout;
        self.await_status("the controller to shut down", within, |csts| {
            csts.shst() == ShutdownStatus::Complete
        })
    }

    /// Ends the connections of queue `from` and all after it, waiting a while for
    /// the target to agree. Never fails: what does not end in time is dropped.
    fn end_queues(&mut self, from: usize) {
        self.ending = true;
        let now = Instant::now();
        for queue in self.queues.iter().skip(from).filter(|queue| !queue.ended) {
            let ended = self.endpoint.nic.error_qp(queue.qp);
            let told = self.endpoint.cm.disconnect(queue.conn, now);
            if ended.is_err() || told.is_err() {
                tracing::debug!(qid = queue.qid, "the connection was gone already");
            }
        }
        let deadline = now + END_WITHIN;
        loop {
            let moved = self.pump();
            let all_ended = self.queues.iter().skip(from).all(|queue| queue.ended);
            if all_ended || Instant::now() >= deadline || moved.is_err() {
                break;
            }
            if self.sleep(deadline).is_err() {
                break;
            }
        }
        for queue in self.queues.drain(from.min(self.queues.len())..) {
            self.endpoint.nic.destroy_qp(queue.qp);
        }
        self.ending = false;
    }
}

/// Ends what is still connected, so that the endpoint can be used again.
impl Drop for Host<'_> {
    fn drop(&mut self) {
        self.keep_alive_at = None;
        self.end_queues(0);
    }
}

/// CC of an enabled controller: NVM command set, pages of 4 KiB, entries of 64
/// and 16 bytes.
fn enabled() -> Cc {
    Cc::new().with_en(true).with_iosqes(6).with_iocqes(4)
}
