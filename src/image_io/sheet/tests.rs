//! Checks the rectangles of layouts: nothing overlaps, whatever the texts. tests/pictures/sheet.rs checks pixels.

use super::*;

fn sheet(columns: usize, rows: usize, (width, height): (usize, usize), text: &str) -> Sheet {
    let picture = Picture { width, height, rgb: vec![0.5; width * height * 3] };
    let cell =
        |i: usize| (i % 5 != 3).then(|| Cell { picture: picture.clone(), caption: text.repeat(1 + i % 3) });
    Sheet {
        title: text.to_owned(),
        footer: text.repeat(4),
        columns: (0..columns).map(|i| text.repeat(i % 4)).collect(),
        rows: (0..rows).map(|i| text.repeat((i + 1) % 4)).collect(),
        cells: (0..columns * rows).map(cell).collect(),
    }
}

fn overlap(a: Rect, b: Rect) -> bool {
    a.left < b.left + b.width
        && b.left < a.left + a.width
        && a.top < b.top + b.height
        && b.top < a.top + a.height
}

#[test]
fn nothing_overlaps_or_leaves_the_sheet() {
    let long = "an-endlessly_long/word;that,nobody|wants&to_read ".repeat(12);
    for text in
        ["", "a", "spatial=5", "two words", "Größe 日本語 …", "ünbreakable".repeat(40).as_str(), &long]
    {
        for (columns, rows) in [(1, 1), (3, 2), (1, 7), (12, 7)] {
            for size in [(1, 1), (160, 120), (120, 160), (7, 300), (300, 7), (512, 20), (900, 30)] {
                let sheet = sheet(columns, rows, size, text);
                let layout = Layout::of(&sheet).unwrap();
                let context =
                    format!("{columns}x{rows} of {size:?}, {:?}", text.chars().take(12).collect::<String>());
                for (index, item) in layout.items.iter().enumerate() {
                    let rect = item.rect;
                    assert!(rect.left + rect.width <= layout.width, "{context}: {item:?}");
                    assert!(rect.top + rect.height <= layout.height, "{context}: {item:?}");
                    if let Content::Missing { text, font } = &item.content {
                        assert!(font.width(text) < rect.width && font.line() <= rect.height, "{context}");
                    }
                    for other in &layout.items[..index] {
                        assert!(!overlap(rect, other.rect), "{context}: {item:?} and {other:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn row_heading_column_has_bounded_width() {
    let width = |text: &str| {
        let mut sheet = sheet(2, 2, (160, 120), "");
        sheet.rows = vec![text.to_owned(), "b".to_owned()];
        Layout::of(&sheet).unwrap().width
    };
    let advance = Font::bold(RasterHeight::Size16).advance();
    assert_eq!(width("0123456789") - width("01234"), 5 * advance);
    assert_eq!(width(&"x".repeat(500)), width(&"x".repeat(ROW_HEADING)));
    // No headings, no column.
    let mut bare = sheet(2, 2, (160, 120), "");
    let without = Layout::of(&bare).unwrap().width;
    bare.rows[0] = "x".to_owned();
    assert_eq!(Layout::of(&bare).unwrap().width - without, advance + 16);
}
