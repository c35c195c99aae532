//! Shows what a peer's connection management says: listens for NVMe over RDMA,
//! accepts (or refuses) what comes, and ends each connection after a while. There
//! is no queue pair behind it, so no command is answered.
//!
//! ```text
//! cm_listen ADDRESS [accept|reject|never] [SECONDS]     listens
//! cm_listen ADDRESS connect PEER:PORT [SECONDS]         asks for a connection
//! ```

use std::collections::VecDeque;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec};
use sidelane_transport::cm::{CmEvent, ConnId, ConnParams, ConnectionManager, Connector};
use sidelane_transport::nic::QpNumber;
use sidelane_transport::nvmf::{ConnectAccept, ConnectReject, ConnectRequest, RejectStatus};
use sidelane_transport::soft::cm::SoftCm;
use sidelane_transport::soft::port;

/// Ports of NVMe over RDMA and of `rping` and `ucmatose`.
const PORTS: [u16; 3] = [4420, 7174, 7471];

/// How long a connection is left up.
const UP: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address: IpAddr = args.next().ok_or("an address is needed")?.parse()?;
    let mode = args.next().unwrap_or_else(|| "accept".to_owned());
    let peer: Option<SocketAddr> = match mode.as_str() {
        "connect" => Some(args.next().ok_or("a peer is needed")?.parse()?),
        _ => None,
    };
    let seconds = args.next().map_or(Ok(10), |text| text.parse())?;

    let port = port::open(address, 1)?;
    println!(
        "port open, path MTU {}, {:?}",
        port.path_mtu,
        port.cm.kernel_buffers()?
    );
    let mut manager = SoftCm::new(port.cm, port.path_mtu, 16);
    for port in PORTS {
        manager.listen((address, port).into())?;
    }
    let mut qpn = 0x100;
    if let Some(peer) = peer {
        let request = ConnectRequest::new(0, 0, 32, 32).ok_or("a queue size of 0")?;
        let id = manager.connect(peer, params(qpn, request.as_bytes()), Instant::now())?;
        println!("asked {peer}: {id:?}");
    }

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut up: VecDeque<(Instant, ConnId)> = VecDeque::new();
    while Instant::now() < end {
        let now = Instant::now();
        while let Some(event) = manager.poll(now) {
            println!("{event:?}");
            match event {
                CmEvent::ConnectRequest {
                    id, private_data, ..
                } => {
                    let request = ConnectRequest::parse(&private_data);
                    println!("  private data: {request:?}");
                    let depth = request.map_or(32, |request| request.send_queue_entries());
                    qpn += 1;
                    match mode.as_str() {
                        "reject" => {
                            let reject = ConnectReject::new(RejectStatus::NoResources);
                            let data = Bytes::copy_from_slice(reject.as_bytes());
                            manager.reject(id, data, now)?;
                        }
                        "never" => {}
                        _ => {
                            let accept = ConnectAccept::new(depth);
                            manager.accept(id, params(qpn, accept.as_bytes()), now)?;
                        }
                    }
                }
                CmEvent::Accepted {
                    id, private_data, ..
                } => {
                    println!("  private data: {:?}", ConnectAccept::parse(&private_data));
                    manager.establish(id, now)?;
                    up.push_back((now + UP, id));
                }
                CmEvent::Established { id } => up.push_back((now + UP, id)),
                CmEvent::Failed { .. } | CmEvent::Disconnected { .. } => {}
            }
        }
        while let Some(&(at, id)) = up.front()
            && at <= now
        {
            up.pop_front();
            println!("ending {id:?}: {:?}", manager.disconnect(id, now));
        }
        let wake = [manager.deadline(), up.front().map(|&(at, _)| at), Some(end)];
        let wake = wake.into_iter().flatten().min().unwrap_or(end);
        let wait = Timespec::try_from(wake.saturating_duration_since(Instant::now()))?;
        let fd = manager.event_fd();
        rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait))?;
    }
    println!("{:?}", manager.counters());
    Ok(())
}

fn params(qpn: u32, private_data: &[u8]) -> ConnParams {
    ConnParams {
        qp: QpNumber(qpn),
        private_data: Bytes::copy_from_slice(private_data),
    }
}
