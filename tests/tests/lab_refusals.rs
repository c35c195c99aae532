//! What the target refuses on real devices, in words that help.

use sidelane_tests::lab::{self, Nic};

#[test]
fn what_cannot_be_served_is_refused_with_reason_and_remedy() -> anyhow::Result<()> {
    lab::run("refusals", Nic::Soft, &[])?.all_ok()
}
