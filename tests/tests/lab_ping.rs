//! `sidelane ping` and the stock rping of rdma-core, each asking the other.

use sidelane_tests::lab::{self, Nic};

#[test]
fn sidelane_and_a_stock_rping_answer_each_other() -> anyhow::Result<()> {
    let outcome = lab::run("ping", Nic::Soft, &[])?;
    outcome.all_ok()?;
    println!("{}", outcome.text("log/bandwidth-for-people")?);
    Ok(())
}
