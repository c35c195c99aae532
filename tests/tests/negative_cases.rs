//! `docs/negative-cases.md` names tests, and they are there.

use std::fs;
use std::path::Path;

/// All Rust sources below a folder, one after the other.
fn sources(folder: &Path) -> anyhow::Result<String> {
    let mut all = String::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all += &sources(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all += &fs::read_to_string(path)?;
        }
    }
    Ok(all)
}

#[test]
fn each_case_in_the_document_names_a_test_that_exists() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("../docs/negative-cases.md"))?;
    let folders = ["tests", "../target/src/session", "../transport/src/nvmf"];
    let mut all = String::new();
    for folder in folders {
        all += &sources(&root.join(folder))?;
    }
    let mut cases = 0;
    for row in document.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        let [case, _clause, _host, tests] = cells[..] else {
            panic!("{row}");
        };
        let heading = case.trim().starts_with("**") || ["case", "---"].contains(&case.trim());
        let names: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(heading || !names.is_empty(), "no test shows: {row}");
        for name in names {
            assert!(all.contains(&format!("fn {name}(")), "{name}");
        }
        cases += usize::from(!heading);
    }
    assert!(cases > 50, "{cases}");
    Ok(())
}
