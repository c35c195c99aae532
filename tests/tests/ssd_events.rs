//! What an SSD says of its health by itself, and which hosts hear of it.

use std::time::Duration;

use anyhow::ensure;
use sidelane_nvme::model::ModelEvent;
use sidelane_nvme::spec::{
    AdminOpcode, AsyncEventConfig, AsyncEventResult, AsyncEventType, CriticalWarning, FeatureId,
    GetLogPage, GetLogPageCdw10, LogId, SetFeatures, SetFeaturesCdw10, SmartLog, Sqe,
};
use sidelane_tests::in_process::bench::{Bench, CAPSULE, DISK, GOOD};
use sidelane_tests::in_process::raw_host::{Association, RawHost, bare, with_sgl};
use zerocopy::{FromZeros, IntoBytes};

const NO_WARNING: CriticalWarning = CriticalWarning::new();
const SPARE: CriticalWarning = NO_WARNING.with_spare(true);
const TEMPERATURE: CriticalWarning = NO_WARNING.with_temperature(true);
const READ_ONLY: CriticalWarning = NO_WARNING.with_read_only(true);

/// Long enough for an event that must not come.
const A_WHILE: Duration = Duration::from_millis(100);

/// A host that holds a request for events.
struct Listener {
    host: RawHost,
    association: Association,
    /// The request.
    request: u16,
}

impl Listener {
    /// One that wants to hear of these warnings.
    fn new(bench: &Bench, subsystem: &str, wanted: CriticalWarning) -> anyhow::Result<Self> {
        let mut host = RawHost::new(bench.remote)?;
        host.hostnqn = GOOD.to_owned();
        let association = host.associate(subsystem, 32, 0)?;
        let config = AsyncEventConfig::new().with_smart(wanted.raw());
        let features = SetFeatures {
            cdw10: SetFeaturesCdw10::new().with_fid(FeatureId::AsyncEventConfig),
            cdw11: config.raw().into(),
            ..Sqe::new(AdminOpcode::SetFeatures.0, 0).into()
        };
        let set = host.transact(association.admin, bare(features.into()))?;
        ensure!(set.status().is_success(), "{}", set.status());
        let request = ask(&mut host, &association)?;
        Ok(Self {
            host,
            association,
            request,
        })
    }

    /// It is told of a health event of this kind (NVMe 2.0, figure 147), and asks
    /// for the next.
    fn hears(&mut self, kind: u8) -> anyhow::Result<()> {
        let told = self.host.response(self.association.admin, self.request)?;
        ensure!(told.status().is_success(), "{}", told.status());
        let expected = AsyncEventResult::new()
            .with_event_type(AsyncEventType::Smart)
            .with_information(kind)
            .with_log_page(0x02);
        let got = AsyncEventResult::from_raw(told.dw0.get());
        ensure!(got == expected, "{got:?}, not {expected:?}");
        self.request = ask(&mut self.host, &self.association)?;
        Ok(())
    }

    /// Nothing is told, though the connection is well.
    fn hears_nothing(&mut self) -> anyhow::Result<()> {
        self.host.linger(A_WHILE)?;
        self.host.csts(self.association.admin)?;
        let responses = &self.host.responses;
        ensure!(responses.is_empty(), "{responses:?}");
        Ok(())
    }

    /// The warnings of the SMART log, which is read.
    fn log(&mut self) -> anyhow::Result<CriticalWarning> {
        let sgl = self.host.keyed(0, 512);
        let command = GetLogPage {
            nsid: u32::MAX.into(),
            cdw10: GetLogPageCdw10::new().with_lid(LogId::Smart),
            ..with_sgl(Sqe::new(AdminOpcode::GetLogPage.0, 0), sgl).into()
        };
        let command = command.with_len_dwords(128);
        let end = self.host.transact(self.association.admin, command.into())?;
        ensure!(end.status().is_success(), "{}", end.status());
        let mut log = SmartLog::new_zeroed();
        self.host.data_read(0, log.as_mut_bytes())?;
        Ok(log.critical_warning)
    }

    fn leave(mut self) -> anyhow::Result<()> {
        self.host.disconnect(self.association.io)?;
        self.host.disconnect(self.association.admin)
    }
}

fn ask(host: &mut RawHost, association: &Association) -> anyhow::Result<u16> {
    let request = Sqe::new(AdminOpcode::AsyncEventRequest.0, 0);
    host.command(association.admin, bare(request))
}

/// Lets an SSD warn, and waits until the target has heard of it.
fn warn(bench: &Bench, ssd: usize, warning: CriticalWarning) -> anyhow::Result<()> {
    let events = bench.stats()?.ssds[ssd].health_events;
    bench.ssds[ssd].raise(ModelEvent::Health(warning));
    bench.until("the SSD's event", |stats| {
        stats.ssds[ssd].health_events > events
    })?;
    Ok(())
}

#[test]
fn a_warning_of_an_ssd_is_told_once_until_the_log_that_shows_it_was_read() -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let all = SPARE.with_temperature(true).with_read_only(true);
    let mut host = Listener::new(&bench, DISK, all)?;
    host.hears_nothing()?;
    ensure!(host.log()? == NO_WARNING);
    for (warning, kind) in [(SPARE, 2), (TEMPERATURE, 1), (READ_ONLY, 0), (SPARE, 2)] {
        warn(&bench, 1, warning)?;
        host.hears(kind)?;
        warn(&bench, 1, warning)?;
        host.hears_nothing()?;
        let shown = host.log()?;
        ensure!(shown == warning, "{shown:?}, not {warning:?}");
    }
    // All that stands has been read.
    host.hears_nothing()?;
    host.leave()?;
    bench.nothing_left()?;
    bench.stop()?;
    Ok(())
}

#[test]
fn hosts_hear_of_the_warnings_that_they_want_and_of_the_ssds_of_their_subsystem()
-> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut of_disk = Listener::new(&bench, DISK, TEMPERATURE)?;
    let mut deaf = Listener::new(&bench, DISK, NO_WARNING)?;
    let mut picky = Listener::new(&bench, DISK, SPARE)?;
    let mut of_capsule = Listener::new(&bench, CAPSULE, TEMPERATURE)?;
    warn(&bench, 0, TEMPERATURE)?;
    of_disk.hears(1)?;
    for other in [&mut deaf, &mut picky, &mut of_capsule] {
        other.hears_nothing()?;
    }
    ensure!(of_capsule.log()? == NO_WARNING);
    // Whoever looks sees it all the same.
    ensure!(deaf.log()? == TEMPERATURE && picky.log()? == TEMPERATURE);
    ensure!(of_disk.log()? == TEMPERATURE);

    warn(&bench, 2, TEMPERATURE)?;
    of_capsule.hears(1)?;
    for other in [&mut of_disk, &mut deaf, &mut picky] {
        other.hears_nothing()?;
    }
    for host in [of_disk, deaf, picky, of_capsule] {
        host.leave()?;
    }
    bench.nothing_left()?;
    bench.stop()?;
    Ok(())
}
