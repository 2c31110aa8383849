//! Contact sheets, checked by their pixels.

use super::support::worst;
use neural_mirage::Error;
use neural_mirage::image_io::{Cell, Picture, Sheet, WriteOptions, read, write};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Creates a noise picture; the paper is lighter than all its values.
fn noise(seed: u64, (width, height): (usize, usize)) -> Picture {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let rgb = (0..width * height * 3).map(|_| random.random_range(-0.2f32..0.9)).collect();
    Picture::new(width, height, rgb).unwrap()
}

fn sheet(columns: usize, rows: usize, size: (usize, usize)) -> Sheet {
    Sheet {
        title: "A title".to_owned(),
        footer: "A footer".to_owned(),
        columns: (0..columns).map(|i| format!("spatial={i}")).collect(),
        rows: (0..rows).map(|i| format!("iterations={i}")).collect(),
        cells: (0..columns * rows)
            .map(|i| Some(Cell { picture: noise(i as u64, size), caption: format!("loss {i}") }))
            .collect(),
    }
}

/// Finds the position of a picture within another, comparing all values.
fn find(whole: &Picture, part: &Picture) -> Option<(usize, usize)> {
    let row = |picture: &Picture, x: usize, y: usize| {
        let at = (y * picture.width + x) * 3;
        at..at + part.width * 3
    };
    for y in 0..=whole.height.checked_sub(part.height)? {
        for x in 0..=whole.width.checked_sub(part.width)? {
            if (0..part.height).all(|v| whole.rgb[row(whole, x, y + v)] == part.rgb[row(part, 0, v)]) {
                return Some((x, y));
            }
        }
    }
    None
}

/// Returns the positions of all cells' pictures, row by row.
fn places(sheet: &Sheet, composed: &Picture) -> Vec<Option<(usize, usize)>> {
    let place = |cell: &Option<Cell>| {
        cell.as_ref().map(|cell| find(composed, &cell.picture).expect("a picture isn't in the sheet"))
    };
    sheet.cells.iter().map(place).collect()
}

/// Returns the darkest value in a rectangle.
fn darkest(picture: &Picture, (left, top): (usize, usize), (width, height): (usize, usize)) -> f32 {
    let mut least = f32::INFINITY;
    for y in top..top + height {
        let at = (y * picture.width + left) * 3;
        least = picture.rgb[at..at + width * 3].iter().fold(least, |a, b| a.min(*b));
    }
    least
}

const BLANK: f32 = 0.97;

#[test]
fn cells_are_placed_in_rows_and_columns() {
    for (columns, rows, size) in [(1, 1, (160, 120)), (3, 2, (161, 97)), (12, 7, (23, 31)), (2, 3, (250, 40))]
    {
        let sheet = sheet(columns, rows, size);
        let composed = sheet.compose().unwrap();
        let places: Vec<_> = places(&sheet, &composed).into_iter().map(Option::unwrap).collect();
        for (i, (x, y)) in places.iter().enumerate() {
            let (column, row) = (i % columns, i / columns);
            assert_eq!(*x, places[column].0, "columns are not straight");
            assert_eq!(*y, places[row * columns].1, "rows are not straight");
            if column > 0 {
                let step = x - places[i - 1].0;
                assert!(step >= size.0 + 8, "cells touch");
                assert_eq!(step, places[1].0 - places[0].0, "columns are not evenly spaced");
            }
            if row > 0 {
                assert!(y - places[i - columns].1 >= size.1 + 8);
            }
            // The caption is below.
            assert!(darkest(&composed, (*x, y + size.1 + 1), (size.0, 20)) < 0.6, "no caption");
        }
        // A heading above the first picture, one left of it, the title above, and empty margins.
        let (x, y) = places[0];
        assert!(darkest(&composed, (x, y - 24), (size.0, 20)) < 0.4);
        assert!(darkest(&composed, (x - 60, y), (50, size.1)) < 0.4);
        assert!(darkest(&composed, (20, 20), (composed.width - 40, y - 20)) < 0.4);
        for (place, extent) in [
            ((0, 0), (composed.width, 24)),
            ((0, composed.height - 24), (composed.width, 24)),
            ((0, 0), (24, composed.height)),
            ((composed.width - 24, 0), (24, composed.height)),
        ] {
            assert!(darkest(&composed, place, extent) > BLANK, "the margin is not empty");
        }
    }
}

#[test]
fn missing_cells_keep_their_place() {
    let full = sheet(3, 3, (160, 120));
    let whole = full.compose().unwrap();
    let mut partial = full.clone();
    for index in [0, 4, 7] {
        partial.cells[index] = None;
    }
    let composed = partial.compose().unwrap();
    assert_eq!((composed.width, composed.height), (whole.width, whole.height));
    for (index, (was, now)) in places(&full, &whole).into_iter().zip(places(&partial, &composed)).enumerate()
    {
        if let Some(now) = now {
            assert_eq!(was, Some(now));
            continue;
        }
        assert!([0, 4, 7].contains(&index));
        let (x, y) = was.unwrap();
        // A border, text in the middle, nothing dark elsewhere, and no caption.
        assert!(darkest(&composed, (x, y), (160, 1)) < 0.9);
        assert!(darkest(&composed, (x + 50, y + 50), (60, 20)) < 0.7);
        assert!(darkest(&composed, (x + 2, y + 2), (156, 40)) > 0.9);
        assert!(darkest(&composed, (x, y + 121), (160, 20)) > BLANK);
    }
    // A sheet without any finished cell.
    let mut none = full;
    none.cells.fill(None);
    let composed = none.compose().unwrap();
    assert!(composed.width > 3 * 160 && composed.height > 3 * 120);
}

#[test]
fn long_texts_do_not_overlap_pictures() {
    let mut sheet = sheet(3, 2, (60, 45));
    let long = "a very long text, with_long/words-without;any|spaces&in:them ".repeat(30);
    sheet.title.clone_from(&long);
    sheet.footer.clone_from(&long);
    sheet.columns.fill(long.clone());
    sheet.rows.fill("x".repeat(1000));
    sheet.cells.iter_mut().flatten().for_each(|cell| cell.caption.clone_from(&long));
    let composed = sheet.compose().unwrap();
    // All pictures are found, so nothing covers them, and the sheet has a reasonable size.
    assert_eq!(places(&sheet, &composed).len(), 6);
    assert!(composed.width < 800 && composed.height < 800, "{}x{}", composed.width, composed.height);
}

#[test]
fn empty_texts_take_no_space() {
    let sheet = Sheet {
        columns: vec![String::new(); 2],
        rows: vec![String::new()],
        cells: (0..2).map(|i| Some(Cell { picture: noise(i, (160, 120)), caption: String::new() })).collect(),
        ..Sheet::default()
    };
    let composed = sheet.compose().unwrap();
    assert_eq!((composed.width, composed.height), (2 * 160 + 16 + 2 * 32, 120 + 2 * 32));
    assert_eq!(places(&sheet, &composed), [Some((32, 32)), Some((208, 32))]);
}

#[test]
fn single_pixel_sheet_is_composed() {
    let sheet = sheet(1, 1, (1, 1));
    let composed = sheet.compose().unwrap();
    assert!(find(&composed, &sheet.cells[0].as_ref().unwrap().picture).is_some());
    assert!(darkest(&composed, (0, 0), (composed.width, composed.height)) < 0.4);
}

#[test]
fn non_ascii_letters_are_drawn() {
    let heading = |text: &str| {
        let mut sheet = sheet(1, 1, (160, 120));
        sheet.columns = vec![text.to_owned()];
        sheet.compose().unwrap()
    };
    let pictures: Vec<Picture> =
        ["Tubingen", "Tübingen", "Tùbingen", "T日bingen"].iter().map(|text| heading(text)).collect();
    for (i, a) in pictures.iter().enumerate() {
        for b in &pictures[..i] {
            assert_eq!((a.width, a.height), (b.width, b.height));
            assert_ne!(a, b);
        }
    }
    assert_eq!(heading("日"), heading("本"), "both are replaced");
    assert_eq!(heading("a – “b” …"), heading("a - \"b\" ..."));
    assert_eq!(heading("a\u{a0}\t b"), heading("a b"));
}

#[test]
fn sheet_is_written_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sheet.png");
    let composed = sheet(2, 2, (40, 30)).compose().unwrap();
    write(&path, &composed, &WriteOptions::default()).unwrap();
    let back = read(&path).unwrap().picture;
    assert_eq!((back.width, back.height), (composed.width, composed.height));
    let shown: Vec<f32> = composed.rgb.iter().map(|value| value.clamp(0.0, 1.0)).collect();
    // Half a level plus rounding.
    assert!(worst(&back.rgb, &shown) <= 0.5 / 255.0 + 1e-6);
}

#[test]
fn invalid_sheets_are_refused() {
    let refusal = |sheet: &Sheet| {
        let error = sheet.compose().unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        error.to_string()
    };
    assert!(refusal(&Sheet::default()).contains("0 columns and 0 rows has no cells"));

    let mut fewer = sheet(2, 2, (8, 8));
    fewer.cells.pop();
    assert!(refusal(&fewer).contains("needs 4 cells but has 3"));

    let mut uneven = sheet(2, 2, (8, 8));
    uneven.cells[0] = None;
    uneven.cells[3] = Some(Cell { picture: noise(0, (8, 9)), caption: String::new() });
    let text = refusal(&uneven);
    assert!(text.contains("8x8 pixels in row 1, column 2, but 8x9 in row 2, column 2"), "{text}");

    let mut malformed = sheet(1, 1, (8, 8));
    malformed.cells[0].as_mut().unwrap().picture.rgb.pop();
    assert!(refusal(&malformed).contains("needs 192 values"));

    // Longer than the maximum side, with missing cells so that the test needs little memory.
    let mut wide = sheet(1, 1, (1000, 10));
    wide.columns = vec![String::new(); 40];
    wide.cells.resize(40, None);
    let text = refusal(&wide);
    assert!(text.contains("40 columns and 1 rows of 1000x10") && text.contains("fewer columns"), "{text}");

    let mut tall = sheet(1, 1, (10, 1000));
    tall.rows = vec![String::new(); 40];
    tall.cells.resize(40, None);
    assert!(refusal(&tall).contains("fewer rows"));

    let mut large = sheet(1, 1, (1000, 1000));
    large.columns = vec![String::new(); 20];
    large.rows = vec![String::new(); 20];
    large.cells.resize(400, None);
    assert!(refusal(&large).contains("Make the pictures smaller"));
    large.columns.truncate(1);
    large.rows.truncate(1);
    large.cells.truncate(1);
    assert!(large.compose().is_ok());
}
