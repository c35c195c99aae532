//! What happens to a controller from outside, and what it may be like.

use rstest::rstest;

use super::*;
use crate::spec::{
    Cns, Csts, GetFeatures, GetFeaturesCdw10, Identify, IdentifyController, IdentifyNamespace,
    NamespaceList, Oncs, Psdt, SglDescriptor, ShutdownNotification,
};

fn forgetful() -> Host {
    Host::new(ModelOptions {
        forgetful: true,
        ..ModelOptions::default()
    })
}

fn media(host: &Host, slba: u64) -> u8 {
    let mut block = [0; 512];
    host.model.read_media(1, slba * 512, &mut block).unwrap();
    assert!(block.iter().all(|byte| *byte == block[0]));
    block[0]
}

fn identify<T: zerocopy::FromBytes>(host: &mut Host, cns: Cns, nsid: u32) -> T {
    let identify = Identify {
        nsid: nsid.into(),
        cns,
        ..Sqe::new(AdminOpcode::Identify.0, 0).into()
    };
    let sqe = host.with_page(identify.into());
    host.admin(sqe).unwrap();
    host.page()
}

fn cache(host: &mut Host) -> Result<u64, Status> {
    let get = GetFeatures {
        cdw10: GetFeaturesCdw10::new().with_fid(FeatureId::VolatileWriteCache),
        ..Sqe::new(AdminOpcode::GetFeatures.0, 0).into()
    };
    host.admin(get.into())
}

#[test]
fn what_was_not_flushed_is_lost_with_the_power() {
    let mut host = forgetful();
    host.fill(0, 1, false);
    host.fill(1, 2, false);
    assert!(host.io(Sqe::new(NvmOpcode::Flush.0, 1)).is_success());
    // Later writes beside, over, and zeros.
    host.fill(1, 3, false);
    host.fill(2, 4, false);
    host.fill(3, 5, true);
    let zeroes = host.block(NvmOpcode::WriteZeroes, 0, false);
    assert!(host.io(zeroes).is_success());
    let seen: Vec<_> = (0..4).map(|slba| media(&host, slba)).collect();
    assert_eq!(seen, [0, 3, 4, 5]);
    host.model.power_loss();
    let kept: Vec<_> = (0..4).map(|slba| media(&host, slba)).collect();
    assert_eq!(kept, [1, 2, 0, 5]);
    assert_eq!(host.backing.read32(offset::CSTS), 0);
    host.enable();
}

/// Ways to have a write on the media.
#[rstest]
#[case::without_cache(|host: &mut Host| {
    host.set_feature(FeatureId::VolatileWriteCache, 0).unwrap();
    host.fill(7, 9, false);
})]
#[case::turned_off_later(|host: &mut Host| {
    host.fill(7, 9, false);
    host.set_feature(FeatureId::VolatileWriteCache, 0).unwrap();
})]
#[case::flushed_with_all(|host: &mut Host| {
    host.fill(7, 9, false);
    host.io(Sqe::new(NvmOpcode::Flush.0, u32::MAX));
})]
#[case::shut_down(|host: &mut Host| {
    host.fill(7, 9, false);
    let cc = Cc::from_raw(host.backing.read32(offset::CC));
    host.backing.write32(offset::CC, cc.with_shn(ShutdownNotification::Normal).raw());
})]
#[case::over_a_cached_one(|host: &mut Host| {
    host.fill(7, 8, false);
    host.fill(7, 9, true);
})]
fn a_write_that_was_made_safe_outlives_the_power(#[case] write: fn(&mut Host)) {
    let mut host = forgetful();
    write(&mut host);
    host.model.power_loss();
    assert_eq!(media(&host, 7), 9);
}

#[test]
fn the_state_of_the_cache_is_read_back_and_a_reset_turns_it_on() {
    let mut host = forgetful();
    assert_eq!(cache(&mut host), Ok(1));
    host.set_feature(FeatureId::VolatileWriteCache, 0).unwrap();
    assert_eq!(cache(&mut host), Ok(0));
    host.enable();
    assert_eq!(cache(&mut host), Ok(1));
    let mut without = Host::new(ModelOptions {
        volatile_cache: false,
        ..ModelOptions::default()
    });
    assert!(cache(&mut without).is_err());
    let data: IdentifyController = identify(&mut without, Cns::Controller, 0);
    assert!(!data.vwc.present());
}

#[test]
fn a_namespace_is_what_others_made_of_it() {
    let mut host = Host::new(ModelOptions::default());
    host.fill(0, 7, false);
    let read = |host: &mut Host| -> IdentifyNamespace { identify(host, Cns::Namespace, 1) };
    let blocks = (64 << 20) / 512;
    let before = read(&mut host);
    assert_eq!((before.nsze.get(), before.flbas.index(2)), (blocks, 0));
    assert!(host.model.resize(1, 10));
    assert_eq!(read(&mut host).nsze.get(), 10);
    let last = |host: &Host, slba| host.block(NvmOpcode::Read, slba, false);
    let (inside, outside) = (last(&host, 9), last(&host, 10));
    assert!(host.io(inside).is_success());
    assert!(host.io(outside).same_code(Status::LBA_OUT_OF_RANGE));
    assert_eq!(media(&host, 0), 7);
    assert!(host.model.resize(1, 80) && host.model.format(1, 12));
    let after = read(&mut host);
    assert_eq!((after.nsze.get(), media(&host, 0)), (10, 0));
    assert_eq!(after.format().and_then(|f| f.data_bytes()), Some(4096));
    assert_eq!(after.nguid, before.nguid);

    assert!(host.model.detach(1));
    assert_eq!(read(&mut host), IdentifyNamespace::default());
    let active = |host: &mut Host| -> Vec<u32> {
        let list: NamespaceList = identify(host, Cns::ActiveNamespaces, 0);
        list.iter().collect()
    };
    assert_eq!(active(&mut host), []);
    assert!(host.io(inside).same_code(Status::INVALID_FIELD));
    assert!(host.model.attach(1));
    assert_eq!(active(&mut host), [1]);
    assert!(host.io(inside).is_success());
    assert_eq!(host.model.add_namespace(ModelNamespace::of_bytes(4096)), 2);
    assert_eq!(active(&mut host), [1, 2]);
}

#[rstest]
#[case(NvmOpcode::Compare)]
#[case(NvmOpcode::WriteZeroes)]
#[case(NvmOpcode::DatasetManagement)]
fn an_optional_command_that_is_not_offered_is_refused(#[case] opcode: NvmOpcode) {
    let mut host = Host::new(ModelOptions::default());
    let command = host.block(opcode, 0, false);
    assert!(host.io(command).is_success());
    let mut host = Host::new(ModelOptions {
        oncs: Oncs::new(),
        ..ModelOptions::default()
    });
    assert!(host.io(command).same_code(Status::INVALID_OPCODE));
    let data: IdentifyController = identify(&mut host, Cns::Controller, 0);
    assert_eq!(data.oncs, Oncs::new());
}

#[rstest]
fn data_is_named_only_in_the_ways_that_are_offered(
    #[values(true, false)] prp: bool,
    #[values(true, false)] sgl: bool,
) {
    let mut host = Host::new(ModelOptions {
        prp,
        sgl,
        ..ModelOptions::default()
    });
    let by_prp = host.block(NvmOpcode::Read, 0, false);
    let mut by_sgl = by_prp;
    by_sgl.cdw0.set_psdt(Psdt::Sgl);
    let block = SglDescriptor::data_block(host.at(4), 512);
    by_sgl.dptr = DataPtr::from_sgl(block);
    for (command, offered) in [(by_prp, prp), (by_sgl, sgl)] {
        let expected = match offered {
            true => Status::SUCCESS,
            false => Status::INVALID_FIELD,
        };
        let status = host.io(command);
        assert!(status.same_code(expected), "{status}");
    }
}

#[test]
fn one_that_vanished_comes_back_with_its_data_and_without_its_state() {
    let mut host = Host::new(ModelOptions::default());
    host.fill(3, 6, false);
    host.model.vanish();
    assert_eq!(host.backing.read64(offset::CAP), u64::MAX);
    host.backing.write32(offset::CC, 0);
    let again = host.model.backing();
    assert_eq!(again.read32(offset::CSTS), u32::MAX);
    host.model.reappear();
    let csts = Csts::from_raw(again.read32(offset::CSTS));
    assert!(!csts.rdy());
    assert_eq!(again.read32(offset::CC), 0);
    host.enable();
    assert_eq!(media(&host, 3), 6);
    // It has not vanished now.
    host.model.reappear();
    assert!(host.io(Sqe::new(NvmOpcode::Flush.0, 1)).is_success());
}
