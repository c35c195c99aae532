//! Policies and choices against what devices offer and reach.

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
        realm: Realm::Vfio,
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

fn plain() -> Candidate {
    Candidate {
        name: "plain".to_owned(),
        placement: Placement::Host,
        realm: Realm::Both,
        own_use: BOTH,
    }
}

/// A way that is no spare.
const fn way(candidate: Option<usize>, path: PathReason) -> Way {
    Way {
        candidate,
        path,
        spare: false,
    }
}

fn candidates() -> Vec<Candidate> {
    vec![
        cmb("near", "0000:04:00.0", BOTH),
        cmb("own", "0000:03:00.0", BOTH),
    ]
}

fn run(policy: P2pPolicy, choice: &str, ssd: &str, from: &[Candidate]) -> Result<Choice, Refusal> {
    let choice = match choice {
        "auto" => ProviderChoice::Auto,
        ids => ProviderChoice::Named(ids.split(' ').map(str::to_owned).collect()),
    };
    let client = Client {
        ssd: Some(pci(ssd)),
        realm: Realm::Vfio,
    };
    choose(policy, &choice, client, from, judge)
}

#[rstest::rstest]
#[case::own_memory_comes_first("auto", "0000:03:00.0", Some(1))]
#[case::then_the_nearest("auto", "0000:05:00.0", Some(0))]
#[case::unless_another_is_named("near", "0000:03:00.0", Some(0))]
fn a_provider_is_chosen(#[case] choice: &str, #[case] ssd: &str, #[case] expected: Option<usize>) {
    let chosen = run(P2pPolicy::Require, choice, ssd, &candidates()).unwrap();
    let way = way(expected, PathReason::Peer);
    assert_eq!((chosen.reads[0], chosen.writes[0]), (way, way));
    assert_eq!(chosen.code, PathReason::Peer);
}

#[test]
fn off_never_uses_peer_memory() {
    let chosen = run(P2pPolicy::Off, "auto", "0000:03:00.0", &candidates()).unwrap();
    assert_eq!(chosen.reads, [way(None, PathReason::HostByPolicy)]);
}

#[test]
fn host_memory_is_no_way_to_meet_require_and_is_counted_with_the_reason_for_it() {
    let mut from = vec![plain()];
    let (near, far) = ("0000:03:00.0", "0000:09:00.0");
    for choice in ["auto", "plain"] {
        run(P2pPolicy::Require, choice, near, &from).unwrap_err();
    }
    let first = |policy, choice, ssd, from: &[_]| run(policy, choice, ssd, from).unwrap().writes[0];
    let plain = |path| way(Some(0), path);
    let by_policy = plain(PathReason::HostByPolicy);
    for choice in ["auto", "plain"] {
        assert_eq!(first(P2pPolicy::Off, choice, near, &from), by_policy);
    }
    assert_eq!(first(P2pPolicy::Prefer, "plain", near, &from), by_policy);
    let nothing = plain(PathReason::NoProvider);
    assert_eq!(first(P2pPolicy::Prefer, "auto", near, &from), nothing);
    from.extend(candidates());
    run(P2pPolicy::Require, "auto", far, &from).unwrap_err();
    let no_route = plain(PathReason::NoRoute);
    assert_eq!(first(P2pPolicy::Prefer, "auto", far, &from), no_route);
    let own = first(P2pPolicy::Prefer, "auto", near, &from);
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
    assert_eq!(chosen.reads, [way(None, code)]);
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
    assert_eq!(chosen.writes, [way(None, PathReason::DirectionUnsupported)]);
}

/// What is used, and what comes after it, in that order.
fn order(ways: &[Way]) -> (Vec<Option<usize>>, Vec<Option<usize>>) {
    let (spares, used): (Vec<Way>, Vec<Way>) = ways.iter().partition(|way| way.spare);
    assert_eq!([used.clone(), spares.clone()].concat(), ways);
    let candidates = |ways: Vec<Way>| ways.iter().map(|way| way.candidate).collect();
    (candidates(used), candidates(spares))
}

#[rstest::rstest]
#[case::auto(P2pPolicy::Prefer, "auto", &[Some(1)], &[Some(0), Some(2)])]
#[case::auto_of_peers(P2pPolicy::Require, "auto", &[Some(1)], &[Some(0)])]
#[case::one(P2pPolicy::Require, "near", &[Some(0)], &[])]
#[case::several_by_nearness(P2pPolicy::Require, "near own", &[Some(1), Some(0)], &[])]
#[case::host_memory_last(P2pPolicy::Prefer, "near plain own", &[Some(1), Some(0), Some(2)], &[])]
#[case::plain_host_memory_as_a_spare(P2pPolicy::Prefer, "near own", &[Some(1), Some(0)], &[None])]
#[case::off(P2pPolicy::Off, "auto", &[Some(2)], &[])]
fn of_several_that_were_named_all_are_used_and_what_else_the_policy_allows_is_a_spare(
    #[case] policy: P2pPolicy,
    #[case] choice: &str,
    #[case] used: &[Option<usize>],
    #[case] spares: &[Option<usize>],
) {
    let from = [candidates(), vec![plain()]].concat();
    let chosen = run(policy, choice, "0000:03:00.0", &from).unwrap();
    assert_eq!(order(&chosen.writes), (used.to_vec(), spares.to_vec()));
    assert_eq!(chosen.reads, chosen.writes);
}

#[test]
fn of_equally_near_memory_the_first_that_was_named_comes_first() {
    let from = candidates();
    for (choice, expected) in [("near own", [0, 1]), ("own near", [1, 0])] {
        let chosen = run(P2pPolicy::Require, choice, "0000:05:00.0", &from).unwrap();
        let used = order(&chosen.writes).0;
        assert_eq!(used, expected.map(Some), "{choice}");
    }
}

#[test]
fn all_that_is_used_is_told_and_what_of_the_named_is_not() {
    let mut from = candidates();
    from.push(cmb("far", "0000:09:00.0", BOTH));
    let chosen = run(P2pPolicy::Require, "near far own", "0000:03:00.0", &from).unwrap();
    assert_eq!(
        chosen.reason,
        "own: reached; near: reached; not used: far: no common switch"
    );
    assert_eq!(chosen.code, PathReason::Peer);
    assert_eq!(order(&chosen.reads).0, [Some(1), Some(0)]);
}

#[test]
fn host_memory_beside_peer_memory_that_does_not_fit_is_counted_with_the_reason_of_that() {
    let from = [candidates(), vec![plain()]].concat();
    let chosen = run(P2pPolicy::Prefer, "plain near", "0000:09:00.0", &from).unwrap();
    assert_eq!(chosen.reads, [way(Some(2), PathReason::NoRoute)]);
    assert_eq!(chosen.code, PathReason::NoRoute);
    assert!(
        chosen.reason.contains("not used: near"),
        "{}",
        chosen.reason
    );
}

/// What the kernel drives has no use for a BAR under vfio-pci, nor the other way round.
#[rstest::rstest]
#[case::kernel(Realm::Kernel, Realm::Vfio, "kernel drives")]
#[case::vfio(Realm::Vfio, Realm::Kernel, "under vfio-pci")]
fn memory_of_another_owner_is_refused_in_words(
    #[case] device: Realm,
    #[case] memory: Realm,
    #[case] said: &str,
) {
    let mut from = candidates();
    from[0].realm = memory;
    from[1].realm = memory;
    let client = Client {
        ssd: Some(pci("0000:03:00.0")),
        realm: device,
    };
    let asked = |policy| choose(policy, &ProviderChoice::Auto, client, &from, judge);
    let refusal = asked(P2pPolicy::Require).unwrap_err().to_string();
    assert!(refusal.contains(said), "{refusal}");
    assert!(refusal.contains("; name a provider of"), "{refusal}");
    let chosen = asked(P2pPolicy::Prefer).unwrap();
    assert_eq!(chosen.reads, [way(None, PathReason::OtherOwner)]);
    assert_eq!(chosen.code, PathReason::OtherOwner);
}

#[test]
fn memory_that_either_owner_maps_serves_both() {
    let mut from = candidates();
    from[1].realm = Realm::Both;
    for realm in [Realm::Kernel, Realm::Vfio] {
        let client = Client {
            ssd: Some(pci("0000:03:00.0")),
            realm,
        };
        let choice = ProviderChoice::Auto;
        let chosen = choose(P2pPolicy::Require, &choice, client, &from, judge).unwrap();
        assert_eq!(chosen.reads[0], way(Some(1), PathReason::Peer));
    }
}
