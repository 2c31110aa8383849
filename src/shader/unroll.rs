//! Unrolls marked loops.
//!
//! A loop is marked by a line `// unroll` directly above it and has the form
//! `for (var i = 0u; i < LIMIT; i++) {`, where `LIMIT` is a number or the name of a
//! `const LIMIT: u32 = n;` of the file. Its body is repeated with `i` replaced by `0u`, `1u`, ...;
//! then marked loops inside it are unrolled. The marked file and its unrolled form are equivalent.

use super::bounds::LONGEST_TEXT;
use super::marks::{closing_brace, constants, evaluate, find_marker, first_line};
use std::collections::HashMap;

/// Returns the text with every marked loop unrolled.
///
/// # Errors
/// A message naming the line whose loop has another form or whose braces do not match, or saying that the unrolled text
/// is too long.
pub fn unroll(text: &str) -> Result<String, String> {
    let consts = constants(text);
    // Each loop writes its body, in which inner loops write theirs again.
    let mut left = 4 * LONGEST_TEXT;
    expand(text, &consts, &mut left)
}

fn expand(text: &str, consts: &HashMap<String, u32>, left: &mut usize) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(marker) = find_marker(rest, "// unroll") {
        let (before, from_marker) = rest.split_at(marker);
        out.push_str(before);
        let after_marker = from_marker.split_once('\n').map_or("", |(_, tail)| tail);
        let (header, after_header) = after_marker
            .split_once('{')
            .ok_or_else(|| format!("no loop after `// unroll` at: {}", first_line(after_marker)))?;
        let (name, limit) = parse_header(header, consts)
            .ok_or_else(|| format!("this loop can't be unrolled: {}", header.trim()))?;
        let end =
            closing_brace(after_header).ok_or_else(|| format!("no closing brace for: {}", header.trim()))?;
        let (body, tail) = after_header.split_at(end);
        if has_jump(body) {
            // It would apply to another loop once this one is unrolled.
            return Err(format!("`break` or `continue` inside: {}", header.trim()));
        }
        for step in 0..limit {
            *left = left.checked_sub(body.len() + 3).ok_or_else(|| {
                format!("unrolled, it has more than {} bytes: {}", 4 * LONGEST_TEXT, header.trim())
            })?;
            out.push('{');
            out.push_str(&expand(&replace_name(body, &name, step), consts, left)?);
            out.push_str("}\n");
        }
        rest = tail.get(1..).unwrap_or("");
    }
    out.push_str(rest);
    Ok(out)
}

/// Parses `for (var i = 0u; i < LIMIT; i++)` into name and limit.
fn parse_header(header: &str, consts: &HashMap<String, u32>) -> Option<(String, u32)> {
    let inner = header.trim().strip_prefix("for")?.trim().strip_prefix('(')?.strip_suffix(')')?;
    let mut parts = inner.split(';').map(str::trim);
    let (name, start) = parts.next()?.strip_prefix("var ")?.split_once('=')?;
    let (left, limit) = parts.next()?.split_once('<')?;
    let step = parts.next()?;
    let name = name.trim();
    let plain =
        start.trim() == "0u" && left.trim() == name && step == format!("{name}++") && parts.next().is_none();
    plain.then_some(())?;
    Some((name.to_owned(), evaluate(limit, consts)?))
}

/// True if code (not a comment) contains `break` or `continue`.
fn has_jump(body: &str) -> bool {
    let code = body.lines().map(|line| line.split("//").next().unwrap_or(""));
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .any(|word| word == "break" || word == "continue")
}

/// Replaces the identifier `name` by a literal, but not longer identifiers or members.
fn replace_name(body: &str, name: &str, value: u32) -> String {
    let mut out = String::with_capacity(body.len());
    let mut word = String::new();
    let mut before_word = ' ';
    let mut previous = ' ';
    for character in body.chars().chain(['\0']) {
        if character.is_alphanumeric() || character == '_' {
            if word.is_empty() {
                before_word = previous;
            }
            word.push(character);
        } else {
            if word == name && before_word != '.' {
                out.push_str(&format!("{value}u"));
            } else {
                out.push_str(&word);
            }
            word.clear();
            if character != '\0' {
                out.push(character);
            }
        }
        previous = character;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squeeze(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn nested_loops_are_unrolled() {
        let text = "const N: u32 = 2u;\nconst M: u32 = N * 4u / 8u;\nfn f() {\n// unroll\nfor (var i = 0u; i < N; i++) {\n a[i] = b.i + ii;\n // unroll\n for (var j = 0u; j < M; j++) { c[i*2u+j] = 1; }\n}\n}\n";
        let flat = squeeze(&unroll(text).unwrap());
        assert!(flat.contains("{ a[0u] = b.i + ii; { c[0u*2u+0u] = 1; } }"), "{flat}");
        assert!(flat.contains("{ a[1u] = b.i + ii; { c[1u*2u+0u] = 1; } }"), "{flat}");
        assert!(!flat.contains("for"), "{flat}");
    }

    #[test]
    fn unmarked_text_is_unchanged() {
        let text = "fn f() { for (var i = 0u; i < 4u; i++) { } }\n";
        assert_eq!(unroll(text).unwrap(), text);
    }

    #[test]
    fn braces_in_comments_are_ignored() {
        let text = "// unroll\nfor (var i = 0u; i < 1u; i++) {\n // }\n x();\n}\ny();\n";
        assert_eq!(squeeze(&unroll(text).unwrap()), "{ // } x(); } y();");
    }

    #[test]
    fn unsupported_marked_loops_are_refused() {
        for header in ["for (var i = 1u; i < 4u; i++)", "for (var i = 0u; i < n; i++)", "while (true)"] {
            assert!(unroll(&format!("// unroll\n{header} {{ }}\n")).is_err(), "{header}");
        }
        assert!(unroll("// unroll\nfor (var i = 0u; i < 4u; i++) { {\n").is_err());
    }

    #[test]
    fn huge_loops_are_refused_quickly() {
        for text in [
            "// unroll\nfor (var i = 0u; i < 4000000000u; i++) { y += 1.0; }\n".to_owned(),
            "// unroll\nfor (var i = 0u; i < 4000000000u; i++) {}\n".to_owned(),
            (0..9)
                .map(|n| format!("// unroll\nfor (var i{n} = 0u; i{n} < 99u; i{n}++) {{\n"))
                .collect::<String>()
                + &"}".repeat(9),
            format!(
                "// unroll\nfor (var i = 0u; i < 99999u; i++) {{\n// unroll\nfor (var j = 0u; j < 0u; j++) {{ {} }}\n}}\n",
                "x();".repeat(1000)
            ),
        ] {
            let error = unroll(&text).unwrap_err();
            assert!(error.contains("unrolled"), "{error}");
        }
        let long = "1u*".repeat(100_000);
        assert!(unroll(&format!("const N: u32 = {long}1u;\n")).is_ok());
    }

    #[test]
    fn jumps_out_of_a_marked_loop_are_refused() {
        for body in ["break;", "if (a) { continue; }"] {
            assert!(unroll(&format!("// unroll\nfor (var i = 0u; i < 2u; i++) {{ {body} }}\n")).is_err());
        }
        assert!(unroll("// unroll\nfor (var i = 0u; i < 2u; i++) { breaks(); // break\n }\n").is_ok());
    }
}
