//! What the kernel says of a block device: which PCI function is behind it, what
//! its queue takes, and who uses it.

use std::fs;
use std::path::{Path, PathBuf};

use sidelane_p2p::PciAddress;

/// What is taken where the kernel does not say how much one call may move.
const USUAL_TRANSFER: usize = 128 << 10;
const PAGE: usize = 4096;

/// The folder of a block device, by its number; `None` when there is none, as for
/// a file system without one device.
pub(in crate::backend) fn folder(sys: &Path, dev: u64) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    fs::canonicalize(sys.join(format!("dev/block/{major}:{minor}"))).ok()
}

/// The class of a character device, by its number; `None` when the kernel does not
/// say.
pub(in crate::backend) fn class(sys: &Path, dev: u64) -> Option<String> {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let link = sys.join(format!("dev/char/{major}:{minor}/subsystem"));
    let class = fs::read_link(link).ok()?;
    Some(class.file_name()?.to_string_lossy().into_owned())
}

/// The folder of the block device whose generic character device has this path:
/// of `ng0n1`, that of `nvme0n1`. It need not be there.
pub(in crate::backend) fn block_beside(generic: &Path, sys: &Path) -> PathBuf {
    let name = generic.file_name().map(|name| name.to_string_lossy());
    let name = name.as_deref().unwrap_or_default();
    let block = match name.strip_prefix("ng") {
        Some(rest) => format!("nvme{rest}"),
        None => name.to_owned(),
    };
    let folder = sys.join("class/block").join(block);
    fs::canonicalize(&folder).unwrap_or(folder)
}

/// The PCI function that does the DMA for a block device: the last one above it,
/// or behind the only path of a multipath head.
///
/// # Errors
/// Why there is not one, in words.
pub(in crate::backend) fn client(folder: &Path) -> Result<PciAddress, String> {
    let whole = Queue::of(folder).whole;
    let function = function(&whole).or_else(|| match head_paths(&whole)[..] {
        [only] => Some(only),
        _ => None,
    });
    let folder = whole;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    function.ok_or_else(|| {
        let what = match &*name {
            dm if dm.starts_with("dm-") => "a device-mapper device",
            md if md.starts_with("md") => "a RAID device",
            head if head.starts_with("nvme") => {
                "a multipath head without just one PCI function behind it"
            }
            "" => "a file system without one block device",
            _ => "a device without one PCI function behind it",
        };
        format!("{name} is {what}, and the kernel does not pass memory of other devices through it")
    })
}

/// The last PCI function above a folder.
fn function(folder: &Path) -> Option<PciAddress> {
    let mut names = folder.components().rev();
    names.find_map(|name| name.as_os_str().to_str()?.parse().ok())
}

/// The functions behind an NVMe multipath head: each path of `nvme0n1` is called
/// `nvme0cNn1`, below a controller of the same subsystem.
fn head_paths(head: &Path) -> Vec<PciAddress> {
    let name = head.file_name().unwrap_or_default().to_string_lossy();
    let Some((subsystem, namespace)) = name
        .strip_prefix("nvme")
        .and_then(|rest| rest.split_once('n'))
    else {
        return Vec::new();
    };
    let (start, end) = (format!("nvme{subsystem}c"), format!("n{namespace}"));
    let listed = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let controllers = head.parent().into_iter().flat_map(listed);
    let controllers = controllers.filter_map(|entry| fs::canonicalize(entry.path()).ok());
    let has_path = |controller: &PathBuf| {
        listed(controller).any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&start) && name.ends_with(&end)
        })
    };
    let mut functions: Vec<_> = controllers
        .filter(has_path)
        .filter_map(|controller| function(&controller))
        .collect();
    functions.sort_unstable();
    functions.dedup();
    functions
}

/// The queue of a block device.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Queue {
    whole: PathBuf,
}

impl Queue {
    /// Of the device with this folder; a partition has that of the whole.
    pub(in crate::backend) fn of(folder: &Path) -> Self {
        let whole = match folder.parent() {
            Some(parent) if folder.join("partition").exists() => parent,
            _ => folder,
        };
        Self {
            whole: whole.to_owned(),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.whole.join("queue").join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.text(name)?.parse().ok()
    }

    /// Bytes of a block.
    pub(in crate::backend) fn block_bytes(&self) -> Option<u32> {
        self.text("logical_block_size")?.parse().ok()
    }

    /// Whether what was written may be lost with the power; where that is not
    /// known, it may.
    pub(in crate::backend) fn write_cache(&self) -> bool {
        self.text("write_cache")
            .is_none_or(|text| text != "write through")
    }

    /// Whether it can be told that blocks are no longer needed.
    pub(in crate::backend) fn discards(&self) -> bool {
        self.number("discard_max_bytes")
            .is_some_and(|most| most > 0)
    }

    /// The most that one transfer moves; the kernel splits what is too long for
    /// the device.
    pub(in crate::backend) fn transfer_bytes(&self) -> usize {
        match self.number("max_hw_sectors_kb") {
            Some(kib @ 4..) => kib.saturating_mul(1 << 10),
            _ => USUAL_TRANSFER,
        }
    }

    /// The most that one transfer moves where the kernel splits nothing, and each
    /// page of memory may be a piece of its own; the first may begin in the
    /// middle of one.
    pub(in crate::backend) fn whole_transfer_bytes(&self) -> usize {
        let pieces = match self.number("max_segments") {
            Some(most @ 2..) => (most - 1).saturating_mul(PAGE),
            _ => USUAL_TRANSFER,
        };
        self.transfer_bytes().min(pieces)
    }

    /// Whether it may not be written to.
    pub(in crate::backend) fn read_only(&self) -> bool {
        fs::read_to_string(self.whole.join("ro")).is_ok_and(|text| text.trim() == "1")
    }
}

/// Who uses a block device or a part of it, in words.
pub(in crate::backend) fn users(folder: &Path, sys: &Path) -> String {
    let mut users = Vec::new();
    let parts = fs::read_dir(folder).into_iter().flatten().flatten();
    let parts = parts.map(|entry| entry.path());
    let parts = parts.filter(|path| path.join("partition").exists());
    let proc = sys.join("../proc");
    let mounts = fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default();
    let swaps = fs::read_to_string(proc.join("swaps")).unwrap_or_default();
    for part in std::iter::once(folder.to_owned()).chain(parts) {
        let name = part.file_name().unwrap_or_default().to_string_lossy();
        let number = fs::read_to_string(part.join("dev")).unwrap_or_default();
        let number = number.trim();
        let mounted = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(2);
            (words.next()? == number).then(|| words.nth(1))?
        });
        users.extend(mounted.map(|at| format!("{name} is mounted at {at}")));
        if swaps
            .lines()
            .any(|line| line.split_whitespace().next() == Some(&format!("/dev/{name}")))
        {
            users.push(format!("{name} is swap"));
        }
        let holders = fs::read_dir(part.join("holders")).into_iter().flatten();
        users.extend(holders.flatten().map(|holder| {
            format!(
                "{name} is a part of {}",
                holder.file_name().to_string_lossy()
            )
        }));
    }
    match users.is_empty() {
        true => "another process has it for itself, or another namespace of this target".to_owned(),
        false => users.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(
        "devices/pci0000:00/0000:00:03.0/0000:04:00.0/nvme/nvme1/nvme1n1",
        Some("0000:04:00.0")
    )]
    #[case(
        "devices/pci0000:00/0000:00:03.0/0000:04:00.0/nvme/nvme1/nvme1n1/nvme1n1p2",
        Some("0000:04:00.0")
    )]
    #[case("devices/virtual/block/dm-0", None)]
    #[case("devices/virtual/block/md127", None)]
    #[case("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", None)]
    #[case("devices/virtual/block/loop0", None)]
    fn the_function_behind_a_block_device_is_the_last_one_above_it(
        #[case] folder: &str,
        #[case] expected: Option<&str>,
    ) {
        let found = client(Path::new(folder));
        assert_eq!(
            found.as_ref().ok(),
            expected.map(|text| text.parse().unwrap()).as_ref()
        );
        let words = found.err().unwrap_or_default();
        let name = folder.rsplit('/').next().unwrap();
        assert!(expected.is_some() || words.contains(name), "{words}");
    }

    /// A head `nvme0n1` with paths behind controllers at these functions.
    #[rstest::rstest]
    #[case::one_path(&["0000:03:00.0"], Some("0000:03:00.0"))]
    #[case::two_paths(&["0000:03:00.0", "0000:04:00.0"], None)]
    #[case::no_path(&[], None)]
    fn a_multipath_head_has_the_function_of_its_only_path(
        #[case] functions: &[&str],
        #[case] expected: Option<&str>,
    ) {
        let root = tempfile::tempdir().unwrap();
        let subsystem = root
            .path()
            .join("devices/virtual/nvme-subsystem/nvme-subsys0");
        let head = subsystem.join("nvme0n1");
        fs::create_dir_all(&head).unwrap();
        for (number, function) in functions.iter().enumerate() {
            let controller = root
                .path()
                .join(format!("devices/pci0000:00/{function}/nvme/nvme{number}"));
            fs::create_dir_all(controller.join(format!("nvme0c{number}n1"))).unwrap();
            // And one of another namespace.
            fs::create_dir_all(controller.join(format!("nvme0c{number}n2"))).unwrap();
            let link = subsystem.join(format!("nvme{number}"));
            std::os::unix::fs::symlink(controller, link).unwrap();
        }
        let found = client(&head);
        assert_eq!(
            found.as_ref().ok(),
            expected.map(|text| text.parse().unwrap()).as_ref()
        );
        assert!(found.is_ok() || found.unwrap_err().contains("multipath head"));
    }

    /// A disk `name` with these attributes of its queue.
    fn disk(root: &Path, name: &str, queue: &[(&str, &str)]) -> PathBuf {
        let folder = root.join("sys/block").join(name);
        fs::create_dir_all(folder.join("queue")).unwrap();
        fs::create_dir_all(folder.join("holders")).unwrap();
        fs::write(folder.join("dev"), "259:0\n").unwrap();
        for (name, text) in queue {
            fs::write(folder.join("queue").join(name), format!("{text}\n")).unwrap();
        }
        folder
    }

    #[rstest::rstest]
    #[case::of_an_ssd(&[("max_hw_sectors_kb", "512"), ("max_segments", "127")], 512 << 10, 126 * PAGE)]
    #[case::wide(&[("max_hw_sectors_kb", "128"), ("max_segments", "2048")], 128 << 10, 128 << 10)]
    #[case::unknown(&[], USUAL_TRANSFER, USUAL_TRANSFER)]
    fn a_transfer_is_as_long_as_the_queue_takes_it(
        #[case] queue: &[(&str, &str)],
        #[case] split: usize,
        #[case] whole: usize,
    ) {
        let root = tempfile::tempdir().unwrap();
        let queue = Queue::of(&disk(root.path(), "nvme0n1", queue));
        assert_eq!(queue.transfer_bytes(), split);
        assert_eq!(queue.whole_transfer_bytes(), whole);
    }

    #[test]
    fn a_partition_has_the_queue_of_the_whole() {
        let root = tempfile::tempdir().unwrap();
        let queue = [
            ("write_cache", "write through"),
            ("logical_block_size", "4096"),
        ];
        let part = disk(root.path(), "nvme0n1", &queue).join("nvme0n1p1");
        fs::create_dir(&part).unwrap();
        fs::write(part.join("partition"), "1\n").unwrap();
        let queue = Queue::of(&part);
        assert!(!queue.write_cache() && queue.block_bytes() == Some(4096));
        assert!(!queue.discards() && !queue.read_only());
    }

    #[test]
    fn who_uses_a_device_is_told() {
        let root = tempfile::tempdir().unwrap();
        let folder = disk(root.path(), "nvme0n1", &[]);
        let sys = root.path().join("sys");
        let proc = root.path().join("proc/self");
        fs::create_dir_all(&proc).unwrap();
        assert!(users(&folder, &sys).contains("another process"));
        let mounts =
            "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 29 259:0 / /mnt/x rw - ext4 /dev/nvme0n1 rw\n";
        fs::write(proc.join("mountinfo"), mounts).unwrap();
        assert_eq!(users(&folder, &sys), "nvme0n1 is mounted at /mnt/x");
        fs::write(
            root.path().join("proc/swaps"),
            "Filename Type\n/dev/nvme0n1 partition 1 0 -2\n",
        )
        .unwrap();
        fs::create_dir(folder.join("holders/dm-3")).unwrap();
        let said = users(&folder, &sys);
        assert!(
            said.contains("is swap") && said.contains("is a part of dm-3"),
            "{said}"
        );
    }
}
