//! NVMe commands handed to the kernel's driver as they are (`/dev/ngXnY`), by
//! io_uring: no block layer in between, and a command's own status comes back.

mod ioctl;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use sidelane_nvme::spec::{
    Cns, DsmAttributes, IdentifyController, IdentifyNamespace, NvmOpcode, ReadWriteCdw12, Status,
    WriteZeroesCdw12,
};

use super::block;
use super::uring::errno;
use super::uring::{
    Call, Kind, Next, NvmeCall, Operation, StorageError, StorageShape, Task, sysfs,
};

/// A namespace, for the commands that name it.
#[derive(Debug, Clone)]
pub(super) struct Passthrough {
    nsid: u32,
}

/// A namespace that was opened.
pub(super) struct Opened {
    pub(super) kind: Passthrough,
    pub(super) file: File,
    /// Held so that nobody mounts it meanwhile.
    pub(super) claim: Option<File>,
    pub(super) shape: StorageShape,
}

/// Opens a generic character device of a namespace, and claims the block device
/// of the same namespace.
///
/// # Errors
/// When it is not there, in use, or of a format without its like here.
pub(super) fn open(path: &Path, sys: &Path) -> Result<Opened, StorageError> {
    let failed = |reason: String, remedy: &str| StorageError::new(path, reason, remedy);
    check_kind(path, sys)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::CLOEXEC.bits() as i32)
        .open(path)
        .map_err(|error| StorageError::open(path, &error))?;
    let nsid = ioctl::nsid(&file).map_err(|_| no_namespace(path))?;
    let claim = claim(path, sys)?;
    let asked = |error: Errno| {
        let remedy = "see `dmesg` for the SSD's troubles; the command needs the right to send admin commands (root)";
        failed(format!("its SSD does not say what it is: {error}"), remedy)
    };
    let namespace: Box<IdentifyNamespace> =
        ioctl::identify(&file, Cns::Namespace, nsid).map_err(asked)?;
    let controller: Box<IdentifyController> =
        ioctl::identify(&file, Cns::Controller, 0).map_err(asked)?;
    let block_bytes = usable_block(&namespace).map_err(|reason| {
        failed(
            reason,
            "format it with 512 or 4096 bytes a block and no metadata (`nvme format`)",
        )
    })?;
    let queue = sysfs::Queue::of(&sysfs::block_beside(path, sys));
    Ok(Opened {
        kind: Passthrough { nsid },
        file,
        claim,
        shape: StorageShape {
            blocks: namespace.nsze.get(),
            block_bytes,
            volatile_write_cache: controller.vwc.present(),
            deallocate: controller.oncs.dsm(),
            write_zeroes: controller.oncs.write_zeroes(),
            // The kernel knows the controller's MDTS and its own limits; what
            // it does not split is up to us.
            max_transfer_bytes: queue.whole_transfer_bytes(),
        },
    })
}

/// Whether there is a generic character device of a namespace, told without
/// opening it.
///
/// # Errors
/// When there is none.
pub(super) fn check_kind(path: &Path, sys: &Path) -> Result<(), StorageError> {
    let meta = fs::metadata(path).map_err(|error| StorageError::open(path, &error))?;
    let class = sysfs::class(sys, meta.rdev());
    let may_be = class.is_none_or(|class| class == "nvme-generic");
    match meta.file_type().is_char_device() && may_be {
        true => Ok(()),
        false => Err(no_namespace(path)),
    }
}

fn no_namespace(path: &Path) -> StorageError {
    let reason = "it is no character device of an NVMe namespace".to_owned();
    let remedy =
        "name a generic device, such as /dev/ng0n1 (`ls /dev/ng*`), or use kind = \"block\"";
    StorageError::new(path, reason, remedy)
}

/// Bytes of the blocks of a namespace.
fn usable_block(namespace: &IdentifyNamespace) -> Result<u32, String> {
    let format = namespace
        .format()
        .ok_or("its format is not among its formats")?;
    match (format.metadata_bytes.get(), format.data_bytes()) {
        (0, Some(bytes @ (512 | 4096))) if namespace.nsze.get() > 0 => Ok(bytes),
        (0, Some(512 | 4096)) => Err("it has no blocks".to_owned()),
        (0, _) => Err(format!("its blocks are of 2^{} bytes", format.lbads)),
        (metadata, _) => Err(format!("its blocks have {metadata} bytes of metadata")),
    }
}

/// The block device of the same namespace, for ourselves; `None` where the kernel
/// has none for it.
fn claim(path: &Path, sys: &Path) -> Result<Option<File>, StorageError> {
    let name = sysfs::block_beside(path, sys);
    let Some(name) = name.file_name() else {
        return Ok(None);
    };
    let device: PathBuf = path.with_file_name(name);
    if !device.exists() {
        return Ok(None);
    }
    block::claim(&device, OFlags::RDONLY, sys).map(Some)
}

impl Kind for Passthrough {
    fn call(&self, task: &Task) -> Result<Call, Status> {
        let (slba, count) = (task.blocks().slba, task.blocks().count);
        let nlb_z = u16::try_from(count.saturating_sub(1)).map_err(|_| Status::INVALID_FIELD)?;
        let transfer = |opcode: NvmOpcode, fua| NvmeCall {
            cdw12: ReadWriteCdw12::new().with_nlb_z(nlb_z).with_fua(fua).raw(),
            ..self.command(opcode, slba)
        };
        Ok(Call::Nvme(match task.operation() {
            Operation::Read => transfer(NvmOpcode::Read, false),
            Operation::Write { fua } => transfer(NvmOpcode::Write, fua),
            Operation::Flush => self.command(NvmOpcode::Flush, 0),
            Operation::Zeroes { fua } => NvmeCall {
                cdw12: WriteZeroesCdw12::new()
                    .with_nlb_z(nlb_z)
                    .with_fua(fua)
                    .raw(),
                ..self.command(NvmOpcode::WriteZeroes, slba)
            },
            Operation::Deallocate => NvmeCall {
                cdw10: task.ranges().checked_sub(1).ok_or(Status::SUCCESS)? as u32,
                cdw11: DsmAttributes::new().with_deallocate(true).raw(),
                ..self.command(NvmOpcode::DatasetManagement, 0)
            },
        }))
    }

    /// Zero or above is the status of the command itself (without its phase bit),
    /// below is what the kernel says for want of one.
    fn ended(&mut self, task: &mut Task, result: i32) -> Next {
        let error = match u16::try_from(result) {
            Ok(status) => return Next::Done(Status::from_bits(status)),
            Err(_) => errno::of(result),
        };
        match error {
            Errno::AGAIN if task.may_retry() => Next::Again,
            // The kernel says so of a command that it gave up itself: its time was
            // over, or the controller was reset.
            Errno::INTR => Next::Done(Status::COMMAND_INTERRUPTED),
            error => Next::Done(errno::status(error, task.operation(), task.is_peer())),
        }
    }
}

impl Passthrough {
    fn command(&self, opcode: NvmOpcode, slba: u64) -> NvmeCall {
        NvmeCall {
            opcode: opcode.0,
            nsid: self.nsid,
            cdw10: slba as u32,
            cdw11: (slba >> 32) as u32,
            ..NvmeCall::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::uring::tests::task;
    use super::*;

    const KIND: Passthrough = Passthrough { nsid: 7 };

    fn call(operation: Operation, count: u32) -> NvmeCall {
        match KIND.call(&task(operation, 0x1_2345_6789, count)) {
            Ok(Call::Nvme(call)) => call,
            other => panic!("{other:?}"),
        }
    }

    #[rstest::rstest]
    #[case::read(Operation::Read, 0x02, 0x0000_0007)]
    #[case::write(Operation::Write { fua: false }, 0x01, 0x0000_0007)]
    #[case::write_through(Operation::Write { fua: true }, 0x01, 0x4000_0007)]
    #[case::zeroes(Operation::Zeroes { fua: true }, 0x08, 0x4000_0007)]
    fn a_job_becomes_the_command_of_the_nvm_command_set(
        #[case] operation: Operation,
        #[case] opcode: u8,
        #[case] cdw12: u32,
    ) {
        let expected = NvmeCall {
            opcode,
            nsid: 7,
            cdw10: 0x2345_6789,
            cdw11: 1,
            cdw12,
        };
        assert_eq!(call(operation, 8), expected);
    }

    #[test]
    fn flush_and_deallocation_name_no_block_and_the_latter_its_ranges() {
        let flush = call(Operation::Flush, 0);
        assert_eq!((flush.opcode, flush.nsid, flush.cdw12), (0x00, 7, 0));
        // Three ranges of 16 bytes are in the memory of the task.
        let mut task = task(Operation::Deallocate, 0, 1);
        task.has_ranges(3);
        let Ok(Call::Nvme(dsm)) = KIND.call(&task) else {
            panic!("no call")
        };
        assert_eq!((dsm.opcode, dsm.cdw10, dsm.cdw11), (0x09, 2, 1 << 2));
        task.has_ranges(0);
        assert_eq!(KIND.call(&task), Err(Status::SUCCESS));
    }

    #[test]
    fn more_blocks_than_a_command_can_name_are_refused() {
        assert_eq!(
            call(Operation::Zeroes { fua: false }, 1 << 16).cdw12,
            0xffff
        );
        let beyond = task(Operation::Zeroes { fua: false }, 0, (1 << 16) + 1);
        assert_eq!(KIND.call(&beyond), Err(Status::INVALID_FIELD));
    }

    #[rstest::rstest]
    #[case::good(0, Status::SUCCESS)]
    #[case::of_the_ssd(0x4281, Status::UNRECOVERED_READ_ERROR.with_dnr(true))]
    #[case::unknown(0x07f3, Status::from_bits(0x07f3))]
    #[case::given_up(-4, Status::COMMAND_INTERRUPTED)]
    #[case::gone(-19, Status::INTERNAL_PATH_ERROR)]
    #[case::of_no_number(i32::MIN, Status::UNRECOVERED_READ_ERROR)]
    fn the_status_of_the_ssd_is_passed_on_as_it_is(#[case] result: i32, #[case] expected: Status) {
        let mut task = task(Operation::Read, 0, 1);
        let ended = KIND.clone().ended(&mut task, result);
        assert_eq!(ended, Next::Done(expected));
    }
}
