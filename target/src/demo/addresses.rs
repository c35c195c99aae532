//! Loopback addresses for the two ends of the demo.
//!
//! RoCEv2 has one UDP port, so each end needs an address of its own, and two
//! demos side by side need four. All of 127.0.0.0/8 is local to a Linux machine
//! without any set-up: addresses are drawn at random, and drawn again where
//! somebody has the port already.

use std::net::{IpAddr, Ipv4Addr};

use sidelane_transport::soft::port::OpenError;
use uuid::Uuid;

/// The two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Where the target listens.
    pub target: IpAddr,
    /// Where the initiator is.
    pub initiator: IpAddr,
}

/// Pairs tried before the demo gives up: with a pair free at all, each try but
/// a very unlucky one finds it.
const TRIES: usize = 16;

impl Addresses {
    /// Two addresses by chance, never 127.0.0.0/16, in which people have
    /// services of their own.
    fn random() -> Self {
        let bytes = *Uuid::new_v4().as_bytes();
        let address =
            |[a, b, c]: [u8; 3]| IpAddr::from(Ipv4Addr::new(127, a.max(1), b, c.clamp(1, 254)));
        // Bytes 0 to 5 of a random UUID are random in every bit. The lowest bit
        // of the third tells the two ends apart, whatever else is equal.
        let [a, b, c, d, e, f, ..] = bytes;
        Self {
            target: address([a, b & !1, c]),
            initiator: address([d, e | 1, f]),
        }
    }
}

/// Calls `open` with addresses until it does not fail for one that is in use.
pub fn with_free<T>(
    mut open: impl FnMut(Addresses) -> Result<T, anyhow::Error>,
) -> Result<T, OpenFailure> {
    let mut last = None;
    for _ in 0..TRIES {
        match open(Addresses::random()) {
            Ok(opened) => return Ok(opened),
            Err(error) if is_in_use(&error) => last = Some(error),
            Err(error) => return Err(OpenFailure::Other(error)),
        }
    }
    let last = last.map_or_else(String::new, |error| format!("{error:#}"));
    Err(OpenFailure::AllInUse { tries: TRIES, last })
}

/// Why no pair of addresses was opened.
#[derive(Debug)]
pub enum OpenFailure {
    /// Each pair was in use.
    AllInUse {
        /// Pairs tried.
        tries: usize,
        /// What was said of the last one.
        last: String,
    },
    /// Something that another address does not cure.
    Other(anyhow::Error),
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<OpenError>());
    causes.any(|cause| matches!(cause, OpenError::InUse { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn in_use(address: IpAddr) -> anyhow::Error {
        Err::<(), _>(OpenError::InUse { address })
            .context("the listener")
            .unwrap_err()
    }

    #[test]
    fn the_two_ends_are_different_loopback_hosts() {
        for _ in 0..1000 {
            let ends = Addresses::random();
            assert_ne!(ends.target, ends.initiator);
            for end in [ends.target, ends.initiator] {
                let IpAddr::V4(end) = end else { panic!() };
                let [net, a, _, host] = end.octets();
                assert!(net == 127 && a > 0 && (1..255).contains(&host), "{end}");
            }
        }
    }

    #[test]
    fn an_address_in_use_leads_to_another_one_and_any_other_trouble_does_not() {
        let mut tried = Vec::new();
        let opened = with_free(|ends| {
            tried.push(ends.target);
            if tried.len() < 3 {
                Err(in_use(ends.target))
            } else {
                Ok(ends.target)
            }
        });
        assert!(matches!(opened, Ok(address) if address == tried[2]));
        let all = with_free(|ends| Err::<(), _>(in_use(ends.initiator)));
        assert!(matches!(
            all,
            Err(OpenFailure::AllInUse { tries: TRIES, .. })
        ));
        let mut calls = 0;
        let other = with_free(|_| {
            calls += 1;
            Err::<(), _>(anyhow::anyhow!("no"))
        });
        assert!(matches!(other, Err(OpenFailure::Other(_))) && calls == 1);
    }

    #[test]
    fn an_address_that_an_adapter_has_is_told_from_one_that_nobody_has() {
        let address = Addresses::random().target;
        let _held = sidelane_transport::soft::open(address, 1).unwrap();
        let error = sidelane_transport::soft::open(address, 1).unwrap_err();
        assert!(is_in_use(&error.into()));
        let foreign = sidelane_transport::soft::open([192, 0, 2, 1].into(), 1).unwrap_err();
        assert!(!is_in_use(&foreign.into()));
    }
}
