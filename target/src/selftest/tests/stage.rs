//! Modelled SSDs, and self-tests on them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;

use sidelane_config::Config;
use sidelane_nvme::driver::{Controller, DataPointer, IoCommand, Options};
use sidelane_nvme::model::{ModelBus, ModelCmb, ModelController, ModelNamespace, ModelOptions};
use sidelane_p2p::{DmaSpace, PciAddress};
use uuid::Uuid;

use super::double::{LazyNic, Manner};
use crate::devices::ModelDevices;
use crate::selftest::{Observer, SelftestOptions, SelftestReport, run_behind};

/// Bytes of each SSD.
const MEDIA: usize = 1 << 20;

/// Two SSDs on one bus, the first with a memory buffer of this length, both with
/// something on them.
pub struct Stage {
    bus: ModelBus,
    ssds: [ModelController; 2],
    has_cmb: bool,
}

impl Stage {
    pub fn new(cmb: usize) -> Self {
        Self::with(Some(ModelCmb::new(cmb)))
    }

    pub fn without_cmb() -> Self {
        Self::with(None)
    }

    fn with(cmb: Option<ModelCmb>) -> Self {
        let has_cmb = cmb.is_some();
        let bus = ModelBus::new();
        let ssd = |number, cmb| {
            let options = ModelOptions {
                address: PciAddress {
                    domain: 0,
                    bus: number,
                    device: 0,
                    function: 0,
                },
                namespaces: vec![ModelNamespace::of_bytes(MEDIA as u64)],
                cmb,
                ..ModelOptions::default()
            };
            ModelController::new(&bus, options)
        };
        let ssds = [ssd(3, cmb), ssd(4, None)];
        for ssd in &ssds {
            fill(&bus, ssd);
        }
        Self { bus, ssds, has_cmb }
    }

    fn media(&self) -> Vec<Vec<u8>> {
        let media = |ssd: &ModelController| {
            let mut media = vec![0; MEDIA];
            ssd.read_media(1, 0, &mut media).unwrap();
            media
        };
        self.ssds.iter().map(media).collect()
    }

    /// Runs a self-test, and shows that the media are as they were.
    pub fn run(
        &self,
        p2p: &str,
        options: &SelftestOptions,
        manner: Option<Manner>,
    ) -> SelftestReport {
        let stop = AtomicBool::new(false);
        self.run_until(p2p, options, manner, &stop)
    }

    pub fn run_until(
        &self,
        p2p: &str,
        options: &SelftestOptions,
        manner: Option<Manner>,
        stop: &AtomicBool,
    ) -> SelftestReport {
        let before = self.media();
        let devices = ModelDevices::new(self.bus.clone(), self.ssds.iter().cloned());
        let mut last = (0, 0);
        let report = run_behind(
            &config(p2p, self.has_cmb),
            &devices,
            options,
            &mut Observer {
                stop,
                progress: &mut |_, done, total| {
                    assert!(last.0 <= done && done <= total, "{last:?} {done} {total}");
                    last = (done, total);
                },
            },
            &mut |nic| match &manner {
                Some(manner) => Box::new(LazyNic::new(nic, manner.clone())),
                None => nic,
            },
        )
        .unwrap();
        assert!(before == self.media(), "a self-test has changed the media");
        report
    }
}

/// Something that differs from block to block, with a block of zeroes in it.
fn fill(bus: &ModelBus, ssd: &ModelController) {
    const PART: usize = 256 << 10;
    let controller = Controller::open(ssd.backing(), Options::default()).unwrap();
    let mut queue = controller.create_io_queue_pair(2).unwrap();
    let region = bus.host_region("media", PART).unwrap();
    for part in 0..MEDIA / PART {
        let mut bytes = vec![0; PART];
        for (at, byte) in bytes.iter_mut().enumerate().skip(4096) {
            *byte = (at / 512 + at + 3 * part) as u8;
        }
        region.view().write(0, &bytes).unwrap();
        let data = DataPointer {
            region: &region,
            offset: 0,
            len: PART,
        };
        let write = IoCommand::Write {
            nsid: 1,
            slba: (part * PART / 512) as u64,
            blocks: (PART / 512) as u32,
            data,
            fua: false,
        };
        queue.submit(write, 0).unwrap();
        queue.ring();
        let mut done = false;
        while !done {
            queue.poll(1, |end| done = end.status.is_success());
        }
    }
    drop(queue);
    controller.shutdown().unwrap();
}

/// Both SSDs by the first one's buffer, behind one adapter of this test's own.
fn config(p2p: &str, has_cmb: bool) -> Config {
    let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
    let address = IpAddr::from(Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)));
    let named = has_cmb && p2p != "off";
    let namespace = |nsid, bus| {
        format!(
            "[[subsystem.namespace]]\nnsid = {nsid}\n\
             backend = {{ kind = \"nvme\", device = \"0000:0{bus}:00.0\", nsid = 1 }}\n\
             p2p = \"{p2p}\"\n{}",
            if named { "provider = \"cmb\"\n" } else { "" }
        )
    };
    let provider = match has_cmb {
        true => "[[provider]]\nid = \"cmb\"\nkind = \"cmb\"\ndevice = \"0000:03:00.0\"\n",
        false => "",
    };
    let text = format!(
        "[target]\ncontrol = \"/nowhere/control.sock\"\ncores = [0, 1]\n\
         [[listener]]\nid = \"front\"\nnic = \"soft\"\naddress = \"{address}\"\n{provider}\
         [[subsystem]]\nnqn = \"nqn.2026-11.io.sidelane:test\"\n\
         hosts = [\"nqn.2026-11.io.sidelane:host\"]\n{}{}",
        namespace(1, 3),
        namespace(2, 4)
    );
    Config::parse(&text, "test").unwrap()
}
