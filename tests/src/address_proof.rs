//! Proof from outside that an SSD moved payload to and from one BAR only.
//!
//! It takes the commands as they stood in the submission queues, decodes them
//! here, by itself, and compares each page that they name with the BAR's range
//! as sysfs gives it. Nothing of the target's own bookkeeping is used.

use std::ops::Range;

use anyhow::{Context, ensure};
use serde_json::Value;

/// Bytes of a memory page of the controllers.
const PAGE: u64 = 4096;
/// Bytes of a logical block of the lab's SSDs.
const BLOCK: u64 = 512;
/// Opcodes of the NVM command set that move payload.
const WRITE: u8 = 1;
const READ: u8 = 2;

/// What the proof saw.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Commands with payload.
    pub commands: usize,
    /// Bytes they moved.
    pub bytes: u64,
    /// Bytes that lie in the BAR.
    pub inside: u64,
}

/// The range of a BAR in a `resource` file of sysfs.
///
/// # Errors
/// When the file has no such line.
pub fn bar_range(resource: &str, bar: usize) -> anyhow::Result<Range<u64>> {
    let line = resource
        .lines()
        .nth(bar)
        .context("no such line in the resource file")?;
    let mut numbers = line
        .split_whitespace()
        .map(|number| u64::from_str_radix(number.trim_start_matches("0x"), 16));
    let start = numbers.next().context("no start")??;
    let end = numbers.next().context("no end")??;
    ensure!(start > 0 && end > start, "BAR {bar} has no address: {line}");
    Ok(start..end + 1)
}

/// Reads a journal of commands (one JSON object a line: `sqe` in hexadecimal,
/// `prps` the entries of its PRP list) against a BAR.
///
/// # Errors
/// When the journal is not understood.
pub fn prove(journal: &str, bar: &Range<u64>) -> anyhow::Result<Proof> {
    let mut proof = Proof::default();
    for line in journal.lines() {
        let entry: Value =
            serde_json::from_str(line).with_context(|| format!("journal: {line}"))?;
        let sqe = unhex(entry["sqe"].as_str().context("an entry without sqe")?)?;
        ensure!(sqe.len() == 64, "an SQE of {} bytes", sqe.len());
        if sqe[0] != WRITE && sqe[0] != READ {
            continue;
        }
        let list: Vec<u64> = entry["prps"]
            .as_array()
            .context("an entry without prps")?
            .iter()
            .map(|prp| prp.as_u64().context("a PRP that is no number"))
            .collect::<Result<_, _>>()?;
        let bytes = (u64::from(u16::from_le_bytes([sqe[48], sqe[49]])) + 1) * BLOCK;
        proof.commands += 1;
        proof.bytes += bytes;
        for piece in pieces(&sqe, &list, bytes)? {
            if bar.start <= piece.start && piece.end <= bar.end {
                proof.inside += piece.end - piece.start;
            }
        }
    }
    Ok(proof)
}

/// The memory that a command names, in order (NVMe 2.0, 4.1.1 and 4.1.2).
fn pieces(sqe: &[u8], list: &[u64], bytes: u64) -> anyhow::Result<Vec<Range<u64>>> {
    let word =
        |at: usize| -> anyhow::Result<u64> { Ok(u64::from_le_bytes(sqe[at..at + 8].try_into()?)) };
    let (first, second) = (word(24)?, word(32)?);
    if sqe[1] >> 6 != 0 {
        // One SGL data block descriptor: address, then length.
        ensure!(sqe[39] >> 4 == 0, "an SGL descriptor that is no data block");
        let len = second & 0xffff_ffff;
        ensure!(len == bytes, "an SGL of {len} bytes for {bytes}");
        return Ok(std::iter::once(first..first + len).collect());
    }
    let in_first = (PAGE - first % PAGE).min(bytes);
    let mut pieces: Vec<_> = std::iter::once(first..first + in_first).collect();
    let mut left = bytes - in_first;
    let pages = match left {
        0 => vec![],
        1..=PAGE => vec![second],
        _ => list.to_vec(),
    };
    for page in pages {
        let len = left.min(PAGE);
        pieces.push(page..page + len);
        left -= len;
    }
    ensure!(left == 0, "a PRP list that is {left} bytes short");
    Ok(pieces)
}

fn unhex(text: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(
        text.len().is_multiple_of(2) && text.is_ascii(),
        "not hexadecimal"
    );
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAR: Range<u64> = 0x38_0000_0000..0x38_0400_0000;

    /// A journal of one command with this many blocks.
    fn journal(opcode: u8, blocks: u16, prp1: u64, prp2: u64, list: &[u64]) -> String {
        let mut sqe = [0; 64];
        sqe[0] = opcode;
        sqe[24..32].copy_from_slice(&prp1.to_le_bytes());
        sqe[32..40].copy_from_slice(&prp2.to_le_bytes());
        sqe[48..50].copy_from_slice(&(blocks - 1).to_le_bytes());
        let hex: String = sqe.iter().map(|byte| format!("{byte:02x}")).collect();
        serde_json::json!({ "sqe": hex, "prps": list }).to_string()
    }

    #[test]
    fn payload_in_the_bar_is_counted_as_inside() {
        let list: Vec<u64> = (1..32).map(|page| BAR.start + page * PAGE).collect();
        let text = [
            journal(WRITE, 8, BAR.start, 0, &[]),
            journal(READ, 16, BAR.start + PAGE, BAR.start + 5 * PAGE, &[]),
            journal(WRITE, 256, BAR.start, 0x1000, &list),
            journal(0, 1, 0, 0, &[]),
        ]
        .join("\n");
        let proof = prove(&text, &BAR).unwrap();
        let bytes = (8 + 16 + 256) * BLOCK;
        assert_eq!(
            proof,
            Proof {
                commands: 3,
                bytes,
                inside: bytes
            }
        );
    }

    #[test]
    fn a_single_page_outside_shows() {
        let text = journal(READ, 16, BAR.start, 0x1000, &[]);
        let proof = prove(&text, &BAR).unwrap();
        assert_eq!((proof.bytes, proof.inside), (16 * BLOCK, 8 * BLOCK));
    }

    #[test]
    fn the_range_of_a_bar_is_read_from_sysfs() {
        let text = "0x0000000080000000 0x0000000080003fff 0x0000000000140204\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x0000003800000000 0x0000003803ffffff 0x000000000014220c\n";
        assert_eq!(bar_range(text, 2).unwrap(), BAR);
        assert!(bar_range(text, 1).is_err());
        assert!(bar_range(text, 7).is_err());
    }
}
