//! Parses inputs, outputs and expected values from text.

use crate::escape::{one_line, shown};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Source of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArraySource {
    /// A .npy file.
    Npy(PathBuf),
    /// A tensor of a .safetensors file.
    Tensor(PathBuf, String),
    /// Zeros of this shape.
    Zeros(Vec<usize>),
    /// Random numbers of this shape and seed; without a seed, each variable gets its own.
    Random(Vec<usize>, Option<u64>),
}

impl ArraySource {
    /// Returns the path, if the source is a file.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Npy(path) | Self::Tensor(path, _) => Some(path),
            Self::Zeros(_) | Self::Random(..) => None,
        }
    }
}

impl fmt::Display for ArraySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = |shape: &[usize]| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        match self {
            Self::Npy(path) => write!(f, "{}", shown(&path)),
            Self::Tensor(path, name) => write!(f, "{}:{}", shown(&path), one_line(name)),
            Self::Zeros(shape) => write!(f, "zeros:{}", sides(shape)),
            Self::Random(shape, None) => write!(f, "random:{}", sides(shape)),
            Self::Random(shape, Some(seed)) => write!(f, "random:{}:{seed}", sides(shape)),
        }
    }
}

/// `[NAME=]SOURCE`: values for a variable, or its expected values after the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Name of the variable; `None` for the next one.
    pub name: Option<String>,
    /// Source of the values.
    pub source: ArraySource,
}

/// `[NAME=]FILE.npy[:SHAPE]`: file for the values of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Name of the variable; `None` for the next one.
    pub name: Option<String>,
    /// Path of the .npy file.
    pub path: PathBuf,
    /// Dimensions, if given.
    pub shape: Option<Vec<usize>>,
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = split_name(text);
        let form = "give FILE.npy, FILE.safetensors:TENSOR, zeros:64x32 or random:64x32[:SEED], with NAME= before it \
                    to say which variable";
        let source = if ends_with(rest, ".npy") {
            ArraySource::Npy(rest.into())
        } else if let Some((path, tensor)) = split_tensor(rest) {
            ArraySource::Tensor(path.into(), tensor.to_owned())
        } else if let Some(sides) = rest.strip_prefix("zeros:") {
            ArraySource::Zeros(
                shape(sides).ok_or_else(|| format!("'{sides}' is not a shape such as 64x32; {form}"))?,
            )
        } else if let Some(sides) = rest.strip_prefix("random:") {
            let (sides, seed) =
                sides.split_once(':').map_or((sides, None), |(sides, seed)| (sides, Some(seed)));
            let wrong = |what: &str, kind: &str| format!("'{what}' is not a {kind}; {form}");
            let number = |seed: &str| seed.parse().map_err(|_| wrong(seed, "seed, an integer >= 0"));
            let seed = seed.map(number).transpose()?;
            ArraySource::Random(shape(sides).ok_or_else(|| wrong(sides, "shape like 64x32"))?, seed)
        } else {
            return Err(format!("'{rest}' is not a source of numbers; {form}"));
        };
        Ok(Self { name, source })
    }
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = split_name(text);
        let (path, shape) = match rest.rsplit_once(':') {
            // A file name may contain colons, so the text after the last one is a shape only after `.npy`.
            Some((path, sides)) if ends_with(path, ".npy") => {
                let sides = shape(sides).ok_or_else(|| format!("'{sides}' is not a shape such as 64x32"))?;
                (path, Some(sides))
            }
            _ => (rest, None),
        };
        if !ends_with(path, ".npy") {
            return Err(format!(
                "'{path}' does not end in .npy; give [NAME=]FILE.npy[:SHAPE], e.g. y.npy:64x32"
            ));
        }
        Ok(Self { name, path: path.into(), shape })
    }
}

/// Splits off `NAME=`. A prefix that is not a WGSL name belongs to the file, as in `./a=b.npy`.
fn split_name(text: &str) -> (Option<String>, &str) {
    match text.split_once('=') {
        Some((name, rest)) if is_name(name) => (Some(name.to_owned()), rest),
        _ => (None, text),
    }
}

fn is_name(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || c == '_') && text.starts_with(|c: char| !c.is_ascii_digit())
}

fn ends_with(text: &str, ending: &str) -> bool {
    text.len() > ending.len() && text.ends_with(ending)
}

/// Splits file and tensor after the first `.safetensors` that is an existing file, or else after the first one.
fn split_tensor(text: &str) -> Option<(&str, &str)> {
    const ENDING: &str = ".safetensors:";
    let splits = text.match_indices(ENDING).map(|(at, _)| {
        let colon = at + ENDING.len() - 1;
        (&text[..colon], &text[colon + 1..])
    });
    let splits: Vec<(&str, &str)> = splits.filter(|(_, tensor)| !tensor.is_empty()).collect();
    let file = splits.iter().find(|(path, _)| std::path::Path::new(path).is_file());
    file.or(splits.first()).copied()
}

/// Parses a shape such as `64x32`; `None` if a side is not an integer >= 1 or the array could not fit into memory.
fn shape(text: &str) -> Option<Vec<usize>> {
    let sides: Vec<usize> = text
        .split('x')
        .map(|side| side.parse().ok().filter(|side| *side > 0 && !text.contains('+')))
        .collect::<Option<_>>()?;
    crate::workbench::array::count(&sides)?;
    Some(sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> Result<Input, String> {
        text.parse()
    }

    fn output(text: &str) -> Output {
        text.parse().unwrap()
    }

    #[test]
    fn sources_are_parsed() {
        let npy = |name: &str| ArraySource::Npy(name.into());
        for (text, name, source) in [
            ("a.npy", None, npy("a.npy")),
            ("x=a.npy", Some("x"), npy("a.npy")),
            ("x=my: odd = file.npy", Some("x"), npy("my: odd = file.npy")),
            ("./a=b.npy", None, npy("./a=b.npy")),
            ("zeros:64.npy", None, npy("zeros:64.npy")),
            (r"C:\data\a.npy", None, npy(r"C:\data\a.npy")),
            (
                "w=b.safetensors:conv.weight",
                Some("w"),
                ArraySource::Tensor("b.safetensors".into(), "conv.weight".into()),
            ),
            ("a b:c.safetensors:d:e", None, ArraySource::Tensor("a b:c.safetensors".into(), "d:e".into())),
            ("zeros:64x32", None, ArraySource::Zeros(vec![64, 32])),
            ("y=zeros:5", Some("y"), ArraySource::Zeros(vec![5])),
            ("random:2x3x4", None, ArraySource::Random(vec![2, 3, 4], None)),
            ("random:2:77", None, ArraySource::Random(vec![2], Some(77))),
        ] {
            let expected = Input { name: name.map(str::to_owned), source };
            assert_eq!(input(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn existing_file_decides_where_tensor_name_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors:b.safetensors");
        std::fs::write(&path, "").unwrap();
        let text = format!("{}:t", path.display());
        assert_eq!(input(&text).unwrap().source, ArraySource::Tensor(path, "t".into()));
    }

    #[test]
    fn invalid_sources_are_refused() {
        for text in [
            "",
            "a.txt",
            "x=",
            ".npy",
            "zeros:",
            "zeros:0",
            "zeros:3x",
            "zeros:+3",
            "zeros:3:1",
            "random:3:x",
        ] {
            assert!(input(text).is_err(), "{text}");
        }
        assert!(input("b.safetensors").is_err() && input("b.safetensors:").is_err());
        assert!(input("zeros:99999999999x99999999999").is_err());
    }

    #[test]
    fn outputs_are_parsed() {
        let of = |name: Option<&str>, path: &str, shape: Option<&[usize]>| Output {
            name: name.map(str::to_owned),
            path: path.into(),
            shape: shape.map(<[usize]>::to_vec),
        };
        assert_eq!(output("y.npy"), of(None, "y.npy", None));
        assert_eq!(output("y=a.npy:64x32x3"), of(Some("y"), "a.npy", Some(&[64, 32, 3])));
        assert_eq!(output("odd:64.npy"), of(None, "odd:64.npy", None));
        assert_eq!(output("odd: 64.npy:8"), of(None, "odd: 64.npy", Some(&[8])));
        for text in ["y", "y.npz", "y.npy:", "y.npy:0", "y.npy:axb", "y=", ""] {
            assert!(text.parse::<Output>().is_err(), "{text}");
        }
    }
}
