//! The operator's policies, each on a target of its own: which way the payload
//! went, and whether it was made visible before the SSD was told.

use anyhow::{Context, ensure};
use rstest::rstest;
use sidelane_tests::lab::{self, Nic, Payload, Way};

/// Bytes of each write that comes inside its capsule, in cases that allow it.
const IN_CAPSULE: u64 = 4096;

/// What the target is told, and what has to come of it.
struct Case {
    name: &'static str,
    p2p: &'static str,
    in_capsule: u64,
    flush: &'static str,
    way: Way,
    /// Whether data that the NIC placed is made visible; what came inside a
    /// capsule never needs it.
    flushed: bool,
}

/// The cases. `off` is there for the proof from outside too: it must see host
/// memory where host memory is in use.
fn cases(nic: Nic) -> Vec<Case> {
    let case = |name, p2p, in_capsule, flush, way, flushed| Case {
        name,
        p2p,
        in_capsule,
        flush,
        way,
        flushed,
    };
    let off = Way::Host(&["host-by-policy", "in-capsule"]);
    vec![
        case("off", "off", IN_CAPSULE, "auto", off, false),
        case("off-flushed", "off", IN_CAPSULE, "always", off, true),
        case(
            "prefer",
            "prefer",
            0,
            "auto",
            nic.way(),
            nic.way() == Way::Peer,
        ),
        case("prefer-flushed", "prefer", 0, "always", nic.way(), true),
        case("prefer-unflushed", "prefer", 0, "never", nic.way(), false),
    ]
}

#[rstest]
fn payload_goes_and_is_flushed_as_the_operator_says(
    #[values(Nic::Soft, Nic::Verbs)] nic: Nic,
) -> anyhow::Result<()> {
    let cases = cases(nic);
    let words: Vec<_> = cases.iter().map(Case::word).collect();
    let outcome = lab::run("policies", nic, &[("CASES", &words.join(" "))])?;
    outcome.all_ok()?;
    for case in cases {
        let payload = Payload::of(&outcome.stats(case.name)?)?;
        let journal = format!("journal-{}", case.name);
        payload
            .went(case.way)
            .and_then(|()| case.way.is_proved(&outcome, &journal))
            .and_then(|_| case.is_flushed_as_said(&payload))
            .with_context(|| format!("case {} on {nic:?}", case.name))?;
    }
    Ok(())
}

impl Case {
    /// As the scenario takes it.
    fn word(&self) -> String {
        let Self {
            name,
            p2p,
            in_capsule,
            flush,
            ..
        } = self;
        format!("{name}:{p2p}:{in_capsule}:{flush}")
    }

    fn is_flushed_as_said(&self, payload: &Payload) -> anyhow::Result<()> {
        let placed = payload.writes - payload.in_capsule_bytes / IN_CAPSULE;
        let expected = if self.flushed { placed } else { 0 };
        ensure!(
            placed > 0
                && payload.flushed_commands == expected
                && (payload.flush_batches > 0) == self.flushed,
            "{expected} commands are to be flushed: {payload:?}"
        );
        ensure!(
            (payload.in_capsule_bytes > 0) == (self.in_capsule > 0),
            "data in capsules: {payload:?}"
        );
        Ok(())
    }
}
