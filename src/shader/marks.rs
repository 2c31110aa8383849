//! Marked passages of a shader's text: their positions and the constants that they refer to.

use std::collections::HashMap;

/// Returns the constants of a file's `const NAME: u32 = value;` lines that are numbers, products or quotients.
pub(super) fn constants(text: &str) -> HashMap<String, u32> {
    let mut consts: HashMap<String, u32> = HashMap::new();
    for line in text.lines() {
        let Some((name, value)) = line
            .strip_prefix("const ")
            .and_then(|rest| rest.split_once(": u32 = "))
            .and_then(|(name, rest)| {
                let (value, _) = rest.split_once(';')?;
                Some((name, value))
            })
        else {
            continue;
        };
        if let Some(value) = evaluate(value, &consts) {
            consts.insert(name.to_owned(), value);
        }
    }
    consts
}

/// Evaluates a number, a known name, or products and quotients of these, from left to right as in WGSL.
pub(super) fn evaluate(expression: &str, consts: &HashMap<String, u32>) -> Option<u32> {
    let number = |text: &str| -> Option<u32> {
        let text = text.trim();
        text.strip_suffix('u').unwrap_or(text).parse().ok().or_else(|| consts.get(text).copied())
    };
    let (mut value, mut operator) = (1u32, '*');
    for part in expression.split_inclusive(['*', '/']) {
        let factor = number(part.trim_end_matches(['*', '/']))?;
        value = if operator == '*' { value.checked_mul(factor) } else { value.checked_div(factor) }?;
        operator = part.chars().next_back().unwrap_or_default();
    }
    // Reject an empty expression, or one that ends with an operator.
    (!expression.trim_end().is_empty() && !matches!(operator, '*' | '/')).then_some(value)
}

pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("").trim()
}

/// Returns the byte position of the next line that consists of the marker.
pub(super) fn find_marker(text: &str, marker: &str) -> Option<usize> {
    let mut position = 0;
    for line in text.split_inclusive('\n') {
        if line.trim() == marker {
            return Some(position);
        }
        position += line.len();
    }
    None
}

/// Returns the byte position of the `}` that closes a block. `text` starts after the block's `{`.
pub(super) fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut in_comment = false;
    let bytes = text.as_bytes();
    for (position, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' => in_comment = false,
            b'/' if bytes.get(position + 1) == Some(&b'/') => in_comment = true,
            b'{' if !in_comment => depth += 1,
            b'}' if !in_comment && depth == 0 => return Some(position),
            b'}' if !in_comment => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_quotients_are_left_associative() {
        let consts = HashMap::from([("A".to_owned(), 6)]);
        for (text, value) in [("A * 4u / 8u", 3), ("A / 4u * 8u", 8), ("A / 2u / 3u", 1), ("A", 6)] {
            assert_eq!(evaluate(text, &consts), Some(value), "{text}");
        }
        for unknown in ["A + 1u", "B", "A / 0u", "A * 1u - 1u", "", " ", "A *", "* A", "A ** 2u", "5u 5u"] {
            assert_eq!(evaluate(unknown, &consts), None, "{unknown}");
        }
    }
}
