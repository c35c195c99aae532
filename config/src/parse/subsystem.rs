//! `[[subsystem]]` and its namespaces.

use super::provider::known_providers;
mod backend;

use super::Context;
use crate::reader::{Found, Section};
use crate::{Backend, ByteSize, Namespace, Nqn, P2pPolicy, ProviderChoice, Subsystem, Uuid};

/// The most namespaces of a subsystem (NN in Identify Controller).
const MAX_NSID: u32 = 1024;
/// Each entry of each queue owns a buffer of this size, so it stays small.
const MAX_IN_CAPSULE: ByteSize = ByteSize::kib(16);
const DEFAULT_IN_CAPSULE: ByteSize = ByteSize::kib(4);

pub(super) fn read(mut section: Section<'_>, context: &mut Context<'_>) -> Option<Subsystem> {
    let nqn = section.required::<Nqn>("nqn", "nqn = \"nqn.2026-11.com.example:disk0\"");
    if let Some(nqn) = &nqn {
        section.name = format!("subsystem `{}`", nqn.value);
        let name = ("NQN", nqn.value.to_string());
        context.unique(
            &section,
            "nqn",
            name,
            &nqn.span,
            "give each subsystem an NQN of its own",
        );
    }
    let serial = read_ascii(&mut section, "serial", 20);
    let model = read_ascii(&mut section, "model", 40);
    let in_capsule = section.optional::<ByteSize>("in_capsule");
    let allow_any_host = section
        .optional::<bool>("allow_any_host")
        .is_some_and(|any| any.value);
    let hosts = read_hosts(&mut section, allow_any_host);

    let sections = section.sections("namespace", "[[subsystem.namespace]]");
    if sections.is_empty() {
        section.complain_if_empty(
            "namespace",
            "the subsystem has none, so there is nothing to offer",
            "add [[subsystem.namespace]] with nsid and backend",
        );
    }
    let mut nsids = Vec::new();
    let namespaces: Vec<Namespace> = sections
        .into_iter()
        .filter_map(|inner| read_namespace(inner, &section.name, &mut nsids, context))
        .collect();
    let in_capsule = check_in_capsule(&section, in_capsule, &namespaces);
    section.finish();

    let nqn = nqn?.value;
    Some(Subsystem {
        serial: serial.unwrap_or_else(|| derived_serial(&nqn)),
        model: model.unwrap_or_else(|| Subsystem::DEFAULT_MODEL.to_owned()),
        nqn,
        in_capsule,
        allow_any_host,
        hosts,
        namespaces,
    })
}

/// Printable ASCII without spaces at its ends, as Identify Controller can carry it, padded with spaces.
fn read_ascii(section: &mut Section<'_>, key: &'static str, max_len: usize) -> Option<String> {
    let text = section.optional::<String>(key)?;
    let printable = text.value.bytes().all(|b| (b' '..=b'~').contains(&b));
    if (1..=max_len).contains(&text.value.len()) && printable && text.value.trim() == text.value {
        return Some(text.value);
    }
    section.fault(
        &text.span,
        key,
        format!(
            "`{}` does not fit into the {max_len} bytes that hosts read",
            text.value
        ),
        format!("write 1 to {max_len} printable ASCII characters, with no space at either end"),
    );
    None
}

/// Always the same for an NQN, and hardly ever the same for two: 64-bit FNV-1a.
fn derived_serial(nqn: &Nqn) -> String {
    let hash = nqn
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    format!("SL{hash:016X}")
}

fn read_hosts(section: &mut Section<'_>, allow_any_host: bool) -> Vec<Nqn> {
    let Some(hosts) = section.list::<Nqn>("hosts") else {
        return Vec::new();
    };
    if allow_any_host && !hosts.value.is_empty() {
        section.fault(
            &hosts.span,
            "hosts",
            "the list has no effect beside allow_any_host = true",
            "remove allow_any_host to admit only these hosts, or remove the list to admit all",
        );
    }
    let mut seen: Vec<Nqn> = Vec::new();
    for host in hosts.value {
        if seen.contains(&host.value) {
            let reason = format!("`{}` is in the list twice", host.value);
            section.fault(&host.span, "hosts", reason, "remove one of the two");
        } else {
            seen.push(host.value);
        }
    }
    seen
}

fn check_in_capsule(
    section: &Section<'_>,
    given: Option<Found<ByteSize>>,
    namespaces: &[Namespace],
) -> ByteSize {
    let with = |policy| namespaces.iter().find(|namespace| namespace.p2p == policy);
    let required = with(P2pPolicy::Require);
    let Some(given) = given else {
        let peer = required.or_else(|| with(P2pPolicy::Prefer));
        return if peer.is_some() {
            ByteSize::default()
        } else {
            DEFAULT_IN_CAPSULE
        };
    };
    let bytes = given.value.bytes();
    if given.value > MAX_IN_CAPSULE || !bytes.is_multiple_of(super::PAGE) {
        section.fault(
            &given.span,
            "in_capsule",
            format!(
                "{} is neither 0 nor a multiple of 4 KiB up to {MAX_IN_CAPSULE}",
                given.value
            ),
            "write 0, \"4 KiB\", \"8 KiB\", \"12 KiB\" or \"16 KiB\"",
        );
    } else if let Some(namespace) = required.filter(|_| bytes > 0) {
        section.fault(
            &given.span,
            "in_capsule",
            format!(
                "payload inside a capsule lands in host memory, and namespace {} has p2p = \
                 \"require\"",
                namespace.nsid
            ),
            "write in_capsule = 0 or remove the line; or use p2p = \"prefer\"",
        );
    }
    given.value
}

fn read_namespace(
    mut section: Section<'_>,
    subsystem: &str,
    nsids: &mut Vec<u32>,
    context: &mut Context<'_>,
) -> Option<Namespace> {
    section.complain_if_absent("nsid", "nsid = 1");
    let nsid = section.integer("nsid", 1..=MAX_NSID, "the id of a namespace");
    if let Some(nsid) = &nsid {
        section.name = format!("{subsystem}: namespace {}", nsid.value);
        if nsids.contains(&nsid.value) {
            let reason = format!("the subsystem already has a namespace {}", nsid.value);
            section.fault(
                &nsid.span,
                "nsid",
                reason,
                "give each namespace an nsid of its own",
            );
        }
        nsids.push(nsid.value);
    }
    let example = "backend = { kind = \"nvme\", device = \"0000:03:00.0\", nsid = 1 }";
    section.complain_if_absent("backend", example);
    let backend = section
        .section("backend", &format!("a table, {example}"))
        .and_then(|backend| backend::read(backend, context));
    let p2p = section
        .keyword("p2p", &POLICIES)
        .map_or(P2pPolicy::Off, |p2p| p2p.value);
    let providers = section.one_or_list::<String>("provider");
    let provider = read_choice(&section, p2p, providers, backend.as_ref(), context);
    let uuid = section.optional::<Uuid>("uuid");
    if let Some(uuid) = &uuid {
        let name = ("UUID", uuid.value.to_string());
        let remedy = "give each namespace a UUID of its own, or leave it out to have one derived";
        context.unique(&section, "uuid", name, &uuid.span, remedy);
    }
    section.finish();
    let uuid = uuid.map(|uuid| uuid.value);
    Some(Namespace {
        nsid: nsid?.value,
        backend: backend?,
        p2p,
        provider,
        uuid,
    })
}

const POLICIES: [(&str, P2pPolicy); 3] = [
    ("off", P2pPolicy::Off),
    ("prefer", P2pPolicy::Prefer),
    ("require", P2pPolicy::Require),
];

/// Where a namespace's buffers come from. Complains when that and the policy contradict each other.
fn read_choice(
    section: &Section<'_>,
    p2p: P2pPolicy,
    providers: Option<Found<Vec<Found<String>>>>,
    backend: Option<&Backend>,
    context: &Context<'_>,
) -> ProviderChoice {
    let span = providers.as_ref().map_or(&section.span, |list| &list.span);
    let named = providers.as_ref().map_or(&[][..], |list| &list.value);
    if providers.is_some() && named.is_empty() {
        section.fault(
            span,
            "provider",
            "no provider is named",
            "name at least one, or write provider = \"auto\"",
        );
    }
    let is_auto = |id: &Found<String>| id.value == "auto";
    if named.iter().all(is_auto) {
        let no_ssd =
            backend.is_some_and(|backend| backend.device().is_none() && backend.path().is_none());
        if p2p == P2pPolicy::Require && no_ssd {
            section.fault(
                span,
                "provider",
                "with p2p = \"require\", `auto` means the memory of the namespace's own SSD, and a null \
                 backend has none",
                "name a [[provider]] of peer memory, or write p2p = \"prefer\" or \"off\"",
            );
        }
        return ProviderChoice::Auto;
    }
    let mut ids: Vec<String> = Vec::new();
    for found in named {
        if ids.contains(&found.value) {
            let reason = format!("`{}` is in the list twice", found.value);
            section.fault(&found.span, "provider", reason, "remove one of the two");
        } else if is_auto(found) {
            section.fault(
                &found.span,
                "provider",
                "`auto` leaves the choice to the target, so nothing can stand beside it",
                "remove it, or write provider = \"auto\" alone",
            );
        } else {
            check_provider(section, p2p, found, context);
            ids.push(found.value.clone());
        }
    }
    ProviderChoice::Named(ids)
}

/// Complains when there is no such provider, or the policy forbids or wastes its memory.
fn check_provider(
    section: &Section<'_>,
    p2p: P2pPolicy,
    named: &Found<String>,
    context: &Context<'_>,
) {
    let id = &named.value;
    let Some((_, is_peer)) = context.providers.iter().find(|(known, _)| known == id) else {
        let reason = format!("there is no provider `{id}`");
        section.fault(
            &named.span,
            "provider",
            reason,
            known_providers(id, context),
        );
        return;
    };
    match (p2p, is_peer) {
        (P2pPolicy::Require, Some(false)) => section.fault(
            &named.span,
            "provider",
            format!("`{id}` is host memory, which p2p = \"require\" forbids for payload"),
            "name providers of peer memory or \"auto\", or write p2p = \"off\"",
        ),
        (P2pPolicy::Off, Some(true)) => section.fault(
            &named.span,
            "provider",
            format!("`{id}` is peer memory, which p2p = \"off\" leaves unused"),
            "write p2p = \"prefer\" or \"require\", or remove the provider",
        ),
        _ => {}
    }
}
