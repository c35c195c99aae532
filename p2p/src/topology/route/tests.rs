use super::*;
use crate::topology::Acs;
use crate::topology::fixture::{self, Builder, Card};

fn at(text: &str) -> PciAddress {
    text.parse().unwrap()
}

/// A tree made of cards, with the CPU of a family of AMD, or an Intel one.
fn tree(cards: &[Card<'_>], amd_family: Option<u32>) -> Topology {
    let folder = tempfile::tempdir().unwrap();
    let tree = Builder::new(folder.path()).unwrap();
    for card in cards {
        tree.add(card).unwrap();
    }
    if let Some(family) = amd_family {
        tree.cpu("AuthenticAMD", family).unwrap();
    }
    tree.load().unwrap()
}

#[rstest::rstest]
#[case::itself("03:00.0", "03:00.0", 0, RoutePath::SameDevice)]
#[case::behind_the_same_switch("03:00.0", "04:00.0", 4, RoutePath::ThroughSwitch)]
#[case::and_back("04:00.0", "03:00.0", 4, RoutePath::ThroughSwitch)]
#[case::a_card_behind_it("05:00.0", "03:00.0", 4, RoutePath::ThroughSwitch)]
#[case::behind_another_root_port("03:00.0", "06:00.0", 6, RoutePath::NotPossible)]
#[case::not_there("03:00.0", "07:00.0", 0, RoutePath::NotPossible)]
fn the_lab_is_judged_as_its_kernel_judges_it(
    #[case] provider: &str,
    #[case] client: &str,
    #[case] distance: u32,
    #[case] path: RoutePath,
) {
    let folder = tempfile::tempdir().unwrap();
    let topology = fixture::lab(folder.path()).unwrap();
    let route = topology.route(at(provider), at(client));
    assert_eq!(
        (route.distance, route.path),
        (distance, path),
        "{}",
        route.reason
    );
    assert_eq!(route.remedy.is_some(), !route.is_possible());
}

#[test]
fn several_clients_add_up_and_one_refusal_refuses_all() {
    let folder = tempfile::tempdir().unwrap();
    let topology = fixture::lab(folder.path()).unwrap();
    let provider = at("03:00.0");
    let near = topology.route_all(provider, &[provider, at("04:00.0"), at("05:00.0")]);
    assert_eq!((near.distance, near.path), (8, RoutePath::ThroughSwitch));
    let far = topology.route_all(provider, &[at("06:00.0"), at("04:00.0")]);
    assert_eq!((far.distance, far.path), (10, RoutePath::NotPossible));
    assert!(far.reason.contains("0000:06:00.0"), "{}", far.reason);
    assert!(!topology.route_all(provider, &[]).is_possible());
}

const RP: &str = "pci0000:00/0000:00:01.0";
const UP: &str = "pci0000:00/0000:00:01.0/0000:01:00.0";
const DP_A: &str = "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0";
const DP_B: &str = "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0";
const SSD_A: &str = "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0";
const SSD_B: &str = "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:04:00.0";

/// Two SSDs behind a switch, with the bridge or SSD at `path` changed.
fn switch(host: (u16, u16), path: &str, acs: Acs) -> Vec<Card<'static>> {
    let root = Card {
        id: host,
        class: 0x06_0000,
        ..Card::nvme("pci0000:00/0000:00:00.0")
    };
    let bridges = [RP, UP, DP_A, DP_B].map(Card::bridge);
    let mut cards: Vec<_> = [root]
        .into_iter()
        .chain(bridges)
        .chain([SSD_A, SSD_B].map(Card::nvme))
        .collect();
    for card in cards.iter_mut().filter(|card| card.path == path) {
        card.acs = acs;
    }
    cards
}

const UNKNOWN_HOST: (u16, u16) = (0x8086, 0x29c0);
const KNOWN_HOST: (u16, u16) = (0x8086, 0x09a2);

#[rstest::rstest]
#[case::near_port(DP_A, Acs::REQUEST_REDIRECT, RoutePath::NotPossible)]
#[case::far_port(DP_B, Acs::COMPLETION_REDIRECT, RoutePath::NotPossible)]
#[case::where_they_meet(UP, Acs::EGRESS_CONTROL, RoutePath::NotPossible)]
#[case::an_endpoint(SSD_B, Acs::REQUEST_REDIRECT, RoutePath::NotPossible)]
#[case::above_where_they_meet(RP, Acs::REQUEST_REDIRECT, RoutePath::ThroughSwitch)]
#[case::bits_that_do_not_redirect(DP_A, 0x53, RoutePath::ThroughSwitch)]
fn a_redirect_anywhere_on_the_way_counts(
    #[case] place: &str,
    #[case] bits: u16,
    #[case] path: RoutePath,
) {
    let topology = tree(&switch(UNKNOWN_HOST, place, Acs::Control(bits)), None);
    let route = topology.route(at("03:00.0"), at("04:00.0"));
    assert_eq!((route.distance, route.path), (4, path), "{}", route.reason);
    if path == RoutePath::NotPossible {
        let (_, address) = place.rsplit_once('/').unwrap();
        let remedy = route.remedy.unwrap();
        assert!(
            remedy.contains(&format!("pci=disable_acs_redir={address} ")),
            "{remedy}"
        );
        assert!(route.reason.contains("8086:29c0"), "{}", route.reason);
    }
}

#[test]
fn a_device_reaches_itself_whatever_it_redirects() {
    let topology = tree(&switch(UNKNOWN_HOST, SSD_A, Acs::Control(0xff)), None);
    assert_eq!(
        topology.route(at("03:00.0"), at("03:00.0")).path,
        RoutePath::SameDevice
    );
}

#[rstest::rstest]
#[case::unknown_host(UNKNOWN_HOST, None, RoutePath::NotPossible)]
#[case::known_host(KNOWN_HOST, None, RoutePath::ThroughHostBridge)]
#[case::known_on_one_bridge((0x8086, 0x2f00), None, RoutePath::ThroughHostBridge)]
#[case::any_of_google((0x1ae0, 0x1234), None, RoutePath::ThroughHostBridge)]
#[case::zen(UNKNOWN_HOST, Some(0x17), RoutePath::ThroughHostBridge)]
#[case::newer_amd(UNKNOWN_HOST, Some(0x1a), RoutePath::ThroughHostBridge)]
#[case::older_amd(UNKNOWN_HOST, Some(0x0f), RoutePath::NotPossible)]
fn redirected_requests_arrive_where_the_root_complex_forwards(
    #[case] host: (u16, u16),
    #[case] amd: Option<u32>,
    #[case] path: RoutePath,
) {
    let redirecting = Acs::Control(Acs::REQUEST_REDIRECT);
    let topology = tree(&switch(host, DP_A, redirecting), amd);
    let route = topology.route(at("03:00.0"), at("04:00.0"));
    assert_eq!(route.path, path, "{}", route.reason);
}

#[test]
fn settings_that_cannot_be_read_are_taken_to_redirect_and_say_so() {
    let topology = tree(&switch(UNKNOWN_HOST, DP_A, Acs::Unreadable), None);
    let route = topology.route(at("03:00.0"), at("04:00.0"));
    assert_eq!(route.path, RoutePath::NotPossible);
    assert!(route.reason.contains("cannot be read"), "{}", route.reason);
    assert!(route.remedy.unwrap().contains("CAP_SYS_ADMIN"));
}

#[rstest::rstest]
#[case::both_known(0x2030, RoutePath::ThroughHostBridge)]
#[case::known_for_one_bridge_only(0x2f01, RoutePath::NotPossible)]
#[case::unknown(0x29c0, RoutePath::NotPossible)]
fn between_host_bridges_both_must_be_known_to_forward(
    #[case] device: u16,
    #[case] path: RoutePath,
) {
    // Skylake has no 00.0 on its further buses: the first root port stands in.
    let cards = [
        Card {
            id: (0x8086, device),
            ..Card::bridge("pci0000:16/0000:16:02.0")
        },
        Card {
            id: (0x8086, device),
            ..Card::bridge("pci0000:64/0000:64:00.0")
        },
        Card::nvme("pci0000:16/0000:16:02.0/0000:17:00.0"),
        Card::nvme("pci0000:64/0000:64:00.0/0000:65:00.0"),
    ];
    let route = tree(&cards, None).route(at("17:00.0"), at("65:00.0"));
    assert_eq!((route.distance, route.path), (4, path), "{}", route.reason);
}

#[test]
fn a_bus_whose_first_device_is_neither_00_0_nor_a_root_port_is_not_known() {
    let cards = [
        Card {
            id: KNOWN_HOST,
            ..Card::nvme("pci0000:16/0000:16:05.0")
        },
        Card::nvme("pci0000:16/0000:16:06.0"),
    ];
    let route = tree(&cards, None).route(at("16:05.0"), at("16:06.0"));
    assert_eq!(
        (route.distance, route.path),
        (2, RoutePath::NotPossible),
        "{}",
        route.reason
    );
}

#[test]
fn functions_of_one_device_are_two_hops_apart() {
    let cards = [
        Card::bridge(RP),
        Card::nvme("pci0000:00/0000:00:01.0/0000:01:00.0"),
        Card::nvme("pci0000:00/0000:00:01.0/0000:01:00.1"),
    ];
    let route = tree(&cards, None).route(at("01:00.0"), at("01:00.1"));
    assert_eq!((route.distance, route.path), (2, RoutePath::ThroughSwitch));
}

#[test]
fn a_virtual_function_stands_where_its_physical_function_stands() {
    // On some machines a virtual function appears on a bus of its own.
    let mut cards = switch(UNKNOWN_HOST, "", Acs::Absent);
    cards.push(Card {
        physfn: Some(SSD_B),
        ..Card::nvme("pci0000:00/0000:05:00.1")
    });
    let route = tree(&cards, None).route(at("03:00.0"), at("05:00.1"));
    assert_eq!(
        (route.distance, route.path),
        (4, RoutePath::ThroughSwitch),
        "{}",
        route.reason
    );
}

#[test]
fn a_domain_below_a_function_has_its_own_root() {
    let cards = [
        Card::nvme("pci0000:00/0000:00:0e.0/pci10000:00/10000:00:02.0/10000:01:00.0"),
        Card::bridge("pci0000:00/0000:00:0e.0/pci10000:00/10000:00:02.0"),
        Card::nvme("pci0000:00/0000:00:0e.0"),
    ];
    let topology = tree(&cards, None);
    let inner = topology.function(at("10000:01:00.0")).unwrap();
    assert_eq!(inner.host_bridge, "pci10000:00");
    assert_eq!(inner.upstream, [at("10000:00:02.0")]);
    assert!(
        !topology
            .route(at("10000:01:00.0"), at("00:0e.0"))
            .is_possible()
    );
}
