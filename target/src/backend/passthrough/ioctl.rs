//! The two questions that a generic character device of an NVMe namespace is
//! asked before it is used: its namespace identifier, and Identify
//! (`linux/nvme_ioctl.h`).
//!
//! Unsafe is allowed here because an ioctl takes the address of what it fills in.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;

use rustix::io;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use sidelane_nvme::spec::{AdminOpcode, Cns};
use zerocopy::{FromZeros, IntoBytes};

/// `struct nvme_passthru_cmd`.
#[derive(Default)]
#[repr(C)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11_to_15: [u32; 5],
    timeout_ms: u32,
    result: u32,
}

const ADMIN: Opcode = opcode::read_write::<AdminCommand>(b'N', 0x41);
const ID: Opcode = opcode::none(b'N', 0x40);

const _: () = assert!(size_of::<AdminCommand>() == 72);

/// `NVME_IOCTL_ID`: the identifier is what the call returns.
struct Id;

// SAFETY: the request takes no argument, and gives no memory to look at.
unsafe impl Ioctl for Id {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        ID
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> io::Result<u32> {
        Ok(output as u32)
    }
}

/// `NVME_IOCTL_ADMIN_CMD`: what the call returns is the status of the command.
struct Admin<'a>(&'a mut AdminCommand);

// SAFETY: the request takes the structure that it is given, and fills in its
// last field.
unsafe impl Ioctl for Admin<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        ADMIN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> io::Result<()> {
        match output {
            0 => Ok(()),
            _ => Err(io::Errno::IO),
        }
    }
}

/// The namespace identifier of the device.
pub(super) fn nsid(device: &File) -> io::Result<u32> {
    // SAFETY: a descriptor that is no such device answers ENOTTY.
    unsafe { ioctl(device, Id) }
}

/// Identify data (clause 5.17).
///
/// # Errors
/// The kernel's, or EIO where the controller answers with an error status.
pub(super) fn identify<T: FromZeros + IntoBytes>(
    device: &File,
    cns: Cns,
    nsid: u32,
) -> io::Result<Box<T>> {
    const { assert!(size_of::<T>() == 4096) };
    let mut data = Box::new(T::new_zeroed());
    let mut command = AdminCommand {
        opcode: AdminOpcode::Identify.0,
        nsid,
        addr: std::ptr::from_mut(&mut *data).expose_provenance() as u64,
        data_len: size_of::<T>() as u32,
        cdw10: u32::from(cns.0),
        ..AdminCommand::default()
    };
    // SAFETY: the request takes this structure; the data it names is ours alone,
    // may have any content, and is as long as the structure says. The call does
    // not return before the command has ended.
    unsafe { ioctl(device, Admin(&mut command)) }?;
    Ok(data)
}
