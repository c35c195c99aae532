//! Every committed seed of the fuzzer goes through the function that it was
//! made for, so that an input that once failed stays a test.

use std::fs;
use std::path::Path;

use sidelane_tests::fuzz::TARGETS;

#[test]
fn every_target_takes_all_of_its_seeds() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, target) in TARGETS {
        let folder = seeds.join(name);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no seed");
        for file in files {
            println!("{}", file.display());
            target(&fs::read(file).unwrap());
        }
    }
}

#[test]
fn every_target_takes_nothing_and_short_nonsense() {
    for (name, target) in TARGETS {
        println!("{name}");
        for len in [0, 1, 2, 3, 64, 65, 300] {
            for seed in 1..8_u32 {
                let byte = |at: u32| (at * at * seed * 37 + at * 11 + seed) as u8;
                target(&(0..len).map(byte).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn every_target_has_its_binary_and_nothing_else_has() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
    let mut found: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let mut wanted = TARGETS.map(|(name, _)| name.to_owned()).to_vec();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}
