//! Each mistake is told with its place, its reason and its remedy.

mod providers;

use super::*;

/// The first error in `text`: thing, marked text, reason, remedy.
fn first_error(text: &str) -> (String, String, String, String) {
    let errors = match Config::parse(text, "test.toml") {
        Ok(_) => panic!("this was accepted:\n{text}"),
        Err(errors) => errors,
    };
    let error = errors.errors.into_iter().next().unwrap();
    let place = error.place.unwrap();
    let marked = place
        .text
        .chars()
        .skip(place.column - 1)
        .take(place.width)
        .collect();
    (error.thing, marked, error.reason, error.remedy)
}

/// `text` has one mistake: `marked` is underlined, `said` is part of the reason or the remedy.
fn assert_refused(text: &str, marked: &str, said: &str) {
    let (thing, underlined, reason, remedy) = first_error(text);
    let all = format!("{thing}: {reason}; {remedy}");
    assert_eq!(underlined, marked, "{all}");
    assert!(all.contains(said), "{all}");
    assert!(!remedy.is_empty());
    assert_eq!(
        Config::parse(text, "").unwrap_err().errors.len(),
        1,
        "more than one:\n{text}"
    );
}

#[rstest::rstest]
#[case::unknown_key("colour = 1", "colour", "no such key")]
#[case::relative_socket("control = \"a/b\"", "\"a/b\"", "absolute")]
#[case::folder_as_socket("control = \"/run/\"", "\"/run/\"", "folder")]
#[case::wrong_type("control = 7", "7", "in quotes")]
#[case::no_cores("cores = []", "[]", "empty")]
#[case::core_twice("cores = [2, 1, 2]", "2", "named twice")]
#[case::core_beyond("cores = [1024]", "1024", "0 to 1023")]
#[case::core_negative("cores = [-1]", "-1", "0 to 1023")]
#[case::cores_not_a_list("cores = 1", "1", "square brackets")]
#[case::short_queue("max_queue_entries = 1", "1", "2 to 1024")]
#[case::no_queues("max_io_queues = 0", "0", "1 to 1024")]
#[case::hasty("command_timeout_ms = 49", "49", "50 to 600000")]
#[case::huge(
    "max_io_queues = 99999999999999999999",
    "99999999999999999999",
    "64 bits"
)]
fn mistakes_in_the_target_section(#[case] line: &str, #[case] marked: &str, #[case] said: &str) {
    let text = format!("[target]\n{line}\n{}", with("", SSD));
    assert_refused(&text, marked, said);
}

#[test]
fn a_path_too_long_for_a_socket_is_refused() {
    let path = format!("\"/{}\"", "x".repeat(107));
    let text = format!("[target]\ncontrol = {path}\n{}", with("", SSD));
    assert_refused(&text, &path, "107");
}

#[rstest::rstest]
#[case::id_missing("nic = \"soft\"\naddress = \"10.0.0.1\"", "[[listener]]", "id = ")]
#[case::id_odd(
    "id = \"a b\"\nnic = \"soft\"\naddress = \"10.0.0.1\"",
    "\"a b\"",
    "plain characters"
)]
#[case::id_twice(
    "id = \"front\"\nnic = \"soft\"\naddress = \"10.0.0.1\"",
    "\"front\"",
    "line 2"
)]
#[case::nic_unknown(
    "id = \"b\"\nnic = \"sotf\"\naddress = \"10.0.0.1\"",
    "\"sotf\"",
    "did you mean \"soft\""
)]
#[case::no_address(
    "id = \"b\"\nnic = \"soft\"\naddress = \"here\"",
    "\"here\"",
    "IP address"
)]
#[case::wildcard(
    "id = \"b\"\nnic = \"soft\"\naddress = \"0.0.0.0\"",
    "\"0.0.0.0\"",
    "any address"
)]
#[case::multicast(
    "id = \"b\"\nnic = \"soft\"\naddress = \"ff02::1\"",
    "\"ff02::1\"",
    "multicast"
)]
#[case::taken(
    "id = \"b\"\nnic = \"soft\"\naddress = \"192.168.77.2\"",
    "\"192.168.77.2\"",
    "line 4"
)]
#[case::port_zero(
    "id = \"b\"\nnic = \"soft\"\naddress = \"10.0.0.1\"\nport = 0",
    "0",
    "1 to 65535"
)]
#[case::port_text(
    "id = \"b\"\nnic = \"soft\"\naddress = \"10.0.0.1\"\nport = \"1\"",
    "\"1\"",
    "without quotes"
)]
#[case::offload_text(
    "id = \"b\"\nnic = \"soft\"\naddress = \"10.0.0.1\"\noffload = \"no\"",
    "\"no\"",
    "without quotes"
)]
#[case::icrc_unknown(
    "id = \"b\"\nnic = \"soft\"\naddress = \"10.0.0.1\"\nicrc = \"ful\"",
    "\"ful\"",
    "did you mean \"full\""
)]
#[case::icrc_of_hardware(
    "id = \"b\"\nnic = \"verbs\"\naddress = \"10.0.0.1\"\nicrc = \"full\"",
    "\"full\"",
    "only a software NIC"
)]
#[case::two_wills_at_one_address(
    "id = \"b\"\nnic = \"soft\"\naddress = \"192.168.77.2\"\nport = 4421\noffload = false",
    "\"192.168.77.2\"",
    "same settings"
)]
#[case::key_near(
    "id = \"b\"\nnic = \"soft\"\naddress = \"10.0.0.1\"\nprot = 1",
    "prot",
    "did you mean `port`"
)]
fn mistakes_in_a_listener(#[case] lines: &str, #[case] marked: &str, #[case] said: &str) {
    let text = with("", SSD).replace(
        "\n[[subsystem]]",
        &format!("[[listener]]\n{lines}\n[[subsystem]]"),
    );
    assert_refused(&text, marked, said);
}

const HOST: &str = "\"nqn.2026-11.com.example:h\"";

#[rstest::rstest]
#[case::serial_long(
    "serial = \"012345678901234567890\"",
    "\"012345678901234567890\"",
    "20 bytes"
)]
#[case::serial_empty("serial = \"\"", "\"\"", "1 to 20")]
#[case::model_not_ascii("model = \"søt\"", "\"søt\"", "ASCII")]
#[case::model_padded("model = \"x \"", "\"x \"", "no space")]
#[case::in_capsule_odd("in_capsule = 512", "512", "4 KiB")]
#[case::in_capsule_large("in_capsule = \"20 KiB\"", "\"20 KiB\"", "16 KiB")]
#[case::any_in_quotes("allow_any_host = \"yes\"", "\"yes\"", "true or false")]
#[case::bad_host("hosts = [\"client\"]", "\"client\"", "nqn.")]
#[case::host_twice("hosts = [HOST, HOST]", HOST, "twice")]
#[case::hosts_beside_any("allow_any_host = true\nhosts = [HOST]", "[HOST]", "no effect")]
#[case::key_unknown(
    "alow_any_host = true",
    "alow_any_host",
    "did you mean `allow_any_host`"
)]
fn mistakes_in_a_subsystem(#[case] lines: &str, #[case] marked: &str, #[case] said: &str) {
    let text = with(&lines.replace("HOST", HOST), SSD);
    assert_refused(&text, &marked.replace("HOST", HOST), said);
}

#[rstest::rstest]
#[case::no_backend("", "[[subsystem.namespace]]", "backend = {")]
#[case::backend_text("backend = \"null\"", "\"null\"", "a table")]
#[case::backend_kind(
    "backend = { kind = \"nul\", size = 4096 }",
    "\"nul\"",
    "did you mean \"null\""
)]
#[case::backend_key(
    "backend = { kind = \"null\", size = 4096, device = 1 }",
    "device",
    "no such key"
)]
#[case::null_size("backend = { kind = \"null\", size = 0 }", "0", "zero")]
#[case::null_block(
    "backend = { kind = \"null\", size = 4096, block = 1024 }",
    "1024",
    "512 or 4096"
)]
#[case::ssd_nsid(
    "backend = { kind = \"nvme\", device = \"03:00.0\", nsid = 0 }",
    "0",
    "SSD"
)]
#[case::ssd_broadcast(
    "backend = { kind = \"nvme\", device = \"03:00.0\", nsid = 0xffffffff }",
    "0xffffffff",
    "SSD"
)]
#[case::ssd_device(
    "backend = { kind = \"nvme\", device = \"03:00\" }",
    "\"03:00\"",
    "PCI address"
)]
#[case::no_path("backend = { kind = \"block\" }", "{ kind = \"block\" }", "path = ")]
#[case::relative_path(
    "backend = { kind = \"block\", path = \"nvme0n1\" }",
    "\"nvme0n1\"",
    "absolute"
)]
#[case::path_with_a_way_back(
    "backend = { kind = \"passthrough\", path = \"/dev/../dev/ng0n1\" }",
    "\"/dev/../dev/ng0n1\"",
    "`..`"
)]
#[case::path_of_a_folder(
    "backend = { kind = \"file\", path = \"/srv/\" }",
    "\"/srv/\"",
    "folder"
)]
#[case::size_of_a_device(
    "backend = { kind = \"block\", path = \"/dev/sda\", size = 4096 }",
    "size",
    "no such key"
)]
#[case::file_size(
    "backend = { kind = \"file\", path = \"/srv/disk\", size = 512 }",
    "512",
    "multiple of 4096"
)]
#[case::policy("SSD\np2p = \"required\"", "\"required\"", "did you mean \"require\"")]
#[case::dangling("SSD\nprovider = \"drum\"", "\"drum\"", "did you mean \"dram\"")]
#[case::host_required("SSD\np2p = \"require\"\nprovider = \"dram\"", "\"dram\"", "forbids")]
#[case::peer_unused("SSD\np2p = \"off\"\nprovider = \"cmb\"", "\"cmb\"", "leaves unused")]
#[case::null_auto(
    "NULL\np2p = \"require\"\nprovider = \"auto\"",
    "\"auto\"",
    "null backend has none"
)]
#[case::null_nothing(
    "NULL\np2p = \"require\"",
    "[[subsystem.namespace]]",
    "null backend has none"
)]
#[case::two_of_which_one_is_missing(
    "SSD\np2p = \"prefer\"\nprovider = [\"cmb\", \"cmb1\"]",
    "\"cmb1\"",
    "did you mean \"cmb\""
)]
#[case::two_of_which_one_is_forbidden(
    "SSD\np2p = \"require\"\nprovider = [\"cmb\", \"dram\"]",
    "\"dram\"",
    "forbids"
)]
#[case::two_of_which_one_is_wasted(
    "SSD\np2p = \"off\"\nprovider = [\"dram\", \"cmb\"]",
    "\"cmb\"",
    "leaves unused"
)]
#[case::provider_twice(
    "SSD\np2p = \"prefer\"\nprovider = [\"cmb\", \"dram\", \"cmb\"]",
    "\"cmb\"",
    "twice"
)]
#[case::auto_beside_another(
    "SSD\np2p = \"prefer\"\nprovider = [\"cmb\", \"auto\"]",
    "\"auto\"",
    "beside it"
)]
#[case::no_provider_at_all("SSD\nprovider = []", "[]", "at least one")]
#[case::provider_a_number("SSD\nprovider = 1", "1", "in quotes")]
#[case::provider_numbers("SSD\nprovider = [1]", "1", "in quotes")]
#[case::blocks_behind_a_bar_provider(
    "backend = { kind = \"nvme\", device = \"06:00.0\" }",
    "\"06:00.0\"",
    "over its registers"
)]
#[case::uuid_odd("SSD\nuuid = \"1\"", "\"1\"", "uuidgen")]
#[case::uuid_zero(
    "SSD\nuuid = \"00000000-0000-0000-0000-000000000000\"",
    "\"00000000-0000-0000-0000-000000000000\"",
    "bogus"
)]
fn mistakes_in_a_namespace(#[case] lines: &str, #[case] marked: &str, #[case] said: &str) {
    let providers = "[[provider]]\nid = \"dram\"\nkind = \"host\"\nsize = 4096\n\
                     [[provider]]\nid = \"cmb\"\nkind = \"cmb\"\ndevice = \"03:00.0\"\n\
                     [[provider]]\nid = \"window\"\nkind = \"bar\"\ndevice = \"06:00.0\"\nbar = 2\n";
    let lines = lines.replace("SSD", SSD).replace("NULL", NULL);
    let text = with("", &lines).replace("\n[[subsystem]]", &format!("{providers}[[subsystem]]"));
    if marked == "0" || marked == "0xffffffff" {
        // The line begins with another zero: only the place tells them apart.
        let (thing, underlined, reason, remedy) = first_error(&text);
        assert_eq!(underlined, marked);
        assert!(format!("{thing}: {reason}; {remedy}").contains(said));
    } else {
        assert_refused(&text, marked, said);
    }
}

#[rstest::rstest]
#[case::nsid(
    "nsid = 1\nbackend = { kind = \"null\", size = 4096 }",
    "1",
    "nsid of its own"
)]
#[case::nsid_zero(
    "nsid = 0\nbackend = { kind = \"null\", size = 4096 }",
    "0",
    "1 to 1024"
)]
#[case::blocks(
    "nsid = 2\nbackend = { kind = \"nvme\", device = \"03:00.0\", nsid = 1 }",
    "\"03:00.0\"",
    "share blocks"
)]
#[case::storage(
    "nsid = 2\nbackend = { kind = \"block\", path = \"/dev/sda\" }\n\
     [[subsystem.namespace]]\nnsid = 3\nbackend = { kind = \"file\", path = \"/dev//sda\" }",
    "\"/dev//sda\"",
    "share blocks"
)]
#[case::uuid(
    "nsid = 2\nuuid = \"UUID\"\nbackend = { kind = \"null\", size = 4096 }",
    "\"UUID\"",
    "UUID of its own"
)]
fn mistakes_between_two_namespaces(#[case] lines: &str, #[case] marked: &str, #[case] said: &str) {
    let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    let first = with("", &format!("{SSD}\nuuid = \"{uuid}\""));
    let text = format!(
        "{first}[[subsystem.namespace]]\n{}\n",
        lines.replace("UUID", uuid)
    );
    assert_refused(&text, &marked.replace("UUID", uuid), said);
}

#[test]
fn two_subsystems_share_neither_nqn_nor_blocks() {
    let (listener, subsystem) = (LISTENER, with("", SSD).replace(LISTENER, ""));
    let errors = Config::parse(&format!("{listener}{subsystem}{subsystem}"), "").unwrap_err();
    let reasons: Vec<_> = errors
        .errors
        .iter()
        .map(|error| error.reason.as_str())
        .collect();
    assert_eq!(reasons.len(), 2, "{errors}");
    assert!(
        reasons[0].contains("NQN") && reasons[1].contains("SSD"),
        "{errors}"
    );
}

#[rstest::rstest]
#[case::in_capsule_required("in_capsule = 4096", "require", true)]
#[case::in_capsule_preferred("in_capsule = 4096", "prefer", false)]
#[case::none_required("in_capsule = 0", "require", false)]
fn payload_in_capsules_contradicts_require_only(
    #[case] line: &str,
    #[case] policy: &str,
    #[case] refused: bool,
) {
    let text = with(line, &format!("{SSD}\np2p = \"{policy}\""));
    assert_eq!(Config::parse(&text, "").is_err(), refused);
    if refused {
        assert_refused(&text, "4096", "namespace 1");
    }
}

#[rstest::rstest]
#[case("", &["`listener`", "`subsystem`"])]
#[case("listener = []\nsubsystem = 1", &["`listener`", "`subsystem`"])]
#[case("listener = [7]", &["`listener`", "`subsystem`"])]
#[case("[listener]\nid = 1\n[subsystems]", &["`subsystem`", "`listener`", "`subsystems`"])]
fn a_configuration_without_its_main_parts_is_refused(#[case] text: &str, #[case] things: &[&str]) {
    let errors = Config::parse(text, "").unwrap_err().errors;
    let mut found: Vec<_> = errors.iter().map(|error| error.thing.as_str()).collect();
    found.sort_unstable();
    let mut things = things.to_vec();
    things.sort_unstable();
    assert_eq!(found, things);
}

#[test]
fn a_subsystem_without_namespaces_is_refused() {
    let text = format!("{LISTENER}[[subsystem]]\nnqn = \"nqn.2026-11.io.sidelane:a\"\n");
    assert_refused(&text, "[[subsystem]]", "nothing to offer");
}

#[test]
fn all_mistakes_are_told_in_the_order_of_the_file() {
    let text = with("in_capsule = 1", "backend = 1\np2p = 2\nuuid = 3").replace("soft", "hard");
    let errors = Config::parse(&text, "x.toml").unwrap_err();
    let lines: Vec<_> = errors
        .errors
        .iter()
        .map(|e| e.place.as_ref().unwrap().line)
        .collect();
    assert_eq!(lines, [3, 8, 11, 12, 13], "{errors}");
}

#[test]
fn a_mistake_is_shown_with_line_and_caret() {
    let shown = Config::parse(
        &with("", &format!("{SSD}\np2p = \"require\"")).replace("nic =", "nci ="),
        "x.toml",
    );
    let expected = "\
listener `front`: `nic`: the key is missing
 --> x.toml:1:1
  |
1 | [[listener]]
  | ^^^^^^^^^^^^
  remedy: add a line such as nic = \"soft\"

listener `front`: `nci`: there is no such key here
 --> x.toml:3:1
  |
3 | nci = \"soft\"
  | ^^^
  remedy: did you mean `nic`? (known are `id`, `nic`, `address`, `port`, `offload`, `icrc`)";
    assert_eq!(shown.unwrap_err().to_string(), expected);
}

#[test]
fn what_is_not_toml_is_told_as_such_and_nothing_else() {
    let errors = Config::parse("a = \n[[listener]\n", "x.toml").unwrap_err();
    assert!(
        errors.errors.iter().all(|error| error.thing == "syntax"),
        "{errors}"
    );
    assert_eq!(errors.errors.len(), 2);
    let twice = Config::parse("a = 1\na = 2\n", "x.toml").unwrap_err();
    assert_eq!(twice.errors[0].place.as_ref().unwrap().line, 2);
}

#[test]
fn many_mistakes_are_counted_rather_than_all_shown() {
    let text: String = (0..80).map(|n| format!("key{n} = 1\n")).collect();
    let errors = Config::parse(&text, "x.toml").unwrap_err();
    assert_eq!(
        (errors.errors.len(), errors.omitted),
        (ConfigErrors::LIMIT, 32)
    );
    assert!(errors.to_string().ends_with("... and 32 more"));
}
