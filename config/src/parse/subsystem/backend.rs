//! `backend` of a namespace.

use std::path::{Component, PathBuf};

use crate::parse::{Context, Role, read_size};
use crate::reader::Section;
use crate::{Backend, PciSlot};

/// The highest NSID that names one namespace (NVMe Base Specification 2.0, clause 3.2.1).
const LAST_NSID: u32 = 0xffff_fffe;

#[derive(Clone, Copy)]
enum Kind {
    Nvme,
    Block,
    Passthrough,
    File,
    Null,
}

const KINDS: [(&str, Kind); 5] = [
    ("nvme", Kind::Nvme),
    ("block", Kind::Block),
    ("passthrough", Kind::Passthrough),
    ("file", Kind::File),
    ("null", Kind::Null),
];

pub(super) fn read(mut section: Section<'_>, context: &mut Context<'_>) -> Option<Backend> {
    section.complain_if_absent("kind", "kind = \"nvme\"");
    let kind = section.keyword("kind", &KINDS);
    // Without a kind, which other keys belong here is not known.
    let backend = match kind?.value {
        Kind::Nvme => read_nvme(&mut section, context),
        Kind::Block => {
            read_path(&mut section, "/dev/nvme0n1", context).map(|path| Backend::Block { path })
        }
        Kind::Passthrough => {
            read_path(&mut section, "/dev/ng0n1", context).map(|path| Backend::Passthrough { path })
        }
        Kind::File => {
            let path = read_path(&mut section, "/srv/disk0", context);
            let size = read_size(&mut section, "size");
            let block = read_block(&mut section);
            path.map(|path| Backend::File { path, size, block })
        }
        Kind::Null => {
            section.complain_if_absent("size", "size = \"1 GiB\"");
            let size = read_size(&mut section, "size");
            let block = read_block(&mut section);
            size.map(|size| Backend::Null { size, block })
        }
    };
    section.finish();
    backend
}

fn read_nvme(section: &mut Section<'_>, context: &mut Context<'_>) -> Option<Backend> {
    let device = section.required::<PciSlot>("device", "device = \"0000:03:00.0\"");
    let nsid = section.integer("nsid", 1..=LAST_NSID, "the id of a namespace on an SSD");
    let nsid = nsid.map_or(1, |nsid| nsid.value);
    let device = device?;
    let name = ("namespace of an SSD", format!("{} {nsid}", device.value));
    let remedy = "two namespaces cannot share blocks: name another device or nsid";
    context.unique(section, "device", name, &device.span, remedy);
    context.role(section, &device, Role::Ssd);
    Some(Backend::Nvme {
        device: device.value,
        nsid,
    })
}

/// Where storage of the kernel's is; no two namespaces name the same.
fn read_path(
    section: &mut Section<'_>,
    example: &str,
    context: &mut Context<'_>,
) -> Option<PathBuf> {
    let path = section.required::<String>("path", &format!("path = \"{example}\""))?;
    let text = &path.value;
    let plain = PathBuf::from(text);
    // One way to write each, so that two that are the same are seen to be.
    let fault = if !text.starts_with('/') {
        Some("is not an absolute path")
    } else if text.contains('\0') {
        Some("contains a zero byte")
    } else if plain.components().any(|part| part == Component::ParentDir) {
        Some("leads back up by `..`")
    } else if text.ends_with('/') {
        Some("is a folder")
    } else {
        None
    };
    if let Some(fault) = fault {
        let remedy = format!("write such as \"{example}\"");
        section.fault(&path.span, "path", format!("`{text}` {fault}"), remedy);
        return None;
    }
    let normal: PathBuf = plain.components().collect();
    let name = ("storage", normal.display().to_string());
    let remedy = "two namespaces cannot share blocks: name another device or file";
    context.unique(section, "path", name, &path.span, remedy);
    Some(normal)
}

fn read_block(section: &mut Section<'_>) -> u32 {
    match section.integer("block", 512..=4096, "a block size that hosts take") {
        Some(block) if block.value != 512 && block.value != 4096 => {
            let reason = format!("{} is not a block size that hosts take", block.value);
            section.fault(&block.span, "block", reason, "write 512 or 4096");
            4096
        }
        Some(block) => block.value,
        None => 4096,
    }
}
