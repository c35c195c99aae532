//! Where hosts connect, with a stock host: IPv4 and IPv6, ports, wildcards, and
//! an adapter that is taken away.

use rstest::rstest;
use sidelane_tests::lab::{self, Nic};

#[rstest]
fn a_host_is_served_wherever_it_was_told_to_come(
    #[values(Nic::Soft, Nic::Verbs)] nic: Nic,
) -> anyhow::Result<()> {
    lab::run("addresses", nic, &[])?.all_ok()
}
