//! The scripted target: answers what a controller answers, or what the script
//! says instead. It checks each command of the host against the specification.

#![allow(
    clippy::field_reassign_with_default,
    reason = "wire types have private fields"
)]

use std::collections::BTreeMap;

use bytes::Bytes;
use sidelane_nvme::spec::*;
use sidelane_p2p::MemView;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

pub const BLOCK: usize = 512;
pub const BLOCKS: usize = 64;

/// What the target does otherwise than a good one would.
pub struct Script {
    pub answers_cm: bool,
    pub rejects: Option<(u16, u8)>,
    pub crqsize: u16,
    pub connect: Option<(Status, u32)>,
    /// Opcode that is never answered.
    pub mute: Option<u8>,
    pub hangs_up_on: Option<u8>,
    pub breaks_on: Option<u8>,
    pub invalidates: Option<u32>,
    /// Changes the response to an opcode.
    pub mangle: Option<(u8, Mangle)>,
    pub ready: bool,
    /// Reads of CSTS until a shutdown is told to be complete.
    pub shutdown_reads: u32,
    /// Reads succeed, and place nothing.
    pub loses_read_data: bool,
    pub ioccsz: u32,
    pub queues: u16,
    pub identify: fn(&mut IdentifyController),
    pub nsids: Vec<u32>,
    /// Discovery entries, and how often the log changes while it is read.
    pub entries: usize,
    pub changes: u64,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            answers_cm: true,
            rejects: None,
            crqsize: 0,
            connect: None,
            mute: None,
            hangs_up_on: None,
            breaks_on: None,
            invalidates: None,
            mangle: None,
            ready: true,
            shutdown_reads: 1,
            loses_read_data: false,
            ioccsz: 4,
            queues: 64,
            identify: |_| (),
            nsids: vec![1, 7],
            entries: 0,
            changes: 0,
        }
    }
}

type Mangle = fn(&mut Vec<u8>);
type Resolve<'a> = &'a mut dyn FnMut(u32, u64) -> (MemView, usize);

#[derive(Default)]
pub struct Target {
    pub script: Script,
    subnqn: NqnField,
    cc: u32,
    media: BTreeMap<u32, Vec<u8>>,
    /// Entries of each queue, as connection management and Connect said.
    sizes: BTreeMap<u16, u16>,
    sqhd: BTreeMap<u16, u16>,
    genctr: u64,
    /// Every command: queue, opcode, and whether its data was in the capsule.
    pub log: Vec<(u16, u8, bool)>,
}

impl Target {
    pub fn of(script: Script) -> Self {
        Self {
            script,
            ..Self::default()
        }
    }

    pub fn media(&mut self, nsid: u32) -> &mut Vec<u8> {
        self.media
            .entry(nsid)
            .or_insert_with(|| vec![0; BLOCK * BLOCKS])
    }

    /// Private data of a REQ: format 0, sizes that belong together.
    pub fn accept(&mut self, qid: u16, data: &[u8]) -> Bytes {
        assert_eq!((data.len(), data[0], data[1]), (32, 0, 0));
        let word = |at: usize| u16::from_le_bytes([data[at], data[at + 1]]);
        let (hrqsize, hsqsize) = (word(4), word(6));
        assert_eq!(hrqsize, hsqsize + 1);
        assert!(qid != 0 || hsqsize == 31, "an admin queue has 32 entries");
        assert_eq!(
            word(8),
            if qid == 0 { 0 } else { 5 },
            "the controller of an I/O queue"
        );
        assert_eq!(data[10..32], [0; 22]);
        self.sizes.insert(qid, hsqsize);
        self.sqhd.insert(qid, 0);
        let [a, b] = match self.script.crqsize {
            0 => hrqsize.to_le_bytes(),
            size => size.to_le_bytes(),
        };
        let mut answer = vec![0; 32];
        answer[2..4].copy_from_slice(&[a, b]);
        Bytes::from(answer)
    }

    /// Carries a capsule out; gives the response capsule, unless it is silent.
    pub fn command(&mut self, qid: u16, capsule: &[u8], resolve: Resolve<'_>) -> Option<Vec<u8>> {
        let (sqe, inline) = Sqe::read_from_prefix(capsule).expect("a capsule holds a command");
        let sqe_opcode = sqe.opcode();
        assert_eq!(sqe.cdw0.psdt(), Psdt::Sgl, "RDMA knows SGLs only");
        let in_capsule = matches!(sqe.dptr.sgl().decode(), Sgl::InCapsule { .. });
        self.log.push((qid, sqe_opcode, in_capsule));
        let size = self.sizes[&qid] + 1;
        let sqhd = self.sqhd.get_mut(&qid).unwrap();
        *sqhd = (*sqhd + 1) % size;
        let sqhd = *sqhd;
        let (status, result) = if qid == 0 || sqe_opcode == AdminOpcode::Fabrics.0 {
            self.admin(qid, &sqe, resolve)
        } else {
            (self.io(&sqe, inline, resolve), 0)
        };
        let mut cqe = Cqe::new(sqe.cid(), status).with_result(result);
        cqe.sqhd = U16::new(sqhd);
        let mut response = cqe.as_bytes().to_vec();
        match self.script.mangle {
            Some((opcode, mangle)) if opcode == sqe_opcode => mangle(&mut response),
            _ => {}
        }
        (self.script.mute != Some(sqe_opcode)).then_some(response)
    }

    fn admin(&mut self, qid: u16, sqe: &Sqe, resolve: Resolve<'_>) -> (Status, u64) {
        let ok = |result| (Status::SUCCESS, result);
        if sqe.opcode() == AdminOpcode::Fabrics.0 {
            let fabrics = FabricsCommand::from(*sqe);
            return match fabrics.fctype {
                FabricsType::Connect => self.connect(qid, sqe, resolve),
                FabricsType::PropertyGet => ok(self.property_get(&PropertyGet::from(*sqe))),
                FabricsType::PropertySet => {
                    let set = PropertySet::from(*sqe);
                    assert_eq!(set.offset.get(), offset::CC);
                    self.cc = set.value.get() as u32;
                    ok(0)
                }
                other => panic!("{other:?} is not expected"),
            };
        }
        assert_eq!(
            self.cc & 1,
            1,
            "an admin command on a controller that is not enabled"
        );
        assert_eq!(
            self.cc >> 14 & 3,
            0,
            "an admin command on a controller that shuts down"
        );
        match AdminOpcode(sqe.opcode()) {
            AdminOpcode::Identify => {
                place(sqe, resolve, &self.identify(&Identify::from(*sqe)));
                ok(0)
            }
            AdminOpcode::SetFeatures => {
                let given = self.script.queues - 1;
                ok(u64::from(given) << 16 | u64::from(given))
            }
            AdminOpcode::GetLogPage => {
                let get = GetLogPage::from(*sqe);
                assert_eq!(get.cdw10.lid(), LogId::Discovery);
                let from = get.lpo.get() as usize;
                let log = self.discovery_log(from);
                place(sqe, resolve, &log[from..from + get.len_bytes() as usize]);
                ok(0)
            }
            AdminOpcode::KeepAlive => ok(0),
            other => panic!("{other:?} is not expected"),
        }
    }

    fn connect(&mut self, qid: u16, sqe: &Sqe, resolve: Resolve<'_>) -> (Status, u64) {
        let connect = Connect::from(*sqe);
        let mut data = [0; 1024];
        let (length, view, at) = keyed(sqe, resolve);
        assert_eq!(length, 1024);
        view.read(at, &mut data).unwrap();
        let data = ConnectData::read_from_bytes(&data).unwrap();
        assert_eq!((connect.recfmt.get(), connect.qid.get()), (0, qid));
        assert_eq!(
            connect.sqsize_z.get(),
            self.sizes[&qid],
            "HSQSIZE is SQSIZE"
        );
        assert_eq!(data.cntlid.get(), if qid == 0 { CNTLID_DYNAMIC } else { 5 });
        assert!(!data.hostid.is_zero());
        self.subnqn = data.subnqn;
        match self.script.connect {
            Some((status, result)) => (status, result.into()),
            None => (Status::SUCCESS, 5),
        }
    }

    fn property_get(&mut self, get: &PropertyGet) -> u64 {
        match get.offset.get() {
            offset::CAP => Cap::new()
                .with_mqes_z(127)
                .with_to(1)
                .with_css_nvm(true)
                .into_bits()
                .get(),
            offset::VS => Version::V1_4.into_bits().get().into(),
            offset::CSTS => {
                let shutting_down = self.cc >> 14 & 3 == 1;
                let left = &mut self.script.shutdown_reads;
                *left = left.saturating_sub(u32::from(shutting_down));
                let shut = match (shutting_down, *left) {
                    (false, _) => 0,
                    (true, 0) => 2 << 2,
                    (true, _) => 1 << 2,
                };
                u64::from(self.cc & 1 == 1 && self.script.ready) | shut
            }
            other => panic!("property {other:#x} is not expected"),
        }
    }

    fn identify(&self, identify: &Identify) -> Vec<u8> {
        match identify.cns {
            Cns::Controller => {
                let mut data = IdentifyController::default();
                data.cntlid = U16::new(5);
                data.mn = Ascii::new("double");
                data.subnqn = self.subnqn;
                data.sqes = QueueEntrySizes::new().with_min(6).with_max(6);
                data.cqes = QueueEntrySizes::new().with_min(4).with_max(4);
                data.sgls = Sgls::new()
                    .with_support(1)
                    .with_keyed(true)
                    .with_offset(true);
                data.ioccsz = U32::new(self.script.ioccsz);
                data.iorcsz = U32::new(1);
                data.mdts = 2;
                (self.script.identify)(&mut data);
                data.as_bytes().to_vec()
            }
            Cns::ActiveNamespaces => {
                let above = self
                    .script
                    .nsids
                    .iter()
                    .copied()
                    .filter(|id| *id > identify.nsid.get());
                NamespaceList::of(above).as_bytes().to_vec()
            }
            Cns::Namespace => {
                let mut data = IdentifyNamespace::default();
                data.nsze = U64::new(BLOCKS as u64);
                data.lbaf[0] = LbaFormat::data_only(9);
                data.as_bytes().to_vec()
            }
            other => panic!("{other:?} is not expected"),
        }
    }

    fn discovery_log(&mut self, from: usize) -> Vec<u8> {
        if from > 0 && self.script.changes > 0 {
            self.script.changes -= 1;
            self.genctr += 1;
        }
        let mut header = DiscoveryHeader::default();
        header.genctr = U64::new(self.genctr);
        header.numrec = U64::new(self.script.entries as u64);
        let mut log = header.as_bytes().to_vec();
        for n in 0..self.script.entries {
            let mut entry = DiscoveryEntry::default();
            entry.portid = U16::new(n as u16);
            entry.traddr = Ascii::new("192.0.2.1");
            log.extend(entry.as_bytes());
        }
        log.resize(log.len() + 4096, 0);
        log
    }

    fn io(&mut self, sqe: &Sqe, inline: &[u8], resolve: Resolve<'_>) -> Status {
        let io = ReadWrite::from(*sqe);
        let opcode = NvmOpcode(sqe.opcode());
        if opcode == NvmOpcode::Flush {
            return Status::SUCCESS;
        }
        let from = io.slba.get() as usize * BLOCK;
        let len = (usize::from(io.cdw12.nlb_z()) + 1) * BLOCK;
        let loses = self.script.loses_read_data;
        let room = self.script.ioccsz as usize * 16 - 64;
        let media = self.media(io.nsid.get());
        let Some(blocks) = media.get_mut(from..from + len) else {
            return Status::LBA_OUT_OF_RANGE;
        };
        if let Sgl::InCapsule { offset, length } = sqe.dptr.sgl().decode() {
            assert_eq!(
                (opcode, offset, length as usize),
                (NvmOpcode::Write, 0, len)
            );
            assert!(inline.len() == len && len <= room);
            blocks.copy_from_slice(inline);
            return Status::SUCCESS;
        }
        assert!(inline.is_empty());
        let (length, view, at) = keyed(sqe, resolve);
        assert_eq!(length as usize, len);
        match opcode {
            NvmOpcode::Read if loses => {}
            NvmOpcode::Read => view.write(at, blocks).unwrap(),
            NvmOpcode::Write => view.read(at, blocks).unwrap(),
            other => panic!("{other:?} is not expected"),
        }
        Status::SUCCESS
    }
}

fn keyed(sqe: &Sqe, resolve: Resolve<'_>) -> (u32, MemView, usize) {
    let Sgl::Keyed {
        address,
        length,
        key,
        invalidate: false,
    } = sqe.dptr.sgl().decode()
    else {
        panic!("{:?} is not a keyed block", sqe.dptr.sgl())
    };
    let (view, at) = resolve(key, address);
    (length, view, at)
}

fn place(sqe: &Sqe, resolve: Resolve<'_>, data: &[u8]) {
    let (length, view, at) = keyed(sqe, resolve);
    assert_eq!(length as usize, data.len());
    view.write(at, data).unwrap();
}
