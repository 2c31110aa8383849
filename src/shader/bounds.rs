//! Bounds on a shader's text. Parsers, compilers and drivers recurse into a text and abort the process if it is nested
//! too deeply; other texts exhaust memory.

use std::collections::HashMap;

/// Maximum bytes of a text, also with its loops unrolled.
pub(crate) const LONGEST_TEXT: usize = 1 << 20;

/// Maximum nesting of expressions and blocks: each bracket counts, each operator of an expression, and each `else` of a
/// chain. naga itself allows 200 brackets.
const DEEPEST: usize = 500;

/// Maximum number of declarations outside of functions, each of which may refer to the previous one.
const MOST_DECLARATIONS: usize = 2000;

/// Maximum words of a text with each constant expanded at its uses. naga expands the values of arrays that way, so
/// constants that each use two others double with each line, and its time for a function grows with the square of the
/// function's length. The program's longest shader, with its loops unrolled, has 8000.
const MOST_WORDS: usize = 12_000;

/// Counts the words of a text with its constants expanded.
#[derive(Default)]
struct Words<'a> {
    all: usize,
    constants: HashMap<&'a str, usize>,
    /// The constant being declared, and its words so far.
    open: Option<(&'a str, usize)>,
}

impl<'a> Words<'a> {
    fn take(&mut self, word: &'a str, before: &str) {
        if before == "const" {
            self.open = Some((word, 0));
            return;
        }
        let words = self.constants.get(word).copied().unwrap_or(1);
        self.all = self.all.saturating_add(words);
        if let Some((_, own)) = &mut self.open {
            *own = own.saturating_add(words);
        }
    }

    fn end_statement(&mut self) {
        if let Some((name, words)) = self.open.take() {
            // Another function may have a constant of the same name.
            let known = self.constants.entry(name).or_default();
            *known = words.max(*known);
        }
    }
}

/// Nesting inside one bracket.
#[derive(Default)]
struct Level {
    operators: usize,
    elses: usize,
}

/// Checks a text before it is parsed.
///
/// # Errors
/// A message with the line at which the text exceeds a bound.
pub(crate) fn check(text: &str) -> Result<(), String> {
    if text.len() > LONGEST_TEXT {
        return Err(format!("it has {} bytes; the limit is {LONGEST_TEXT}", text.len()));
    }
    let mut words = Words::default();
    let mut levels = vec![Level::default()];
    let (mut depth, mut declarations, mut line) = (0, 0, 1);
    let mut word_before = "";
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            c if c.is_alphanumeric() || c == '_' => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                let word = &rest[..end];
                match word {
                    "else" => count(&mut levels, &mut depth, |level| &mut level.elses),
                    // Not part of a chain.
                    "if" if word_before != "else" => clear(&mut levels, &mut depth, true),
                    _ => {}
                }
                words.take(word, word_before);
                word_before = word;
                end
            }
            _ => c.len_utf8(),
        };
        line += rest[..skip].matches('\n').count();
        match c {
            '(' | '[' | '{' => {
                levels.push(Level::default());
                depth += 1;
            }
            ')' | ']' | '}' => {
                if levels.len() > 1 {
                    let level = levels.pop().unwrap_or_default();
                    depth -= 1 + level.operators + level.elses;
                }
                if c == '}' {
                    clear(&mut levels, &mut depth, false);
                }
            }
            ';' => {
                clear(&mut levels, &mut depth, true);
                words.end_statement();
            }
            ',' => clear(&mut levels, &mut depth, false),
            _ if skip == c.len_utf8() && "+-*/%&|^!~<>=.?:@".contains(c) => {
                count(&mut levels, &mut depth, |level| &mut level.operators);
            }
            _ => {}
        }
        if levels.len() == 1 && matches!(c, ';' | '}') {
            declarations += 1;
        }
        if depth > DEEPEST {
            return Err(format!(
                "line {line} is nested too deep: more than {DEEPEST} brackets and operators"
            ));
        }
        if declarations > MOST_DECLARATIONS {
            return Err(format!("it has more than {MOST_DECLARATIONS} declarations"));
        }
        if words.all > MOST_WORDS {
            return Err(format!(
                "with its constants expanded it has more than {MOST_WORDS} words by line {line}"
            ));
        }
        rest = &rest[skip..];
    }
    Ok(())
}

fn count(levels: &mut [Level], depth: &mut usize, of: fn(&mut Level) -> &mut usize) {
    if let Some(level) = levels.last_mut() {
        *of(level) += 1;
        *depth += 1;
    }
}

/// Resets the counts at the end of an expression, or of a statement that no `else` follows.
fn clear(levels: &mut [Level], depth: &mut usize, is_statement: bool) {
    if let Some(level) = levels.last_mut() {
        *depth -= std::mem::take(&mut level.operators);
        if is_statement {
            *depth -= std::mem::take(&mut level.elses);
        }
    }
}

/// Returns the length of the block comment that a text starts with. Block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(found) = text[at..].find(['/', '*']) {
        at += found;
        match &text.as_bytes()[at..text.len().min(at + 2)] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shader::SOURCES;

    #[test]
    fn built_in_shaders_are_within_bounds() {
        for (name, text) in SOURCES {
            check(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn each_kind_of_nesting_is_bounded() {
        let n = 600;
        let wrap = |inside: String| format!("fn f() {{\n let a = 1.0;\n {inside}\n}}\n");
        for (name, text) in [
            ("sum", wrap(format!("let b = {}a;", "a + ".repeat(n)))),
            ("minus", wrap(format!("let b = {}a;", "- ".repeat(n)))),
            ("brackets", wrap(format!("let b = {}a{};", "(".repeat(n), ")".repeat(n)))),
            ("indices", wrap(format!("let b = a[0]{};", ".x".repeat(n)))),
            ("both", wrap(format!("let b = {}a{};", "(a + a + a + ".repeat(n / 4), ")".repeat(n / 4)))),
            ("blocks", wrap(format!("{}{}", "{".repeat(n), "}".repeat(n)))),
            ("else", wrap(format!("if a > 0.0 {{}} {}", "else if a > 1.0 {} ".repeat(n)))),
            ("types", format!("var<private> a: {}f32{};", "array<".repeat(n), ", 1>".repeat(n))),
            ("declarations", "const A = 1;\n".repeat(3000)),
            ("constants", (0..40).map(|n| format!("const A{} = array(A{n}, A{n});\n", n + 1)).collect()),
            ("length", " ".repeat(LONGEST_TEXT + 1)),
        ] {
            let error = check(&text).expect_err(name);
            assert!(
                error.contains("nested") || error.contains("more than") || error.contains("bytes"),
                "{error}"
            );
        }
        assert!(check(&wrap(format!("let b = {}a;", "a + ".repeat(n)))).unwrap_err().contains("line 3"));
    }

    #[test]
    fn long_shallow_texts_are_accepted() {
        for text in [
            "// ------ ((((((\n".repeat(2000),
            format!("/* {} */", "/* (((+++ */".repeat(1000)),
            format!("fn f() {{ {} }}", "let a = -b * (c + 1.0);\n".repeat(1500)),
            format!("const A = array({});", "1.0 + 2.0, ".repeat(2000)),
            "const A = 1;\n".to_owned()
                + &(0..500).map(|n| format!("const A{n} = A + 1;\n")).collect::<String>(),
            format!("fn f() {{ {} }}", "if a { b(); } else { c(); }\n".repeat(400)),
            "}}}))]".to_owned(),
            "/* open".to_owned(),
            "/".to_owned(),
        ] {
            check(&text).unwrap();
        }
    }
}
