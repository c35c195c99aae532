//! What may stand behind a path.

use super::*;

#[rstest::rstest]
#[case::blocks_of_512(512)]
#[case::blocks_of_4096(4096)]
fn a_file_that_is_not_there_is_made_as_long_as_it_is_to_be(#[case] block: u32) {
    let Some(disk) = disk(64, block) else { return };
    let shape = disk.storage.shape();
    assert_eq!((shape.blocks, shape.block_bytes), (64, block));
    assert!(shape.volatile_write_cache);
    let len = std::fs::metadata(disk.path()).unwrap().len();
    assert_eq!(len, 64 * u64::from(block));
}

#[test]
fn two_namespaces_never_share_a_file() {
    let Some(disk) = disk(64, 4096) else { return };
    let again = file(disk.path(), 64 * 4096, 4096);
    let error = open(&again).err().unwrap().to_string();
    assert!(
        error.contains("in use") && error.contains("another file"),
        "{error}"
    );
    // Not even through another name.
    let link = disk.folder.path().join("link");
    std::fs::hard_link(disk.path(), &link).unwrap();
    assert!(open(&file(link, 64 * 4096, 4096)).is_err());
    // And once it is free, it can be had, with what is in it.
    let path = disk.path();
    std::fs::write(&path, vec![7; 64 * 4096]).unwrap();
    let Disk { folder, storage } = disk;
    drop(storage);
    open(&file(path.clone(), 64 * 4096, 4096)).unwrap();
    assert!(std::fs::read(&path).unwrap().iter().all(|byte| *byte == 7));
    drop(folder);
}

#[test]
fn what_is_no_file_for_blocks_is_refused_with_the_remedy() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("uneven"), [1; 1000]).unwrap();
    std::fs::write(path("empty"), []).unwrap();
    std::fs::write(path("other"), [1; 8192]).unwrap();
    let unsized_file = |name| Configured::File {
        path: path(name),
        size: None,
        block: 4096,
    };
    let block = |path| Configured::Block { path };
    let passthrough = |path| Configured::Passthrough { path };
    let cases = [
        (unsized_file("none"), "give a size"),
        (unsized_file("uneven"), "no whole number of blocks"),
        (unsized_file("empty"), "0 bytes"),
        (file(path("other"), 4096, 4096), "configuration says 4096"),
        (file(path(""), 4096, 4096), "director"),
        (file(path("no/such"), 4096, 4096), "No such file"),
        (block(path("other")), "no block device"),
        (block(path("none")), "by-id"),
        (passthrough(path("other")), "no character device"),
        (passthrough("/dev/null".into()), "no character device"),
    ];
    for (backend, said) in cases {
        let error = open(&backend).err().unwrap().to_string();
        assert!(error.contains(said), "{backend:?}: {error}");
    }
    // Nothing was changed or made.
    assert_eq!(std::fs::read(path("other")).unwrap(), [1; 8192]);
    assert!(!path("none").exists());
}

#[test]
fn a_file_that_is_kept_in_memory_is_refused() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("SKIPPED, there is no /dev/shm");
        return;
    };
    let kind = rustix::fs::statfs(folder.path()).unwrap().f_type as u64;
    if kind != 0x0102_1994 {
        eprintln!("SKIPPED, /dev/shm is no tmpfs");
        return;
    }
    let error = open(&file(folder.path().join("disk"), 1 << 20, 4096))
        .err()
        .unwrap();
    assert!(error.to_string().contains("direct I/O"), "{error}");
}

#[test]
fn a_name_of_a_file_that_is_not_there_yet_has_the_function_of_its_folder() {
    let folder = folder();
    let sys = std::path::Path::new("/sys");
    let there = client(&file(folder.path().join("disk"), 4096, 4096), sys);
    std::fs::write(folder.path().join("disk"), []).unwrap();
    assert_eq!(
        client(&file(folder.path().join("disk"), 4096, 4096), sys),
        there
    );
    let null = Configured::Null {
        size: sidelane_config::ByteSize::kib(4),
        block: 4096,
    };
    assert_eq!(client(&null, sys), None);
}
