//! `[[provider]]`: memory for payload.

use super::{Context, PAGE, Role, read_id, read_size};
use crate::reader::{Found, Section, choose_from};
use crate::{ByteSize, PciSlot, Provider, ProviderKind};

/// The highest number of a BAR (PCI Local Bus Specification, type 0 header).
const LAST_BAR: u32 = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cmb,
    Pmr,
    Bar,
    P2pmem,
    Host,
}

const KINDS: [(&str, Kind); 5] = [
    ("cmb", Kind::Cmb),
    ("pmr", Kind::Pmr),
    ("bar", Kind::Bar),
    ("p2pmem", Kind::P2pmem),
    ("host", Kind::Host),
];

/// What a section of any kind may hold; which of it must be there, its kind says.
struct Keys {
    device: Option<Found<PciSlot>>,
    bar: Option<Found<u32>>,
    offset: Option<Found<ByteSize>>,
    size: Option<ByteSize>,
}

pub(super) fn read(mut section: Section<'_>, context: &mut Context<'_>) -> Option<Provider> {
    let id = read_id(&mut section, "provider", "cmb0", context);
    if let Some(auto) = id.as_ref().filter(|id| id.value == "auto") {
        let reason = "`auto` stands for the choice that namespaces leave to the target";
        section.fault(
            &auto.span,
            "id",
            reason,
            "give it another name, such as \"cmb0\"",
        );
    }
    section.complain_if_absent("kind", "kind = \"cmb\"");
    let kind = section.keyword("kind", &KINDS).map(|kind| kind.value);
    let keys = Keys {
        device: section.optional("device"),
        bar: section.integer("bar", 0..=LAST_BAR, "the number of a BAR"),
        offset: read_offset(&mut section),
        size: read_size(&mut section, "size"),
    };
    if let Some(id) = &id {
        let is_peer = kind.map(|kind| kind != Kind::Host);
        context.providers.push((id.value.clone(), is_peer));
    }
    let kind = kind.and_then(|kind| read_kind(kind, keys, &section, context));
    section.finish();
    Some(Provider {
        id: id?.value,
        kind: kind?,
    })
}

fn read_kind(
    kind: Kind,
    keys: Keys,
    section: &Section<'_>,
    context: &mut Context<'_>,
) -> Option<ProviderKind> {
    if kind != Kind::Bar {
        let bar = keys.bar.as_ref().map(|found| ("bar", &found.span));
        let offset = keys.offset.as_ref().map(|found| ("offset", &found.span));
        for (key, span) in [bar, offset].into_iter().flatten() {
            let reason = "only a provider of kind \"bar\" has this setting";
            section.fault(
                span,
                key,
                reason,
                "delete the line, or write kind = \"bar\"",
            );
        }
    }
    let size = keys.size;
    if kind == Kind::Host {
        section.complain_if_absent("size", "size = \"64 MiB\"");
        if let Some(device) = keys.device {
            section.fault(
                &device.span,
                "device",
                "host memory belongs to no device",
                "remove it, or write kind = \"cmb\", \"pmr\", \"bar\" or \"p2pmem\"",
            );
        }
        return Some(ProviderKind::Host { size: size? });
    }
    section.complain_if_absent("device", "device = \"0000:03:00.0\"");
    if kind == Kind::Bar {
        section.complain_if_absent("bar", "bar = 2");
    }
    let found = keys.device?;
    let bar = keys.bar.map(|bar| bar.value as u8);
    let (role, thing, remedy) = match kind {
        Kind::Pmr => (Role::Ssd, "PMR", "an SSD has one PMR"),
        Kind::Bar => (Role::Memory, "BAR", "a BAR is one piece of memory"),
        Kind::P2pmem => (
            Role::Kernel,
            "published memory",
            "an SSD publishes one piece of memory",
        ),
        Kind::Cmb | Kind::Host => (Role::Ssd, "CMB", "an SSD has one CMB"),
    };
    let name = match (kind, bar) {
        (Kind::Bar, bar) => (thing, format!("{} {}", found.value, bar?)),
        _ => (thing, found.value.to_string()),
    };
    let remedy = format!("{remedy}: let namespaces share the provider that is there");
    context.unique(section, "device", name, &found.span, &remedy);
    context.role(section, &found, role);
    let device = found.value;
    Some(match kind {
        Kind::Pmr => ProviderKind::Pmr { device, size },
        Kind::Bar => ProviderKind::Bar {
            device,
            bar: bar?,
            offset: keys
                .offset
                .map_or(ByteSize::default(), |offset| offset.value),
            size,
        },
        Kind::P2pmem => ProviderKind::P2pmem { device, size },
        Kind::Cmb | Kind::Host => ProviderKind::Cmb { device, size },
    })
}

/// A place in a BAR: a whole number of pages from its start.
fn read_offset(section: &mut Section<'_>) -> Option<Found<ByteSize>> {
    let offset = section.optional::<ByteSize>("offset")?;
    if !offset.value.bytes().is_multiple_of(PAGE) {
        section.fault(
            &offset.span,
            "offset",
            format!("{} is not a multiple of {PAGE} bytes", offset.value),
            format!("write 0 or a multiple of {PAGE} bytes, such as \"1 MiB\""),
        );
    }
    Some(offset)
}

/// The remedy for a provider that does not exist.
pub(super) fn known_providers(text: &str, context: &Context<'_>) -> String {
    let mut ids: Vec<&str> = context
        .providers
        .iter()
        .map(|(id, _)| id.as_str())
        .collect();
    ids.push("auto");
    format!(
        "{}; or add a [[provider]] with this id",
        choose_from(text, &ids, "\"")
    )
}
