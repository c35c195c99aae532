//! Memory on an SSD that payload goes by: taken away with the SSD, and given back
//! with it.

use sidelane_nvme::Backing;
use sidelane_nvme::driver::Controller;
use sidelane_p2p::pool::PoolSpec;
use sidelane_p2p::{PciAddress, Placement, Region, Revocation};

use crate::reactor::{Install, Mailbox, ToReactor};
use crate::target::memory::reopen;

/// A pool of memory on an SSD.
pub(in crate::target) struct Kept {
    /// Its number in routes.
    pool: usize,
    /// The region's name, by which it is found again.
    name: String,
    /// The end of the part that is used.
    end: usize,
    /// Of the region in use; does not keep it.
    revocation: Revocation,
}

impl Kept {
    /// The pools on a device, from all reactors' shares. Pool `n` of the shares
    /// is `n + 1` in routes.
    pub(in crate::target) fn of(device: PciAddress, shares: &[Vec<PoolSpec>]) -> Vec<Self> {
        let of = |pool: usize, spec: &PoolSpec| {
            let here = matches!(spec.region.placement(), Placement::Peer { device: its, .. } if its == device);
            let ends = shares.iter().filter_map(|shares| shares.get(pool));
            here.then(|| Self {
                pool: pool + 1,
                name: spec.region.name().to_owned(),
                end: ends.map(|share| share.range.end).max().unwrap_or_default(),
                revocation: spec.region.revocation().clone(),
            })
        };
        let first = shares.first().into_iter().flatten().enumerate();
        first.filter_map(|(pool, spec)| of(pool, spec)).collect()
    }

    /// Takes it away from whoever uses it.
    pub(super) fn revoke(&self, reason: &str) {
        self.revocation.revoke(reason);
    }

    /// Gives it back to the reactors, from the SSD that is back.
    ///
    /// # Errors
    /// When the SSD has it no more, or not as it was.
    pub(super) fn give_back<B: Backing>(
        &mut self,
        controller: &Controller<B>,
        reactors: &[Mailbox],
    ) -> anyhow::Result<()> {
        let region = reopen(controller, &self.name)?;
        let mut spec = PoolSpec::new(region.clone());
        spec.range.end = spec.range.end.min(self.end);
        anyhow::ensure!(
            spec.range.end == self.end,
            "it is shorter than before: {:#x} bytes instead of {:#x}",
            spec.range.end,
            self.end
        );
        self.revocation = region.revocation().clone();
        for (reactor, spec) in reactors.iter().zip(spec.split(reactors.len())) {
            let pool = self.pool;
            reactor.send(ToReactor::Install(Install { pool, spec }));
            tell_revoked(&region, reactor);
        }
        Ok(())
    }

    /// Its name, for people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Has a reactor told when a region is taken away.
pub(in crate::target) fn tell_revoked(region: &Region, reactor: &Mailbox) {
    let (mailbox, id) = (reactor.clone(), region.id());
    region.revocation().on_revoked(move |_| {
        mailbox.send(ToReactor::Revoked(id));
    });
}
