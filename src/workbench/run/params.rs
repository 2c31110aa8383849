//! Parameters as text, laid out like the shader's uniforms and immediates.

use super::form::Leaf;
use super::shader::{Bound, Variable};
use crate::error::{Error, Result};
use crate::workbench::Element;

/// Maximum bytes of a block of parameters: the uniform size that every device supports.
const MOST_BYTES: usize = 1 << 16;

/// One parameter: `64`, `u32:64` or `name=u32:64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name of the member; `None` for the next one.
    pub name: Option<String>,
    /// Expected type.
    pub element: Option<Element>,
    /// Value as text.
    pub text: String,
}

/// A list of parameters, separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(pub Vec<Param>);

impl std::str::FromStr for Params {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(|part| parse(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn parse(part: &str) -> Result<Param, String> {
    let form = "a parameter is VALUE, TYPE:VALUE or NAME=TYPE:VALUE, e.g. u32:64 or scale=f32:0.5";
    let (name, value) = match part.split_once('=') {
        Some((name, value)) => (Some(name.trim().to_owned()), value.trim()),
        None => (None, part),
    };
    let (element, text) = match value.split_once(':') {
        Some((element, text)) => {
            let known = Element::named(element.trim());
            let known =
                known.ok_or_else(|| format!("'{part}': unknown type '{}'; {form}", element.trim()))?;
            (Some(known), text.trim())
        }
        None => (None, value),
    };
    if text.is_empty() || name.as_ref().is_some_and(String::is_empty) {
        return Err(format!("'{part}' is incomplete; {form}"));
    }
    Ok(Param { name, element, text: text.to_owned() })
}

/// Place of a number: its block, and its position in the block.
struct Place {
    block: usize,
    leaf: Leaf,
    full: String,
}

/// Returns the bytes of these blocks (uniforms and immediates), in order.
///
/// # Errors
/// [`Error::Usage`] unless each number of each block is given exactly once, with the right type.
pub(super) fn fill(blocks: &[&Variable], params: &Params) -> Result<Vec<Vec<u8>>> {
    let mut places = Vec::new();
    for (block, variable) in blocks.iter().enumerate() {
        let size = variable.form.size();
        if size > MOST_BYTES {
            return Err(Error::usage(format!(
                "`{}` has {size} bytes of parameters; the limit is {MOST_BYTES}. Fill it from a file with --input, or make it a storage buffer",
                variable.name
            )));
        }
        // A variable that is a single number is addressed by its own name.
        let inside = variable.form.leaves("");
        for (leaf, full) in inside.into_iter().zip(variable.form.leaves(&variable.name)) {
            places.push(Place { block, leaf, full: full.name });
        }
    }
    let wanted = || {
        let one = |place: &Place| format!("{}: {}", place.full, place.leaf.element);
        places.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    if places.is_empty() && !params.0.is_empty() {
        return Err(Error::usage(
            "--params: the entry point uses no uniform and no immediate (unused variables do not count)",
        ));
    }
    let size = |variable: &&Variable| match variable.bound {
        Bound::Immediate => variable.form.size().next_multiple_of(4),
        _ => variable.form.size().next_multiple_of(16),
    };
    let mut bytes: Vec<Vec<u8>> = blocks.iter().map(|variable| vec![0; size(variable)]).collect();
    let mut given = vec![false; places.len()];
    // Named parameters first, so the others fill the remaining places in order.
    let (named, unnamed): (Vec<&Param>, Vec<&Param>) =
        params.0.iter().partition(|param| param.name.is_some());
    for param in named.into_iter().chain(unnamed) {
        let index = match &param.name {
            Some(name) => find(&places, name).map_err(|what| {
                Error::usage(format!("--params: {what} `{name}`; the parameters are {}", wanted()))
            })?,
            None => given.iter().position(|given| !given).ok_or_else(|| {
                Error::usage(format!(
                    "--params gives {} values, more than the {} parameters: {}",
                    params.0.len(),
                    places.len(),
                    wanted()
                ))
            })?,
        };
        let place = &places[index];
        if std::mem::replace(&mut given[index], true) {
            return Err(Error::usage(format!("--params gives `{}` twice", place.full)));
        }
        let declared = place.leaf.element;
        if let Some(element) = param.element.filter(|element| *element != declared) {
            return Err(Error::usage(format!(
                "--params: {element}:{} is for `{}`, of type {declared}; the parameters are {}",
                param.text,
                place.full,
                wanted()
            )));
        }
        let number = declared.parse(&param.text).ok_or_else(|| {
            Error::usage(format!("--params: '{}' is not a {declared} (for `{}`)", param.text, place.full))
        })?;
        let target = bytes[place.block].get_mut(place.leaf.offset..place.leaf.offset + number.len());
        let target = target
            .ok_or_else(|| Error::usage(format!("--params: `{}` lies outside its block", place.full)))?;
        target.copy_from_slice(&number);
    }
    match given.iter().position(|given| !given) {
        None => Ok(bytes),
        Some(missing) => Err(Error::usage(format!(
            "--params gives no value for `{}`; the parameters are {}",
            places[missing].full,
            wanted()
        ))),
    }
}

/// Finds a place by name: `member`, or `variable.member` if several variables have such a member.
fn find(places: &[Place], name: &str) -> Result<usize, &'static str> {
    if let Some(index) = places.iter().position(|place| place.full == name) {
        return Ok(index);
    }
    let mut hits = places.iter().enumerate().filter(|(_, place)| place.leaf.name == name);
    match (hits.next(), hits.next()) {
        (Some((index, _)), None) => Ok(index),
        (Some(_), Some(_)) => Err("several variables have a member"),
        (None, _) => Err("there is no"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::Form;
    use super::*;

    fn block(name: &str, text: &str) -> Variable {
        let module = naga::front::wgsl::parse_str(text).unwrap();
        let (_, global) = module.global_variables.iter().next().unwrap();
        Variable {
            name: name.to_owned(),
            group: 0,
            binding: 0,
            bound: Bound::Uniform,
            form: Form::of(&module, global.ty).unwrap(),
            atomic: false,
        }
    }

    fn sizes() -> Variable {
        block(
            "params",
            "struct P { n: u32, scale: f32, size: vec2<i32>, @align(16) last: u32 }
            @group(0) @binding(0) var<uniform> params: P;",
        )
    }

    fn filled(text: &str) -> Result<Vec<u8>> {
        fill(&[&sizes()], &text.parse().unwrap()).map(|blocks| blocks[0].clone())
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn params_are_set_by_order_or_name() {
        let minus = (-3i32).cast_unsigned();
        let expected = vec![64, 0.5f32.to_bits(), minus, 7, 9, 0, 0, 0];
        for text in [
            "u32:64,f32:0.5,i32:-3,i32:7,u32:9",
            "64, 0.5, -3, 7, 9",
            "last=u32:9,u32:64,f32:0.5,i32:-3,i32:7",
            "size.y=7,params.size.x=i32:-3,n=0x40,scale=f32:.5,last=9",
        ] {
            assert_eq!(words(&filled(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn params_count_types_and_names_are_checked() {
        for (text, parts) in [
            ("64,0.5,-3,7", &["params.last", "u32"][..]),
            ("64,0.5,-3,7,9,10", &["6", "5"]),
            ("f32:64,0.5,-3,7,9", &["f32:64", "params.n", "u32"]),
            ("64.0,0.5,-3,7,9", &["'64.0' is not a u32"]),
            ("-1,0.5,-3,7,9", &["'-1' is not a u32"]),
            ("m=1", &["there is no `m`", "params.n: u32"]),
            ("n=1,n=2", &["`params.n` twice"]),
        ] {
            let error = filled(text).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            for part in parts {
                assert!(error.to_string().contains(part), "no `{part}` in: {error}");
            }
        }
        assert!(fill(&[], &"1".parse().unwrap()).is_err());
        assert_eq!(fill(&[], &Params::default()).unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn blocks_are_filled_in_order() {
        let a = block("a", "@group(0) @binding(0) var<uniform> a: u32;");
        let (b, c) = (Variable { name: "b".into(), ..sizes() }, Variable { name: "c".into(), ..sizes() });
        let text = "1,2,3,4,5,6,7,8,9,10,11";
        let blocks = fill(&[&a, &b, &c], &text.parse().unwrap()).unwrap();
        assert_eq!(words(&blocks[0])[0], 1);
        assert_eq!(words(&blocks[2])[4], 11);
        let ambiguous = fill(&[&b, &c], &"n=1".parse().unwrap()).unwrap_err();
        assert!(ambiguous.to_string().contains("several"), "{ambiguous}");
        assert!(fill(&[&a], &"a=u32:1".parse().unwrap()).is_ok());
    }

    #[test]
    fn invalid_params_are_refused() {
        for (text, part) in
            [("u33:1", "u33"), ("u32:", "incomplete"), ("=1", "incomplete"), ("1,,2", "incomplete")]
        {
            let error = text.parse::<Params>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
