//! Which memory the payload of a namespace uses: the operator's policy and
//! choice on one side, what the devices offer and reach on the other.
//!
//! Pure: devices are asked before, and what comes out is carried out elsewhere.

use sidelane_config::{P2pPolicy, ProviderChoice};
use sidelane_p2p::provider::{Fitness, OwnUse, PathReason};
use sidelane_p2p::{PciAddress, Placement};

/// Memory that could be used.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The provider's id in the configuration, or for an SSD's own memory that
    /// is not listed there, what it is (`cmb of 0000:03:00.0`).
    pub name: String,
    /// Where it is.
    pub placement: Placement,
    /// What the SSD that has it may itself use it for.
    pub own_use: OwnUse,
}

/// Memory for one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The candidate, by its number; `None` for plain host memory.
    pub candidate: Option<usize>,
    /// Whether it is peer memory, and if not, why.
    pub path: PathReason,
}

/// The outcome for a namespace behind one adapter: for each direction the memory
/// to use, then what the policy allows when that is taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Memory for reads, at least one.
    pub reads: Vec<Way>,
    /// Memory for writes, at least one.
    pub writes: Vec<Way>,
    /// Why not all of it is peer memory; [`PathReason::Peer`] where it is.
    pub code: PathReason,
    /// Why, in words.
    pub reason: String,
}

/// `require` cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("p2p = \"require\" cannot be met: {reasons}; {remedy}")]
pub struct Refusal {
    reasons: String,
    remedy: String,
}

/// A direction of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// Chooses memory for a namespace on the SSD `ssd` (`None`: no device reads or
/// writes its payload) behind an adapter. `judge` says whether the adapter and
/// clients reach a placement.
///
/// # Errors
/// When the policy is `require` and no memory fits, with the reasons and the
/// remedy.
pub fn choose(
    policy: P2pPolicy,
    choice: &ProviderChoice,
    ssd: Option<PciAddress>,
    candidates: &[Candidate],
    mut judge: impl FnMut(Placement, &[PciAddress]) -> Fitness,
) -> Result<Choice, Refusal> {
    let named = |candidate: &Candidate| choice.names(&candidate.name);
    let is_host = |candidate: &Candidate| candidate.placement == Placement::Host;
    // Host memory is that of a provider, where there is one that may be meant.
    let host = candidates
        .iter()
        .position(|it| is_host(it) && (named(it) || choice.ids().is_empty()));
    if policy == P2pPolicy::Off {
        let way = Way {
            candidate: host,
            path: PathReason::HostByPolicy,
        };
        return Ok(Choice {
            reads: vec![way],
            writes: vec![way],
            code: PathReason::HostByPolicy,
            reason: "p2p is off".to_owned(),
        });
    }
    let judged: Vec<Judged<'_>> = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| match (choice, policy) {
            // Never host memory where peer memory is required, and elsewhere
            // only where it was named.
            (ProviderChoice::Named(_), P2pPolicy::Require) => {
                named(candidate) && !is_host(candidate)
            }
            (ProviderChoice::Named(_), _) => named(candidate),
            (ProviderChoice::Auto, _) => !is_host(candidate),
        })
        .map(|(at, candidate)| Judged::new(at, candidate, ssd, &mut judge))
        .collect();
    let fitting = |direction| {
        let mut fit: Vec<_> = judged.iter().filter(|it| it.fits(direction)).collect();
        fit.sort_by_key(|judged| judged.distance);
        fit
    };
    let (reads, writes) = (fitting(Direction::Read), fitting(Direction::Write));
    let ways = |fit: &[&Judged<'_>], host: Option<Way>| {
        let fit = fit.iter().map(|judged| judged.way());
        fit.chain(host).collect::<Vec<_>>()
    };
    let last_resort = |path| {
        let way = Way {
            candidate: host,
            path,
        };
        (policy == P2pPolicy::Prefer).then_some(way)
    };
    if let (Some(read), Some(write)) = (reads.first(), writes.first()) {
        let reason = if read.at == write.at {
            format!("{}: {}", read.candidate.name, read.text)
        } else {
            format!(
                "reads by {}: {}; writes by {}: {}",
                read.candidate.name, read.text, write.candidate.name, write.text
            )
        };
        let code = match (read.code, write.code) {
            (PathReason::Peer, code) | (code, _) => code,
        };
        let host = last_resort(PathReason::HostByPolicy);
        return Ok(Choice {
            reads: ways(&reads, host),
            writes: ways(&writes, host),
            code,
            reason,
        });
    }
    let code = judged
        .first()
        .map_or(PathReason::NoProvider, |first| match first.code {
            PathReason::Peer => PathReason::DirectionUnsupported,
            code => code,
        });
    let reasons = if judged.is_empty() {
        "no peer memory is configured, and the SSD has none of its own".to_owned()
    } else {
        let each = judged.iter().map(Judged::words);
        each.collect::<Vec<_>>().join("; ")
    };
    let host = last_resort(code).ok_or_else(|| {
        let remedy = judged.iter().find_map(|judged| judged.remedy.clone());
        let remedy = remedy.unwrap_or_else(|| {
            "name a provider that the SSD reaches, or set p2p to \"prefer\" or \"off\"".into()
        });
        let reasons = reasons.clone();
        Refusal { reasons, remedy }
    })?;
    Ok(Choice {
        reads: ways(&reads, Some(host)),
        writes: ways(&writes, Some(host)),
        code,
        reason: reasons,
    })
}

/// A candidate, judged for one SSD.
struct Judged<'a> {
    at: usize,
    candidate: &'a Candidate,
    code: PathReason,
    text: String,
    remedy: Option<String>,
    distance: u32,
    own: bool,
}

impl<'a> Judged<'a> {
    fn new(
        at: usize,
        candidate: &'a Candidate,
        ssd: Option<PciAddress>,
        judge: &mut impl FnMut(Placement, &[PciAddress]) -> Fitness,
    ) -> Self {
        let clients: Vec<_> = ssd.into_iter().collect();
        let fitness = judge(candidate.placement, &clients);
        let own =
            matches!(candidate.placement, Placement::Peer { device, .. } if Some(device) == ssd);
        Self {
            at,
            candidate,
            code: fitness.code,
            text: fitness.text,
            remedy: fitness.remedy,
            distance: fitness.route.map_or(u32::MAX, |route| route.distance),
            own,
        }
    }

    /// Host memory fits too, where it was named as a provider; it counts as
    /// what it is.
    fn fits(&self, direction: Direction) -> bool {
        let reached = matches!(self.code, PathReason::Peer | PathReason::HostByPolicy);
        let taken = match direction {
            Direction::Read => self.candidate.own_use.reads,
            Direction::Write => self.candidate.own_use.writes,
        };
        reached && (taken || !self.own)
    }

    fn way(&self) -> Way {
        Way {
            candidate: Some(self.at),
            path: self.code,
        }
    }

    fn words(&self) -> String {
        let name = &self.candidate.name;
        match (self.fits(Direction::Read), self.fits(Direction::Write)) {
            (true, false) => {
                format!("{name}: the SSD does not take write data from its own memory")
            }
            (false, true) => format!("{name}: the SSD does not put read data into its own memory"),
            _ => format!("{name}: {}", self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidelane_p2p::topology::{Route, RoutePath};

    fn pci(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    const BOTH: OwnUse = OwnUse {
        reads: true,
        writes: true,
    };

    fn cmb(name: &str, device: &str, own_use: OwnUse) -> Candidate {
        let placement = Placement::Peer {
            device: pci(device),
            bar: 2,
        };
        Candidate {
            name: name.to_owned(),
            placement,
            own_use,
        }
    }

    /// Bus 3 and 4 share a switch, bus 9 shares nothing with them.
    fn judge(placement: Placement, clients: &[PciAddress]) -> Fitness {
        let Placement::Peer { device, .. } = placement else {
            let text = "host memory".to_owned();
            return Fitness {
                code: PathReason::HostByPolicy,
                text,
                remedy: None,
                route: None,
            };
        };
        let far = clients
            .iter()
            .any(|client| (client.bus == 9) != (device.bus == 9));
        let distance = if clients == [device] { 0 } else { 4 };
        let (code, path) = match (far, distance) {
            (true, _) => (PathReason::NoRoute, RoutePath::NotPossible),
            (false, 0) => (PathReason::Peer, RoutePath::SameDevice),
            (false, _) => (PathReason::Peer, RoutePath::ThroughSwitch),
        };
        let text = if far { "no common switch" } else { "reached" }.to_owned();
        let remedy = far.then(|| "move the SSD".to_owned());
        let route = Some(Route {
            distance,
            path,
            reason: text.clone(),
            remedy: remedy.clone(),
        });
        Fitness {
            code,
            text,
            remedy,
            route,
        }
    }

    fn candidates() -> Vec<Candidate> {
        vec![
            cmb("near", "0000:04:00.0", BOTH),
            cmb("own", "0000:03:00.0", BOTH),
        ]
    }

    fn run(
        policy: P2pPolicy,
        choice: &str,
        ssd: &str,
        from: &[Candidate],
    ) -> Result<Choice, Refusal> {
        let choice = match choice {
            "auto" => ProviderChoice::Auto,
            ids => ProviderChoice::Named(ids.split(' ').map(str::to_owned).collect()),
        };
        choose(policy, &choice, Some(pci(ssd)), from, judge)
    }

    #[rstest::rstest]
    #[case::own_memory_comes_first("auto", "0000:03:00.0", Some(1))]
    #[case::then_the_nearest("auto", "0000:05:00.0", Some(0))]
    #[case::unless_another_is_named("near", "0000:03:00.0", Some(0))]
    fn a_provider_is_chosen(
        #[case] choice: &str,
        #[case] ssd: &str,
        #[case] expected: Option<usize>,
    ) {
        let chosen = run(P2pPolicy::Require, choice, ssd, &candidates()).unwrap();
        let way = Way {
            candidate: expected,
            path: PathReason::Peer,
        };
        assert_eq!((chosen.reads[0], chosen.writes[0]), (way, way));
        assert_eq!(chosen.code, PathReason::Peer);
    }

    #[test]
    fn off_never_uses_peer_memory() {
        let chosen = run(P2pPolicy::Off, "auto", "0000:03:00.0", &candidates()).unwrap();
        assert_eq!(
            chosen.reads,
            [Way {
                candidate: None,
                path: PathReason::HostByPolicy
            }]
        );
    }

    #[test]
    fn host_memory_is_no_way_to_meet_require_and_is_counted_with_the_reason_for_it() {
        let mut from = vec![Candidate {
            name: "plain".to_owned(),
            placement: Placement::Host,
            own_use: BOTH,
        }];
        let (near, far) = ("0000:03:00.0", "0000:09:00.0");
        for choice in ["auto", "plain"] {
            run(P2pPolicy::Require, choice, near, &from).unwrap_err();
        }
        let way =
            |policy, choice, ssd, from: &[_]| run(policy, choice, ssd, from).unwrap().writes[0];
        let plain = |path| Way {
            candidate: Some(0),
            path,
        };
        let by_policy = plain(PathReason::HostByPolicy);
        for choice in ["auto", "plain"] {
            assert_eq!(way(P2pPolicy::Off, choice, near, &from), by_policy);
        }
        assert_eq!(way(P2pPolicy::Prefer, "plain", near, &from), by_policy);
        let nothing = plain(PathReason::NoProvider);
        assert_eq!(way(P2pPolicy::Prefer, "auto", near, &from), nothing);
        from.extend(candidates());
        run(P2pPolicy::Require, "auto", far, &from).unwrap_err();
        let no_route = plain(PathReason::NoRoute);
        assert_eq!(way(P2pPolicy::Prefer, "auto", far, &from), no_route);
        let own = way(P2pPolicy::Prefer, "auto", near, &from);
        assert_eq!((own.candidate, own.path), (Some(2), PathReason::Peer));
    }

    #[rstest::rstest]
    #[case::out_of_reach(candidates(), PathReason::NoRoute, "move the SSD")]
    #[case::nothing_there(vec![], PathReason::NoProvider, "name a provider")]
    fn without_a_fit_require_refuses_and_prefer_says_why(
        #[case] from: Vec<Candidate>,
        #[case] code: PathReason,
        #[case] remedy: &str,
    ) {
        let far = "0000:09:00.0";
        let refusal = run(P2pPolicy::Require, "auto", far, &from)
            .unwrap_err()
            .to_string();
        assert!(refusal.contains(remedy), "{refusal}");
        let chosen = run(P2pPolicy::Prefer, "auto", far, &from).unwrap();
        assert_eq!(
            chosen.reads,
            [Way {
                candidate: None,
                path: code
            }]
        );
        assert_eq!(chosen.code, code);
    }

    #[test]
    fn an_ssd_that_takes_one_direction_in_its_own_memory_uses_the_nearest_for_the_other() {
        let reads_only = OwnUse {
            reads: true,
            writes: false,
        };
        let mut from = candidates();
        from[1].own_use = reads_only;
        let chosen = run(P2pPolicy::Require, "auto", "0000:03:00.0", &from).unwrap();
        assert_eq!(
            (chosen.reads[0].candidate, chosen.writes[0].candidate),
            (Some(1), Some(0))
        );
        let refusal = run(P2pPolicy::Require, "own", "0000:03:00.0", &from).unwrap_err();
        assert!(refusal.to_string().contains("write data"), "{refusal}");
        let chosen = run(P2pPolicy::Prefer, "own", "0000:03:00.0", &from).unwrap();
        assert_eq!(
            chosen.writes,
            [Way {
                candidate: None,
                path: PathReason::DirectionUnsupported
            }]
        );
    }

    #[rstest::rstest]
    #[case::prefer(P2pPolicy::Prefer, &[Some(1), Some(0), None])]
    #[case::require(P2pPolicy::Require, &[Some(1), Some(0)])]
    fn what_comes_next_is_what_the_policy_allows(
        #[case] policy: P2pPolicy,
        #[case] order: &[Option<usize>],
    ) {
        let chosen = run(policy, "auto", "0000:03:00.0", &candidates()).unwrap();
        let ways: Vec<_> = chosen.writes.iter().map(|way| way.candidate).collect();
        assert_eq!(ways, order);
    }
}
