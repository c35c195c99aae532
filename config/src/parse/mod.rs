//! From text to [`Config`]: what each section may hold, and what must fit together.
//!
//! Providers are read before subsystems, wherever they stand in the file, so that a namespace's provider
//! can be looked up at once.

mod provider;
mod subsystem;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::reader::{Found, Report, Section, Span};
use crate::{
    ByteSize, Config, ConfigErrors, Flush, IcrcCheck, Listener, NicKind, PciSlot, SoftNic, Target,
};

/// The most queues, and the most entries of one, that a configuration can grant.
const MAX_QUEUES: u32 = 1024;
/// The highest CPU number that an affinity mask of the usual size names.
const MAX_CORE: u32 = 1023;
/// The longest path of a Unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;
/// Payload buffers come in pages.
const PAGE: u64 = 4096;

impl Config {
    /// Parses and checks a configuration. `origin_name` is what messages call it, such as its path.
    ///
    /// # Errors
    /// All the mistakes that were found, with their places; when the text is not TOML, only those.
    pub fn parse(text: &str, origin_name: &str) -> Result<Self, ConfigErrors> {
        let report = Report::default();
        let (root, syntax) = DeTable::parse_recoverable(text);
        for error in &syntax {
            let span = error.span().unwrap_or(0..0);
            let remedy = "write it as TOML has it; `sidelane check --help` shows an example";
            report.add(
                &span,
                "syntax",
                error.message().to_owned(),
                remedy.to_owned(),
            );
        }
        let config = if syntax.is_empty() {
            let mut context = Context {
                text,
                uniques: BTreeMap::new(),
                providers: Vec::new(),
                roles: BTreeMap::new(),
                soft: BTreeMap::new(),
            };
            let section = Section::new(root.get_ref(), 0..0, "", &report);
            Some(read_config(section, &mut context))
        } else {
            None
        };
        match (config, report.into_faults()) {
            (Some(config), faults) if faults.is_empty() => Ok(config),
            (_, faults) => Err(ConfigErrors::at_places(origin_name, text, faults)),
        }
    }

    /// Reads and parses a file.
    ///
    /// # Errors
    /// As [`Config::parse`]; one error without a place when the file cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let text = std::fs::read(path).map_err(|error| {
            let remedy = "see that the path is right and the file may be read";
            ConfigErrors::whole_file(&origin, format!("it cannot be read: {error}"), remedy)
        })?;
        let text = String::from_utf8(text).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let reason = format!("it is not UTF-8 text, from byte {at} on");
            ConfigErrors::whole_file(&origin, reason, "save it as UTF-8")
        })?;
        Self::parse(&text, &origin)
    }
}

/// What is known beyond the section that is being read.
pub(crate) struct Context<'a> {
    text: &'a str,
    /// Kind and name of what may be there only once, and where it was first.
    uniques: BTreeMap<(&'static str, String), Span>,
    /// The providers by id, also those with mistakes; whether they are peer memory, if known.
    providers: Vec<(String, Option<bool>)>,
    /// What each PCI function is opened as.
    roles: BTreeMap<PciSlot, Role>,
    /// Settings of the software NICs by address: one serves all listeners there.
    soft: BTreeMap<IpAddr, SoftNic>,
}

/// What a PCI function is opened as; it cannot be both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// An SSD, by the NVMe driver.
    Ssd,
    /// Plain memory behind a BAR.
    Memory,
    /// An SSD that stays with the kernel.
    Kernel,
}

impl Context<'_> {
    /// Complains when the function has another role already.
    fn role(&mut self, section: &Section<'_>, device: &Found<PciSlot>, role: Role) {
        let first = *self.roles.entry(device.value.clone()).or_insert(role);
        if first == role {
            return;
        }
        let (reason, remedy) = match (first, role) {
            (Role::Kernel, _) | (_, Role::Kernel) => (
                "one part of the configuration leaves this function to the kernel, and another takes it \
                 from there",
                "for an SSD under vfio-pci write kind = \"cmb\" or \"nvme\"; for one that stays with the \
                 kernel \"p2pmem\", and \"block\" or \"passthrough\"",
            ),
            _ => (
                "the target drives this function as an SSD, and a provider of kind \"bar\" would let \
                 payload run over its registers",
                "for the memory of an SSD write kind = \"cmb\" or \"pmr\"",
            ),
        };
        section.fault(&device.span, "device", reason, remedy);
    }

    /// Complains when `name` has been seen before among things of this `kind`.
    fn unique(
        &mut self,
        section: &Section<'_>,
        key: &str,
        (kind, name): (&'static str, String),
        span: &Span,
        remedy: &str,
    ) {
        let first = match self.uniques.entry((kind, name)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(span.clone());
                return;
            }
            std::collections::btree_map::Entry::Occupied(entry) => entry.get().start,
        };
        let line = self
            .text
            .get(..first)
            .map_or(1, |before| before.matches('\n').count() + 1);
        section.fault(
            span,
            key,
            format!("the same {kind} is already on line {line}"),
            remedy,
        );
    }
}

fn read_config(mut root: Section<'_>, context: &mut Context<'_>) -> Config {
    let target = match root.section("target", "the header [target]") {
        Some(section) => read_target(section),
        None => Target::default(),
    };
    let listeners: Vec<_> = root.sections("listener", "[[listener]]");
    if listeners.is_empty() {
        root.complain_if_empty(
            "listener",
            "there is none, so no host could connect",
            "add [[listener]] with id, nic = \"soft\" and address",
        );
    }
    let listeners = listeners
        .into_iter()
        .filter_map(|section| read_listener(section, context))
        .collect();
    let providers = root
        .sections("provider", "[[provider]]")
        .into_iter()
        .filter_map(|section| provider::read(section, context))
        .collect();
    let subsystems: Vec<_> = root.sections("subsystem", "[[subsystem]]");
    if subsystems.is_empty() {
        root.complain_if_empty(
            "subsystem",
            "there is none, so there is nothing to offer",
            "add [[subsystem]] with nqn, hosts and a [[subsystem.namespace]]",
        );
    }
    let subsystems = subsystems
        .into_iter()
        .filter_map(|section| subsystem::read(section, context))
        .collect();
    root.finish();
    Config {
        target,
        listeners,
        providers,
        subsystems,
    }
}

fn read_target(mut section: Section<'_>) -> Target {
    let mut target = Target::default();
    if let Some(control) = section.optional::<String>("control") {
        if let Some(fault) = socket_path_fault(&control.value) {
            let remedy = format!("write such as \"{}\"", Target::DEFAULT_CONTROL);
            section.fault(&control.span, "control", fault, remedy);
        }
        target.control = PathBuf::from(control.value);
    }
    if let Some(cores) = section.list::<i64>("cores") {
        if cores.value.is_empty() {
            section.fault(
                &cores.span,
                "cores",
                "the list is empty, so nothing would carry commands",
                "name at least one CPU, such as cores = [0]",
            );
        }
        target.cores.clear();
        for core in &cores.value {
            let Some(number) = section.in_range("cores", core, 0..=MAX_CORE, "the number of a CPU")
            else {
                continue;
            };
            let number = number as u16;
            if target.cores.contains(&number) {
                section.fault(
                    &core.span,
                    "cores",
                    format!("CPU {number} is named twice, and it can run one reactor only"),
                    "remove one of the two",
                );
            } else {
                target.cores.push(number);
            }
        }
    }
    if let Some(entries) = section.integer(
        "max_queue_entries",
        2..=MAX_QUEUES,
        "a possible length of a queue",
    ) {
        target.max_queue_entries = entries.value as u16;
    }
    if let Some(queues) = section.integer(
        "max_io_queues",
        1..=MAX_QUEUES,
        "a possible number of queues",
    ) {
        target.max_io_queues = queues.value as u16;
    }
    if let Some(timeout) = section.integer(
        "command_timeout_ms",
        50..=600_000,
        "a time to wait for an SSD",
    ) {
        target.command_timeout_ms = timeout.value;
    }
    let flush = section.keyword(
        "flush",
        &[
            ("auto", Flush::Auto),
            ("always", Flush::Always),
            ("never", Flush::Never),
        ],
    );
    if let Some(flush) = flush {
        target.flush = flush.value;
    }
    section.finish();
    target
}

fn socket_path_fault(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some(format!("`{path}` is not an absolute path"));
    }
    if path.ends_with('/') {
        return Some(format!("`{path}` is a folder, not a socket"));
    }
    if path.contains('\0') {
        return Some("it contains a zero byte".into());
    }
    let len = path.len();
    (len > MAX_SOCKET_PATH).then(|| {
        format!("the path has {len} bytes, and a socket's may have {MAX_SOCKET_PATH} at most")
    })
}

/// Reads the id of a section, which from then on is named by it.
fn read_id(
    section: &mut Section<'_>,
    kind: &'static str,
    example: &str,
    context: &mut Context<'_>,
) -> Option<Found<String>> {
    let id = section.required::<String>("id", &format!("id = \"{example}\""))?;
    let remedy = format!("write letters, digits, `-`, `_` and `.` only, such as \"{example}\"");
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.value.is_empty() || id.value.len() > 64 || !id.value.chars().all(fits) {
        let reason = format!("`{}` is not a name of 1 to 64 plain characters", id.value);
        section.fault(&id.span, "id", reason, remedy);
        return None;
    }
    section.name = format!("{kind} `{}`", id.value);
    let name = (kind, id.value.clone());
    context.unique(section, "id", name, &id.span, "give each an id of its own");
    Some(id)
}

fn read_listener(mut section: Section<'_>, context: &mut Context<'_>) -> Option<Listener> {
    let id = read_id(&mut section, "listener", "front", context);
    section.complain_if_absent("nic", "nic = \"soft\"");
    let kinds = [("soft", NicKind::Soft), ("verbs", NicKind::Verbs)];
    let nic = section.keyword("nic", &kinds);
    let wildcard = nic.as_ref().is_some_and(|nic| nic.value == NicKind::Verbs);
    let address = section.required::<String>("address", "address = \"192.168.77.2\"");
    let port = section.integer("port", 1..=65535, "a port to connect to");
    let port = port.map_or(Listener::DEFAULT_PORT, |port| port.value as u16);
    let is_soft = nic.as_ref().is_some_and(|nic| nic.value == NicKind::Soft);
    let soft = read_soft(&mut section, nic.is_some() && !is_soft);
    let address = address.and_then(|found| {
        let address = read_address(&section, &found, wildcard)?;
        let endpoint = std::net::SocketAddr::new(address, port).to_string();
        let remedy = "give each listener an address or a port of its own";
        let name = ("address and port", endpoint);
        context.unique(&section, "address", name, &found.span, remedy);
        if is_soft && *context.soft.entry(address).or_insert(soft) != soft {
            let reason = "another listener at this address has another `offload` or `icrc`";
            let remedy = "give both the same settings: one software NIC serves them";
            section.fault(&found.span, "address", reason, remedy);
        }
        Some(address)
    });
    section.finish();
    Some(Listener {
        id: id?.value,
        nic: nic?.value,
        address: address?,
        port,
        soft: is_soft.then_some(soft),
    })
}

/// `foreign`: the NIC is another, and may have none of these settings.
fn read_soft(section: &mut Section<'_>, foreign: bool) -> SoftNic {
    let offload = section.optional::<bool>("offload");
    let words = [
        ("auto", IcrcCheck::Auto),
        ("full", IcrcCheck::Full),
        ("socket", IcrcCheck::Socket),
    ];
    let icrc = section.keyword("icrc", &words);
    let offload_at = offload.as_ref().map(|found| ("offload", &found.span));
    let icrc_at = icrc.as_ref().map(|found| ("icrc", &found.span));
    for (key, span) in [offload_at, icrc_at].into_iter().flatten() {
        if foreign {
            let remedy = "delete the line, or say nic = \"soft\"";
            section.fault(span, key, "only a software NIC has this setting", remedy);
        }
    }
    let usual = SoftNic::default();
    SoftNic {
        offload: offload.map_or(usual.offload, |found| found.value),
        icrc: icrc.map_or(usual.icrc, |found| found.value),
    }
}

/// `wildcard`: whether the NIC takes connections on every address that it has.
fn read_address(section: &Section<'_>, found: &Found<String>, wildcard: bool) -> Option<IpAddr> {
    let remedy = "write one IP address of this machine, such as \"192.168.77.2\"";
    let fault = match found.value.parse::<IpAddr>() {
        Err(_) => "is not an IP address",
        Ok(address) if address.is_unspecified() && !wildcard => {
            "stands for any address, and a software NIC has one"
        }
        Ok(address) if address.is_multicast() => "is a multicast address",
        Ok(IpAddr::V4(address)) if address.is_broadcast() => "is the broadcast address",
        Ok(address) => return Some(address),
    };
    section.fault(
        &found.span,
        "address",
        format!("`{}` {fault}", found.value),
        remedy,
    );
    None
}

/// A size that is a whole number of pages, and not zero.
fn read_size(section: &mut Section<'_>, key: &'static str) -> Option<ByteSize> {
    let size = section.optional::<ByteSize>(key)?;
    let reason = match size.value.bytes() {
        0 => "is zero, so nothing would fit".to_owned(),
        bytes if !bytes.is_multiple_of(PAGE) => format!("is not a multiple of {PAGE} bytes"),
        _ => return Some(size.value),
    };
    let remedy = format!("write a multiple of {PAGE} bytes, such as \"64 MiB\"");
    section.fault(&size.span, key, format!("{} {reason}", size.value), remedy);
    None
}
