//! Draws lines of text on a picture, in Noto Sans Mono.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, RasterizedChar, get_raster, get_raster_width};

use crate::image_io::Picture;

/// Drawn for characters that the font doesn't have.
const REPLACEMENT: char = '\u{fffd}';

/// End of a shortened text.
const ELLIPSIS: &str = "...";

/// Size and weight of a monospaced font.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Font {
    size: RasterHeight,
    weight: FontWeight,
}

impl Font {
    pub(super) fn regular(size: RasterHeight) -> Self {
        Self { size, weight: FontWeight::Regular }
    }

    pub(super) fn bold(size: RasterHeight) -> Self {
        Self { size, weight: FontWeight::Bold }
    }

    /// Width of a letter in pixels.
    pub(super) fn advance(self) -> usize {
        get_raster_width(self.weight, self.size)
    }

    /// Height of a line in pixels.
    pub(super) fn line(self) -> usize {
        self.size.val() + self.size.val() / 8
    }

    /// Width of a text line in pixels.
    pub(super) fn width(self, line: &str) -> usize {
        line.chars().count() * self.advance()
    }

    fn glyph(self, letter: char) -> Option<RasterizedChar> {
        get_raster(letter, self.weight, self.size).or_else(|| get_raster(REPLACEMENT, self.weight, self.size))
    }

    /// Wraps a text to at most `most` lines of up to `width` pixels; a longer text is shortened with three dots.
    pub(super) fn wrap(self, text: &str, width: usize, most: usize) -> Vec<String> {
        let room = width / self.advance();
        if room == 0 || most == 0 {
            return Vec::new();
        }
        let mut lines: Vec<String> = Vec::new();
        for paragraph in plain(text).split('\n').map(str::trim).filter(|p| !p.is_empty()) {
            wrap_paragraph(paragraph, room, &mut lines);
        }
        if lines.len() > most {
            lines.truncate(most);
            if let Some(last) = lines.last_mut() {
                let keep = room.saturating_sub(ELLIPSIS.len());
                let kept: String = last.chars().take(keep).collect();
                *last = kept.trim_end().chars().chain(ELLIPSIS.chars()).take(room).collect();
            }
        }
        lines
    }

    /// Draws a line with its top left corner at (`left`, `top`), clipped to the picture.
    pub(super) fn draw(self, picture: &mut Picture, (left, top): (usize, usize), line: &str, ink: f32) {
        for (index, glyph) in line.chars().enumerate().filter_map(|(i, c)| Some((i, self.glyph(c)?))) {
            for (row, y) in glyph.rows().zip(top..picture.height) {
                for (coverage, x) in row.iter().zip(left + index * self.advance()..picture.width) {
                    let share = f32::from(*coverage) / 255.0;
                    let at = (y * picture.width + x) * 3;
                    for value in &mut picture.rgb[at..at + 3] {
                        *value += (ink - *value) * share;
                    }
                }
            }
        }
    }
}

/// Replaces typographic characters that the font lacks by ASCII, and white space other than line breaks by spaces.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => out.push('\n'),
            '\r' | '\u{ad}' | '\u{200b}' | '\u{feff}' => {}
            c if c.is_whitespace() => out.push(' '),
            '\u{2010}'..='\u{2015}' | '\u{2212}' => out.push('-'),
            '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{2032}' => out.push('\''),
            '\u{201c}'..='\u{201e}' | '\u{2033}' => out.push('"'),
            '\u{2022}' => out.push('\u{b7}'),
            '\u{2026}' => out.push_str("..."),
            '\u{2190}' => out.push_str("<-"),
            '\u{2192}' => out.push_str("->"),
            other => out.push(other),
        }
    }
    out
}

/// Wraps a paragraph to lines of up to `room` letters: at spaces, else after separators, else anywhere.
fn wrap_paragraph(paragraph: &str, room: usize, lines: &mut Vec<String>) {
    let mut line = String::new();
    let mut length = 0;
    for word in paragraph.split(' ').filter(|word| !word.is_empty()) {
        let letters = word.chars().count();
        if length > 0 && length + 1 + letters > room {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        let mut rest: Vec<char> = word.chars().collect();
        while length + rest.len() > room {
            // Only at the start of a line, for a word that is longer than a line.
            let sign = rest[..room].iter().rposition(|c| ",;/|&_-".contains(*c)).map(|at| at + 1);
            let tail = rest.split_off(sign.unwrap_or(room));
            lines.push(rest.into_iter().collect());
            rest = tail;
        }
        length += rest.len();
        line.extend(rest);
    }
    if length > 0 {
        lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FONT: Font = Font { size: RasterHeight::Size16, weight: FontWeight::Regular };

    fn wrap(text: &str, letters: usize, most: usize) -> Vec<String> {
        FONT.wrap(text, letters * FONT.advance() + FONT.advance() - 1, most)
    }

    #[test]
    fn lines_break_at_spaces_and_punctuation() {
        assert_eq!(wrap("spatial=5 abstract=10", 12, 9), ["spatial=5", "abstract=10"]);
        assert_eq!(wrap("a b c", 5, 9), ["a b c"]);
        assert_eq!(wrap("a b c", 4, 9), ["a b", "c"]);
        assert_eq!(wrap("one,two,three", 8, 9), ["one,two,", "three"]);
        assert_eq!(wrap("abcdefghij", 4, 9), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("x abcdefghij y", 4, 9), ["x", "abcd", "efgh", "ij y"]);
        assert_eq!(wrap("  a\n\n b\t\u{a0}c  ", 9, 9), ["a", "b c"]);
        assert_eq!(wrap("", 9, 9), [""; 0]);
        assert_eq!(wrap(" \n ", 9, 9), [""; 0]);
        assert_eq!(wrap("abc", 0, 9), [""; 0]);
    }

    #[test]
    fn truncated_texts_end_in_dots() {
        assert_eq!(wrap("one two three four", 9, 1), ["one tw..."]);
        assert_eq!(wrap("one two three four", 9, 2), ["one two", "three..."]);
        assert_eq!(wrap("abcdefghij", 4, 2), ["abcd", "e..."]);
        assert_eq!(wrap("abcdefghij", 2, 1), [".."]);
        assert_eq!(wrap("a b", 1, 1), ["."]);
        assert_eq!(wrap("a b", 1, 2), ["a", "b"]);
        assert_eq!(wrap("one two", 7, 1), ["one two"]);
    }

    #[test]
    fn lines_fit_their_width_and_keep_all_letters() {
        let text =
            "Straße -- a_long/path,with;signs & ünïcödé “quotes” … 日本語 neural-mirage:options=00000000000";
        for letters in 1..60 {
            let lines = wrap(text, letters, usize::MAX);
            assert!(
                lines.iter().all(|l| l.chars().count() <= letters && !l.is_empty()),
                "{letters}: {lines:?}"
            );
            let joined = lines.concat().replace(' ', "");
            assert_eq!(joined, plain(text).replace(' ', ""), "{letters}");
        }
    }

    #[test]
    fn latin_1_letters_are_drawn_and_others_replaced() {
        let draw = |letter: char| {
            let mut picture = Picture { width: 20, height: 20, rgb: vec![1.0; 1200] };
            FONT.draw(&mut picture, (3, 2), &letter.to_string(), 0.0);
            picture.rgb
        };
        let replacement = draw(REPLACEMENT);
        assert!(replacement.iter().any(|v| *v < 0.5));
        for letter in ('!'..='~').chain('¡'..='ÿ').filter(|c| *c != '\u{ad}').chain("Łőžš".chars()) {
            let ink = draw(letter);
            assert!(ink.iter().any(|v| *v < 0.6), "{letter:?}");
            assert_ne!(ink, replacement, "{letter:?}");
        }
        for letter in ['日', '\u{1f600}', '\u{0}', '\u{85}'] {
            assert_eq!(draw(letter), replacement, "{letter:?}");
        }
        // Drawing over the edge is not an error.
        let mut picture = Picture { width: 5, height: 5, rgb: vec![1.0; 75] };
        FONT.draw(&mut picture, (3, 2), "WWW", 0.0);
        FONT.draw(&mut picture, (30, 20), "WWW", 0.0);
    }
}
