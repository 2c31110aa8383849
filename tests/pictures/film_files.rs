//! Files of films: creation, replacement, and refused options.

use super::film::{ENDINGS, SIZES, film, gradient, noise, play};
use super::support::{folder, listing};
use neural_mirage::Error;
use neural_mirage::Overwrite;
use neural_mirage::image_io::{Film, FilmOptions, MAX_FRAME_MILLISECONDS, WriteOptions, check_film, write};
use std::fs;
use std::path::Path;

#[test]
fn dropped_film_leaves_no_file() {
    for ending in ENDINGS {
        let dir = folder();
        let path = dir.path().join(format!("a.{ending}"));
        fs::write(&path, b"what was there").unwrap();
        let mut film =
            Film::create(&path, FilmOptions { overwrite: Overwrite::Always, ..FilmOptions::default() })
                .unwrap();
        film.frame(&noise(0, SIZES[1]), 50).unwrap();
        drop(film);
        assert_eq!(listing(dir.path()), [format!("a.{ending}")]);
        assert_eq!(fs::read(&path).unwrap(), b"what was there");
    }
}

/// The process ends without cleaning up, as with `kill -9`.
#[test]
#[cfg(target_os = "linux")]
fn aborted_process_leaves_no_file() {
    const WHERE: &str = "NEURAL_MIRAGE_TEST_FILM";
    if let Some(path) = std::env::var_os(WHERE) {
        let mut film = film(Path::new(&path));
        film.frame(&noise(0, SIZES[1]), 50).unwrap();
        film.frame(&noise(1, SIZES[1]), 50).unwrap();
        std::process::abort();
    }
    for ending in ENDINGS {
        let dir = folder();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "film_files::aborted_process_leaves_no_file"])
            .env(WHERE, dir.path().join(format!("a.{ending}")))
            .output()
            .unwrap()
            .status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{status}");
        assert_eq!(listing(dir.path()), [""; 0], "{ending}");
    }
}

#[test]
fn existing_film_is_kept_without_overwrite() {
    for ending in ENDINGS {
        let dir = folder();
        let path = dir.path().join(format!("a.{ending}"));
        fs::write(&path, b"precious").unwrap();
        for error in
            [check_film(&path, false).unwrap_err(), Film::create(&path, FilmOptions::default()).unwrap_err()]
        {
            assert!(error.to_string().contains("exists already"), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        check_film(&path, true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let mut film =
            Film::create(&path, FilmOptions { overwrite: Overwrite::Always, ..FilmOptions::default() })
                .unwrap();
        film.frame(&noise(0, (3, 2)), 50).unwrap();
        film.finish(vec![]).unwrap();
        assert_eq!(play(&path).0.len(), 1);
        assert_eq!(listing(dir.path()), [format!("a.{ending}")]);
    }
}

#[test]
fn file_created_meanwhile_is_kept() {
    let dir = folder();
    let path = dir.path().join("a.webp");
    let mut film = film(&path);
    film.frame(&noise(0, (3, 2)), 50).unwrap();
    fs::write(&path, b"came meanwhile").unwrap();
    let error = film.finish(vec![]).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"came meanwhile");
    assert_eq!(listing(dir.path()), ["a.webp"]);
}

#[test]
#[cfg(unix)]
fn films_have_default_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder();
    let (path, other) = (dir.path().join("a.apng"), dir.path().join("b.png"));
    let mut film = film(&path);
    film.frame(&noise(0, (3, 2)), 50).unwrap();
    film.finish(vec![]).unwrap();
    write(&other, &noise(0, (3, 2)), &WriteOptions::default()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&other));
}

#[test]
fn invalid_film_names_are_refused() {
    let dir = folder();
    for (name, part) in [
        ("a.png", "End the name in .apng"),
        ("a.mp4", "films can't be written as .mp4. End the name in .webp"),
        ("a", "no extension"),
        ("none/a.gif", "doesn't exist"),
        ("file/a.gif", "is a file, not a folder"),
        ("", "it is a folder"),
    ] {
        fs::write(dir.path().join("file"), b"").unwrap();
        let path = dir.path().join(name);
        for error in
            [check_film(&path, false).unwrap_err(), Film::create(&path, FilmOptions::default()).unwrap_err()]
        {
            assert!(matches!(error, Error::File { .. }), "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(listing(dir.path()), ["file"]);
    }
    for good in ["a.webp", "a.GIF", "a.aPng"] {
        check_film(&dir.path().join(good), false).unwrap();
    }
    assert_eq!(listing(dir.path()), ["file"]);
}

#[test]
#[cfg(target_os = "linux")]
fn unwritable_folder_is_refused() {
    // Not even root can create files here.
    let path = Path::new("/proc/self/film.webp");
    for error in
        [check_film(path, false).unwrap_err(), Film::create(path, FilmOptions::default()).unwrap_err()]
    {
        assert!(matches!(error, Error::File { .. }), "{error}");
        assert!(error.to_string().contains("no file can be created in its folder"), "{error}");
    }
}

#[test]
fn invalid_frames_leave_the_film_unchanged() {
    for ending in ENDINGS {
        let dir = folder();
        let path = dir.path().join(format!("a.{ending}"));
        let mut film = film(&path);
        film.frame(&gradient(0, (12, 9)), 50).unwrap();

        let error = film.frame(&gradient(1, (9, 12)), 50).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        assert!(error.to_string().contains("9x12 pixels, but the film has 12x9"), "{error}");

        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bad = gradient(1, (12, 9));
            bad.rgb[3 * 12 * 4 + 5] = value;
            let error = film.frame(&bad, 50).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert!(
                error.to_string().contains("1 values that are NaN or infinite, the first at 1,4"),
                "{error}"
            );
        }
        for time in [0, MAX_FRAME_MILLISECONDS + 1, u32::MAX] {
            let error = film.frame(&gradient(1, (12, 9)), time).unwrap_err();
            assert!(error.to_string().contains("out of range"), "{error}");
        }
        let mut malformed = gradient(1, (12, 9));
        malformed.rgb.pop();
        assert!(matches!(film.frame(&malformed, 50), Err(Error::Usage(_))));

        assert_eq!(film.frames(), 1);
        film.frame(&gradient(5, (12, 9)), 50).unwrap();
        film.finish(vec![]).unwrap();
        assert_eq!(play(&path).0.len(), 2, "{ending}");
    }
}

#[test]
fn invalid_options_and_finishes_are_refused() {
    let dir = folder();
    let path = dir.path().join("a.webp");
    for options in [
        FilmOptions { webp_quality: 0, ..FilmOptions::default() },
        FilmOptions { webp_quality: 101, ..FilmOptions::default() },
        FilmOptions { hold_last: MAX_FRAME_MILLISECONDS + 1, ..FilmOptions::default() },
    ] {
        assert!(matches!(Film::create(&path, options), Err(Error::Usage(_))));
    }
    let error = film(&path).finish(vec![]).unwrap_err();
    assert!(error.to_string().contains("no frame"), "{error}");

    let mut long = film(&path);
    let error = long.frame(&gradient(0, (16_384, 1)), 50).unwrap_err();
    assert!(error.to_string().contains("too many for WebP"), "{error}");
    long.frame(&gradient(0, (16_383, 1)), 50).unwrap();
    let error = long.finish(vec![(" bad".to_owned(), String::new())]).unwrap_err();
    assert!(matches!(error, Error::Usage(_)), "{error}");
    assert!(listing(dir.path()).is_empty());
}
