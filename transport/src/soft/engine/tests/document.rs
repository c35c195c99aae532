//! `docs/rocev2.md` names files and tests, and they are there.

use std::fs;
use std::path::Path;

/// All sources below a folder, one after the other.
fn sources(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else {
            all += &fs::read_to_string(path).unwrap();
        }
    }
    all
}

#[test]
fn each_rule_in_the_document_names_a_file_and_a_test_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let soft = root.join("src/soft");
    let document = fs::read_to_string(root.join("../docs/rocev2.md")).unwrap();
    let (core, _cm) = document.split_once("## Connection management").unwrap();
    let all = sources(&soft);
    let mut rules = 0;
    for row in core.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        let [_rule, _clause, files, tests] = cells[..] else {
            panic!("{row}");
        };
        let names = |cell: &str| -> Vec<String> {
            let words = cell.split('`').skip(1).step_by(2);
            words.map(str::to_owned).collect()
        };
        for file in names(files) {
            let there = soft.join(&file).exists() || soft.join("engine").join(&file).exists();
            assert!(there, "{file}");
        }
        for test in names(tests).iter().filter(|test| *test != "storms") {
            assert!(all.contains(&format!("fn {test}(")), "{test}");
            rules += 1;
        }
    }
    assert!(rules > 40, "{rules}");
}
