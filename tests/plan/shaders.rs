//! WGSL files are self-contained, so several repeat helper functions. These copies must stay equal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Functions that intentionally differ between files: each sums its own workgroup memory or reads its own operands.
const DIFFERENT: &[&str] = &["total", "row_of_a", "row_of_b"];

/// Returns signature and body of each function of a shader that is not an entry point, without comments and with single
/// spaces.
fn helpers(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n");
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for (start, _) in code.match_indices("\nfn ") {
        let is_entry = code[..start].lines().next_back().is_some_and(|line| line.starts_with('@'));
        let (head, rest) = code[start..].split_once('{').unwrap();
        let (body, _) = rest.split_once("\n}").unwrap();
        if !is_entry {
            found.push((one_line(head), one_line(body)));
        }
    }
    found
}

#[test]
fn helpers_with_the_same_signature_have_the_same_body() {
    let mut all: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    for entry in std::fs::read_dir(shaders).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        for (head, body) in helpers(&std::fs::read_to_string(&path).unwrap()) {
            all.entry(head).or_default().entry(body).or_default().insert(file.clone());
        }
    }
    let is_shared =
        |bodies: &&BTreeMap<String, BTreeSet<String>>| bodies.values().any(|files| files.len() > 1);
    assert!(all.values().filter(is_shared).count() >= 8, "helpers were not found");
    for (head, bodies) in &all {
        let name = head.trim_start_matches("fn ").split('(').next().unwrap();
        // `place` of one index differs between shaders that read maps of three channels.
        let differs = DIFFERENT.contains(&name) || head == "fn place(i: u32) -> Place";
        assert!(differs || bodies.len() == 1, "{head} differs: {:?}", bodies.values());
    }
}

#[test]
fn helpers_are_found_without_comments() {
    let text =
        "\nfn a(x: u32) -> u32 { // note\n    return x;\n}\n\n@compute @workgroup_size(64)\nfn main() {\n}\n";
    assert_eq!(helpers(text), [("fn a(x: u32) -> u32".to_owned(), "return x;".to_owned())]);
}
