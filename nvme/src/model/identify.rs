//! What a modelled controller says of itself (clause 5.17).

use zerocopy::IntoBytes;

use super::registers::VERSION;
use super::state::State;
use crate::spec::{
    Ascii, Cns, ControllerType, Csi, DlFeat, Fna, Identify, IdentifyController, IdentifyNamespace,
    LbaFormat, Lpa, NSID_ALL, NamespaceId, NamespaceIdList, NamespaceList, Nqn, NqnField, Oncs,
    QueueEntrySizes, Sgls, Sqe, Status, Vwc,
};

impl State {
    pub(super) fn identify(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let command = Identify::from(*sqe);
        let nsid = command.nsid.get();
        let count = self.namespaces.len() as u32;
        match command.cns {
            Cns::Controller => self.dma.answer(sqe, self.controller().as_bytes()),
            Cns::Namespace if (1..=count).contains(&nsid) => {
                self.dma.answer(sqe, self.namespace_data(nsid).as_bytes())
            }
            Cns::ActiveNamespaces if nsid < NSID_ALL - 1 => {
                let list = NamespaceList::of(nsid + 1..=count);
                self.dma.answer(sqe, list.as_bytes())
            }
            Cns::NamespaceDescriptors if (1..=count).contains(&nsid) => {
                let list = NamespaceIdList::of(&[
                    NamespaceId::Nguid(self.nguid(nsid)),
                    NamespaceId::Csi(Csi::Nvm),
                ]);
                self.dma.answer(sqe, list.as_bytes())
            }
            Cns::Namespace | Cns::ActiveNamespaces | Cns::NamespaceDescriptors => {
                Err(Status::INVALID_NAMESPACE.with_dnr(true))
            }
            _ => Err(Status::INVALID_FIELD.with_dnr(true)),
        }
    }

    fn controller(&self) -> IdentifyController {
        let serial = &self.options.serial;
        let subnqn = format!("nqn.2026-11.org.sidelane:model:{serial}");
        IdentifyController {
            sn: Ascii::new(serial),
            mn: Ascii::new("Sidelane Model"),
            fr: Ascii::new("1"),
            mdts: self.options.mdts,
            cntlid: 1.into(),
            ver: VERSION,
            cntrltype: ControllerType::Io,
            acl_z: 3,
            aerl_z: 3,
            lpa: Lpa::new().with_extended_data(true),
            sqes: QueueEntrySizes::new().with_min(6).with_max(6),
            cqes: QueueEntrySizes::new().with_min(4).with_max(4),
            nn: (self.namespaces.len() as u32).into(),
            oncs: Oncs::new()
                .with_compare(true)
                .with_dsm(true)
                .with_write_zeroes(true),
            fna: Fna::new(),
            vwc: Vwc::new().with_present(true),
            sgls: Sgls::new()
                .with_support(u8::from(self.options.sgl))
                .with_bit_bucket(self.options.sgl),
            subnqn: subnqn
                .parse::<Nqn>()
                .map_or_else(|_| NqnField::default(), |nqn| (&nqn).into()),
            ..IdentifyController::default()
        }
    }

    fn namespace_data(&self, nsid: u32) -> IdentifyNamespace {
        let mut data = IdentifyNamespace {
            dlfeat: DlFeat::new()
                .with_read(1)
                .with_write_zeroes_deallocates(true),
            nguid: self.nguid(nsid),
            ..IdentifyNamespace::default()
        };
        if let Some(namespace) = self.namespaces.get(nsid as usize - 1) {
            let shape = namespace.shape;
            let format = LbaFormat {
                metadata_bytes: shape.metadata_bytes.into(),
                ..LbaFormat::data_only(shape.lbads)
            };
            data.nsze = shape.blocks.into();
            data.ncap = shape.blocks.into();
            data.nuse = shape.blocks.into();
            data.lbaf = std::array::from_fn(|i| if i == 0 { format } else { LbaFormat::default() });
        }
        data
    }

    /// Never zero, and not the same for two namespaces or two serial numbers.
    fn nguid(&self, nsid: u32) -> [u8; 16] {
        // FNV-1a of 128 bits.
        let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        for byte in self.options.serial.bytes().chain(nsid.to_le_bytes()) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
        (hash | 1).to_be_bytes()
    }
}
