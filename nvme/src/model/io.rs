//! I/O commands of a modelled controller (NVM 3.2).

use zerocopy::{FromZeros, IntoBytes};

use sidelane_p2p::MemView;

use super::state::State;
use super::touch::{Direction, Purpose};
use crate::spec::{
    DatasetManagement, DsmRange, NSID_ALL, NvmOpcode, ReadWrite, Sqe, Status, WriteZeroes,
};

/// A span of a namespace, in bytes.
struct Span {
    at: u64,
    len: u64,
}

impl State {
    pub(super) fn io(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let nsid = sqe.nsid.get();
        match NvmOpcode(sqe.opcode()) {
            NvmOpcode::Read => self.transfer(ReadWrite::from(*sqe), sqe, Direction::ToMemory),
            NvmOpcode::Write => self.transfer(ReadWrite::from(*sqe), sqe, Direction::FromMemory),
            NvmOpcode::Compare => self.compare(ReadWrite::from(*sqe), sqe),
            NvmOpcode::Flush if nsid == NSID_ALL => Ok(()),
            NvmOpcode::Flush => self
                .namespace(nsid)
                .map(|_| ())
                .ok_or(Status::INVALID_NAMESPACE),
            NvmOpcode::WriteZeroes => {
                let zeroes = WriteZeroes::from(*sqe);
                let blocks = u64::from(zeroes.cdw12.nlb_z()) + 1;
                let span = self.span(nsid, zeroes.slba.get(), blocks)?;
                self.zero(nsid, &span);
                Ok(())
            }
            NvmOpcode::DatasetManagement => self.dataset_management(sqe),
            _ => Err(Status::INVALID_OPCODE.with_dnr(true)),
        }
    }

    /// The bytes of a range of blocks, if the namespace has them all.
    fn span(&mut self, nsid: u32, slba: u64, blocks: u64) -> Result<Span, Status> {
        let invalid = Status::INVALID_NAMESPACE.with_dnr(true);
        let shape = self.namespace(nsid).ok_or(invalid)?.shape;
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

    fn zero(&mut self, nsid: u32, span: &Span) {
        if let Some(namespace) = self.namespace(nsid) {
            namespace.storage.zero(span.at, span.len);
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
        let len = span.len as usize;
        let mut at = span.at;
        for segment in self.dma.segments(sqe, len, direction)? {
            if !segment.discard {
                let (view, offset) =
                    self.dma
                        .access(segment.address, segment.len, direction, Purpose::Data)?;
                let namespace = self.namespace(nsid).ok_or(Status::INVALID_NAMESPACE)?;
                match direction {
                    Direction::ToMemory => namespace.storage.read(at, &view, offset, segment.len),
                    Direction::FromMemory => {
                        namespace.storage.write(at, &view, offset, segment.len)
                    }
                }
                .map_err(super::dma::lost)?;
            }
            at += segment.len as u64;
        }
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

    /// Compares block by block what memory holds with the media.
    fn compare(&mut self, command: ReadWrite, sqe: &Sqe) -> Result<(), Status> {
        let nsid = command.nsid.get();
        let span = self.transfer_span(&command)?;
        let mut at = span.at;
        for segment in self
            .dma
            .segments(sqe, span.len as usize, Direction::FromMemory)?
        {
            let mut theirs = vec![0; segment.len];
            self.dma.read(segment.address, &mut theirs, Purpose::Data)?;
            let ours = MemView::anonymous(segment.len);
            let namespace = self.namespace(nsid).ok_or(Status::INVALID_NAMESPACE)?;
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
        if mdts != 0 && span.len > 4096 << mdts {
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
        for segment in self.dma.segments(sqe, bytes.len(), Direction::FromMemory)? {
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
            spans.iter().for_each(|span| self.zero(nsid, span));
        }
        Ok(())
    }
}
