//! The schema as a whole.

mod mistakes;
mod properties;

use super::*;

/// Parses what must be right; shows the mistakes otherwise.
fn parsed(text: &str) -> Config {
    Config::parse(text, "test.toml").unwrap_or_else(|errors| panic!("{errors}\n\n{text}"))
}

const LISTENER: &str = "[[listener]]\nid = \"front\"\nnic = \"soft\"\naddress = \"192.168.77.2\"\n";
const SSD: &str = "backend = { kind = \"nvme\", device = \"0000:03:00.0\" }";
const NULL: &str = "backend = { kind = \"null\", size = \"1 GiB\" }";

/// A configuration with one subsystem of one namespace.
fn with(subsystem_lines: &str, namespace_lines: &str) -> String {
    format!(
        "{LISTENER}\n[[subsystem]]\nnqn = \"nqn.2026-11.io.sidelane:a\"\n{subsystem_lines}\n\
         [[subsystem.namespace]]\nnsid = 1\n{namespace_lines}\n"
    )
}

#[test]
fn the_example_is_valid_and_shows_every_key() {
    let config = parsed(example());
    assert_eq!(config.remarks(), [""; 0]);
    // It is shown in a help text, which would wrap longer lines.
    assert!(example().lines().all(|line| line.len() <= 80));
    let printed = toml::to_string(&config).unwrap();
    for key in printed
        .lines()
        .filter_map(|line| Some(line.split_once(" = ")?.0))
    {
        assert!(
            example().contains(&format!("{key} = ")),
            "the example does not show `{key}`"
        );
    }
}

#[test]
fn what_is_left_out_gets_its_default() {
    let config = parsed(&with("", SSD));
    assert_eq!(config.target, Target::default());
    assert_eq!(config.listeners[0].socket_address().port(), 4420);
    let subsystem = &config.subsystems[0];
    assert_eq!(subsystem.model, "Sidelane");
    assert!(!subsystem.allow_any_host && subsystem.hosts.is_empty());
    let namespace = &subsystem.namespaces[0];
    assert_eq!(namespace.p2p, P2pPolicy::Off);
    assert_eq!(namespace.provider, ProviderChoice::Auto);
    assert_eq!(namespace.uuid, None);
    let device = "0000:03:00.0".parse().unwrap();
    assert_eq!(namespace.backend, Backend::Nvme { device, nsid: 1 });
}

#[test]
fn a_verbs_listener_may_stand_for_all_addresses_and_flush_has_three_settings() {
    let text = with("", SSD).replace("\"soft\"", "\"verbs\"");
    for address in ["0.0.0.0", "::"] {
        let config = parsed(&text.replace("192.168.77.2", address));
        assert_eq!(config.listeners[0].nic, NicKind::Verbs);
        assert_eq!(config.listeners[0].address.to_string(), address);
    }
    for (word, flush) in [
        ("auto", Flush::Auto),
        ("always", Flush::Always),
        ("never", Flush::Never),
    ] {
        let config = parsed(&format!("[target]\nflush = \"{word}\"\n{text}"));
        assert_eq!(config.target.flush, flush);
        let warned = config
            .remarks()
            .iter()
            .any(|remark| remark.contains("flush"));
        assert_eq!(warned, flush == Flush::Never);
    }
}

#[test]
fn a_software_nic_has_settings_of_its_own_and_usual_ones() {
    let soft = |text: &str| parsed(text).listeners[0].soft;
    let text = with("", SSD);
    assert_eq!(soft(&text), Some(SoftNic::default()));
    assert_eq!(soft(&text.replace("\"soft\"", "\"verbs\"")), None);
    for (word, icrc) in [
        ("auto", IcrcCheck::Auto),
        ("full", IcrcCheck::Full),
        ("socket", IcrcCheck::Socket),
    ] {
        let lines = format!("nic = \"soft\"\noffload = false\nicrc = \"{word}\"");
        let given = soft(&text.replace("nic = \"soft\"", &lines));
        let offload = false;
        assert_eq!(given, Some(SoftNic { offload, icrc }));
    }
}

#[rstest::rstest]
#[case("off", 4096)]
#[case("prefer", 0)]
#[case("require", 0)]
fn payload_in_capsules_is_off_by_default_where_peer_memory_is_used(
    #[case] policy: &str,
    #[case] bytes: u64,
) {
    let config = parsed(&with("", &format!("{SSD}\np2p = \"{policy}\"")));
    assert_eq!(config.subsystems[0].in_capsule.bytes(), bytes);
    assert_eq!(config.subsystems[0].namespaces[0].p2p.as_str(), policy);
}

#[test]
fn a_derived_serial_number_depends_on_the_nqn_alone_and_fits() {
    let serial = |text: &str| parsed(text).subsystems[0].serial.clone();
    let one = with("", SSD);
    assert_eq!(serial(&one), serial(&with("model = \"x\"", NULL)));
    assert_ne!(
        serial(&one),
        serial(&one.replace("sidelane:a", "sidelane:b"))
    );
    assert!(serial(&one).len() <= 20);
}

#[test]
fn only_the_hosts_that_are_named_may_connect() {
    let host = "nqn.2014-08.org.nvmexpress:uuid:2cd2c43b-a90a-45c1-a8cd-86b33ab273b5";
    let closed = &parsed(&with("", SSD));
    assert!(!closed.subsystems[0].allows(host));
    assert_eq!(closed.remarks().len(), 1);
    let one = &parsed(&with(&format!("hosts = [\"{host}\"]"), SSD)).subsystems[0];
    assert!(one.allows(host) && !one.allows("nqn.2026-11.com.example:other"));
    assert!(parsed(&with("allow_any_host = true", SSD)).subsystems[0].allows(host));
}

#[test]
fn a_provider_is_found_by_its_namespace_wherever_it_stands() {
    let provider = "[[provider]]\nid = \"far\"\nkind = \"cmb\"\ndevice = \"04:00.0\"\n";
    let one = format!("{NULL}\np2p = \"require\"\nprovider = \"far\"");
    let config = parsed(&(with("", &one) + provider));
    let found = config.providers_of(&config.subsystems[0].namespaces[0])[0];
    assert!(found.is_peer());
    assert_eq!(found.device().unwrap().as_str(), "0000:04:00.0");
}

#[test]
fn providers_of_every_kind_are_named_in_the_order_of_the_namespace() {
    let providers = "[[provider]]\nid = \"c\"\nkind = \"cmb\"\ndevice = \"04:00.0\"\n\
                     [[provider]]\nid = \"p\"\nkind = \"pmr\"\ndevice = \"04:00.0\"\nsize = 8192\n\
                     [[provider]]\nid = \"b\"\nkind = \"bar\"\ndevice = \"05:00.0\"\nbar = 2\n\
                     [[provider]]\nid = \"o\"\nkind = \"bar\"\ndevice = \"05:00.0\"\nbar = 4\noffset = 4096\n\
                     [[provider]]\nid = \"h\"\nkind = \"host\"\nsize = 4096\n";
    let lines = format!("{SSD}\np2p = \"prefer\"\nprovider = [\"o\", \"h\", \"b\", \"p\", \"c\"]");
    let config = parsed(&(with("allow_any_host = true", &lines) + providers));
    let named = config.providers_of(&config.subsystems[0].namespaces[0]);
    let words: Vec<_> = named.iter().map(|provider| provider.what()).collect();
    assert_eq!(
        words,
        [
            "BAR 4 of 0000:05:00.0",
            "host memory",
            "BAR 2 of 0000:05:00.0",
            "persistent memory region of 0000:04:00.0",
            "controller memory buffer of 0000:04:00.0"
        ]
    );
    let sizes: Vec<_> = named.iter().map(|provider| provider.size()).collect();
    let size = |bytes| Some(ByteSize::new(bytes).unwrap());
    assert_eq!(sizes, [None, size(4096), None, size(8192), None]);
    assert_eq!(config.remarks(), [""; 0]);
}

#[rstest::rstest]
#[case("\"auto\"", &[])]
#[case("[\"auto\"]", &[])]
#[case("\"dram\"", &["dram"])]
#[case("[\"dram\"]", &["dram"])]
fn a_list_of_one_is_that_one(#[case] written: &str, #[case] ids: &[&str]) {
    let provider = "[[provider]]\nid = \"dram\"\nkind = \"host\"\nsize = 4096\n";
    let config = parsed(&(with("", &format!("{SSD}\nprovider = {written}")) + provider));
    assert_eq!(config.subsystems[0].namespaces[0].provider.ids(), ids);
}

#[test]
fn host_memory_that_is_preferred_to_be_peer_memory_is_remarked_upon() {
    let provider = "[[provider]]\nid = \"dram\"\nkind = \"host\"\nsize = \"1 MiB\"\n";
    let lines = format!("{SSD}\np2p = \"prefer\"\nprovider = \"dram\"");
    let remarks = parsed(&(with("allow_any_host = true", &lines) + provider)).remarks();
    assert!(remarks[0].contains("`dram` is host memory"), "{remarks:?}");
}

#[test]
fn a_file_is_loaded_and_named_in_its_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sidelane.toml");
    std::fs::write(&path, example()).unwrap();
    assert_eq!(Config::load(&path).unwrap(), parsed(example()));
    std::fs::write(&path, "[target]\ncolour = 1\n").unwrap();
    let shown = Config::load(&path).unwrap_err().to_string();
    assert!(
        shown.contains(&format!("{}:2:1", path.display())),
        "{shown}"
    );
    std::fs::write(&path, b"# \xff").unwrap();
    assert!(
        Config::load(&path)
            .unwrap_err()
            .to_string()
            .contains("byte 2")
    );
    let missing = Config::load(dir.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("cannot be read"), "{missing}");
}
