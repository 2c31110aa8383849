//! Layering of modules and files: no import cycles, direct or indirect.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folders under `src/` whose files must not form import cycles.
const FOLDERS: &[&str] =
    &["cli", "graph", "image_io", "mirage", "ops", "shader", "tune", "vgg", "web", "workbench"];
/// Folders under `src/`: each may import only later ones.
const LAYERS: &[&str] =
    &["cli", "web", "mirage", "tune", "workbench", "graph", "ops", "shader", "gpu", "vgg", "image_io"];
/// Modules that any module may import.
const FOR_ALL: &[&str] = &["allocation", "error", "escape", "files", "hex"];

/// A module by its path, from the folder on: `["graph", "fuse", "mask"]`.
type Module = Vec<String>;

/// Collects the text of each module of a folder, without comments and tests.
fn modules(folder: &Path, at: Module, found: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut module = at.clone();
        if path.is_dir() {
            module.push(name);
            modules(&path, module, found);
        } else if name != "tests" {
            if name != "mod" {
                module.push(name);
            }
            found.insert(module, code(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Collects the paths at the start of a text: `a::{b, c::d}` has two. Returns their length.
fn paths(text: &str, before: &[String], found: &mut Vec<Module>) -> usize {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let path = [before, std::slice::from_ref(&name)].concat();
    let rest = &text[name.len()..];
    let Some(behind) = rest.strip_prefix("::") else {
        found.push(path);
        return name.len();
    };
    let mut at = name.len() + 2;
    let Some(mut list) = behind.strip_prefix('{') else {
        return at + paths(behind, &path, found);
    };
    at += 1;
    loop {
        let start = list.trim_start_matches([' ', '\n', ',']);
        at += list.len() - start.len();
        if start.starts_with('}') || start.is_empty() {
            return at + 1;
        }
        // Anything else, such as `self` or `as`, ends the path: advance one step.
        let taken = paths(start, &path, found).max(1);
        at += taken;
        list = &start[taken.min(start.len())..];
    }
}

/// Returns all paths in a module's text that lead into its folder, as absolute paths.
fn imports(module: &Module, is_folder: bool, text: &str) -> Vec<Module> {
    let mut found = Vec::new();
    let root = format!("crate::{}::", module[0]);
    // `super` of a file is its folder's module.
    let own: &[String] = if is_folder { module } else { &module[..module.len() - 1] };
    for (start, _) in text.match_indices("super::") {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '(') {
            continue;
        }
        let mut rest = &text[start..];
        let mut at = if is_folder { own } else { module.as_slice() };
        while let Some(behind) = rest.strip_prefix("super::") {
            rest = behind;
            at = &at[..at.len() - 1];
        }
        if !at.is_empty() {
            take(rest, at, &mut found);
        }
    }
    for (start, _) in text.match_indices(&root) {
        take(&text[start + root.len()..], &module[..1], &mut found);
    }
    found
}

fn take(text: &str, at: &[String], found: &mut Vec<Module>) {
    match text.strip_prefix('{') {
        // A list at the top level is treated as if a name preceded it.
        Some(_) => {
            let mut inner = Vec::new();
            paths(&format!("x::{text}"), &[], &mut inner);
            found.extend(inner.into_iter().map(|path| [at, &path[1..]].concat()));
        }
        None => drop(paths(text, at, found)),
    }
}

/// Resolves a path to a module, following re-exports down to the file.
fn resolve(path: &[String], modules: &BTreeMap<Module, String>) -> Option<Module> {
    let depth = (1..=path.len()).rev().find(|depth| modules.contains_key(&path[..*depth]))?;
    let (module, rest) = path.split_at(depth);
    let Some(name) = rest.first() else { return Some(module.to_vec()) };
    // The module itself may only re-export the name.
    let text = &modules[module];
    for (start, _) in text.match_indices("use ") {
        let mut inner = Vec::new();
        paths(&text[start + 4..], &[], &mut inner);
        for found in inner.iter().filter(|found| found.len() > 1 && found.last() == Some(name)) {
            let inside = [module, found.as_slice()].concat();
            if modules.contains_key(&inside[..=depth]) {
                return resolve(&inside, modules);
            }
        }
    }
    Some(module.to_vec())
}

/// Returns which modules of its own folder each module imports.
fn edges(modules: &BTreeMap<Module, String>) -> BTreeMap<Module, BTreeSet<Module>> {
    let folders: BTreeSet<&[String]> = modules.keys().map(|module| &module[..module.len() - 1]).collect();
    let edge = |(module, text): (&Module, &String)| {
        let found = imports(module, folders.contains(module.as_slice()), text);
        let mut found: BTreeSet<Module> = found.iter().filter_map(|path| resolve(path, modules)).collect();
        found.remove(module);
        (module.clone(), found)
    };
    modules.iter().map(edge).collect()
}

/// Finds an import cycle.
fn circle(edges: &BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    fn visit<'a>(
        module: &'a Module,
        edges: &'a BTreeMap<Module, BTreeSet<Module>>,
        way: &mut Vec<&'a Module>,
        done: &mut BTreeSet<&'a Module>,
    ) -> bool {
        if way.contains(&module) {
            way.push(module);
            return true;
        }
        if !done.insert(module) {
            return false;
        }
        way.push(module);
        for next in edges.get(module).into_iter().flatten() {
            if visit(next, edges, way, done) {
                return true;
            }
        }
        way.pop();
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    let found = edges.keys().any(|module| visit(module, edges, &mut way, &mut done));
    found.then(|| way.iter().map(|module| module.join("::")).collect())
}

#[test]
fn files_have_no_import_cycles() {
    let mut count = 0;
    for folder in FOLDERS {
        let mut found = BTreeMap::new();
        modules(&Path::new("src").join(folder), vec![(*folder).to_owned()], &mut found);
        let edges = edges(&found);
        count += edges.values().map(BTreeSet::len).sum::<usize>();
        assert_eq!(circle(&edges), None, "{folder}");
    }
    assert!(count >= 500, "only {count} imports were found");
}

/// Returns path and text of every file under `src/`.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                found.push((path, text));
            }
        }
    }
    found
}

/// Returns the text of a source without comments and tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Returns the top-level modules of the crate that a source imports.
fn imported_modules(code: &str) -> BTreeSet<String> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        take(&code[start + "crate::".len()..], &[], &mut found);
    }
    let first = found.into_iter().filter_map(|path| path.into_iter().next());
    first.filter(|name| name.starts_with(char::is_lowercase)).collect()
}

#[test]
fn modules_import_only_lower_layers() {
    let mut seen = BTreeSet::new();
    for (path, text) in sources() {
        let Some(place) = LAYERS.iter().position(|layer| path.starts_with(Path::new("src").join(layer)))
        else {
            continue;
        };
        for import in imported_modules(&code(&text)) {
            let below = LAYERS[place..].contains(&import.as_str());
            assert!(below || FOR_ALL.contains(&import.as_str()), "{} imports {import}", path.display());
            seen.insert((place, import));
        }
    }
    assert!(seen.len() > 3 * LAYERS.len(), "only {seen:?} were found");
}

/// All waiting for the device is in one file, and each function for it is used only there.
#[test]
fn device_waits_are_in_one_file() {
    let allowed = [
        ("PollType", "src/gpu/wait.rs"),
        ("on_submitted_work_done", "src/gpu/wait.rs"),
        ("park_timeout", "src/gpu/wait.rs"),
        ("map_async", "src/gpu/read_back.rs"),
    ];
    let mut seen = BTreeSet::new();
    for (path, text) in sources() {
        for (word, place) in allowed.iter().filter(|(word, _)| text.contains(word)) {
            assert!(path.ends_with(place), "{word} in {}, not in {place}", path.display());
            seen.insert(*word);
        }
        assert!(!text.contains("pollster"), "{}", path.display());
    }
    assert_eq!(seen.len(), allowed.len(), "only {seen:?} were found");
}

/// Above the graphics executor, only the command that runs user shaders uses wgpu.
#[test]
fn wgpu_is_used_only_by_device_code() {
    let allowed = ["src/gpu", "src/graph/gpu", "src/workbench/run"];
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (path, text) in sources() {
        if code(&text).contains("wgpu::") {
            let place = allowed.into_iter().find(|folder| path.starts_with(folder));
            assert!(place.is_some(), "{} names types of wgpu", path.display());
            seen.extend(place);
        }
    }
    assert_eq!(seen.len(), allowed.len(), "only {seen:?} name wgpu");
}

/// The parser must find imports of each form.
#[test]
fn import_parser_finds_all_forms() {
    let text = "use crate::gpu::{Context, wait};\nuse crate::{files, ops::Op};\nlet x = crate::vgg::find();";
    let found: Vec<String> = imported_modules(text).into_iter().collect();
    assert_eq!(found, ["files", "gpu", "ops", "vgg"]);
    assert_eq!(code("a // use crate::gpu\n#[cfg(test)]\nmod tests;"), "a ");
}

/// The check must find cycles of each form.
#[test]
fn cycle_check_finds_all_forms() {
    let check = |files: &[(&str, &str)]| {
        let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
        let modules = files.iter().map(|(path, text)| (module(path), (*text).to_owned())).collect();
        circle(&edges(&modules)).is_some()
    };
    let root = ("m", "mod a;\nmod b;\npub use a::One;\npub use b::{Other, Two as Second};");
    assert!(!check(&[root, ("m::a", "use super::b::Two;"), ("m::b", "")]));
    assert!(check(&[root, ("m::a", "use super::b::Two;"), ("m::b", "use super::a::One;")]));
    // By a re-exported name, in a list, by full path, and within code.
    for back in [
        "use super::One;",
        "use super::{c::X, a::{One, Zero}};",
        "use crate::m::a;",
        "use crate::m::{One};",
        "let x = super::a::One;",
    ] {
        assert!(check(&[root, ("m::a", "use super::Other;"), ("m::b", back)]), "{back}");
    }
    let deep = ("m::f", "mod g;\nuse super::b::Two;");
    assert!(!check(&[root, ("m::a", ""), deep, ("m::f::g", "use super::super::a::One;"), ("m::b", "")]));
    let back = ("m::b", "use super::f::g::X;");
    assert!(check(&[root, ("m::a", ""), deep, ("m::f::g", "use super::super::b::Two;"), back]));
}

/// Each file is in a table of docs/architecture.md, and the tables list no missing files.
#[test]
fn architecture_tables_list_every_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let mut tables = BTreeSet::new();
    for table in document.split("| files of `").skip(1) {
        let (folder, table) = table.split_once('`').unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let named: BTreeSet<&str> = rows
            .flat_map(|row| {
                row.split('|').nth(1).into_iter().flat_map(|names| names.split('`').skip(1).step_by(2))
            })
            .collect();
        let entries = std::fs::read_dir(root.join("src").join(folder)).unwrap();
        let files: BTreeSet<String> = entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|name| name != "mod")
            .collect();
        assert_eq!(named, files.iter().map(String::as_str).collect(), "{folder}");
        tables.insert(folder);
    }
    for folder in
        ["cli", "cli/commands", "mirage", "mirage/objective", "mirage/objective/tiling", "mirage/run"]
    {
        assert!(tables.contains(folder), "{folder} has no table");
    }
}
