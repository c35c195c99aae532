//! Proof that an SSD and memory reach each other, before anything relies on it.
//!
//! Neither a route in the topology nor a good status proves a leg: accesses that
//! a bridge or the device itself drops can still complete with status 0. So one
//! block is moved and compared. Nothing is written to the SSD: the way out of
//! the memory is tried by the Compare command.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sidelane_nvme::Backing;
use sidelane_nvme::driver::{Controller, DataPointer, IoCommand, IoQueuePair};
use sidelane_nvme::spec::Status;
use sidelane_p2p::Region;
use sidelane_p2p::provider::OwnUse;

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What the memory holds before a read puts data there. Two patterns: a block
/// that happens to look like one does not look like the other.
const BEFORE: [u8; 2] = [0xa5, 0x5a];

/// Tries the legs between a namespace's first block and the start of `region`,
/// as far as `uses` says that they are wanted. Says what was tried.
///
/// # Errors
/// When data does not arrive as it should, or a command fails.
pub(super) fn prove<B: Backing>(
    controller: &Controller<B>,
    nsid: u32,
    region: &Region,
    uses: OwnUse,
) -> anyhow::Result<&'static str> {
    let namespaces = controller.namespaces();
    let namespace = namespaces.iter().find(|namespace| namespace.nsid == nsid);
    let block = namespace.context("no such namespace")?.block_bytes as usize;
    ensure!(block <= region.len(), "the memory is shorter than a block");
    let mut queue = controller.create_io_queue_pair(2)?;
    let data = DataPointer {
        region,
        offset: 0,
        len: block,
    };
    let mut leg = Leg {
        queue: &mut queue,
        nsid,
        data,
    };
    // Found by reading where that is allowed; else all that is known of the
    // block is that it cannot differ from itself in two ways.
    if uses.reads {
        leg.read_lands()?;
    }
    if !uses.writes {
        return Ok("read leg proved by a compared transfer");
    }
    if !uses.reads || !controller.identify().oncs.compare() {
        return Ok(
            "write leg not proved: the SSD has no Compare command, or cannot read into this memory",
        );
    }
    leg.compare_sees()?;
    Ok("both legs proved by compared transfers")
}

struct Leg<'a, B: Backing> {
    queue: &'a mut IoQueuePair<B>,
    nsid: u32,
    data: DataPointer<'a>,
}

impl<B: Backing> Leg<'_, B> {
    /// The same block arrives whatever the memory held before.
    fn read_lands(&mut self) -> anyhow::Result<()> {
        let (nsid, data) = (self.nsid, self.data);
        let mut seen = Vec::new();
        for before in BEFORE {
            data.region
                .view()
                .write(data.offset, &vec![before; data.len])?;
            let status = self.run(IoCommand::Read {
                nsid,
                slba: 0,
                blocks: 1,
                data,
            })?;
            ensure!(status.is_success(), "a read failed: {status}");
            seen.push(self.held()?);
        }
        if seen.first() != seen.last() {
            bail!("a read completed with success, and its data did not arrive");
        }
        Ok(())
    }

    /// The SSD sees what the memory holds, and sees it change.
    fn compare_sees(&mut self) -> anyhow::Result<()> {
        let (nsid, data) = (self.nsid, self.data);
        let compare = IoCommand::Compare {
            nsid,
            slba: 0,
            blocks: 1,
            data,
        };
        let same = self.run(compare)?;
        ensure!(
            same.is_success(),
            "the SSD does not see the data that the memory holds: {same}"
        );
        let mut held = self.held()?;
        for byte in &mut held {
            *byte ^= 0xff;
        }
        data.region.view().write(data.offset, &held)?;
        let other = self.run(compare)?;
        ensure!(
            other.same_code(Status::COMPARE_FAILURE),
            "the SSD does not see that the memory's data has changed: {other}"
        );
        Ok(())
    }

    fn held(&self) -> anyhow::Result<Vec<u8>> {
        let mut held = vec![0; self.data.len];
        self.data.region.view().read(self.data.offset, &mut held)?;
        Ok(held)
    }

    fn run(&mut self, command: IoCommand<'_>) -> anyhow::Result<Status> {
        // What the CPU wrote is to be there before the doorbell.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.queue.submit(command, 0)?;
        self.queue.ring();
        let since = Instant::now();
        let mut status = None;
        while status.is_none() {
            self.queue.poll(1, |end| status = Some(end.status));
            ensure!(
                since.elapsed() < LIMIT,
                "a command did not end within {} s",
                LIMIT.as_secs()
            );
            std::thread::yield_now();
        }
        status.context("no status")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidelane_nvme::driver::Options;
    use sidelane_nvme::model::{ModelBus, ModelController, ModelOptions};
    use sidelane_p2p::{DmaSpace, MemView, Placement};

    const BOTH: OwnUse = OwnUse {
        reads: true,
        writes: true,
    };

    #[test]
    fn memory_that_the_ssd_reaches_is_proved_and_its_media_stay_as_they_were() {
        let bus = ModelBus::new();
        let model = ModelController::new(&bus, ModelOptions::default());
        let controller = Controller::open(model.backing(), Options::default()).unwrap();
        let region = bus.host_region("test", 4096).unwrap();
        let said = prove(&controller, 1, &region, BOTH).unwrap();
        assert!(said.contains("both legs"), "{said}");
        let mut media = [1; 512];
        model.read_media(1, 0, &mut media).unwrap();
        assert_eq!(media, [0; 512]);
    }

    /// Memory at an address where other memory answers: every command succeeds,
    /// and nothing arrives.
    #[test]
    fn memory_that_only_seems_to_be_reached_is_found_out() {
        let bus = ModelBus::new();
        let model = ModelController::new(&bus, ModelOptions::default());
        let controller = Controller::open(model.backing(), Options::default()).unwrap();
        let real = bus.host_region("test", 4096).unwrap();
        let elsewhere = MemView::anonymous(4096);
        let region = Region::new(
            "liar",
            Placement::Host,
            real.iova(),
            elsewhere,
            Box::new(real.clone()),
        );
        let error = prove(&controller, 1, &region, BOTH).unwrap_err();
        assert!(error.to_string().contains("did not arrive"), "{error}");
    }
}
