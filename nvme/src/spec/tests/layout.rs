//! Fields and bits stand where the specification puts them.

use super::super::*;

macro_rules! offsets {
    ($($ty:ident { $($field:ident = $at:literal),* $(,)? })*) => {
        $($(assert_eq!(std::mem::offset_of!($ty, $field), $at, concat!(stringify!($ty), ".", stringify!($field)));)*)*
    };
}

/// Offsets that the specification gives in its tables, in bytes.
#[test]
fn fields_stand_at_the_offsets_of_the_specification() {
    offsets! {
        Sqe { nsid = 4, cdw2 = 8, mptr = 16, dptr = 24, cdw10 = 40, cdw15 = 60 }
        Cqe { dw0 = 0, sqhd = 8, sqid = 10, cid = 12, status = 14 }
        Identify { cns = 40, cntid = 42, csi = 47, uuid_index = 56 }
        GetLogPage { cdw10 = 40, numdu = 44, lsi = 46, lpo = 48, cdw14 = 56 }
        CreateIoCq { prp1 = 24, queue = 40, flags = 44 }
        CreateIoSq { prp1 = 24, queue = 40, flags = 44 }
        ReadWrite { slba = 40, cdw12 = 48, dsm = 52, reference_tag = 56, application_tag = 60 }
        DatasetManagement { nr_z = 40, attributes = 44 }
        Connect { fctype = 4, sgl = 24, recfmt = 40, qid = 42, sqsize_z = 44, cattr = 46, kato_ms = 48 }
        ConnectData { cntlid = 16, subnqn = 256, hostnqn = 512 }
        PropertySet { attributes = 40, offset = 44, value = 48 }
        SetFeatures { cdw10 = 40, cdw11 = 44, uuid_index = 56 }
        IdentifyController {
            sn = 4, mn = 24, fr = 64, rab = 72, ieee = 73, cmic = 76, mdts = 77, cntlid = 78,
            ver = 80, rtd3r_us = 84, rtd3e_us = 88, oaes = 92, ctratt = 96, rrls = 100,
            cntrltype = 111, fguid = 112, crdt = 128, nvmsr = 253, oacs = 256, acl_z = 258,
            aerl_z = 259, frmw = 260, lpa = 261, elpe_z = 262, npss_z = 263, wctemp_k = 266,
            mtfa = 270, hmpre = 272, tnvmcap = 280, unvmcap = 296, rpmbs = 312, edstt_min = 316,
            kas = 320, sanicap = 328, nsetidmax = 338, anatt_s = 342, anacap = 343,
            anagrpmax = 344, nanagrpid = 348, pels = 352, domainid = 356, megcap = 368,
            sqes = 512, cqes = 513, maxcmd = 514, nn = 516, oncs = 520, fuses = 522, fna = 524,
            vwc = 525, awun_z = 526, awupf_z = 528, icsvscc = 530, nwpc = 531, acwu_z = 532,
            sgls = 536, mnan = 540, maxdna = 544, maxcna = 560, subnqn = 768, ioccsz = 1792,
            iorcsz = 1796, icdoff = 1800, fcatt = 1802, msdbd = 1803, ofcs = 1804, dctype = 1806,
            psd = 2048, vendor = 3072,
        }
        IdentifyNamespace {
            nsfeat = 24, nlbaf_z = 25, flbas = 26, dps = 29, nmic = 30, dlfeat = 33, nawun_z = 34,
            noiob = 46, nvmcap = 48, npwg_z = 64, nows_z = 72, mssrl = 74, mcl = 76, msrc_z = 80,
            anagrpid = 92, nsattr = 99, nvmsetid = 100, endgid = 102, nguid = 104, eui64 = 120,
            lbaf = 128, vendor = 384,
        }
        IdentifyNamespaceIndependent { anagrpid = 4, nsattr = 8, nvmsetid = 10, nstat = 14 }
        IdentifyNamespaceNvm { pic = 8, elbaf = 12 }
        SmartLog {
            temperature_k = 1, spare_percent = 3, used_percent = 5, data_units_read = 32,
            power_cycles = 112, error_log_entries = 176, warning_temperature_minutes = 192,
            sensors_k = 200, thermal_transitions = 216, thermal_seconds = 224,
        }
        ErrorLogEntry {
            sqid = 8, cid = 10, status = 12, location = 14, lba = 16, nsid = 24, vendor_log = 28,
            trtype = 29, csi = 30, opcode = 31, command_specific = 32, version = 63,
        }
        FirmwareSlotLog { revisions = 8 }
        CommandEffectsLog { io = 1024 }
        DiscoveryHeader { numrec = 8, recfmt = 16 }
        DiscoveryEntry {
            portid = 4, cntlid = 6, asqsz = 8, eflags = 10, trsvcid = 32, subnqn = 256,
            traddr = 512, tsas = 768,
        }
        RdmaTsas { pkey = 8 }
        PowerState { flags = 3, entry_latency_us = 4, idle_power = 16, active_power = 20 }
    }
}

/// Each value is one field alone, so that a field shifted by a bit is seen.
#[test]
fn bit_fields_stand_at_the_bits_of_the_specification() {
    let cases: &[(&str, u64, u64)] = &[
        (
            "cdw0.psdt",
            Cdw0::new().with_psdt(Psdt::Sgl).raw().into(),
            1 << 14,
        ),
        ("cdw0.cid", Cdw0::new().with_cid(1).raw().into(), 1 << 16),
        (
            "status.sct",
            Status::new()
                .with_sct(StatusCodeType::Media)
                .into_bits()
                .into(),
            2 << 8,
        ),
        (
            "status.crd",
            Status::new().with_crd(1).into_bits().into(),
            1 << 11,
        ),
        (
            "status.more",
            Status::new().with_more(true).into_bits().into(),
            1 << 13,
        ),
        (
            "status.dnr",
            Status::new().with_dnr(true).into_bits().into(),
            1 << 14,
        ),
        (
            "phase",
            StatusPhase::of(Status::SUCCESS, true).raw().into(),
            1,
        ),
        (
            "status in cqe",
            StatusPhase::of(Status::INVALID_OPCODE, false).raw().into(),
            2,
        ),
        ("cap.to", Cap::new().with_to(1).raw(), 1 << 24),
        ("cap.dstrd", Cap::new().with_dstrd(1).raw(), 1 << 32),
        ("cap.css_nvm", Cap::new().with_css_nvm(true).raw(), 1 << 37),
        (
            "cap.css_multiple",
            Cap::new().with_css_multiple(true).raw(),
            1 << 43,
        ),
        (
            "cap.css_admin_only",
            Cap::new().with_css_admin_only(true).raw(),
            1 << 44,
        ),
        ("cap.mpsmin", Cap::new().with_mpsmin(1).raw(), 1 << 48),
        ("cap.pmrs", Cap::new().with_pmrs(true).raw(), 1 << 56),
        ("cap.cmbs", Cap::new().with_cmbs(true).raw(), 1 << 57),
        (
            "cc.css",
            Cc::new().with_css(CommandSetSelected::All).raw().into(),
            6 << 4,
        ),
        ("cc.mps", Cc::new().with_mps(1).raw().into(), 1 << 7),
        (
            "cc.shn",
            Cc::new()
                .with_shn(ShutdownNotification::Normal)
                .raw()
                .into(),
            1 << 14,
        ),
        ("cc.iosqes", Cc::new().with_iosqes(6).raw().into(), 6 << 16),
        ("cc.iocqes", Cc::new().with_iocqes(4).raw().into(), 4 << 20),
        (
            "csts.shst",
            Csts::new().with_shst(ShutdownStatus::Complete).raw().into(),
            2 << 2,
        ),
        ("aqa.acqs", Aqa::new().with_acqs_z(1).raw().into(), 1 << 16),
        (
            "cmbloc.offset",
            CmbLoc::new().with_offset_units(1).raw().into(),
            1 << 12,
        ),
        ("cmbsz.unit", CmbSz::new().with_unit(1).raw().into(), 1 << 8),
        (
            "cmbsz.wds",
            CmbSz::new().with_wds(true).raw().into(),
            1 << 4,
        ),
        (
            "cmbsz.size",
            CmbSz::new().with_size_units(1).raw().into(),
            1 << 12,
        ),
        ("cmbmsc.cba", CmbMsc::new().with_cba_pages(1).raw(), 1 << 12),
        ("cmbmsc.cmse", CmbMsc::new().with_cmse(true).raw(), 2),
        (
            "pmrcap.rds",
            PmrCap::new().with_rds(true).raw().into(),
            1 << 3,
        ),
        ("pmrcap.bir", PmrCap::new().with_bir(4).raw().into(), 4 << 5),
        (
            "pmrcap.pmrtu",
            PmrCap::new().with_pmrtu(1).raw().into(),
            1 << 8,
        ),
        (
            "pmrcap.pmrwbm",
            PmrCap::new().with_pmrwbm(2).raw().into(),
            2 << 10,
        ),
        (
            "pmrcap.pmrto",
            PmrCap::new().with_pmrto(3).raw().into(),
            3 << 16,
        ),
        (
            "pmrcap.cmss",
            PmrCap::new().with_cmss(true).raw().into(),
            1 << 24,
        ),
        (
            "pmrsts.nrdy",
            PmrSts::new().with_nrdy(true).raw().into(),
            1 << 8,
        ),
        (
            "pmrsts.hsts",
            PmrSts::new().with_hsts(PmrHealth::Unreliable).raw().into(),
            3 << 9,
        ),
        (
            "pmrsts.cbai",
            PmrSts::new().with_cbai(true).raw().into(),
            1 << 12,
        ),
        ("pmrmsc.cmse", PmrMsc::new().with_cmse(true).raw(), 2),
        ("pmrmsc.cba", PmrMsc::new().with_cba_pages(1).raw(), 1 << 12),
        (
            "log.lsp",
            GetLogPageCdw10::new().with_lsp(1).raw().into(),
            1 << 8,
        ),
        (
            "log.rae",
            GetLogPageCdw10::new().with_rae(true).raw().into(),
            1 << 15,
        ),
        (
            "log.csi",
            GetLogPageCdw14::new().with_csi(Csi::Zoned).raw().into(),
            2 << 24,
        ),
        (
            "log.ot",
            GetLogPageCdw14::new()
                .with_offset_is_index(true)
                .raw()
                .into(),
            1 << 23,
        ),
        (
            "rw.fua",
            ReadWriteCdw12::new().with_fua(true).raw().into(),
            1 << 30,
        ),
        (
            "rw.prinfo",
            ReadWriteCdw12::new().with_prinfo(8).raw().into(),
            1 << 29,
        ),
        (
            "wz.deac",
            WriteZeroesCdw12::new().with_deac(true).raw().into(),
            1 << 25,
        ),
        (
            "dsm.ad",
            DsmAttributes::new().with_deallocate(true).raw().into(),
            1 << 2,
        ),
        (
            "cq.ien",
            CreateCqFlags::new().with_ien(true).raw().into(),
            2,
        ),
        (
            "cq.iv",
            CreateCqFlags::new().with_iv(1).raw().into(),
            1 << 16,
        ),
        (
            "sq.cqid",
            CreateSqFlags::new().with_cqid(1).raw().into(),
            1 << 16,
        ),
        (
            "feature.sel",
            GetFeaturesCdw10::new()
                .with_sel(FeatureSelect::Saved)
                .raw()
                .into(),
            2 << 8,
        ),
        (
            "feature.save",
            SetFeaturesCdw10::new().with_save(true).raw().into(),
            1 << 31,
        ),
        (
            "queues.completion",
            NumberOfQueues::new().with_completion_z(1).raw().into(),
            1 << 16,
        ),
        (
            "aer.info",
            AsyncEventResult::new().with_information(1).raw().into(),
            1 << 8,
        ),
        (
            "aer.log",
            AsyncEventResult::new().with_log_page(1).raw().into(),
            1 << 16,
        ),
        (
            "aec.ns",
            AsyncEventConfig::new()
                .with_namespace_attribute(true)
                .raw()
                .into(),
            1 << 8,
        ),
        (
            "aec.ana",
            AsyncEventConfig::new().with_ana_change(true).raw().into(),
            1 << 11,
        ),
        (
            "aec.disc",
            AsyncEventConfig::new()
                .with_discovery_log(true)
                .raw()
                .into(),
            1 << 31,
        ),
        (
            "oaes.ns",
            Oaes::new().with_namespace_attribute(true).raw().into(),
            1 << 8,
        ),
        (
            "oaes.ana",
            Oaes::new().with_ana_change(true).raw().into(),
            1 << 11,
        ),
        (
            "oaes.disc",
            Oaes::new().with_discovery_log(true).raw().into(),
            1 << 31,
        ),
        (
            "ctratt.tbkas",
            Ctratt::new().with_traffic_keep_alive(true).raw().into(),
            1 << 6,
        ),
        (
            "ctratt.elbas",
            Ctratt::new().with_extended_lba_formats(true).raw().into(),
            1 << 15,
        ),
        ("oncs.dsm", Oncs::new().with_dsm(true).raw().into(), 1 << 2),
        (
            "oncs.wz",
            Oncs::new().with_write_zeroes(true).raw().into(),
            1 << 3,
        ),
        (
            "sgls.keyed",
            Sgls::new().with_keyed(true).raw().into(),
            1 << 2,
        ),
        (
            "sgls.bit_bucket",
            Sgls::new().with_bit_bucket(true).raw().into(),
            1 << 16,
        ),
        (
            "sgls.offset",
            Sgls::new().with_offset(true).raw().into(),
            1 << 20,
        ),
        (
            "sgls.transport",
            Sgls::new().with_transport(true).raw().into(),
            1 << 21,
        ),
        (
            "connect.atr",
            ConnectResult::new()
                .with_authentication_required(true)
                .raw()
                .into(),
            1 << 17,
        ),
        (
            "connect.iattr",
            ConnectInvalid::new().with_in_data(true).raw().into(),
            1 << 16,
        ),
        (
            "cattr.sqflow",
            ConnectAttributes::new()
                .with_disable_sq_flow_control(true)
                .raw()
                .into(),
            1 << 2,
        ),
        (
            "effect.cse",
            CommandEffect::new().with_execution(1).raw().into(),
            1 << 16,
        ),
        (
            "effect.scope",
            CommandEffect::new().with_scope(1).raw().into(),
            1 << 20,
        ),
        ("version", Version::V1_4.raw().into(), 0x0001_0400),
    ];
    for (what, got, expected) in cases {
        assert_eq!(got, expected, "{what}: {got:#x}, not {expected:#x}");
    }
}
