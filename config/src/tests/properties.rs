//! What holds for any text, and for any configuration.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

use super::*;

fn slot(bus: u8) -> PciSlot {
    format!("0000:{bus:02x}:00.0").parse().unwrap()
}

fn pages(most: u64) -> impl Strategy<Value = ByteSize> {
    (1..=most).prop_map(|pages| ByteSize::new(pages * 4096).unwrap())
}

fn target() -> impl Strategy<Value = Target> {
    let cores = btree_set(0u16..1024, 1..4).prop_map(|cores| cores.into_iter().collect());
    let flush = proptest::sample::select(vec![Flush::Auto, Flush::Always, Flush::Never]);
    (
        "(/[a-z0-9 ._]{1,9}){1,4}",
        cores,
        2u16..=1024,
        1u16..=1024,
        flush,
        50u32..=600_000,
    )
        .prop_map(
            |(control, cores, max_queue_entries, max_io_queues, flush, command_timeout_ms)| {
                Target {
                    control: control.into(),
                    cores,
                    max_queue_entries,
                    max_io_queues,
                    flush,
                    command_timeout_ms,
                }
            },
        )
}

fn listeners() -> impl Strategy<Value = Vec<Listener>> {
    let nic = proptest::sample::select(vec![NicKind::Soft, NicKind::Verbs]);
    let icrc = proptest::sample::select(vec![IcrcCheck::Auto, IcrcCheck::Full, IcrcCheck::Socket]);
    let soft = (any::<bool>(), icrc).prop_map(|(offload, icrc)| SoftNic { offload, icrc });
    let listener = (1u8..=250, 1u16.., nic, soft);
    btree_map("[A-Za-z0-9._-]{1,64}", listener, 1..4).prop_map(|listeners| {
        let numbered = listeners.into_iter().enumerate();
        let listener = |(index, (id, (last, port, nic, soft)))| Listener {
            id,
            nic,
            address: IpAddr::V4(Ipv4Addr::new(10, 0, index as u8, last)),
            port,
            soft: Some(soft).filter(|_| nic == NicKind::Soft),
        };
        numbered.map(listener).collect()
    })
}

fn providers() -> impl Strategy<Value = Vec<Provider>> {
    let draft = (0u8..5, pages(1 << 30), any::<bool>(), 0u8..6, 0u64..9);
    btree_map("p[a-z0-9._-]{0,20}", draft, 0..5).prop_map(|providers| {
        let numbered = providers.into_iter().enumerate();
        let provider = |(index, (id, (kind, size, capped, bar, page)))| {
            let device = slot(index as u8);
            let limit = Some(size).filter(|_| capped);
            let kind = match kind {
                0 => ProviderKind::Cmb {
                    device,
                    size: limit,
                },
                1 => ProviderKind::Pmr {
                    device,
                    size: limit,
                },
                2 => ProviderKind::Bar {
                    // No namespace's SSD.
                    device: slot(0xf0 + index as u8),
                    bar,
                    offset: ByteSize::new(page * 4096).unwrap(),
                    size: limit,
                },
                3 => ProviderKind::P2pmem {
                    device: slot(0xe0 + index as u8),
                    size: limit,
                },
                _ => ProviderKind::Host { size },
            };
            Provider { id, kind }
        };
        numbered.map(provider).collect()
    })
}

type Draft = (
    u8,
    P2pPolicy,
    prop::sample::Index,
    bool,
    Option<u128>,
    ByteSize,
    bool,
);

fn draft() -> impl Strategy<Value = Draft> {
    let policies = [P2pPolicy::Off, P2pPolicy::Prefer, P2pPolicy::Require];
    let policy = prop::sample::select(policies.to_vec());
    let uuid = option::of(1u128..);
    (
        0u8..5,
        policy,
        any::<prop::sample::Index>(),
        any::<bool>(),
        uuid,
        pages(1 << 40),
        any::<bool>(),
    )
}

/// A namespace that keeps to the rules: `number` is unique among all, so its device and UUID are.
fn namespace(nsid: u32, number: u8, draft: Draft, providers: &[Provider]) -> Namespace {
    let (kind, p2p, index, named, uuid, size, large_blocks) = draft;
    let fitting: Vec<_> = providers
        .iter()
        .filter(|provider| match p2p {
            P2pPolicy::Off => !provider.is_peer(),
            P2pPolicy::Prefer => true,
            P2pPolicy::Require => provider.is_peer(),
        })
        .collect();
    let provider = match fitting.as_slice() {
        [_, ..] if named => {
            // One, and those before it.
            let ids = fitting.iter().take(index.index(fitting.len()) + 1).rev();
            ProviderChoice::Named(ids.map(|provider| provider.id.clone()).collect())
        }
        _ => ProviderChoice::Auto,
    };
    let needs_ssd = p2p == P2pPolicy::Require && provider == ProviderChoice::Auto;
    let block = if large_blocks { 4096 } else { 512 };
    let path = format!("/dev/disk {number}").into();
    let backend = match kind {
        0 => Backend::Block { path },
        1 => Backend::Passthrough { path },
        2 => Backend::File {
            path,
            size: Some(size).filter(|_| large_blocks),
            block,
        },
        3 if !needs_ssd => Backend::Null { size, block },
        _ => Backend::Nvme {
            device: slot(number),
            nsid: nsid * 7,
        },
    };
    let uuid = uuid.map(|uuid| {
        let hex = format!("{:032x}", uuid & !0xff | u128::from(number) | 1 << 127);
        let parts = [
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..],
        ];
        parts.join("-").parse().unwrap()
    });
    Namespace {
        nsid,
        backend,
        p2p,
        provider,
        uuid,
    }
}

fn config() -> impl Strategy<Value = Config> {
    let host = "nqn\\.20[0-9]{2}-0[1-9](\\.[a-z][a-z0-9]{0,5}){1,3}:[!-~]{1,40}";
    let hosts = option::of(btree_set(host, 0..3));
    let text = "[!-~]( ?[!-~]){0,9}";
    let subsystem = (
        text,
        text,
        0u32..=4,
        hosts,
        btree_map(1u32..=1024, draft(), 1..4),
    );
    (target(), listeners(), providers(), vec(subsystem, 1..4)).prop_map(
        |(target, listeners, providers, drafts)| {
            let mut number = 0;
            let mut subsystems = Vec::new();
            for (index, (serial, model, in_capsule, hosts, namespaces)) in
                drafts.into_iter().enumerate()
            {
                let namespaces: Vec<_> = namespaces
                    .into_iter()
                    .map(|(nsid, draft)| {
                        number += 1;
                        namespace(nsid, number, draft, &providers)
                    })
                    .collect();
                let required = namespaces.iter().any(|one| one.p2p == P2pPolicy::Require);
                subsystems.push(Subsystem {
                    nqn: format!("nqn.2026-11.io.sidelane:\u{3b1}{index}")
                        .parse()
                        .unwrap(),
                    serial,
                    model,
                    in_capsule: ByteSize::kib(if required { 0 } else { in_capsule * 4 }),
                    allow_any_host: hosts.is_none(),
                    hosts: hosts
                        .into_iter()
                        .flatten()
                        .map(|host| host.parse().unwrap())
                        .collect(),
                    namespaces,
                });
            }
            Config {
                target,
                listeners,
                providers,
                subsystems,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_printed_configuration_reads_back_as_itself(config in config()) {
        let text = toml::to_string(&config).unwrap();
        prop_assert_eq!(parsed(&text), config);
    }

    #[test]
    fn no_text_makes_parsing_panic(text in any::<String>()) {
        if let Err(errors) = Config::parse(&text, "any") {
            prop_assert!(!errors.errors.is_empty());
            let _ = errors.to_string();
        }
    }

    /// Most of the example is kept, so that the damage is met deep inside.
    #[test]
    fn no_damage_to_a_configuration_makes_parsing_panic(
        cuts in vec((any::<prop::sample::Index>(), 0usize..12, "[\\[\\]{}=\"',.\\n a-z0-9\u{e9}-]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = example().chars().collect();
        for (at, len, insert) in cuts {
            let at = at.index(text.len());
            text.splice(at..(at + len).min(text.len()), insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = Config::parse(&text, "damaged") {
            for error in &errors.errors {
                let place = error.place.as_ref().unwrap();
                prop_assert_eq!(text.split('\n').nth(place.line - 1).unwrap().trim_end_matches('\r'), &place.text);
                prop_assert!(!error.reason.is_empty() && !error.remedy.is_empty());
            }
            let _ = errors.to_string();
        }
    }
}
