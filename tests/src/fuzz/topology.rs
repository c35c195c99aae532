//! Sysfs, whose files hold anything.
//!
//! Promised: no panic, neither in reading it nor in judging the routes of what
//! was read.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use sidelane_p2p::provider::verdict;
use sidelane_p2p::topology::{Topology, fixture};
use sidelane_p2p::{PciAddress, Placement};

use super::input::Input;

/// Files that are overwritten.
const FILES: [&str; 7] = [
    "resource",
    "config",
    "class",
    "vendor",
    "numa_node",
    "current_link_width",
    "current_link_speed",
];

/// The lab's machine as a tree, made once.
struct Tree {
    folder: tempfile::TempDir,
    functions: Vec<PathBuf>,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let topology = fixture::lab(folder.path()).expect("the lab is in order");
        let devices = folder.path().join("sys/bus/pci/devices");
        let functions = topology.functions();
        Self {
            functions: functions
                .map(|f| devices.join(f.address.to_string()))
                .collect(),
            folder,
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("sys")
    }
}

fn one_at_a_time() -> &'static Mutex<Tree> {
    static TREE: OnceLock<Mutex<Tree>> = OnceLock::new();
    TREE.get_or_init(|| Mutex::new(Tree::new()))
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("our own folder");
}

/// Which files hold what: for each, the function, the file, a length, the bytes.
pub fn topology(bytes: &[u8]) {
    let mut input = Input(bytes);
    let tree = one_at_a_time()
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let mut before = Vec::new();
    while !input.is_empty() && before.len() < 8 {
        let path = match input.u8() {
            255 => tree.folder.path().join("proc/cpuinfo"),
            which => {
                let function = &tree.functions[usize::from(which) % tree.functions.len()];
                function.join(FILES[input.pick(FILES.len())])
            }
        };
        let len = usize::from(input.u16());
        let text = input.bytes(len);
        before.push((path.clone(), std::fs::read(&path).expect("it was there")));
        write(&path, text);
    }
    match Topology::load(&tree.root()) {
        Ok(topology) => judge(&topology),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    for (path, bytes) in before.iter().rev() {
        write(path, bytes);
    }
}

fn judge(topology: &Topology) {
    let all: Vec<PciAddress> = topology.functions().map(|f| f.address).collect();
    for function in topology.functions() {
        let device = function.address;
        let fitness = verdict(topology, Placement::Peer { device, bar: 2 }, &all);
        assert!(!fitness.text.is_empty());
        let _ = topology.driver_of(device);
        for client in &all {
            assert!(!format!("{:?}", topology.route(device, *client)).is_empty());
        }
        if let Some(group) = function.iommu_group {
            assert!(topology.group_members(group).count() > 0);
        }
    }
}
