//! SSDs that are taken away from a target under load, and given back: by QEMU's
//! `device_del` and by sysfs, with a stock host.

use rstest::rstest;
use sidelane_tests::lab::{self, Nic};

#[rstest]
fn a_lost_ssd_fails_alone_and_serves_again_when_it_is_back(
    #[values(Nic::Soft)] nic: Nic,
) -> anyhow::Result<()> {
    let outcome = lab::run_with_qmp("two-cmb", "ssd-faults", nic, &[])?;
    outcome.all_ok()
}
