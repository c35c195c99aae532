//! Hosts that leave, links that are down, targets that are killed: in the
//! middle of verified writes, with a stock host.

use rstest::rstest;
use sidelane_tests::lab::{self, Nic, Payload};

#[rstest]
fn nothing_is_lost_and_nobody_else_notices(
    #[values(Nic::Soft, Nic::Verbs)] nic: Nic,
) -> anyhow::Result<()> {
    let outcome = lab::run("faults", nic, &[("POLICY", nic.policy())])?;
    outcome.all_ok()?;
    Payload::of(&outcome.stats("end")?)?.went(nic.way())
}
