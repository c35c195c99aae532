//! `sidelane ping` and the stock rping of rdma-core, each asking the other.

use anyhow::ensure;
use serde_json::Value;
use sidelane_tests::lab::{self, Nic};

#[test]
fn sidelane_and_a_stock_rping_answer_each_other() -> anyhow::Result<()> {
    let outcome = lab::run("ping", Nic::Soft, &[])?;
    outcome.all_ok()?;
    let report: Value = serde_json::from_str(&outcome.text("ping-sidelane.json")?)?;
    // Nothing disturbs that link, so nothing may have been repeated on it.
    let counts = &report["counts"];
    ensure!(counts["timeouts"] == 0, "{counts}");
    println!("{}", outcome.text("log/bandwidth-for-people")?);
    Ok(())
}
