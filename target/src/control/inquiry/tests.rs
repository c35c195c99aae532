use std::net::{IpAddr, Ipv4Addr};
use std::sync::Weak;

use sidelane_nvme::spec::{HostId, Nqn};
use sidelane_p2p::{PciAddress, ProcessMemory, Region};
use sidelane_transport::nic::{self, Access, AdapterState, NicCaps, QpNumber, RegisterError};
use sidelane_transport::soft;
use uuid::Uuid;

use super::*;
use crate::control::fetch_stats;
use crate::devices::ModelDevices;
use crate::initiator::{Endpoint, EndpointOptions, Host, HostOptions};
use crate::reactor::{Inbox, mailbox};
use crate::stats::Counts;
use crate::{Options, Target as Running};

/// An adapter whose device has counted one packet.
struct Device(NicCaps);

impl Device {
    fn shared() -> SharedAdapter {
        let caps = NicCaps {
            name: "dev0".to_owned(),
            max_sge: 1,
            max_send_wr: 1,
            max_srq_wr: 1,
            max_qp: 1,
            max_message: 1,
            max_rd_atomic: 1,
            send_invalidate: true,
        };
        SharedAdapter::new(Arc::new(Self(caps)))
    }
}

impl nic::Adapter for Device {
    fn caps(&self) -> &NicCaps {
        &self.0
    }

    fn state(&self) -> AdapterState {
        AdapterState::Up
    }

    fn pci(&self) -> Option<PciAddress> {
        None
    }

    fn try_register(&self, _: &Region, _: Access) -> Result<(), RegisterError> {
        Ok(())
    }

    fn counts(&self) -> Vec<Count> {
        vec![("rcvd_pkts".into(), 1)]
    }
}

fn counts(pairs: &[(&str, u64)]) -> Counts {
    pairs
        .iter()
        .map(|(name, n)| ((*name).to_owned(), *n))
        .collect()
}

/// Answers what waits in an inbox with one adapter that has one queue pair, and
/// says how many asked.
fn answer(inbox: &mut Inbox, packets: u64) -> usize {
    let mut asked = 0;
    while let Some(message) = inbox.take() {
        let ToReactor::Count(reply) = message else {
            panic!("{message:?}")
        };
        asked += 1;
        let pair = QueuePairCounts {
            qp: QpNumber(7),
            remote: Ipv4Addr::LOCALHOST.into(),
            queue: Some((Weak::new(), 1)),
            ending: true,
            counts: vec![("packets_in".into(), packets)],
        };
        let _ = reply.send(vec![NicCounts {
            counts: vec![("packets_in".into(), packets), ("naks".into(), 1)],
            queue_pairs: vec![pair],
        }]);
    }
    asked
}

#[tokio::test]
async fn reactors_are_summed_and_one_that_is_stuck_is_named() {
    let (boxes, mut inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| mailbox().unwrap()).unzip();
    let (managers, mut asked) = mpsc::channel(1);
    let offered = Target::new("1", "Sidelane", "1").unwrap();
    let mut inquiry = Inquiry::new(
        boxes.into_iter().enumerate(),
        [Device::shared()],
        managers,
        offered,
    );
    for round in 1..=3 {
        let asking = inquiry.ask();
        let answering = async {
            // Mail is there once the question was first polled.
            tokio::task::yield_now().await;
            let reply: oneshot::Sender<_> = asked.recv().await.unwrap();
            let _ = reply.send(Vec::new());
            assert_eq!(answer(&mut inboxes[0], 10 * round), 1);
            assert_eq!(answer(&mut inboxes[2], round), 1);
        };
        let (report, ()) = tokio::join!(asking, answering);
        assert_eq!(report.silent, ["the reactor on core 1"]);
        let adapter = &report.adapters[0];
        assert_eq!(
            adapter.counts,
            counts(&[("packets_in", 11 * round), ("naks", 2)])
        );
        assert_eq!(adapter.device, counts(&[("rcvd_pkts", 1)]));
        let pairs: Vec<_> = report
            .queue_pairs
            .iter()
            .map(|it| (it.core, it.qp))
            .collect();
        assert_eq!(pairs, [(0, 7), (2, 7)]);
        // Its controller is gone.
        assert_eq!(report.queue_pairs[0].queue, None);
    }
    // However often it was asked.
    assert_eq!(answer(&mut inboxes[1], 5), 1);
    // What it says late is not taken for what is so now.
    let asking = inquiry.ask();
    let answering = async {
        let reply: oneshot::Sender<_> = asked.recv().await.unwrap();
        let _ = reply.send(Vec::new());
        for inbox in &mut inboxes {
            assert_eq!(answer(inbox, 100), 1);
        }
    };
    let (report, ()) = tokio::join!(asking, answering);
    assert_eq!(report.silent, Vec::<String>::new());
    assert_eq!(report.adapters[0].counts["packets_in"], 300);
}

#[tokio::test]
async fn what_has_ended_is_silent_at_once() {
    let (mailbox, inbox) = mailbox().unwrap();
    drop(inbox);
    let (managers, asked) = mpsc::channel(1);
    drop(asked);
    let offered = Target::new("1", "Sidelane", "1").unwrap();
    let mut inquiry = Inquiry::new([(4, mailbox)], [], managers, offered);
    let report = inquiry.ask().await;
    assert_eq!(
        report.silent,
        ["connection management", "the reactor on core 4"]
    );
}

/// An address that nobody else is likely to have.
fn address() -> IpAddr {
    let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
    Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)).into()
}

#[test]
fn a_running_target_tells_of_its_adapter_and_of_each_queue_pair() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let here = address();
    let config = format!(
        r#"
[target]
cores = [0]
control = "{}"
[[listener]]
id = "front"
nic = "soft"
address = "{here}"
[[subsystem]]
nqn = "nqn.2026-11.io.sidelane:disk"
hosts = ["nqn.2026-11.io.sidelane:host"]
[[subsystem.namespace]]
nsid = 1
backend = {{ kind = "null", size = "1 MiB" }}
p2p = "off"
"#,
        control.display()
    );
    let config = sidelane_config::Config::parse(&config, "test").unwrap();
    let bus = sidelane_nvme::model::ModelBus::new();
    let target = Running::start(&config, ModelDevices::new(bus, []), Options::default()).unwrap();

    let (mut nics, cm) = soft::open(address(), 1).unwrap();
    let sizes = EndpointOptions {
        io_queues: 2,
        depth: 8,
        data_len: 4096,
    };
    let nic = Box::new(nics.pop().unwrap());
    let mut endpoint = Endpoint::open(nic, Box::new(cm), &ProcessMemory, sizes).unwrap();
    let name = |text: &str| text.parse::<Nqn>().unwrap();
    let mut options = HostOptions::new(
        config.listeners[0].socket_address(),
        name("nqn.2026-11.io.sidelane:disk"),
        name("nqn.2026-11.io.sidelane:host"),
        HostId([1; 16]),
    );
    (options.io_queues, options.depth) = (2, 8);
    let host = Host::connect(&mut endpoint, options).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let report = runtime.block_on(fetch_stats(&control)).unwrap();
    let network = report.network;
    assert_eq!(network.silent, Vec::<String>::new());
    let [adapter] = &network.adapters[..] else {
        panic!("{network:?}")
    };
    assert_eq!(
        (adapter.nic.clone(), &*adapter.state),
        (format!("soft {here}"), "up")
    );
    assert!(adapter.counts["packets_in"] > 0, "{adapter:?}");
    assert_eq!(adapter.counts["receive_queue_low"], 0);
    let [manager] = &network.connection_managers[..] else {
        panic!("{network:?}")
    };
    assert_eq!(manager.nics, [format!("soft {here}")]);
    assert!(manager.counts["cm.received"] >= 3, "{manager:?}");
    let queues: Vec<_> = network
        .queue_pairs
        .iter()
        .map(|it| it.queue.clone().unwrap())
        .collect();
    let expected = |qid| QueueReport {
        nqn: "nqn.2026-11.io.sidelane:disk".to_owned(),
        cntlid: report.target.controllers[0].cntlid,
        host: "nqn.2026-11.io.sidelane:host".to_owned(),
        qid,
    };
    assert_eq!(queues.len(), 3, "{queues:?}");
    for qid in 0..3 {
        assert!(queues.contains(&expected(qid)), "{queues:?}");
    }
    host.disconnect().unwrap();
    target.stop().unwrap();
}
