use super::*;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const SRC: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const DST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// An IP packet with this payload, from and to the RoCEv2 port.
fn ip(identification: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let udp_len = (8 + payload.len()) as u16;
    let mut bytes = vec![0x40 | (header_len / 4) as u8, 2];
    bytes.extend((header_len as u16 + udp_len).to_be_bytes());
    bytes.extend(identification.to_be_bytes());
    bytes.extend([0x40, 0, 63, 17, 0xab, 0xcd, 192, 0, 2, 1, 192, 0, 2, 2]);
    bytes.extend(options);
    bytes.extend([0x12, 0xb7, 0x12, 0xb7]);
    bytes.extend(udp_len.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

fn packets(bytes: &[u8]) -> Vec<Result<Vec<u8>, BadIcrc>> {
    let mut got = Vec::new();
    if let Some(datagram) = Datagram::read(bytes) {
        datagram.packets(|packet| got.push(packet.map(<[u8]>::to_vec)));
    }
    got
}

/// A sealed packet of `payload` bytes behind the headers of `opcode`.
fn sealed(opcode: u8, payload: usize, identification: u16, fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; Bth::LEN];
    bytes[..2].copy_from_slice(&[opcode, 0]);
    let (bth, _) = Bth::read(&bytes).unwrap();
    bytes.resize(Headers::new(bth).size() + payload + ICRC_LEN, fill);
    icrc::seal(SRC, DST, identification, &mut bytes);
    bytes
}

fn without_crc(sealed: &[u8]) -> Vec<u8> {
    sealed[..sealed.len() - ICRC_LEN].to_vec()
}

/// Seals a packet behind an IP header with options, which the CRC covers as well.
fn seal_behind(header: &[u8], payload: &mut [u8]) {
    let mut covered = [&[0xff; 8], header].concat();
    for masked in [9, 16, 18, 19] {
        covered[masked] = 0xff;
    }
    covered.extend([0x12, 0xb7, 0x12, 0xb7]);
    covered.extend((8 + payload.len() as u16).to_be_bytes());
    covered.extend([0xff, 0xff]);
    let (packet, crc) = payload.split_last_chunk_mut::<ICRC_LEN>().unwrap();
    let bth = covered.len();
    covered.extend(&*packet);
    covered[bth + 4] = 0xff;
    *crc = crc32fast::hash(&covered).to_le_bytes();
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_taken_for_no_packet_and_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..900), header_len in 0u8..16,
    ) {
        prop_assert!(packets(&bytes).iter().all(Result::is_err));
        // Now such as are likely to be looked at further.
        let len = bytes.len() as u16;
        if let Some(first) = bytes.first_chunk_mut::<10>() {
            first[0] = 0x40 | header_len;
            first[2..4].copy_from_slice(&len.to_be_bytes());
            first[6..].copy_from_slice(&[0x40, 0, 1, 17]);
        }
        let udp = 4 * usize::from(header_len);
        if let Some(field) = bytes.get_mut(udp + 4..udp + 6) {
            field.copy_from_slice(&len.wrapping_sub(udp as u16).to_be_bytes());
        }
        prop_assert!(packets(&bytes).iter().all(Result::is_err));
    }

    #[test]
    fn a_run_is_cut_where_its_sender_joined_it(
        mtu in select(&PATH_MTUS[..]), opcode in select(&[0x00u8, 0x06, 0x07, 0x0d, 0x10][..]),
        count in 1usize..16, last in proptest::option::of(0usize..250), base: u16,
        spoil: Option<Index>,
    ) {
        let id = |place: usize| base.wrapping_add(place as u16);
        let mut run: Vec<_> = (0..count).map(|i| sealed(opcode, mtu, id(i), i as u8)).collect();
        run.extend(last.map(|len| sealed(0x11, len, id(count), 0xee)));
        prop_assume!(run.concat().len() < 65_507);
        let mut expected: Vec<_> = run.iter().map(|one| Ok(without_crc(one))).collect();
        // The first is needed to find the others.
        if let Some(at) = spoil.map(|at| at.index(run.len())).filter(|at| *at > 0) {
            run[at][13] ^= 1;
            expected[at] = Err(BadIcrc);
        }
        prop_assert_eq!(packets(&ip(base, &[], &run.concat())), expected);
    }

    #[test]
    fn each_bit_counts_but_those_that_routers_change(
        at: Index, bit in 0u8..8, options in 0usize..4,
    ) {
        let options = vec![1; 4 * options];
        let mut payload = sealed(0x04, 40, 0, 9);
        seal_behind(&ip(7, &options, &payload)[..20 + options.len()], &mut payload);
        let mut bytes = ip(7, &options, &payload);
        let good = vec![Ok(without_crc(&payload))];
        prop_assert_eq!(&packets(&bytes), &good);
        let udp = 20 + options.len();
        let masked = [1, 8, 10, 11, udp + 6, udp + 7, udp + 8 + 4];
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let got: Vec<_> = packets(&bytes);
        let passed = got.iter().any(Result::is_ok);
        prop_assert_eq!(passed, masked.contains(&at), "byte {}", at);
    }
}

#[test]
fn the_identification_of_another_place_is_as_wrong_as_any_other() {
    let (first, second) = (sealed(0x07, 1024, 0, 1), sealed(0x07, 1024, 0, 2));
    let run = [&first[..], &second].concat();
    let got = packets(&ip(0, &[], &run));
    assert_eq!(got, [Ok(without_crc(&first)), Err(BadIcrc)]);
    assert_eq!(packets(&ip(1, &[], &run)), [Err(BadIcrc)]);
}
