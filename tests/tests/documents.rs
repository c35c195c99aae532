//! Tables that name tests: the tests are there.

use std::fs;
use std::path::Path;

use rstest::rstest;

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

/// Of each row of the tables below a heading, the last column names its tests.
#[rstest]
#[case::what_hosts_get_that_do_not_keep_to_the_rules("docs/negative-cases.md", "# ", 4, 50)]
#[case::faults_that_were_tried("README.md", "## When things fail", 5, 15)]
fn each_case_in_the_documents_names_a_test_that_exists(
    #[case] document: &str,
    #[case] heading: &str,
    #[case] columns: usize,
    #[case] at_least: usize,
) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = fs::read_to_string(root.join(document))?;
    let folders = [
        "tests/tests",
        "target/src/session",
        "transport/src/nvmf",
        "nvme/src",
    ];
    let mut all = String::new();
    for folder in folders {
        all += &sources(&root.join(folder))?;
    }
    let lines = document
        .lines()
        .skip_while(|line| !line.starts_with(heading));
    let section = lines.skip(1).take_while(|line| !line.starts_with("## "));
    let mut cases = 0;
    for row in section.filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), columns, "{row}");
        let is_case = !cells[0].starts_with("**") && !["case", "fault", "---"].contains(&cells[0]);
        let names: Vec<_> = cells[columns - 1].split('`').skip(1).step_by(2).collect();
        assert!(!is_case || !names.is_empty(), "no test shows: {row}");
        for name in names.iter().filter(|_| is_case) {
            assert!(all.contains(&format!("fn {name}(")), "{name}");
        }
        cases += usize::from(is_case);
    }
    assert!(cases >= at_least, "{cases}");
    Ok(())
}
