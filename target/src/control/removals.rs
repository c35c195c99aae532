//! Devices that the kernel wants back, or that have failed: their memory leaves
//! service before anything else happens to them.

use std::sync::Arc;

use sidelane_p2p::vfio::{DeviceEvent, DeviceWatch};

use super::watched::watch;

/// Listens to a device for as long as the runtime lives. Its regions learn of an
/// event by themselves, and tell who uses them.
///
/// # Errors
/// When the device's descriptor cannot be watched.
pub fn heed(device: Arc<DeviceWatch>) -> std::io::Result<()> {
    use std::os::fd::AsFd;

    let fd = watch(device.as_fd())?;
    tokio::spawn(async move {
        loop {
            let Ok(mut ready) = fd.readable().await else {
                return;
            };
            ready.clear_ready();
            while let Some(event) = device.read_event() {
                let address = device.address();
                let advice = match event {
                    DeviceEvent::RemovalRequested => "it is let go when the target stops",
                    DeviceEvent::FatalError => "see `dmesg`",
                };
                tracing::error!(%address, %event, "a device is lost; {advice}");
            }
        }
    });
    Ok(())
}
