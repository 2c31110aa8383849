//! Escapes untrusted text for terminals and shells: records, file names, labels, names of devices and tensors.
//!
//! All text passes [`escaped`] where it is written to stdout or stderr; values inside a line pass [`one_line`] first,
//! so that they can't start a new line.

use std::borrow::Cow;
use std::path::Path;

/// True for characters that control a terminal or reorder the text around them, and for unusual line breaks.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// True if a text has a control character, line breaks included.
pub(super) fn has_control(text: &str) -> bool {
    text.chars().any(is_control)
}

/// The text with each control character but line breaks and tabs as `\u001b`: JSON's form, so that a line of JSON
/// keeps its meaning.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_control(c) && c != '\n' && c != '\t')
}

/// [`escaped`], line breaks and tabs included.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, is_control)
}

fn escape(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&is_escaped) {
        return Cow::Borrowed(text);
    }
    // All control characters are in the basic plane: four digits are enough.
    let one = |c: char| if is_escaped(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(text.chars().map(one).collect())
}

/// A path or word as a shell takes it.
pub(super) fn quoted(path: impl AsRef<Path>) -> String {
    let text = path.as_ref().display().to_string();
    // A leading dash would make it an option; zsh expands a leading `=`.
    let text = if text.starts_with('-') { format!("./{text}") } else { text };
    let plain = |c: char| c.is_alphanumeric() || "-_./+:@%,=".contains(c);
    if has_control(&text) {
        let one = |c: char| match c {
            '\\' | '\'' => format!("\\{c}"),
            c if is_control(c) => {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().map(|byte| format!("\\x{byte:02x}")).collect()
            }
            c => c.to_string(),
        };
        format!("$'{}'", text.chars().map(one).collect::<String>())
    } else if !text.is_empty() && !text.starts_with('=') && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_a_terminal() {
        assert_eq!(escaped("a\u{1b}[31mb\r\n\tc"), "a\\u001b[31mb\\u000d\n\tc");
        assert_eq!(one_line("a\nb\u{7f}\u{9b}\u{202e}"), "a\\u000ab\\u007f\\u009b\\u202e");
        assert!(matches!(escaped("plain ü 漢 \\ text"), Cow::Borrowed(_)));
        for c in (0..=0x9f).chain(0x200e..=0x2069).filter_map(char::from_u32) {
            let text = one_line(&format!("<{c}>")).into_owned();
            assert!(!has_control(&text), "{text:?}");
        }
    }

    #[test]
    fn a_line_of_json_keeps_its_meaning() {
        let value = serde_json::json!({ "name": "a\u{1b}[0m\u{9b}\u{202e}\n" });
        let line = value.to_string();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped(&line)).unwrap(), value);
    }

    /// A real shell reads each quoted word as the word.
    #[cfg(unix)]
    #[test]
    fn a_shell_takes_a_quoted_word_as_it_is() {
        for word in [
            "plain.png",
            "two words",
            "$(touch x)",
            "`touch x`",
            "it's",
            "a;b&c|d>e",
            "~",
            "=ls",
            "a\nb",
            "\u{1b}[31m'\\",
            "*?[a]{b,c}",
            "!!",
            "#",
            "",
            "-rf",
        ] {
            let line = format!("printf %s {}", quoted(word));
            let Ok(output) = std::process::Command::new("bash").args(["-c", &line]).output() else { return };
            let expected = if word.starts_with('-') { format!("./{word}") } else { word.to_owned() };
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{line}");
        }
    }
}
