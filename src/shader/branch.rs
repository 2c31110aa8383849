//! Replaces each marked condition by the branch taken.
//!
//! An `if` is marked by a line `// static if` directly above it and has the form `if (NAME == 1u) {`, where `NAME` is a
//! `const NAME: u32 = n;` of the file; an `} else {` may follow. Only the branch taken stays, as a block. The other one
//! binds nothing, so one text can serve several kinds of memory. The marked file and the result are equivalent.

use super::marks::{closing_brace, constants, evaluate, find_marker, first_line};
use std::collections::HashMap;

/// The line above a marked condition.
const MARKER: &str = "// static if";

/// Returns the text with one branch of each marked condition.
///
/// # Errors
/// A message naming the line whose condition has another form, or whose braces do not match.
pub(super) fn keep_branches(text: &str) -> Result<String, String> {
    keep(text, &constants(text))
}

fn keep(text: &str, consts: &HashMap<String, u32>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(marker) = find_marker(rest, MARKER) {
        let (before, from_marker) = rest.split_at(marker);
        out.push_str(before);
        let after_marker = from_marker.split_once('\n').map_or("", |(_, tail)| tail);
        let fault = |what: &str| format!("{what} after `{MARKER}` at: {}", first_line(after_marker));
        let (header, after_header) = after_marker.split_once('{').ok_or_else(|| fault("no condition"))?;
        let holds =
            holds(header, consts).ok_or_else(|| fault("no comparison of a constant with a number"))?;
        let (taken, tail) = block(after_header).ok_or_else(|| fault("no closing brace"))?;
        let otherwise = tail.trim_start().strip_prefix("else").map(str::trim_start);
        let (other, tail) = match otherwise {
            None => ("", tail),
            Some(branch) => {
                let inner = branch.strip_prefix('{').ok_or_else(|| fault("an `else if`"))?;
                block(inner).ok_or_else(|| fault("no closing brace"))?
            }
        };
        out.push('{');
        out.push_str(&keep(if holds { taken } else { other }, consts)?);
        out.push('}');
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// Splits a text that starts after a block's `{` into the block's content and the text after its `}`.
fn block(text: &str) -> Option<(&str, &str)> {
    let (inner, tail) = text.split_at(closing_brace(text)?);
    Some((inner, &tail[1..]))
}

/// True if the condition of `if (NAME == 1u)` holds.
fn holds(header: &str, consts: &HashMap<String, u32>) -> Option<bool> {
    let condition = header.trim().strip_prefix("if")?.trim().strip_prefix('(')?.strip_suffix(')')?;
    let (name, value) = condition.split_once("==")?;
    Some(*consts.get(name.trim())? == evaluate(value, consts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "const A: u32 = 1u;
fn f() {
    // static if
    if (A == 1u) {
        x(); // }
        // static if
        if (A == 2u) { y(); }
    } else {
        z();
    }
    w();
}
";

    fn squeeze(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_the_taken_branch_is_kept() {
        let kept = squeeze(&keep_branches(TEXT).unwrap());
        assert_eq!(kept, "const A: u32 = 1u; fn f() { { x(); // } {} } w(); }");
        let other = squeeze(&keep_branches(&TEXT.replace("A: u32 = 1u", "A: u32 = 0u")).unwrap());
        assert_eq!(other, "const A: u32 = 0u; fn f() { { z(); } w(); }");
    }

    #[test]
    fn unmarked_conditions_are_unchanged() {
        let text = TEXT.replace("// static if", "// an if");
        assert_eq!(keep_branches(&text).unwrap(), text);
    }

    #[test]
    fn unsupported_marked_conditions_are_refused() {
        let wrong = [
            "if (a == 1u) { }",
            "if (A < 1u) { }",
            "if A == 1u { }",
            "if (A == 1u) { } else if (A == 2u) { }",
            "if (A == 1u) { ",
            "if (A == 1u) { } else { ",
            "x();",
        ];
        for condition in wrong {
            let text = format!("const A: u32 = 1u;\n// static if\n{condition}\n");
            assert!(keep_branches(&text).is_err(), "{condition}");
        }
    }
}
