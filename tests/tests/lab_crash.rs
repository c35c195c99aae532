//! Targets that are killed and hosts that fail, again and again, with a stock
//! host that is to lose nothing by it.

use sidelane_tests::lab::{self, Nic, Payload};

#[test]
fn a_target_that_is_killed_ten_times_in_a_row_loses_nothing() -> anyhow::Result<()> {
    let nic = Nic::Soft;
    let outcome = lab::run("crash-kills", nic, &[("POLICY", nic.policy())])?;
    println!(
        "each fault, until the host was back, in ms:\n{}",
        outcome.text("took")?
    );
    outcome.all_ok()?;
    Payload::of(&outcome.stats("end")?)?.went(nic.way())
}
