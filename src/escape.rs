//! Makes untrusted text safe to print: names of files, tensors, classes and devices, and the content of records.
//!
//! Control characters are escaped, so no text can control a terminal, reorder the text around it or start a new line.

use std::borrow::Cow;
use std::path::Path;

/// True for characters that control a terminal or reorder the text around them, and for unusual line breaks.
pub(crate) fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Escapes each control character, including line breaks and tabs, in the form `\u001b`.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, is_control)
}

/// Formats a path for messages, in one line.
pub(crate) fn shown(path: &(impl AsRef<Path> + ?Sized)) -> String {
    one_line(&path.as_ref().to_string_lossy()).into_owned()
}

/// Escapes the characters for which `is_escaped` is true, in JSON's form `\u001b`.
pub(crate) fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_escaped(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped += &format!("\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("a\nb\u{7f}\u{9b}\u{202e}"), "a\\u000ab\\u007f\\u009b\\u202e");
        assert_eq!(one_line("tag \u{e0041}"), "tag \\udb40\\udc41");
        assert!(matches!(one_line("plain ü 漢 \\ text"), Cow::Borrowed(_)));
        for c in (0..=0x9f).chain(0x200e..=0x2069).chain(0xe0000..0xe0080).filter_map(char::from_u32) {
            let text = one_line(&format!("<{c}>")).into_owned();
            assert!(!text.chars().any(is_control), "{text:?}");
        }
    }
}
