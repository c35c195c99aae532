//! Writes the fuzzer's first seeds to `tests/fuzz/seeds`:
//! `cargo run -p sidelane-tests --example fuzz_seeds`.
//!
//! They are inputs that are in order, or nearly so, from which the fuzzer finds
//! its way. Inputs that once failed lie beside them and are not touched.

use std::fs;
use std::path::Path;

use sidelane_nvme::spec::{
    Abort, AdminOpcode, CNTLID_DYNAMIC, Cns, ConnectData, Cqe, DISCOVERY_NQN, FabricsType,
    Identify, IdentifyNamespace, NvmOpcode, PropertySet, Psdt, ReadWrite, ReadWriteCdw12,
    SglDescriptor, Sqe, Status,
};
use sidelane_nvme::spec::{DataPtr, IdentifyController, LbaFormat};
use sidelane_tests::served::{self, SUBNQN};
use sidelane_transport::nvmf::{ConnectAccept, ConnectReject, ConnectRequest, RejectStatus};
use sidelane_transport::soft::psn::Psn;
use sidelane_transport::soft::wire::{Aeth, AethKind, Bth, Headers, Opcode, Reth};
use zerocopy::IntoBytes;

type Seed = (&'static str, Vec<u8>);

fn packet() -> Vec<Seed> {
    let with = |opcode, payload: &[u8]| {
        let mut headers = Headers::new(Bth::new(opcode, 0x11, Psn::new(0xff_fffe)));
        headers.bth.ack_request = true;
        headers.reth = Some(Reth {
            addr: 0x1000,
            rkey: 0x2000,
            len: payload.len() as u32,
        });
        headers.aeth = Some(Aeth {
            kind: AethKind::Ack(31),
            msn: 7,
        });
        headers.invalidate = Some(5);
        let mut bytes = vec![0; 64 + payload.len()];
        let rest = headers.write(&mut bytes).map_or(0, |rest| rest.len());
        bytes.truncate(64 + payload.len() - rest);
        [&[0], &bytes[..], payload].concat()
    };
    vec![
        ("send", with(Opcode::RcSendOnly, &[7; 64])),
        (
            "send_invalidate",
            with(Opcode::RcSendOnlyInvalidate, &[7; 16]),
        ),
        ("write", with(Opcode::RcWriteOnly, &[7; 256])),
        ("read", with(Opcode::RcReadRequest, &[])),
        ("ack", with(Opcode::RcAck, &[])),
        (
            "six",
            [&[1], &with(Opcode::RcReadResponseOnly, &[9; 32])[1..]].concat(),
        ),
    ]
}

/// A read request as rdma_rxe sends it, but for its CRC.
fn datagram() -> Vec<Seed> {
    let addresses = [192, 0, 2, 1, 192, 0, 2, 2];
    let header = |len: u8| [0x45, 0, 0, len, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0];
    let udp = |len: u8| [0xc0, 1, 0x12, 0xb7, 0, len, 0, 0];
    let (_, read) = packet().swap_remove(3);
    let payload = [&read[1..], &[0; 4]].concat();
    let len = payload.len() as u8;
    vec![
        (
            "read",
            [&header(28 + len)[..], &addresses, &udp(8 + len), &payload].concat(),
        ),
        ("run", vec![4, 0xff, 0xff, 3, 1, 2, 3, 4]),
    ]
}

/// The actions of `fuzz::engine`; the peer of a side is 0x80 more.
fn engine() -> Vec<Seed> {
    const PEER: u8 = 0x80;
    let receive = [PEER | 2, 0, 0, 0, 16];
    // One piece of so many bytes, from offset 64, to or from the peer's 128.
    let post = |kind: u8, len: u16| {
        let [low, high] = len.to_le_bytes();
        vec![0, kind | 1 << 2, 128, 0, 64, 0, low, high]
    };
    let deliver = [4, 0];
    let some = deliver.repeat(12);
    vec![
        (
            "send",
            [&[0], &receive[..], &post(0, 700), &some, &[15, 99]].concat(),
        ),
        ("write", [&[1], &post(2, 3000)[..], &some].concat()),
        ("read", [&[0], &post(3, 3000)[..], &some].concat()),
        (
            "lost",
            [
                &[0],
                &post(3, 2000)[..],
                &post(2, 2000),
                &[7, 1, 7, 0],
                &some,
                &[14],
                &some,
            ]
            .concat(),
        ),
        (
            "altered",
            [
                &[0],
                &receive[..],
                &post(0, 300),
                &[9, 0, 1, 9, 1, 8, 4],
                &some,
                &[14, 14],
            ]
            .concat(),
        ),
        (
            "not_ready",
            [&[0], &post(0, 64)[..], &some, &[14], &receive[..], &some].concat(),
        ),
        (
            "invented",
            [&[0, 11, 0x0e], &[0x0a_u8; 12][..], &[64, 0], &[0; 64]].concat(),
        ),
    ]
}

/// The actions of `fuzz::cm`.
fn cm() -> Vec<Seed> {
    const PEER: u8 = 0x80;
    let deliver = [5, 0];
    let up = [
        &[0][..],
        &deliver,
        &[PEER | 1, 0],
        &deliver,
        &[3, 0],
        &deliver,
    ]
    .concat();
    vec![
        (
            "up_and_down",
            [&up[..], &[4, 0], &deliver, &deliver].concat(),
        ),
        (
            "refused",
            [&[0][..], &deliver, &[PEER | 2, 0], &deliver].concat(),
        ),
        ("no_listener", [&[0x40][..], &deliver, &deliver].concat()),
        ("silent", [&[0, 8, 0][..], &[15; 20]].concat()),
        (
            "repeated",
            [&[0, 9, 0, 9, 0][..], &deliver, &[PEER | 1, 0, 9, 0, 15, 15]].concat(),
        ),
        (
            "altered",
            [
                &[0, 10, 0, 0, 60, 3, 10, 0, 1, 17, 4, 90, 255][..],
                &deliver,
            ]
            .concat(),
        ),
        (
            "invented",
            [&[12, 0, 231][..], &[0xff; 232], &[0, 12, 5, 231], &[1; 232]].concat(),
        ),
    ]
}

fn private_data() -> Vec<Seed> {
    let request = ConnectRequest::new(1, 1, 128, 128).map_or(vec![], |r| r.as_bytes().to_vec());
    vec![
        ("request", request.clone()),
        ("padded", [&request[..], &[0; 24]].concat()),
        ("another_format", [&[7, 0], &request[2..]].concat()),
        ("no_queue", [&request[..4], &[0; 28]].concat()),
        ("short", request[..7].to_vec()),
        ("accept", ConnectAccept::new(128).as_bytes().to_vec()),
        (
            "reject",
            ConnectReject::new(RejectStatus::NoResources)
                .as_bytes()
                .to_vec(),
        ),
    ]
}

fn keyed(length: u32) -> SglDescriptor {
    SglDescriptor::keyed(0x1234_5000, length, 0x77, true).unwrap_or_default()
}

fn data_pointer() -> Vec<Seed> {
    let capsule = |descriptor, data: &[u8]| {
        let mut sqe = Sqe::new(NvmOpcode::Write.into_bits(), 1);
        sqe.dptr = DataPtr::from_sgl(descriptor);
        [&[16], sqe.as_bytes(), data].concat()
    };
    let list = [keyed(4096), keyed(0), keyed(512)];
    let wraps = SglDescriptor::keyed(u64::MAX, 4096, 1, true).unwrap_or_default();
    vec![
        ("keyed", capsule(keyed(4096), &[])),
        ("keyed_that_wraps", capsule(wraps, &[])),
        (
            "in_capsule_outside",
            capsule(SglDescriptor::in_capsule(u64::MAX, 64), &[1; 64]),
        ),
        (
            "list_outside",
            capsule(
                SglDescriptor::in_capsule_segment(17, 48, true),
                list.as_bytes(),
            ),
        ),
        (
            "list_too_long",
            capsule(
                SglDescriptor::in_capsule_segment(0, 257 * 16, true),
                &[0; 257 * 16],
            ),
        ),
        (
            "in_capsule",
            capsule(SglDescriptor::in_capsule(0, 64), &[1; 64]),
        ),
        (
            "list",
            capsule(
                SglDescriptor::in_capsule_segment(0, 48, true),
                list.as_bytes(),
            ),
        ),
    ]
}

/// An action of `fuzz::session` on one of its queues: a command, how much data
/// the host names, and the data.
fn to_queue(queue: u8, sqe: &Sqe, len: u32, data: &[u8]) -> Vec<u8> {
    let words = (data.len() / 4).min(255);
    let size = [words as u8];
    [
        &[queue, 2][..],
        sqe.as_bytes(),
        &len.to_le_bytes(),
        &size,
        &data[..words * 4],
    ]
    .concat()
}

fn command(opcode: u8, nsid: u32, cid: u16) -> Sqe {
    let mut sqe = Sqe::new(opcode, nsid);
    sqe.cdw0 = sqe.cdw0.with_psdt(Psdt::Sgl).with_cid(cid);
    sqe
}

fn read_write(opcode: NvmOpcode, cid: u16, blocks: u16) -> Sqe {
    ReadWrite {
        slba: 8.into(),
        cdw12: ReadWriteCdw12::new().with_nlb_z(blocks - 1),
        ..command(opcode.into_bits(), 1, cid).into()
    }
    .into()
}

fn connect() -> Vec<Seed> {
    let whole = |qid, nqn, cntlid, spoil: fn(&mut Sqe, &mut ConnectData)| {
        let (mut sqe, mut data) = served::connect(qid, nqn, cntlid);
        spoil(&mut sqe, &mut data);
        [sqe.as_bytes(), data.as_bytes()].concat()
    };
    let admin = |spoil| whole(0, SUBNQN, CNTLID_DYNAMIC, spoil);
    vec![
        ("admin", admin(|_, _| ())),
        (
            "discovery",
            whole(0, DISCOVERY_NQN, CNTLID_DYNAMIC, |_, _| ()),
        ),
        ("io", whole(2, SUBNQN, 1, |_, _| ())),
        ("io_in_use", whole(1, SUBNQN, 1, |_, _| ())),
        ("io_of_nobody", whole(2, SUBNQN, 77, |_, _| ())),
        ("another_format", admin(|sqe, _| sqe.cdw10.set(1))),
        ("a_queue_of_one", admin(|sqe, _| sqe.cdw11.set(0))),
        ("a_queue_too_deep", admin(|sqe, _| sqe.cdw11.set(0xffff))),
        ("another_host", admin(|_, data| data.hostnqn.0[30] ^= 1)),
        (
            "no_host_identifier",
            admin(|_, data| data.hostid.0 = [0; 16]),
        ),
        (
            "a_name_without_end",
            admin(|_, data| data.subnqn.0 = [b'n'; 256]),
        ),
        ("short", admin(|_, _| ())[..1000].to_vec()),
    ]
}

fn session() -> Vec<Seed> {
    let (admin, io) = (0, 1);
    let mut identify = Identify::from(command(AdminOpcode::Identify.into_bits(), 1, 3));
    identify.cns = Cns::Namespace;
    let mut set = PropertySet::from(command(AdminOpcode::Fabrics.into_bits(), 0, 4));
    set.fctype = FabricsType::PropertySet;
    set.offset = 0x14.into();
    let mut dsm = command(NvmOpcode::DatasetManagement.into_bits(), 1, 5);
    dsm.cdw11.set(4);
    let mut page = command(AdminOpcode::GetLogPage.into_bits(), 0, 9);
    page.cdw10.set(0x03ff_0001);
    let mut abort = Abort::from(command(AdminOpcode::Abort.into_bits(), 0, 10));
    abort.sqid.set(1);
    abort.cid = read_write(NvmOpcode::Read, 1, 8).cid().into();
    vec![
        (
            "reads_and_writes",
            [
                to_queue(io, &read_write(NvmOpcode::Read, 1, 8), 4096, &[]),
                to_queue(io, &read_write(NvmOpcode::Write, 2, 1), 512, &[]),
                vec![io | 12 << 2],
            ]
            .concat(),
        ),
        ("identify", to_queue(admin, &identify.into(), 4096, &[])),
        ("disable", to_queue(admin, &set.into(), 0, &[])),
        ("deallocate", to_queue(io, &dsm, 16, &[0; 16])),
        ("log_page", to_queue(admin, &page, 4096, &[])),
        ("discovery", to_queue(2, &page, 4096, &[])),
        (
            "events",
            [
                to_queue(
                    admin,
                    &command(AdminOpcode::AsyncEventRequest.into_bits(), 0, 6),
                    0,
                    &[],
                ),
                vec![14 << 2, 7],
            ]
            .concat(),
        ),
        (
            "connect",
            vec![3 | 11 << 2, 1, 1, 0, 3 | 15 << 2, 3 | 11 << 2, 0, 0, 0],
        ),
        ("silence", vec![13 << 2, 255, 255, 13 << 2, 255, 255]),
        (
            "abort",
            [
                to_queue(io, &read_write(NvmOpcode::Read, 1, 8), 4096, &[]),
                to_queue(admin, &abort.into(), 0, &[]),
                vec![io | 12 << 2],
            ]
            .concat(),
        ),
        (
            "disable_under_load",
            [
                to_queue(io, &read_write(NvmOpcode::Write, 1, 8), 4096, &[]),
                to_queue(admin, &set.into(), 0, &[]),
                to_queue(io, &read_write(NvmOpcode::Read, 1, 8), 4096, &[]),
            ]
            .concat(),
        ),
    ]
}

fn spec() -> Vec<Seed> {
    let sqe = read_write(NvmOpcode::Read, 1, 8);
    let cqe = Cqe::new(1, Status::INVALID_FIELD);
    let identify = IdentifyNamespace {
        nsze: 1000.into(),
        lbaf: [LbaFormat::data_only(9); 64],
        ..IdentifyNamespace::default()
    };
    let controller = IdentifyController::default();
    vec![
        ("sqe", [&[0], sqe.as_bytes()].concat()),
        ("cqe", [&[1], cqe.as_bytes()].concat()),
        (
            "name",
            [&[2_u8][..], b"nqn.2026-11.io.sidelane:disk", &[0; 228]].concat(),
        ),
        ("namespace", [&[3], identify.as_bytes()].concat()),
        ("controller", [&[4], controller.as_bytes()].concat()),
        (
            "ids",
            [
                &[10_u8, 3, 16, 0, 0],
                &[5; 16][..],
                &[2, 16, 0, 0],
                &[0; 4072],
            ]
            .concat(),
        ),
        (
            "connect_data",
            [&[18], ConnectData::default().as_bytes()].concat(),
        ),
    ]
}

/// The actions of `fuzz::model`: a command whose pointers are filled in.
fn model() -> Vec<Seed> {
    let submit = |shape: u8, sqe: &Sqe, pointers: &[u8]| {
        [&[0, shape][..], sqe.as_bytes(), pointers].concat()
    };
    let mut identify = Sqe::new(AdminOpcode::Identify.into_bits(), 0);
    identify.cdw10.set(1);
    let mut cq = Sqe::new(AdminOpcode::CreateIoCq.into_bits(), 0);
    cq.cdw10.set(0x000f_0001);
    cq.cdw11.set(1);
    let mut sq = Sqe::new(AdminOpcode::CreateIoSq.into_bits(), 0);
    sq.cdw10.set(0x000f_0001);
    sq.cdw11.set(0x0001_0001);
    let page = |n: u8| [0, 0, n << 4, 0, 0, 0];
    let read = read_write(NvmOpcode::Read, 1, 8);
    let mut by_prp = read;
    by_prp.cdw0.set_psdt(Psdt::Prp);
    by_prp.dptr = DataPtr::from_prp(0x1_0000_4000, 0);
    let mut queues = [submit(1, &cq, &page(4)), submit(1, &sq, &page(5))].concat();
    // The command is the first of the queue at page 5 of the free memory.
    queues.extend([&[4, 0, 0x50, 64][..], by_prp.as_bytes()].concat());
    queues.extend([6, 2, 1]);
    let mut page_of_log = Sqe::new(AdminOpcode::GetLogPage.into_bits(), 0);
    page_of_log.cdw10.set(0x0fff_0002);
    vec![
        ("identify", submit(1, &identify, &page(1))),
        (
            "by_sgl",
            submit(
                3,
                &{
                    let mut sqe = identify;
                    sqe.cdw0.set_psdt(Psdt::Sgl);
                    sqe
                },
                &[&page(1)[..], &[0, 16, 0]].concat(),
            ),
        ),
        ("io_queue", queues),
        // A list at page 2 whose first entries are pages.
        (
            "prp_list",
            [
                &[5, 0, 0x20, 0, 0, 0x30][..],
                &[5, 8, 0x20, 0, 0, 0x40],
                &submit(1, &page_of_log, &page(2)),
            ]
            .concat(),
        ),
        ("reset", vec![7, 0x14, 0, 0, 0, 0, 7, 0x14, 1, 0, 0x46, 0]),
        // The next admin command is held back, and then released.
        (
            "held",
            [
                &[8, 0, 1, 0, 1][..],
                &submit(1, &identify, &page(1)),
                &[8, 6],
            ]
            .concat(),
        ),
        // The next breaks the controller for good: it has vanished.
        (
            "vanished",
            [&[8, 0, 1, 0, 12, 2][..], &submit(1, &identify, &page(1))].concat(),
        ),
        (
            "shadows",
            [
                submit(
                    1,
                    &Sqe::new(AdminOpcode::DoorbellBufferConfig.into_bits(), 0),
                    &[0, 0, 0x60, 0, 0, 0x70],
                ),
                submit(1, &identify, &page(1)),
                vec![8, 7],
            ]
            .concat(),
        ),
    ]
}

/// What `fuzz::driver` reads: two registers with bits to flip, lies, whether there
/// are SGLs (bit 0) and shadow doorbells (bit 1), and then what happens on a queue
/// and to the controller.
fn driver() -> Vec<Seed> {
    let honest = [0; 18];
    let read = [0, 8, 0, 0, 0, 0, 1];
    let made_up = [&[2, 0][..], &[0; 12], &[0, 0, 1, 0]].concat();
    vec![
        (
            "honest",
            [&honest[..], &[0, 0], &read, &read, &[1, 3]].concat(),
        ),
        (
            "made_up",
            [&honest[..], &[0, 1], &read, &[1], &made_up, &[3]].concat(),
        ),
        // The first read is held back, aborted, and the controller restarted.
        (
            "aborted",
            [
                &honest[..],
                &[0, 0, 4, 0, 2, 0, 1],
                &read,
                &[1, 6, 0, 0, 3, 6, 4, 6, 1],
            ]
            .concat(),
        ),
        // It looks at shadow doorbells, stops at a read, and is restarted.
        (
            "stopped",
            [
                &honest[..],
                &[0, 2, 4, 0, 2, 0, 11, 0],
                &read,
                &[1, 6, 2, 6, 4, 3],
            ]
            .concat(),
        ),
        // It vanishes and comes back.
        (
            "vanished",
            [
                &honest[..],
                &[0, 0, 4, 13],
                &read,
                &[1, 6, 4, 4, 14, 6, 4],
                &read,
                &[1, 3],
            ]
            .concat(),
        ),
        // A namespace is formatted by another, and read again.
        (
            "formatted",
            [&honest[..], &[0, 0, 4, 10, 12, 6, 1, 6, 2], &read, &[3]].concat(),
        ),
        (
            "cmb",
            [&[4, 7, 0, 0, 0, 0, 0, 0, 0], &honest[9..], &[0, 0]].concat(),
        ),
        (
            "lies",
            [
                &honest[..],
                &[3, 0, 2, 4, 6, 6, 4, 4, 0, 0, 0],
                &[0x10, 0, 1, 1],
                &read,
            ]
            .concat(),
        ),
    ]
}

fn topology() -> Vec<Seed> {
    let file = |function: u8, file: u8, text: &[u8]| {
        [
            &[function, file][..],
            &(text.len() as u16).to_le_bytes(),
            text,
        ]
        .concat()
    };
    let mut space = vec![0; 4096];
    // A chain of capabilities: another one, then ACS, which leads back.
    space[0x100..0x104].copy_from_slice(&[1, 0, 0x01, 0x20]);
    space[0x200..0x204].copy_from_slice(&[0x0d, 0, 0x01, 0x10]);
    vec![
        ("as_it_is", vec![]),
        (
            "resource",
            file(
                7,
                0,
                b"0x0000003800000000 0x0000003803ffffff 0x000000000014220c\n",
            ),
        ),
        (
            "no_address",
            file(
                7,
                0,
                b"0x0 0xffffffffffffffff 0x200\n0xffffffffffffffff 0x0 0x200\n",
            ),
        ),
        (
            "config",
            [file(1, 1, &space), file(7, 1, &space[..64])].concat(),
        ),
        ("class", file(2, 2, b"0x060400\n")),
        (
            "cpu",
            [&[255, 30, 0][..], b"vendor_id\t: AuthenticAMD\ncpu f"].concat(),
        ),
    ]
}

fn main() -> std::io::Result<()> {
    let config = vec![
        ("example", sidelane_config::example().as_bytes().to_vec()),
        ("empty", b"[target]\n[[listener]]\n[[subsystem]]\n".to_vec()),
        ("broken", b"[target\ncores = [0, 0, -1]\n".to_vec()),
    ];
    let all = [
        ("packet", packet()),
        ("datagram", datagram()),
        ("engine", engine()),
        ("cm", cm()),
        ("private_data", private_data()),
        ("data_pointer", data_pointer()),
        ("connect", connect()),
        ("session", session()),
        ("spec", spec()),
        ("model", model()),
        ("driver", driver()),
        ("config", config),
        ("topology", topology()),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, seeds) in all {
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
