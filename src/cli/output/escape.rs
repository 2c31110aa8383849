//! Text for terminals, shells and records.
//!
//! All text passes [`escaped`] where it is written to stdout or stderr. Names inside a line pass [`one_line`] or
//! [`shown`] first, so that they can't start a new line. Paths that are not valid Unicode are encoded reversibly.

use crate::escape::{escape, is_control};
pub(in crate::cli) use crate::escape::{one_line, shown};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Prefix of an encoded path; see [`path_text`].
const BYTES: &str = "bytes:";

/// True if a text has a control character, line breaks included.
pub(in crate::cli) fn has_control(text: &str) -> bool {
    text.chars().any(is_control)
}

/// Escapes control characters, except line breaks and tabs, as `\u001b`. That is JSON's form, so a line of JSON keeps
/// its meaning.
pub(in crate::cli) fn escaped(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_control(c) && c != '\n' && c != '\t')
}

/// Returns the text, or its beginning if it has more than `most` characters.
pub(in crate::cli) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
    }
}

/// Returns the text. If it has more than `most` characters, returns its beginning and its end, where a message says
/// what to do.
pub(in crate::cli) fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    let count = text.chars().count();
    if count <= most {
        return text.into();
    }
    let last = most / 4;
    let beginning: String = text.chars().take(most - last).collect();
    let end: String = text.chars().skip(count - last).collect();
    format!("{beginning}… ({} characters left out) …{end}", count - most).into()
}

/// Quotes a path or word for a shell.
pub(in crate::cli) fn quoted(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    // A leading dash would make it an option; zsh expands a leading `=`.
    let dashed = path.as_os_str().as_encoded_bytes().starts_with(b"-");
    let path = if dashed { Path::new(".").join(path) } else { path.to_owned() };
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./+:@%,=".contains(c);
    if has_control(&text) || path.to_str().is_none() {
        let mut word = String::from("$'");
        for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' | '\'' => word += &format!("\\{c}"),
                    c if is_control(c) => push_hex(&mut word, "\\x", c.encode_utf8(&mut [0; 4]).as_bytes()),
                    c => word.push(c),
                }
            }
            push_hex(&mut word, "\\x", chunk.invalid());
        }
        word + "'"
    } else if !text.is_empty() && !text.starts_with('=') && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Adds each byte as `mark` and two hexadecimal digits.
fn push_hex(text: &mut String, mark: &str, bytes: &[u8]) {
    bytes.iter().for_each(|byte| *text += &format!("{mark}{byte:02x}"));
}

/// Encodes a path as text. [`path_of_text`] restores it, byte for byte, on the same kind of system. The text is the
/// path itself or, if that is not Unicode or has control characters, `bytes:` and the path with such bytes as `%ff`.
pub(in crate::cli) fn path_text(path: &Path) -> String {
    if let Some(text) = path.to_str()
        && !has_control(text)
        && !text.starts_with(BYTES)
    {
        return text.to_owned();
    }
    let mut text = BYTES.to_owned();
    for chunk in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_control(c) || c == '%' {
                push_hex(&mut text, "%", c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        push_hex(&mut text, "%", chunk.invalid());
    }
    text
}

/// Decodes a path encoded by [`path_text`]. On systems where paths are not bytes, returns the nearest path.
pub(in crate::cli) fn path_of_text(text: &str) -> PathBuf {
    let Some(escaped) = text.strip_prefix(BYTES) else { return PathBuf::from(text) };
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                bytes.push((digit(*high).unwrap_or_default() << 4) | digit(*low).unwrap_or_default());
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    path_of_bytes(bytes)
}

#[cfg(unix)]
fn path_of_bytes(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(not(unix))]
fn path_of_bytes(bytes: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escaped("a\u{1b}[31mb\r\n\tc"), "a\\u001b[31mb\\u000d\n\tc");
        assert!(matches!(escaped("plain ü 漢 \\ text"), Cow::Borrowed(_)));
    }

    #[test]
    fn long_messages_keep_beginning_and_end() {
        assert!(matches!(shortened("äöü", 3), Cow::Borrowed("äöü")));
        let text = "photo.png: ".to_owned() + &"ä".repeat(100) + ". Restore it";
        let short = shortened(&text, 48);
        assert_eq!(short, format!("photo.png: {}… (75 characters left out) …. Restore it", "ä".repeat(25)));
    }

    #[test]
    fn escaped_json_parses_to_the_same_value() {
        let value = serde_json::json!({ "name": "a\u{1b}[0m\u{9b}\u{202e}\u{e0041}\n" });
        let line = value.to_string();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped(&line)).unwrap(), value);
    }

    #[test]
    fn plain_paths_are_unchanged() {
        for path in ["/home/me/photo ü 漢.png", "a%20b.png", "C:\\x", "", "bytes"] {
            assert_eq!(path_text(Path::new(path)), path);
            assert_eq!(path_of_text(path), Path::new(path));
        }
        // Incomplete escapes.
        assert_eq!(path_of_text("bytes:100%.png"), Path::new("100%.png"));
        assert_eq!(path_of_text("bytes:%4"), Path::new("%4"));
    }

    #[cfg(unix)]
    #[test]
    fn other_paths_round_trip() {
        use std::os::unix::ffi::OsStrExt as _;
        let all: Vec<u8> = (1..=255).collect();
        for bytes in [
            b"ph\xffoto.png".as_slice(),
            b"\xff",
            b"a\nb",
            b"bytes:x",
            b"bytes:%41\xe2\x80",
            b"50%\x1b[31m",
            &all,
        ] {
            let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
            let text = path_text(path);
            assert!(text.starts_with(BYTES) && !has_control(&text), "{text}");
            assert_eq!(path_of_text(&text), path, "{text}");
        }
        assert_eq!(
            path_text(Path::new(std::ffi::OsStr::from_bytes(b"ph\xffoto%.png"))),
            "bytes:ph%ffoto%25.png"
        );
    }

    /// Checks that a real shell reads each quoted word as the word.
    #[cfg(unix)]
    #[test]
    fn quoted_words_survive_a_shell() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        for word in [
            b"plain.png".as_slice(),
            b"two words",
            b"$(touch x)",
            b"`touch x`",
            b"it's",
            b"a;b&c|d>e",
            b"~",
            b"=ls",
            b"a\nb",
            b"\x1b[31m'\\",
            b"*?[a]{b,c}",
            b"!!",
            b"#",
            b"",
            b"-rf",
            b"ph\xffo'to\\.png",
            b"\xfff.png",
        ] {
            let line = format!("printf %s {}", quoted(OsStr::from_bytes(word)));
            let Ok(output) = std::process::Command::new("bash").args(["-c", &line]).output() else { return };
            let expected = if word.starts_with(b"-") { [b"./", word].concat() } else { word.to_vec() };
            assert_eq!(output.stdout, expected, "{line}");
        }
    }
}
