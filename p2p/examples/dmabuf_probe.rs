//! Tries to export memory of a device as a dma-buf, and shows what a NIC would
//! be handed.
//!
//! ```text
//! dmabuf_probe [--watch SECONDS] ADDRESS BAR
//! ```
//!
//! Opens the function under vfio-pci, makes all of the BAR reachable, exports
//! it, tries the resets that would revoke the export, and closes. With
//! `--watch` it then waits for the kernel to ask for the device, as in
//! `echo ADDRESS > /sys/bus/pci/drivers/vfio-pci/unbind`, and gives it up.
//!
//! Nothing is written to the device but its command register, and it is reset.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{SeekFrom, seek};
use sidelane_p2p::topology::Topology;
use sidelane_p2p::vfio::{Container, Device, VfioError};
use sidelane_p2p::{DmaBuf, PciAddress, Region};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match probe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmabuf_probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn probe() -> Result<()> {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let mut patience = None;
    if arguments.first().is_some_and(|first| first == "--watch") {
        arguments.remove(0);
        let seconds = arguments.drain(..1.min(arguments.len())).next();
        let seconds = seconds.ok_or("--watch takes a number of seconds")?;
        patience = Some(Duration::from_secs(seconds.parse()?));
    }
    let [address, bar] = arguments.as_slice() else {
        return Err("usage: dmabuf_probe [--watch SECONDS] ADDRESS BAR".into());
    };
    let (address, bar): (PciAddress, u8) = (address.parse()?, bar.parse()?);
    let topology = Topology::load(Path::new("/sys"))?;
    for (name, function) in topology.rdma_devices() {
        match function {
            Some(function) => println!("{name} stands at {function}"),
            None => println!("{name} is made of software"),
        }
    }
    let container = Container::open()?;
    let device = container.open_device(address, &topology)?;
    println!("{address}: reset {}", device.reset()?);
    match device.probe_export() {
        Ok(()) => println!("{address}: kernel and driver export dma-bufs"),
        Err(error) => println!("{error}"),
    }
    let info = device.bar_info(bar)?;
    let name = format!("BAR {bar} of {address}");
    let region = device.bar_region(&name, bar, 0..info.len)?;
    let export = region.export()?;
    show(&region, &export)?;
    tail(&device, bar, info.len as u64)?;
    resets(&device, &region, export)?;
    drop(region);

    let Some(patience) = patience else {
        println!("closing");
        return Ok(());
    };
    give_up_on_request(device, container, &name, bar, patience)
}

/// What `ibv_reg_dmabuf_mr` would be called with.
fn show(region: &Region, export: &DmaBuf) -> Result<()> {
    println!("{region:?}");
    println!("  exported: {export:?}");
    println!("  lseek to the end: {:#x}", seek(export, SeekFrom::End(0))?);
    let flags = rustix::io::fcntl_getfd(export)?;
    println!("  flags of the descriptor: {flags:?}");
    println!(
        "  ibv_reg_dmabuf_mr(pd, offset {:#x}, length {:#x}, iova {:#x}, fd, access)",
        export.offset,
        export.len,
        region.iova()
    );
    Ok(())
}

/// A part of the BAR is a dma-buf of its own, and begins with its first byte.
fn tail(device: &Device, bar: u8, len: u64) -> Result<()> {
    let part = device.export_dma_buf(bar, len - 8192, 8192)?;
    println!(
        "  the last two pages: {part:?}, lseek to the end: {:#x}",
        seek(&part, SeekFrom::End(0))?
    );
    Ok(())
}

fn resets(device: &Device, region: &Region, export: DmaBuf) -> Result<()> {
    match device.reset() {
        Err(error @ VfioError::LiveExports { .. }) => println!("refused: {error}"),
        other => return Err(format!("a reset under a live export gave {other:?}").into()),
    }
    region
        .revocation()
        .on_revoked(|reason| println!("told: {reason}"));
    println!(
        "forced: reset {}",
        device.reset_revoking("the probe wants to see it")?
    );
    if let Err(error) = region.export() {
        println!("refused: {error}");
    }
    drop(export);
    println!("{}: reset {}", device.address(), device.reset()?);
    Ok(())
}

fn give_up_on_request(
    device: Arc<Device>,
    container: Arc<Container>,
    name: &str,
    bar: u8,
    patience: Duration,
) -> Result<()> {
    let region = device.bar_region(name, bar, 0..device.bar_info(bar)?.len)?;
    let export = region.export()?;
    region
        .revocation()
        .on_revoked(|reason| println!("told: {reason}"));
    let watch = device.watch()?;
    println!("watching");
    let start = Instant::now();
    while start.elapsed() < patience {
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(&*watch, PollFlags::IN)], Some(&second))?;
        if let Some(event) = watch.read_event() {
            println!("after {:?}: {event:?}", start.elapsed());
            println!("revoked: {}", region.revocation().is_revoked());
            drop((region, export, device, container));
            println!("given up");
            return Ok(());
        }
    }
    Err("the kernel did not ask for the device".into())
}
