//! What a modelled controller is like.

use sidelane_p2p::PciAddress;

use super::pmr::ModelPmr;
use crate::spec::Oncs;

/// How the memory buffer of a controller is made known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CmbKind {
    /// By CMBMSC, as from 1.4 on.
    V1_4,
    /// By its registers alone, as before.
    Legacy,
}

/// A Controller Memory Buffer.
#[derive(Debug, Clone)]
pub struct ModelCmb {
    /// Length in bytes, whole units of 4 KiB, at most 4 GiB.
    pub len: usize,
    /// How it is made known.
    pub kind: CmbKind,
    /// Commands that read may put their data there (RDS).
    pub reads: bool,
    /// Commands that write may take their data from there (WDS).
    pub writes: bool,
    /// No address is accepted (CMBSTS.CBAI). Of the 1.4 kind only.
    pub refuse_address: bool,
}

impl ModelCmb {
    /// A buffer of the 1.4 kind for data of both directions.
    pub fn new(len: usize) -> Self {
        Self {
            len,
            kind: CmbKind::V1_4,
            reads: true,
            writes: true,
            refuse_address: false,
        }
    }
}

/// A namespace; its identifier is its place in the list, from 1.
#[derive(Debug, Clone, Copy)]
pub struct ModelNamespace {
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block, as a power of two, 9 to 12.
    pub lbads: u8,
    /// Bytes of metadata of a logical block. Announced only: commands to such a
    /// namespace are refused.
    pub metadata_bytes: u16,
}

impl ModelNamespace {
    /// A namespace of so many bytes, in blocks of 512.
    pub fn of_bytes(bytes: u64) -> Self {
        Self {
            blocks: bytes >> 9,
            lbads: 9,
            metadata_bytes: 0,
        }
    }

    /// The same size in blocks of 4096 bytes.
    #[must_use]
    pub fn in_4k_blocks(self) -> Self {
        Self {
            blocks: self.blocks << self.lbads >> 12,
            lbads: 12,
            ..self
        }
    }
}

/// A controller to be modelled.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// Its address on the bus; each controller of a bus needs its own.
    pub address: PciAddress,
    /// Serial number; the identifiers of its namespaces come from it.
    pub serial: String,
    /// Its namespaces.
    pub namespaces: Vec<ModelNamespace>,
    /// Its memory buffer.
    pub cmb: Option<ModelCmb>,
    /// Its persistent memory region.
    pub pmr: Option<ModelPmr>,
    /// Longest transfer, 2^this pages of 4 KiB, 0 for no limit (MDTS).
    pub mdts: u8,
    /// Most entries of an I/O queue, zero-based (CAP.MQES).
    pub mqes_z: u16,
    /// I/O queue pairs.
    pub io_queues: u16,
    /// Interrupt vectors.
    pub vectors: usize,
    /// Whether commands may carry SGLs.
    pub sgl: bool,
    /// Whether I/O commands may carry PRPs; a model that takes neither serves
    /// commands without data only.
    pub prp: bool,
    /// Optional I/O commands; of those that the model has not, none is offered.
    pub oncs: Oncs,
    /// Whether there is a volatile write cache.
    pub volatile_cache: bool,
    /// Whether the cache is on after a reset.
    pub cache_on: bool,
    /// Whether [`power_loss`](super::ModelController::power_loss) makes it lose
    /// what is in the cache. It costs a copy of all that is written.
    pub forgetful: bool,
    /// Asynchronous Event Requests that may be outstanding, zero-based (AERL).
    pub aerl_z: u8,
    /// Whether it offers shadow doorbells (Doorbell Buffer Config).
    pub shadow_doorbells: bool,
    /// Whether commands wait for [`step`](super::ModelController::step) instead
    /// of being executed when the doorbell is rung.
    pub defer: bool,
}

impl Default for ModelOptions {
    /// One namespace of 64 MiB at 0000:01:00.0, without memory buffer.
    fn default() -> Self {
        Self {
            address: PciAddress {
                domain: 0,
                bus: 1,
                device: 0,
                function: 0,
            },
            serial: "MODEL0001".to_owned(),
            namespaces: vec![ModelNamespace::of_bytes(64 << 20)],
            cmb: None,
            pmr: None,
            mdts: 9,
            mqes_z: 1023,
            io_queues: 16,
            vectors: 17,
            sgl: true,
            prp: true,
            oncs: Oncs::new()
                .with_compare(true)
                .with_dsm(true)
                .with_write_zeroes(true),
            volatile_cache: true,
            cache_on: true,
            forgetful: false,
            aerl_z: 3,
            shadow_doorbells: false,
            defer: false,
        }
    }
}
