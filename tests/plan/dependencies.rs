//! docs/dependencies.md lists exactly the crates that the program depends on.

use std::collections::BTreeSet;

/// Returns the crates in the sections of Cargo.toml whose names satisfy `is_wanted`.
fn declared(manifest: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut section = "";
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| is_wanted(section)) {
            found.insert(name);
        }
    }
    found.into_iter().filter(|name| !name.starts_with('#')).collect()
}

/// Returns the crates in the tables of the page, from the last but one cell of each row.
fn explained(page: &str) -> BTreeSet<&str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    let cells = rows.filter_map(|row| row.rsplit('|').nth(1));
    let names = cells.flat_map(|cell| cell.split(',')).filter_map(|name| name.split_whitespace().next());
    names.filter(|name| !matches!(*name, "crate" | "crates" | "---")).collect()
}

#[test]
fn every_dependency_is_documented() {
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap();
    let page = std::fs::read_to_string("docs/dependencies.md").unwrap();
    let ordinary = |section: &str| {
        section == "dependencies" || section.starts_with("target.") && section.ends_with(".dependencies")
    };
    let declared_here = declared(&manifest, ordinary);
    assert!(declared_here.len() > 40, "{declared_here:?}");
    assert_eq!(explained(&page), declared_here);
    let (_, tests) = page.split_once("## For tests only").unwrap();
    for name in declared(&manifest, |section| section == "dev-dependencies") {
        assert!(tests.contains(name), "docs/dependencies.md does not explain {name}");
    }
}

#[test]
fn manifest_and_table_parsers_find_all_crates() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\n# a = 1\none = \"1\"\n[target.'cfg(unix)'.dependencies]\ntwo = { version = \"1\" }\n[dev-dependencies]\nthree = \"1\"\n";
    let all = declared(manifest, |section| section.ends_with("dependencies"));
    assert_eq!(all, ["one", "three", "two"].into());
    assert_eq!(declared(manifest, |section| section == "dependencies"), ["one"].into());
    let page = "| crate | why |\n| --- | --- |\n| one, two | words, and more |\n| `f` | four (Unix), five | why |\n| | six | why |\n";
    assert_eq!(explained(page), ["five", "four", "one", "six", "two"].into());
}
