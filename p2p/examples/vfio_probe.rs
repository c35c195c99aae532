//! Shows what the VFIO layer finds on a machine: opens the functions named on
//! the command line in one address space, maps their BARs, lets every one of
//! them reach the largest BAR of each, and prints the routes between them.
//!
//! ```text
//! vfio_probe 0000:03:00.0 0000:04:00.0
//! ```
//!
//! Nothing is written to a device but its command register, and it is reset.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sidelane_p2p::provider::verdict;
use sidelane_p2p::topology::Topology;
use sidelane_p2p::vfio::{Container, Device, VfioError};
use sidelane_p2p::{DmaError, DmaSpace, ParsePciAddressError, PciAddress, Region};

#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error(transparent)]
    Address(#[from] ParsePciAddressError),
    #[error(transparent)]
    Topology(#[from] sidelane_p2p::topology::TopologyError),
    #[error(transparent)]
    Vfio(#[from] VfioError),
    #[error(transparent)]
    Dma(#[from] DmaError),
    #[error("{0}")]
    Wrong(String),
}

fn main() -> ExitCode {
    match probe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vfio_probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn probe() -> Result<(), ProbeError> {
    let addresses = std::env::args()
        .skip(1)
        .map(|text| text.parse())
        .collect::<Result<Vec<PciAddress>, _>>()?;
    let topology = Topology::load(Path::new("/sys"))?;
    if addresses.is_empty() {
        for function in topology.functions() {
            let driver = function.driver.as_deref().unwrap_or("no driver");
            println!(
                "{} class {:06x}, {driver}, ACS {:?}",
                function.address, function.class, function.acs
            );
        }
        return Ok(());
    }
    let container = Container::open()?;
    let devices = addresses
        .iter()
        .map(|&address| container.open_device(address, &topology))
        .collect::<Result<Vec<_>, _>>()?;
    for device in &devices {
        show(device)?;
    }
    let host = host_memory(&*container)?;
    let mut regions = Vec::new();
    for device in &devices {
        if let Some(region) = largest_bar(device)? {
            println!("{} maps {region:?}", device.address());
            regions.push(region);
        }
    }
    // Addresses of host memory must not change when peers are mapped.
    println!("host memory is still {host:?}");
    for region in &regions {
        for &client in &addresses {
            let fitness = verdict(&topology, region.placement(), &[client]);
            println!(
                "{client} -> {}: {} ({})",
                region.name(),
                fitness.code,
                fitness.text
            );
            if let Some(remedy) = fitness.remedy {
                println!("    remedy: {remedy}");
            }
        }
    }
    overlap_is_refused(devices.first())?;
    drop(regions);
    drop(host);
    println!("all unmapped; closing");
    Ok(())
}

fn show(device: &Arc<Device>) -> Result<(), ProbeError> {
    println!("{}: reset {}", device.address(), device.reset()?);
    let mut id = [0; 4];
    device.read_config(0, &mut id)?;
    println!("  vendor and device, from configuration space: {id:02x?}");
    for bar in 0..6 {
        let Ok(info) = device.bar_info(bar) else {
            continue;
        };
        let view = device.map_bar(bar)?;
        println!("  BAR {bar}: {info:x?}, mapped {:#x}", view.len());
    }
    let registers = device.map_bar(0);
    if let Ok(registers) = registers
        && let (Ok(cap), Ok(version)) = (
            registers.load_u64(0, Ordering::Relaxed),
            registers.load_u32(8, Ordering::Relaxed),
        )
    {
        println!("  first registers: {cap:#018x}, version {version:#x}");
    }
    device.enable_bus_master()?;
    match device.enable_msix(3) {
        Ok(events) => println!("  MSI-X: {} vectors on", events.len()),
        Err(error) => println!("  {error}"),
    }
    device.disable_interrupts()?;
    Ok(())
}

fn host_memory(space: &dyn DmaSpace) -> Result<Vec<Region>, ProbeError> {
    let small = space.host_region("small", 1)?;
    let large = space.host_region("large", 8 << 20)?;
    println!("host memory: {small:?}, {large:?}");
    // Given back, the addresses are free again.
    let iova = large.iova();
    drop(large);
    let again = space.host_region("large again", 8 << 20)?;
    if again.iova() != iova {
        return Err(ProbeError::Wrong(format!("{:#x} was not given back", iova)));
    }
    Ok(vec![small, again])
}

/// The largest BAR of a device, if it is large enough to hold data.
fn largest_bar(device: &Arc<Device>) -> Result<Option<Region>, ProbeError> {
    let bars = (0..6).filter_map(|bar| Some((bar, device.bar_info(bar).ok()?)));
    let Some((bar, info)) = bars.max_by_key(|(_, info)| info.len) else {
        return Ok(None);
    };
    if info.len < 1 << 20 {
        return Ok(None);
    }
    let name = format!("BAR {bar} of {}", device.address());
    let region = device.bar_region(&name, bar, 0..info.len)?;
    if region.iova() != info.bus_address {
        return Err(ProbeError::Wrong(format!(
            "{region:?} is not at its bus address"
        )));
    }
    Ok(Some(region))
}

fn overlap_is_refused(device: Option<&Arc<Device>>) -> Result<(), ProbeError> {
    let Some(device) = device else { return Ok(()) };
    match largest_bar(device) {
        Err(ProbeError::Dma(error)) => println!("a second mapping is refused: {error}"),
        Ok(None) => {}
        Ok(Some(region)) => return Err(ProbeError::Wrong(format!("{region:?} mapped twice"))),
        Err(error) => return Err(error),
    }
    Ok(())
}
