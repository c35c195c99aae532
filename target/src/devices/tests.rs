//! What can be told of a configuration before anything is opened.

use std::fs;
use std::path::Path;

use sidelane_p2p::topology::fixture::{Builder, Card};

use super::*;

const SSD: &str = "0000:03:00.0";

/// The problems that a machine with one SSD, which the kernel drives, has with a
/// provider and a namespace. `FOLDER` in them is `folder`.
fn problems(folder: &Path, provider: &str, backend: &str) -> Vec<String> {
    let text = format!(
        "[target]\ncores = [0]\n[[listener]]\nid = \"soft\"\nnic = \"soft\"\naddress = \"127.0.0.1\"\n\
         {provider}\n[[subsystem]]\nnqn = \"nqn.2026-11.io.sidelane:check\"\n\
         [[subsystem.namespace]]\nnsid = 1\np2p = \"off\"\nbackend = {{ {backend} }}\n"
    );
    let text = text.replace("FOLDER", &folder.display().to_string());
    let config = Config::parse(&text, "the test").unwrap();
    let devices = VfioDevices::new(folder.join("sys")).unwrap();
    devices.problems(&config)
}

/// A machine with one SSD, which the kernel drives; gives the SSD's folder.
fn machine(folder: &Path) -> PathBuf {
    let builder = Builder::new(folder).unwrap();
    let path = "pci0000:00/0000:00:01.0/0000:03:00.0";
    let card = Card {
        driver: Some("nvme"),
        ..Card::nvme(path)
    };
    builder.add(&card).unwrap();
    fs::write(folder.join("plain"), [0; 4096]).unwrap();
    builder.root().join("devices").join(path)
}

#[rstest::rstest]
#[case::block(
    r#"kind = "block", path = "FOLDER/none""#,
    "none: it cannot be opened",
    "lsblk -p"
)]
#[case::block_of_a_file(
    r#"kind = "block", path = "FOLDER/plain""#,
    "no block device",
    "kind = \"file\""
)]
#[case::block_of_characters(r#"kind = "block", path = "/dev/null""#, "no block device", "lsblk -p")]
#[case::passthrough(
    r#"kind = "passthrough", path = "FOLDER/none""#,
    "cannot be opened",
    "lsblk -p"
)]
#[case::passthrough_of_a_file(
    r#"kind = "passthrough", path = "FOLDER/plain""#,
    "no character device",
    "/dev/ng"
)]
#[case::passthrough_of_another(
    r#"kind = "passthrough", path = "/dev/null""#,
    "no character device",
    "/dev/ng"
)]
#[case::file(
    r#"kind = "file", path = "FOLDER/none""#,
    "no such file",
    "give a size"
)]
#[case::file_of_no_folder(
    r#"kind = "file", path = "FOLDER/none/at", size = "1 MiB""#,
    "cannot be opened",
    "name what is there"
)]
#[case::file_of_a_folder(
    r#"kind = "file", path = "FOLDER""#,
    "no regular file",
    "kind = \"block\""
)]
fn storage_that_is_not_there_or_of_another_kind_is_named_with_the_remedy(
    #[case] backend: &str,
    #[case] reason: &str,
    #[case] remedy: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    machine(folder.path());
    // As the kernel shows the class of /dev/null.
    let number = folder.path().join("sys/dev/char/1:3");
    fs::create_dir_all(&number).unwrap();
    std::os::unix::fs::symlink("../../../class/mem", number.join("subsystem")).unwrap();
    let problems = problems(folder.path(), "", backend);
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    assert!(
        problem.contains(reason) && problem.contains(remedy),
        "{problem}"
    );
}

#[rstest::rstest]
#[case::there(r#"kind = "file", path = "FOLDER/plain""#)]
#[case::to_be_made(r#"kind = "file", path = "FOLDER/none", size = "1 MiB""#)]
#[case::of_nobody(r#"kind = "null", size = "1 MiB""#)]
fn storage_that_may_be_good_is_no_problem_and_is_not_touched(#[case] backend: &str) {
    let folder = tempfile::tempdir().unwrap();
    machine(folder.path());
    assert_eq!(problems(folder.path(), "", backend), Vec::<String>::new());
    assert!(!folder.path().join("none").exists());
}

#[rstest::rstest]
#[case::nothing(&[], "", Some("the kernel publishes none"))]
#[case::kept(&[("published", "0")], "", Some("published is not 1"))]
#[case::for_nobody(&[("published", "1")], "", Some("Linux 6.2"))]
#[case::too_little(&[("published", "1"), ("allocate", ""), ("size", "1048576"), ("available", "1048576")], "size = \"2 MiB\"", Some("2097152 bytes are wanted"))]
#[case::in_use(&[("published", "1"), ("allocate", ""), ("size", "1048576"), ("available", "0")], "size = \"1 MiB\"", None)]
fn memory_that_is_not_published_is_named_with_the_reason(
    #[case] shown: &[(&str, &str)],
    #[case] size: &str,
    #[case] reason: Option<&str>,
) {
    let folder = tempfile::tempdir().unwrap();
    let function = machine(folder.path());
    for (name, value) in shown {
        let p2pmem = function.join("p2pmem");
        fs::create_dir_all(&p2pmem).unwrap();
        fs::write(p2pmem.join(name), value).unwrap();
    }
    let provider =
        format!("[[provider]]\nid = \"theirs\"\nkind = \"p2pmem\"\ndevice = \"{SSD}\"\n{size}");
    let problems = problems(folder.path(), &provider, r#"kind = "null", size = "1 MiB""#);
    match (reason, &problems[..]) {
        (None, []) => {}
        (Some(reason), [problem]) => {
            assert!(problem.contains(reason), "{problem}");
            assert!(
                problem.contains("theirs") && problem.contains(SSD),
                "{problem}"
            );
        }
        _ => panic!("{problems:?}"),
    }
}
