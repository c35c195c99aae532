//! I/O commands of a modelled controller (NVM 3.2).

use zerocopy::{FromZeros, IntoBytes};

use sidelane_p2p::MemView;

use super::dma::Segment;
use super::state::State;
use super::touch::{Direction, Purpose};
use crate::spec::{
    DatasetManagement, DsmRange, NSID_ALL, NvmOpcode, Psdt, ReadWrite, Sqe, Status, WriteZeroes,
};

/// A span of a namespace, in bytes.
struct Span {
    at: u64,
    len: u64,
}

impl State {
    pub(super) fn io(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let nsid = sqe.nsid.get();
        let opcode = NvmOpcode(sqe.opcode());
        let oncs = self.options.oncs;
        let offered = match opcode {
            NvmOpcode::Compare => oncs.compare(),
            NvmOpcode::WriteZeroes => oncs.write_zeroes(),
            NvmOpcode::DatasetManagement => oncs.dsm(),
            _ => true,
        };
        if !offered {
            return Err(Status::INVALID_OPCODE.with_dnr(true));
        }
        match opcode {
            NvmOpcode::Read => self.transfer(ReadWrite::from(*sqe), sqe, Direction::ToMemory),
            NvmOpcode::Write => self.transfer(ReadWrite::from(*sqe), sqe, Direction::FromMemory),
            NvmOpcode::Compare => self.compare(ReadWrite::from(*sqe), sqe),
            NvmOpcode::Flush if nsid == NSID_ALL => {
                self.flush_all();
                Ok(())
            }
            NvmOpcode::Flush => {
                self.namespace(nsid)?.storage.flush();
                Ok(())
            }
            NvmOpcode::WriteZeroes => {
                let zeroes = WriteZeroes::from(*sqe);
                let blocks = u64::from(zeroes.cdw12.nlb_z()) + 1;
                let span = self.span(nsid, zeroes.slba.get(), blocks)?;
                self.zero(nsid, &span, zeroes.cdw12.fua());
                Ok(())
            }
            NvmOpcode::DatasetManagement => self.dataset_management(sqe),
            _ => Err(Status::INVALID_OPCODE.with_dnr(true)),
        }
    }

    /// The bytes of a range of blocks, if the namespace has them all.
    fn span(&mut self, nsid: u32, slba: u64, blocks: u64) -> Result<Span, Status> {
        let shape = self.namespace(nsid)?.shape;
        if shape.metadata_bytes != 0 {
            return Err(Status::INVALID_FIELD.with_dnr(true));
        }
        match slba.checked_add(blocks) {
            Some(end) if end <= shape.blocks => Ok(Span {
                at: slba << shape.lbads,
                len: blocks << shape.lbads,
            }),
            _ => Err(Status::LBA_OUT_OF_RANGE.with_dnr(true)),
        }
    }

    fn zero(&mut self, nsid: u32, span: &Span, fua: bool) {
        let through = fua || !self.cache_enabled();
        if let Ok(namespace) = self.namespace(nsid) {
            namespace.storage.zero(span.at, span.len, through);
        }
    }

    /// Segments of a command's data, if it names them in a way that is offered.
    fn data_segments(
        &mut self,
        sqe: &Sqe,
        len: usize,
        direction: Direction,
    ) -> Result<Vec<Segment>, Status> {
        let offered = match sqe.cdw0.psdt() {
            Psdt::Prp => self.options.prp,
            _ => self.options.sgl,
        };
        match offered {
            true => self.dma.segments(sqe, len, direction),
            false => Err(Status::INVALID_FIELD.with_dnr(true)),
        }
    }

    fn transfer(
        &mut self,
        command: ReadWrite,
        sqe: &Sqe,
        direction: Direction,
    ) -> Result<(), Status> {
        let nsid = command.nsid.get();
        let span = self.transfer_span(&command)?;
        let through = command.cdw12.fua() || !self.cache_enabled();
        let segments = self.data_segments(sqe, span.len as usize, direction)?;
        let flip = self.dma.flip_within(span.len);
        let flip = flip.map(|(at, bit)| (span.at + at, bit));
        // A read gets wrong data by having it wrong on the media meanwhile.
        let misread = flip.filter(|_| direction == Direction::ToMemory);
        self.flip(nsid, misread)?;
        let moved = self.move_data(nsid, span.at, &segments, direction, through);
        self.flip(nsid, flip)?;
        moved?;
        match direction {
            Direction::ToMemory => {
                self.counts.reads += 1;
                self.counts.bytes_read += span.len;
            }
            Direction::FromMemory => {
                self.counts.writes += 1;
                self.counts.bytes_written += span.len;
            }
        }
        Ok(())
    }

    fn move_data(
        &mut self,
        nsid: u32,
        mut at: u64,
        segments: &[Segment],
        direction: Direction,
        through: bool,
    ) -> Result<(), Status> {
        for segment in segments {
            let len = segment.len;
            if !segment.discard {
                let (view, offset) =
                    self.dma
                        .access(segment.address, len, direction, Purpose::Data)?;
                let storage = &mut self.namespace(nsid)?.storage;
                match direction {
                    Direction::ToMemory => storage.read(at, &view, offset, len),
                    Direction::FromMemory => storage.write(at, &view, offset, len, through),
                }
                .map_err(super::dma::lost)?;
            }
            at += len as u64;
        }
        Ok(())
    }

    /// Turns a bit of the media over, if one is named.
    fn flip(&mut self, nsid: u32, which: Option<(u64, u8)>) -> Result<(), Status> {
        if let Some((at, bit)) = which {
            self.namespace(nsid)?.storage.flip(at, bit);
        }
        Ok(())
    }

    /// Compares block by block what memory holds with the media.
    fn compare(&mut self, command: ReadWrite, sqe: &Sqe) -> Result<(), Status> {
        let nsid = command.nsid.get();
        let span = self.transfer_span(&command)?;
        let mut at = span.at;
        for segment in self.data_segments(sqe, span.len as usize, Direction::FromMemory)? {
            let mut theirs = vec![0; segment.len];
            self.dma.read(segment.address, &mut theirs, Purpose::Data)?;
            let ours = MemView::anonymous(segment.len);
            let namespace = self.namespace(nsid)?;
            let read = namespace.storage.read(at, &ours, 0, segment.len);
            read.map_err(super::dma::lost)?;
            let mut media = vec![0; segment.len];
            ours.read(0, &mut media).map_err(super::dma::lost)?;
            if theirs != media {
                return Err(Status::COMPARE_FAILURE);
            }
            at += segment.len as u64;
        }
        Ok(())
    }

    /// The bytes that a command with data moves, if it may move so many.
    fn transfer_span(&mut self, command: &ReadWrite) -> Result<Span, Status> {
        let blocks = u64::from(command.cdw12.nlb_z()) + 1;
        let span = self.span(command.nsid.get(), command.slba.get(), blocks)?;
        let mdts = self.options.mdts;
        // More than 64 bits of it are as good as none.
        let most = 4096u64.checked_mul(1u64.checked_shl(mdts.into()).unwrap_or(0));
        if mdts != 0 && most.is_some_and(|most| most != 0 && span.len > most) {
            return Err(Status::INVALID_FIELD.with_dnr(true));
        }
        Ok(span)
    }

    fn dataset_management(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let command = DatasetManagement::from(*sqe);
        let nsid = command.nsid.get();
        let mut ranges = vec![DsmRange::new_zeroed(); usize::from(command.nr_z) + 1];
        let bytes = ranges.as_mut_bytes();
        let mut done = 0;
        for segment in self.data_segments(sqe, bytes.len(), Direction::FromMemory)? {
            let into = bytes.get_mut(done..done + segment.len).unwrap_or_default();
            self.dma.read(segment.address, into, Purpose::Control)?;
            done += segment.len;
        }
        // All ranges are judged before the first is touched.
        let spans = ranges
            .iter()
            .map(|range| self.span(nsid, range.slba.get(), range.nlb.get().into()))
            .collect::<Result<Vec<_>, _>>()?;
        if command.attributes.deallocate() {
            spans.iter().for_each(|span| self.zero(nsid, span, false));
        }
        Ok(())
    }
}
