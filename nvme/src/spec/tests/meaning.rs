//! What values mean, and that foreign ones do no harm.

use proptest::prelude::*;
use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::super::*;
use super::bytes;

#[test]
fn the_registers_that_a_qemu_cmb_shows_are_read_as_64_mib_in_bar_2() {
    let (loc, size) = (CmbLoc::from_raw(0x62), CmbSz::from_raw(0x4021d));
    assert_eq!((loc.bir(), loc.offset_units()), (2, 0));
    assert!(size.sqs() && size.lists() && size.rds() && size.wds() && !size.cqs());
    assert_eq!(
        size.unit_bytes().unwrap() * u64::from(size.size_units()),
        64 << 20
    );
    assert_eq!(CmbSz::new().with_unit(7).unit_bytes(), None);
}

#[test]
fn doorbells_are_one_stride_apart() {
    assert_eq!(
        (offset::sq_tail(0, 0), offset::cq_head(0, 0)),
        (0x1000, 0x1004)
    );
    assert_eq!(
        (offset::sq_tail(3, 2), offset::cq_head(3, 2)),
        (0x1000 + 96, 0x1000 + 112)
    );
}

#[test]
fn get_log_page_has_a_length_of_32_bits_of_dwords() {
    let mut command = GetLogPage::default();
    assert_eq!(command.len_bytes(), 4);
    for dwords in [1, 0x1_0000, 0x1_0001, 1 << 32] {
        command = command.with_len_dwords(dwords);
        assert_eq!(command.len_bytes(), dwords * 4);
    }
    assert_eq!(command.with_len_dwords(0).len_bytes(), 4);
}

proptest! {
    #[test]
    fn an_sgl_descriptor_means_what_it_was_made_of(
        address: u64, length: u32, key: u32, flag: bool, last: bool,
    ) {
        let cases = [
            (SglDescriptor::data_block(address, length), Sgl::DataBlock { address, length }),
            (SglDescriptor::in_capsule(address, length), Sgl::InCapsule { offset: address, length }),
            (SglDescriptor::bit_bucket(length), Sgl::BitBucket { length }),
            (SglDescriptor::transport(length), Sgl::Transport { length }),
            (
                SglDescriptor::segment(address, length, last),
                Sgl::Segment { address, length, in_capsule: false, last },
            ),
            (
                SglDescriptor::in_capsule_segment(address, length, last),
                Sgl::Segment { address, length, in_capsule: true, last },
            ),
        ];
        for (descriptor, meaning) in cases {
            prop_assert_eq!(descriptor.decode(), meaning);
            prop_assert_eq!(DataPtr::from_sgl(descriptor).sgl(), descriptor);
        }
        let keyed = SglDescriptor::keyed(address, length, key, flag).map(|d| d.decode());
        let fits = length <= KEYED_LENGTH_MAX;
        prop_assert_eq!(keyed, fits.then_some(Sgl::Keyed { address, length, key, invalidate: flag }));
    }

    #[test]
    fn any_descriptor_can_be_decoded(raw in bytes(16)) {
        let _ = SglDescriptor::read_from_bytes(&raw).unwrap().decode();
    }

    #[test]
    fn prp_entries_come_back(prp1: u64, prp2: u64) {
        let dptr = DataPtr::from_prp(prp1, prp2);
        prop_assert_eq!((dptr.prp1(), dptr.prp2()), (prp1, prp2));
        prop_assert_eq!(&dptr.raw[8..], &prp2.to_le_bytes()[..]);
    }

    #[test]
    fn a_result_of_64_bits_comes_back(result: u64, cid: u16, bits in 0u16..0x8000) {
        let cqe = Cqe::new(cid, Status::from_bits(bits)).with_result(result);
        prop_assert_eq!((cqe.result(), cqe.cid.get(), cqe.status().into_bits()), (result, cid, bits));
        prop_assert_eq!(cqe.dw0.get(), result as u32);
    }

    #[test]
    fn any_namespace_id_list_can_be_read_and_ends(raw in bytes(4096)) {
        let list = NamespaceIdList::read_from_bytes(&raw).unwrap();
        prop_assert!(list.iter().count() <= 4096 / 5);
    }

    #[test]
    fn any_field_can_be_read_as_a_name(raw in bytes(256)) {
        let field = NqnField::read_from_bytes(&raw).unwrap();
        if let Ok(name) = field.to_str() {
            prop_assert!(name.len() <= NQN_LEN_MAX);
            let _ = name.parse::<Nqn>();
        }
    }

    #[test]
    fn any_text_can_be_tried_as_a_name(text in ".{0,300}") {
        if let Ok(name) = text.parse::<Nqn>() {
            let field = NqnField::from(&name);
            prop_assert_eq!(field.to_str(), Ok(&*text));
        }
    }

    #[test]
    fn ascii_fields_hold_printable_text_only(text in ".{0,40}") {
        let field = Ascii::<20>::new(&text);
        prop_assert!(field.0.iter().all(|b| (0x20..0x7f).contains(b)));
    }
}

#[test]
fn namespace_ids_come_back_and_foreign_types_are_passed_over() {
    let ids = [
        NamespaceId::Uuid([7; 16]),
        NamespaceId::Eui64([8; 8]),
        NamespaceId::Csi(Csi::Nvm),
    ];
    let mut list = NamespaceIdList::of(&ids);
    assert!(list.iter().eq(ids));
    list.raw[0] = 0x77;
    assert!(list.iter().eq(ids[1..].iter().copied()));
    list.raw[1] = 0;
    assert_eq!(list.iter().count(), 0);
}

#[test]
fn a_namespace_list_ends_at_its_first_zero() {
    assert_eq!(
        NamespaceList::of([1, 5, 9]).iter().collect::<Vec<_>>(),
        [1, 5, 9]
    );
    assert_eq!(
        NamespaceList::of(1..=2000).iter().count(),
        NAMESPACE_LIST_LEN
    );
}

#[rstest::rstest]
#[case("nqn.2014-08.org.nvmexpress.discovery")]
#[case("nqn.2026-01.com.example:disk1")]
#[case("nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdef")]
#[case("nqn.2014-08.com.example:nvme:nvm-subsystem-sn-d78432")]
fn names_of_the_prescribed_forms_are_accepted(#[case] name: &str) {
    assert_eq!(name.parse::<Nqn>().unwrap().as_str(), name);
}

#[rstest::rstest]
#[case("")]
#[case("disk1")]
#[case("nqn.2026-01.com.example")]
#[case("nqn.2026-01.com.example:")]
#[case("nqn.2026-13.com.example:disk1")]
#[case("nqn.26-01.com.example:disk1")]
#[case("nqn.2026-01:disk1")]
#[case("nqn.2026-01..example:disk1")]
#[case("nqn.2014-08.org.nvmexpress:uuid:nonsense")]
#[case("nqn.2026-01.com.example:a\nb")]
#[case(&format!("nqn.2026-01.com.example:{}", "x".repeat(200)))]
fn other_names_are_refused_with_a_reason(#[case] name: &str) {
    assert!(!name.parse::<Nqn>().unwrap_err().to_string().is_empty());
}

#[test]
fn a_host_id_is_written_and_read_as_a_uuid() {
    let text = "01234567-89ab-cdef-0123-456789abcdef";
    let id: HostId = text.parse().unwrap();
    assert_eq!(id.0[..4], [0x01, 0x23, 0x45, 0x67]);
    assert_eq!(id.to_string(), text);
    assert!(
        "0123456789abcdef0123456789abcdef"
            .parse::<HostId>()
            .is_err()
    );
}

#[test]
fn a_status_says_its_name_or_both_of_them() {
    assert_eq!(
        Status::LBA_OUT_OF_RANGE.to_string(),
        "LBA Out of Range (SCT 0x0, SC 0x80)"
    );
    let both = Status::CONNECT_INVALID_PARAMETERS
        .with_dnr(true)
        .to_string();
    assert!(
        both.contains("Connect Invalid Parameters") && both.contains("do not retry"),
        "{both}"
    );
    assert!(both.contains("Read Only Range"), "{both}");
    assert!(
        Status::of(StatusCodeType::Vendor, 1)
            .to_string()
            .starts_with("unnamed")
    );
    assert!(Status::SUCCESS.with_more(true).is_success());
}

#[test]
fn the_format_in_use_is_found_by_both_parts_of_its_index() {
    let mut id = IdentifyNamespace {
        nlbaf_z: 1,
        ..IdentifyNamespace::default()
    };
    id.lbaf[0] = LbaFormat::data_only(9);
    id.lbaf[1] = LbaFormat::data_only(12);
    id.lbaf[17] = LbaFormat::data_only(13);
    id.flbas = Flbas::new().with_index_low(1).with_index_high(1);
    assert_eq!(id.format().and_then(|f| f.data_bytes()), Some(4096));
    id.nlbaf_z = 17;
    assert_eq!(id.format().and_then(|f| f.data_bytes()), Some(8192));
    assert_eq!(LbaFormat::data_only(40).data_bytes(), None);
}

#[test]
fn a_typed_command_is_built_with_its_fields_in_place() {
    let command = ReadWrite {
        nsid: U32::new(1),
        slba: U64::new(0x1_0000_0002),
        cdw12: ReadWriteCdw12::new().with_nlb_z(7).with_fua(true),
        dspec: U16::ZERO,
        ..ReadWrite::default()
    };
    let sqe = Sqe::from(command);
    assert_eq!(
        (sqe.cdw10.get(), sqe.cdw11.get(), sqe.cdw12.get()),
        (2, 1, 7 | 1 << 30)
    );
}
