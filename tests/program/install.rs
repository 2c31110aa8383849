//! Installation: completions, manual pages, the default network, and packages.

use crate::support::Place;
use neural_mirage::vgg::locate::{DEFAULT_NETWORK, DEFAULT_NETWORK_SHA256, NARROW};
use predicates::prelude::*;

/// Returns the commands listed by `mirage --help`, except `help`.
fn commands(place: &Place) -> Vec<String> {
    let help = printed(place, &["--help"]);
    let (_, list) = help.split_once("\nCommands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    // Descriptions may continue on lines with more indentation.
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let names: Vec<String> =
        names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect();
    assert!(names.len() > 10 && names.contains(&"render".to_owned()), "{names:?}");
    names
}

fn printed(place: &Place, words: &[&str]) -> String {
    let output = place.deviceless().args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn completions_cover_commands_and_options() {
    let place = Place::new();
    let commands = commands(&place);
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let text = printed(&place, &["completions", shell]);
        for command in &commands {
            assert!(text.contains(command), "{shell}: {command}");
        }
        assert!(text.contains("style-statistic") && text.contains("shader-dir"), "{shell}");
        assert!(
            !text.contains("manual pages") && !text.contains("Print shell completions"),
            "{shell}: hidden"
        );
        assert!(!text.contains("lose-device-after") && !text.contains("--process"), "{shell}: hidden");
    }
    place.deviceless().args(["completions", "ksh"]).assert().code(2).stderr(predicate::str::contains("bash"));
}

/// Checks the completions that bash offers.
#[cfg(target_os = "linux")]
#[test]
fn bash_completion_script_works() {
    let place = Place::new();
    let script = place.file("mirage.bash", printed(&place, &["completions", "bash"]).as_bytes());
    let program = "source \"$1\"; COMP_WORDS=(mirage \"${@:2}\"); COMP_CWORD=$(($# - 1)); \
                   _mirage mirage \"${!#}\" \"\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let offers = |words: &[&str]| {
        let output = std::process::Command::new("bash")
            .args(["--norc", "-c", program, "bash"])
            .arg(&script)
            .args(words)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words: Vec<String> = text.lines().map(str::to_owned).collect();
        words.sort();
        words
    };
    assert_eq!(offers(&["re"]), ["render", "report", "resume"]);
    assert_eq!(offers(&["render", "--style-s"]), ["--style-statistic"]);
}

#[test]
fn manual_has_a_page_for_each_command() {
    let place = Place::new();
    printed(&place, &["man", "a/new folder"]);
    let mut pages: Vec<String> = std::fs::read_dir(place.path("a/new folder"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    for command in commands(&place) {
        assert!(pages.contains(&format!("mirage-{command}.1")), "{command}: {pages:?}");
    }
    let page = std::fs::read_to_string(place.path("a/new folder/mirage-kernels-run.1")).unwrap();
    assert!(page.contains("\nExamples:\n.nf\n  mirage kernels run"), "the examples are run together");
    assert!(pages.contains(&"mirage.1".to_owned()) && !pages.iter().any(|page| page.contains("completions")));
    let page = std::fs::read_to_string(place.path("a/new folder/mirage-render.1")).unwrap();
    assert!(page.starts_with(".ie") && page.contains(".TH mirage-render 1"), "{page}");
    assert!(page.contains("style\\-statistic") && page.contains("mean\\-covariance"), "{page}");

    place.file("taken", b"");
    place.deviceless().args(["man", "taken"]).assert().code(2).stderr(predicate::str::contains("taken"));
}

#[test]
fn default_network_needs_no_download() {
    let place = Place::new();
    let known = predicate::str::contains(DEFAULT_NETWORK_SHA256);
    place.deviceless().args(["weights", "--fetch", NARROW]).assert().success().stdout(known.clone());
    place.deviceless().args(["weights", NARROW]).assert().success().stdout(known);
    assert!(place.entries().is_empty());
    // A file named like the network is treated as a file.
    place.file(NARROW, b"no network");
    place
        .deviceless()
        .args(["weights", NARROW])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("./narrow: "));
}

/// Serves one file and its Git LFS pointer, like the hub; it ends with the test process.
#[cfg(target_os = "linux")]
fn hub(file: Vec<u8>) -> String {
    use sha2::{Digest as _, Sha256};
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let hash: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    let record =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{hash}\nsize {}\n", file.len());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let body = if head[0].contains("/raw/main/") { record.as_bytes() } else { &file };
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(&[answer.as_bytes(), body].concat()).unwrap();
        }
    });
    base
}

#[cfg(target_os = "linux")]
#[test]
fn fetched_network_is_found_by_name() {
    let place = Place::new();
    let photo = place.photo("photo.png", 64, 48);
    let network = crate::support::network(&[8, 7, 9]).bytes();
    let base = hub(network.clone());
    let mirage = |words: &[&str]| {
        let mut command = place.deviceless();
        command.env("XDG_DATA_HOME", place.path("data")).env("MIRAGE_FETCH_BASE", &base).args(words);
        command.assert()
    };
    mirage(&["classify", "photo.png", "--weights", "vgg19"])
        .code(2)
        .stderr(predicate::str::contains("mirage weights --fetch vgg19"));
    mirage(&["weights", "--fetch", "vgg19"]).success();
    let fetched = place.path("data/neural-mirage");
    let files: Vec<Vec<u8>> = std::fs::read_dir(fetched)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(files.contains(&network));
    let photo = photo.to_str().unwrap();
    let words = ["-o", "out.png", "--weights", "vgg19", "--size", "48", "--iterations", "1", "--quiet"];
    mirage(&[&["render", photo][..], &words].concat()).success();
    assert!(place.path("out.png").exists());
}

/// With `--dir` the default network is downloaded even if the program has it.
#[cfg(target_os = "linux")]
#[test]
fn default_network_is_downloaded_and_checked() {
    let place = Place::new();
    let weights = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("weights").join(DEFAULT_NETWORK);
    let network = std::fs::read(weights).unwrap();
    let fetch = |base: &str| {
        let mut command = place.deviceless();
        command.env("MIRAGE_FETCH_BASE", base).args(["weights", "--fetch", NARROW, "--dir", "here"]);
        command.assert()
    };
    let mut damaged = network.clone();
    damaged[1_000_000] ^= 1;
    fetch(&hub(damaged)).code(1).stderr(predicate::str::contains(DEFAULT_NETWORK_SHA256));
    assert_eq!(std::fs::read_dir(place.path("here")).unwrap().count(), 0);

    let base = hub(network.clone());
    let file = format!("here/{DEFAULT_NETWORK}");
    let known = predicate::str::contains(DEFAULT_NETWORK_SHA256);
    fetch(&base).success().stdout(known.clone().and(predicate::str::contains(format!("--weights {file}"))));
    assert!(std::fs::read(place.path(&file)).unwrap() == network);
    place.deviceless().args(["weights", &file]).assert().success().stdout(known);
    // No connection is needed for what is there.
    fetch("http://127.0.0.1:9").success().stdout(predicate::str::contains("there already"));
}

/// A program with an embedded network needs no other files: the copied executable runs in an empty folder without a
/// home.
#[cfg(feature = "embedded-network")]
#[test]
fn copied_program_runs_in_empty_folder() {
    let place = Place::new();
    let copy = place.path("copy");
    std::fs::copy(assert_cmd::cargo::cargo_bin!("mirage"), &copy).unwrap();
    let photo = place.photo("photo.png", 64, 48);
    let start = |words: &[&str]| {
        let mut command = assert_cmd::Command::new(&copy);
        command.current_dir(place.path("")).env_remove("HOME").env_remove("XDG_DATA_HOME").args(words);
        command.env_remove("MIRAGE_WEIGHTS");
        command
    };
    start(&["weights"]).assert().success().stdout(predicate::str::contains(DEFAULT_NETWORK_SHA256));
    let photo = photo.to_str().unwrap();
    // A few layers: this program is not optimised, so the default objective would take minutes.
    let short = "--size 64 --scales 1 --iterations 2 --checkpoint-every 1 --spatial relu1_1 --style relu1_1 \
                 --style-statistic gram --abstract none --top 0";
    let short: Vec<&str> = short.split_whitespace().collect();
    start(&[&["render", photo, "-o", "out.png"][..], &short].concat()).assert().success();
    let shown = start(&["show", "out.png"]).assert().success();
    let shown = String::from_utf8_lossy(&shown.get_output().stdout).into_owned();
    assert!(shown.contains(DEFAULT_NETWORK_SHA256), "{shown}");
    // The record has the network's short name, by which it is found again.
    start(&["resume", "out-checkpoint.safetensors", "--iterations", "3"]).assert().success();
}

/// The crate omits the network, which exceeds the registry's size limit, and has every file that is compiled in.
#[test]
fn packaged_crate_is_complete_without_network() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["package", "--list", "--allow-dirty", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).unwrap();
    let files: Vec<&str> = list.lines().collect();
    assert!(!files.iter().any(|file| file.contains("vgg16-narrow")), "{list}");
    for file in ["weights/imagenet-labels.txt", "weights/LICENSE.md", "weights/SHA256SUMS", "LICENSE-MIT"] {
        assert!(files.contains(&file), "{file}");
    }
    let shaders =
        std::fs::read_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders")).unwrap();
    for shader in shaders {
        let name = format!("shaders/{}", shader.unwrap().file_name().to_string_lossy());
        assert!(files.contains(&name.as_str()), "{name}");
    }
}

/// Registries show README.md without the files of the checkout, so its pictures need full addresses as soon as the
/// package names its repository.
#[test]
fn pictures_of_readme_have_full_addresses_in_published_crate() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = env!("CARGO_PKG_REPOSITORY");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let pictures: Vec<&str> = readme
        .split("![")
        .skip(1)
        .map(|rest| rest.split_once("](").unwrap().1.split_once(')').unwrap().0)
        .collect();
    assert!(pictures.len() >= 5, "{pictures:?}");
    let start = if repository.is_empty() { String::new() } else { format!("{repository}/raw/main/") };
    for picture in pictures {
        let file = picture.strip_prefix(&start).map(|file| root.join(file));
        assert!(file.is_some_and(|file| file.is_file()), "{picture} should be {start}FILE");
    }
}

/// The files of the .deb are in the repository or made by tools/package.
#[test]
fn debian_package_assets_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let script = std::fs::read_to_string(root.join("tools/package")).unwrap();
    let assets = manifest.split_once("assets = [").unwrap().1.split_once("\n]").unwrap().0;
    let sources: Vec<&str> = assets.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert!(sources.len() >= 8, "{sources:?}");
    for source in sources {
        match source.strip_prefix("target/package/share/") {
            Some(made) => {
                let name = made.strip_suffix("/*.1").unwrap_or(made);
                assert!(script.contains(&format!("$out/share/{name}")), "{source}");
            }
            None => assert!(source == "target/release/mirage" || root.join(source).is_file(), "{source}"),
        }
    }
}
