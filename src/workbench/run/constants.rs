//! Values of `--const`.

use crate::error::{Error, Result};
use crate::escape::shown;
use crate::shader::set_const;
use crate::workbench::Element;
use std::path::Path;

/// Parses the value of an override.
pub(super) fn override_value(name: &str, value: &str) -> Result<f64> {
    let digits = value.trim_end_matches(['u', 'i', 'f', 'h']);
    let number = match value {
        "true" => Some(1.0),
        "false" => Some(0.0),
        _ => match value.strip_prefix("0x") {
            Some(hexadecimal) => {
                u32::from_str_radix(hexadecimal.trim_end_matches(['u', 'i']), 16).ok().map(f64::from)
            }
            None => digits.parse().ok(),
        },
    };
    number.filter(|number: &f64| number.is_finite()).ok_or_else(|| {
        Error::usage(format!("--const {name}={value}: an override takes a finite number, true or false"))
    })
}

/// Rewrites a whole `const` line.
pub(super) fn constant_line(
    path: &Path,
    text: &str,
    module: &naga::Module,
    name: &str,
    value: &str,
) -> Result<String> {
    let known = module.constants.iter().filter_map(|(_, found)| found.name.as_deref());
    let known: Vec<&str> = known.filter(|known| text.contains(&format!("const {known}: u32 = "))).collect();
    let overrides = module.overrides.iter().filter_map(|(_, found)| found.name.as_deref());
    let mut all: Vec<&str> = overrides.chain(known.iter().copied()).collect();
    all.sort_unstable();
    if !known.contains(&name) {
        let list = if all.is_empty() { "nothing".to_owned() } else { all.join(", ") };
        return Err(Error::usage(format!(
            "--const {name}: {} has no `override {name}` and no line `const {name}: u32 = ...;`; --const can set: {list}",
            shown(&path)
        )));
    }
    let digits = value.strip_suffix('u').unwrap_or(value);
    let number =
        Element::U32.parse(digits).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
    let number = number.ok_or_else(|| {
        Error::usage(format!("--const {name}={value}: `const {name}: u32` takes an integer >= 0"))
    })?;
    set_const(&shown(&path), text, name, number).map_err(|error| match error {
        Error::Shader { message, .. } => {
            Error::usage(format!("--const {name}: {message}; the line must not start with a space"))
        }
        error => error,
    })
}

/// Rejects overrides without a value.
pub(super) fn check_overrides(module: &naga::Module, given: &[(String, f64)]) -> Result<()> {
    for (_, found) in module.overrides.iter().filter(|(_, found)| found.init.is_none()) {
        let name = found.name.clone().unwrap_or_default();
        let key = found.id.map_or_else(|| name.clone(), |id| id.to_string());
        if !given.iter().any(|(given, _)| *given == key) {
            return Err(Error::usage(format!(
                "`override {name}` has no default value: set one with --const {name}=VALUE"
            )));
        }
    }
    Ok(())
}
