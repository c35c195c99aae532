//! The same datagrams through plain sockets: no protocol, no CRC, nothing copied
//! but by the kernel.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use sidelane_transport::soft::port::{self, IcrcCheck, Port, Settings};
use sidelane_transport::soft::socket::{Socket, SocketCounters};
use sidelane_transport::soft::wire::ROCE_V2_PORT;

use super::super::stage::with_free;
use super::{Job, Kind, PATH_MTU, Side, Way};

/// Bytes of datagrams: headers and CRC of each kind of packet.
const READ_REQUEST: usize = 12 + 16 + 4;
const ACKNOWLEDGEMENT: usize = 12 + 4 + 4;
const AROUND_MIDDLE: usize = 12 + 4;
const AROUND_END: usize = 12 + 4 + 4;
const AROUND_WRITE: usize = 12 + 16 + 4;
const AROUND_SEND: usize = 12 + 4;

/// Nothing is sent again, so a loss ends the measurement.
const PATIENCE: Duration = Duration::from_secs(10);

struct Bare {
    socket: Socket,
    to: SocketAddr,
}

/// A pair.
pub fn open() -> anyhow::Result<Way> {
    let ((first, first_port), (second, second_port)) = (open_one()?, open_one()?);
    let side = |mut port: Port, to: IpAddr| -> Box<dyn Side> {
        let to = SocketAddr::new(to, ROCE_V2_PORT);
        Box::new(Bare {
            socket: port.reactors.swap_remove(0),
            to,
        })
    };
    Ok(Way {
        name: "plain sockets",
        sides: [side(first_port, second), side(second_port, first)],
    })
}

fn open_one() -> anyhow::Result<(IpAddr, Port)> {
    let settings = Settings {
        icrc: IcrcCheck::Socket,
        ..Settings::default()
    };
    with_free(|address| Ok((address, port::open_with(address, 1, settings)?)))
}

impl Bare {
    /// Puts a datagram into the next slot, or says that there is none. The first
    /// bytes say which queue pair a packet is for, and then a number.
    fn push(&mut self, len: usize, number: u32, leads: bool) -> bool {
        let slots = self.socket.slots();
        let Some(slot) = slots.push(self.to, len) else {
            return false;
        };
        slot[4..8].fill(0);
        slot[8..12].copy_from_slice(&number.to_be_bytes());
        slots.join(0, leads);
        true
    }
}

/// Bytes of response `at` of `count`.
fn response(at: usize, count: usize) -> usize {
    let around = if at == 0 || at + 1 == count {
        AROUND_END
    } else {
        AROUND_MIDDLE
    };
    PATH_MTU + around
}

impl Side for Bare {
    fn lead(&mut self, job: Job, until: Instant) -> anyhow::Result<u64> {
        let packets = match job.kind {
            Kind::Read => (job.bytes / PATH_MTU) as u64,
            Kind::Write | Kind::PingPong => 1,
        };
        let (len, leads) = match job.kind {
            Kind::Read => (READ_REQUEST, false),
            Kind::Write => (job.bytes + AROUND_WRITE, true),
            Kind::PingPong => (job.bytes + AROUND_SEND, false),
        };
        let (mut asked, mut answered) = (0, 0);
        let mut progress = Instant::now();
        let mut goes_on = true;
        while goes_on || answered < asked * packets {
            goes_on = goes_on && Instant::now() < until;
            while goes_on && asked - answered / packets < job.depth {
                if !self.push(len, 1, leads) {
                    break;
                }
                asked += 1;
            }
            self.socket.flush()?;
            let before = answered;
            self.socket.receive_unchecked(|_, bytes| {
                let number = bytes.get(8..).and_then(|bytes| bytes.first_chunk());
                answered += u64::from(number.map_or(0, |number| u32::from_be_bytes(*number)));
            })?;
            if answered > before {
                progress = Instant::now();
            } else {
                ensure!(progress.elapsed() < PATIENCE, "a datagram was lost");
                std::thread::yield_now();
            }
        }
        Ok(answered / packets)
    }

    fn follow(&mut self, job: Job, ended: &AtomicBool) -> anyhow::Result<()> {
        let packets = match job.kind {
            Kind::Read => job.bytes / PATH_MTU,
            Kind::Write | Kind::PingPong => 1,
        };
        // Datagrams not yet answered, and how far the first of them is.
        let (mut asked, mut at) = (0, 0);
        while !ended.load(Ordering::Relaxed) {
            if self.socket.receive_unchecked(|_, _| asked += 1)? == 0 {
                std::thread::yield_now();
            }
            if job.kind == Kind::Write && asked > 0 {
                // One acknowledgement for all that came together.
                if self.push(ACKNOWLEDGEMENT, asked, false) {
                    asked = 0;
                }
            }
            while asked > 0 && job.kind != Kind::Write {
                let sent = match job.kind {
                    Kind::PingPong => self.push(job.bytes + AROUND_SEND, 1, false),
                    _ => self.push(response(at, packets), 1, true),
                };
                if !sent {
                    break;
                }
                at = (at + 1) % packets;
                asked -= u32::from(at == 0);
            }
            self.socket.flush()?;
        }
        Ok(())
    }

    fn counters(&self) -> SocketCounters {
        self.socket.counters()
    }
}
