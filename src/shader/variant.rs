//! Builds the final source from a file and its constants.

use super::reflect::{Interface, needs_coop_matrix};
use super::{keep_branches, source, unroll};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// A final shader: the text for the driver, and its interface.
#[derive(Debug)]
pub struct Shader {
    /// Final WGSL.
    pub source: Arc<str>,
    /// Bindings, parameters and entry points, reflected from the branches taken, before loops are unrolled.
    pub interface: Interface,
    /// True if it is built from an embedded file, not from a user's.
    pub built_in: bool,
}

/// File, constants, and whether loops are unrolled.
type Key = (&'static str, Vec<(&'static str, u32)>, bool);
static FINAL: LazyLock<Mutex<HashMap<Key, Arc<Shader>>>> = LazyLock::new(Mutex::default);

impl Shader {
    /// Loads the shader `name` with these constants and only the branches taken, reflected and unrolled. Each is built
    /// once per process.
    ///
    /// # Errors
    /// [`Error::Shader`] if the file, a constant, or the resulting text is invalid.
    pub fn load(name: &'static str, consts: &[(&'static str, u32)]) -> Result<Arc<Self>> {
        Self::load_form(name, consts, true)
    }

    /// Loads a shader like [`Shader::load`]. With `unrolled` off, the marked loops stay: slower, with the same results.
    /// For tests of the unrolling.
    ///
    /// # Errors
    /// As [`Shader::load`].
    pub fn load_form(
        name: &'static str,
        consts: &[(&'static str, u32)],
        unrolled: bool,
    ) -> Result<Arc<Self>> {
        let key = (name, consts.to_vec(), unrolled);
        if let Some(shader) = FINAL.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(shader.clone());
        }
        let text = source(name)?;
        let built_in = matches!(text, Cow::Borrowed(_));
        let shader = Arc::new(Self { built_in, ..Self::build(name, &text, consts, unrolled)? });
        FINAL.lock().unwrap_or_else(PoisonError::into_inner).insert(key, shader.clone());
        Ok(shader)
    }

    /// Builds a shader like [`Shader::load_form`], from any text.
    ///
    /// # Errors
    /// As [`Shader::load`].
    pub fn build(name: &str, text: &str, consts: &[(&str, u32)], unrolled: bool) -> Result<Self> {
        let mut text = text.to_owned();
        for (constant, value) in consts {
            text = set_const(name, &text, constant, *value)?;
        }
        // WGSL can't select a type by a constant.
        if needs_coop_matrix(&text) && consts.contains(&("SIDE", 8)) {
            text = text.replace("coop_mat16x16", "coop_mat8x8");
        }
        let refuse = |what: &str, message: String| Error::shader(name, format!("{what}: {message}"));
        text = keep_branches(&text).map_err(|message| refuse("conditions", message))?;
        // The marked loops add no bindings (tests/kernels/variants.rs checks this), and parsing the unrolled text takes
        // a tenth of a second.
        let interface = Interface::reflect(name, &text)?;
        if unrolled {
            text = unroll(&text).map_err(|message| refuse("loops", message))?;
        }
        Ok(Self { source: text.into(), interface, built_in: false })
    }
}

/// Discards the shaders built from a file whose text was replaced.
pub(super) fn forget(name: &str) {
    FINAL.lock().unwrap_or_else(PoisonError::into_inner).retain(|(file, ..), _| *file != name);
}

/// Rewrites the one line `const NAME: u32 = value;`.
///
/// # Errors
/// [`Error::Shader`] unless there is exactly one such line.
pub fn set_const(shader: &str, text: &str, name: &str, value: u32) -> Result<String> {
    let start = format!("const {name}: u32 = ");
    let mut hits = 0;
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix(&start).and_then(|rest| rest.split_once(';')) {
            Some((_, tail)) => {
                hits += 1;
                format!("{start}{value}u;{tail}")
            }
            None => line.to_owned(),
        })
        .collect();
    if hits == 1 {
        return Ok(lines.join("\n") + "\n");
    }
    Err(Error::shader(shader, format!("{hits} lines `{start}...;` found, exactly one was expected")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "const A: u32 = 1u; // first\nconst AB: u32 = 2u;\nfn f() {}\n";

    #[test]
    fn const_line_is_rewritten() {
        let text = set_const("t", TEXT, "A", 7).unwrap();
        assert_eq!(text, "const A: u32 = 7u; // first\nconst AB: u32 = 2u;\nfn f() {}\n");
    }

    #[test]
    fn missing_or_duplicate_const_is_refused() {
        assert!(set_const("t", TEXT, "C", 7).is_err());
        assert!(set_const("t", &format!("{TEXT}{TEXT}"), "A", 7).is_err());
    }
}
