//! Data in several pieces of the host's memory (MSDBD 16): what the list names is
//! what is moved, in its order, whatever the sizes of the pieces.

use anyhow::ensure;
use sidelane_nvme::spec::{NvmOpcode, SglDescriptor};
use sidelane_tests::in_process::bench::{Bench, DISK};
use sidelane_tests::in_process::raw_host::{Conn, RawHost, read_write, with_sgl};
use zerocopy::IntoBytes;

/// Blocks of a command.
const BLOCKS: u32 = 128;
const BYTES: usize = BLOCKS as usize * 512;

/// A list of pieces of the data area, each from a place and of a length.
fn list(host: &RawHost, pieces: &[(usize, usize)]) -> Vec<u8> {
    let descriptors = pieces.iter().map(|(at, len)| host.keyed(*at, *len));
    descriptors.flat_map(|it| it.as_bytes().to_vec()).collect()
}

/// Sends a command whose data the list names.
fn transfer(
    host: &mut RawHost,
    conn: Conn,
    op: NvmOpcode,
    pieces: &[(usize, usize)],
) -> anyhow::Result<()> {
    let list = list(host, pieces);
    let segment = SglDescriptor::in_capsule_segment(0, list.len() as u32, true);
    let mut sqe = with_sgl(read_write(op, 1, 0, BLOCKS), segment);
    sqe.cdw0.set_cid(host.cid());
    host.send(conn, &[sqe.as_bytes(), &list].concat())?;
    let cqe = host.response(conn, sqe.cid())?;
    ensure!(cqe.status().is_success(), "{op:?}: {}", cqe.status());
    Ok(())
}

#[rstest::rstest]
#[case::one(&[BYTES])]
#[case::two_uneven(&[512 + 4, BYTES - 516])]
#[case::with_an_empty_one(&[4096, 0, BYTES - 4096])]
#[case::sixteen(&[BYTES / 16; 16])]
fn data_in_pieces_comes_and_goes_in_the_order_of_the_list(
    #[case] lengths: &[usize],
) -> anyhow::Result<()> {
    let bench = Bench::usual()?;
    let mut host = RawHost::new(bench.remote)?;
    let association = host.associate(DISK, 32, 0)?;
    // The last piece first in memory, with gaps.
    let mut at = 0;
    let mut pieces: Vec<_> = Vec::new();
    for len in lengths.iter().rev() {
        pieces.push((at, *len));
        at += len + 64;
    }
    pieces.reverse();
    let mut sent = Vec::new();
    for (number, (at, len)) in pieces.iter().enumerate() {
        let bytes: Vec<u8> = (0..*len)
            .map(|byte| (byte % 251) as u8 ^ number as u8)
            .collect();
        host.data_write(*at, &bytes)?;
        sent.extend(bytes);
    }
    transfer(&mut host, association.io, NvmOpcode::Write, &pieces)?;

    // Read in one piece: the order of the list is the order on the medium.
    let whole = 2 << 20;
    transfer(
        &mut host,
        association.io,
        NvmOpcode::Read,
        &[(whole, BYTES)],
    )?;
    let mut read = vec![0; BYTES];
    host.data_read(whole, &mut read)?;
    ensure!(
        read == sent,
        "what was written in pieces reads differently in one"
    );

    // And read into the same pieces again.
    host.data_write(0, &vec![0; at])?;
    transfer(&mut host, association.io, NvmOpcode::Read, &pieces)?;
    let mut again = Vec::new();
    for (at, len) in &pieces {
        let mut bytes = vec![0; *len];
        host.data_read(*at, &mut bytes)?;
        again.extend(bytes);
    }
    ensure!(again == sent, "what was read in pieces differs");
    host.disconnect(association.io)?;
    host.disconnect(association.admin)?;
    bench.healthy()?;
    Ok(())
}
