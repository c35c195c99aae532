//! What a modelled controller says of itself (clause 5.17).

use zerocopy::IntoBytes;

use super::registers::VERSION;
use super::state::State;
use crate::spec::{
    Ascii, Cns, ControllerType, Csi, DlFeat, Flbas, Fna, Identify, IdentifyController,
    IdentifyNamespace, LbaFormat, Lpa, NSID_ALL, NamespaceId, NamespaceIdList, NamespaceList, Nqn,
    NqnField, Oacs, Oaes, QueueEntrySizes, Sgls, Sqe, Status, Vwc,
};

impl State {
    pub(super) fn identify(&mut self, sqe: &Sqe) -> Result<(), Status> {
        let command = Identify::from(*sqe);
        let nsid = command.nsid.get();
        let count = self.namespaces.len() as u32;
        match command.cns {
            Cns::Controller => self.dma.answer(sqe, self.controller().as_bytes()),
            // An identifier that is not in use has Identify data of zeros.
            Cns::Namespace if (1..=count).contains(&nsid) => {
                self.dma.answer(sqe, self.namespace_data(nsid).as_bytes())
            }
            Cns::ActiveNamespaces if nsid < NSID_ALL - 1 => {
                let active = (nsid + 1..=count).filter(|nsid| self.is_active(*nsid));
                let list = NamespaceList::of(active);
                self.dma.answer(sqe, list.as_bytes())
            }
            Cns::NamespaceDescriptors if self.is_active(nsid) => {
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
            oaes: Oaes::new().with_namespace_attribute(true),
            oacs: Oacs::new().with_doorbell_buffer(self.options.shadow_doorbells),
            acl_z: 3,
            aerl_z: self.options.aerl_z,
            lpa: Lpa::new().with_extended_data(true),
            sqes: QueueEntrySizes::new().with_min(6).with_max(6),
            cqes: QueueEntrySizes::new().with_min(4).with_max(4),
            nn: (self.namespaces.len() as u32).into(),
            oncs: self.options.oncs,
            fna: Fna::new(),
            vwc: Vwc::new().with_present(self.options.volatile_cache),
            sgls: Sgls::new()
                .with_support(u8::from(self.options.sgl))
                .with_bit_bucket(self.options.sgl),
            subnqn: subnqn
                .parse::<Nqn>()
                .map_or_else(|_| NqnField::default(), |nqn| (&nqn).into()),
            ..IdentifyController::default()
        }
    }

    fn is_active(&self, nsid: u32) -> bool {
        let index = (nsid as usize).checked_sub(1);
        index
            .and_then(|index| self.namespaces.get(index))
            .is_some_and(|namespace| namespace.attached)
    }

    fn namespace_data(&self, nsid: u32) -> IdentifyNamespace {
        let Some(namespace) = self
            .namespaces
            .get(nsid as usize - 1)
            .filter(|namespace| namespace.attached)
        else {
            return IdentifyNamespace::default();
        };
        let shape = namespace.shape;
        let format = LbaFormat {
            metadata_bytes: shape.metadata_bytes.into(),
            ..LbaFormat::data_only(shape.lbads)
        };
        let offered = [LbaFormat::data_only(9), LbaFormat::data_only(12), format];
        let in_use = offered.iter().position(|one| *one == format).unwrap_or(2);
        IdentifyNamespace {
            nsze: shape.blocks.into(),
            ncap: shape.blocks.into(),
            nuse: shape.blocks.into(),
            nlbaf_z: in_use.max(1) as u8,
            flbas: Flbas::new().with_index_low(in_use as u8),
            lbaf: std::array::from_fn(|i| match offered.get(i) {
                Some(format) if i <= in_use.max(1) => *format,
                _ => LbaFormat::default(),
            }),
            dlfeat: DlFeat::new()
                .with_read(1)
                .with_write_zeroes_deallocates(true),
            nguid: self.nguid(nsid),
            ..IdentifyNamespace::default()
        }
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
