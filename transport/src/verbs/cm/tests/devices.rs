//! Which devices listeners need.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::verbs::cm::NeededDevice;
use crate::verbs::cm::devices::Places;

/// A machine in files, deleted at the end.
struct Machine(PathBuf);

impl Machine {
    /// Devices with the state of their port and the interfaces of their GIDs.
    fn new(name: &str, devices: &[(&str, &str, &[&str])], interfaces: &str) -> Self {
        let root = std::env::temp_dir().join(format!("sidelane-{name}-{}", std::process::id()));
        let write = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (device, state, owners) in devices {
            let port = root.join("devices").join(device).join("ports/1");
            write(port.join("state"), state);
            for (index, owner) in owners.iter().enumerate() {
                write(port.join(format!("gid_attrs/ndevs/{index}")), owner);
            }
        }
        write(root.join("interfaces"), interfaces);
        Self(root)
    }

    fn needed(&self, pair: &Pair) -> Result<Vec<NeededDevice>, OpenError> {
        let path = |name: &str| -> PathBuf { Path::new(&self.0).join(name) };
        pair.cm.devices_in(Places {
            devices: &path("devices"),
            interfaces: &path("interfaces"),
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const INTERFACES: &str = "Inter-|   Receive\n face |bytes\n    lo:  0 0\n  eth0: 12 0\neth1:0 0\n";

fn device(name: &str, listeners: &[usize], named: bool) -> NeededDevice {
    NeededDevice {
        name: name.to_owned(),
        listeners: listeners.to_vec(),
        named,
    }
}

#[test]
fn addresses_need_their_devices_and_wildcards_all_that_are_active_and_ours() {
    let machine = Machine::new(
        "devices",
        &[
            ("rxe0", "4: ACTIVE\n", &["eth0\n", "eth0\n"]),
            ("ib7", "4: ACTIVE\n", &[]),
            ("rxe1", "1: DOWN\n", &["eth1\n"]),
            ("rxe9", "4: ACTIVE\n", &["elsewhere\n"]),
        ],
        INTERFACES,
    );
    let pair = Pair::bind(&[OTHER, V4, "0.0.0.0:4421", V6]).unwrap();
    assert_eq!(
        machine.needed(&pair).unwrap(),
        [
            device("rxe1", &[0], true),
            device("rxe0", &[1, 2, 3], true),
            device("ib7", &[2], false),
        ]
    );
}

#[test]
fn a_wildcard_without_an_active_device_is_refused_with_the_remedy() {
    let machine = Machine::new("down", &[("rxe0", "1: DOWN\n", &["eth0\n"])], INTERFACES);
    let pair = Pair::bind(&["[::]:4420"]).unwrap();
    let refused = machine.needed(&pair).unwrap_err().to_string();
    assert!(refused.contains("rdma link add"), "{refused}");
}
