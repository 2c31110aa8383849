//! Memory layout of types, as computed by naga.

use crate::workbench::Element;

/// Memory layout of a WGSL type that host and device share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// A scalar or an atomic.
    Number(Element),
    /// A vector, matrix or array.
    List {
        /// Kind of the list.
        kind: ListKind,
        /// Number of items; `None` if the array is runtime-sized.
        count: Option<u32>,
        /// Distance between items in bytes.
        stride: u32,
        /// Layout of an item; the items of a matrix are its columns.
        of: Box<Form>,
    },
    /// A struct.
    Fields {
        /// Names, byte offsets and layouts of the members.
        fields: Vec<(String, u32, Form)>,
        /// Size in bytes; a runtime-sized array counts with one element.
        span: u32,
    },
}

/// Kind of a [`Form::List`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the types")]
pub enum ListKind {
    Vector,
    Matrix,
    Array,
}

/// A number in a block of parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Name, such as `member`, `inner.member`, `vector.x` or `list[3]`.
    pub name: String,
    /// Offset in bytes.
    pub offset: usize,
    /// Type of the number.
    pub element: Element,
}

impl Form {
    /// Formats the type as in WGSL, structs with their members.
    pub fn name(&self) -> String {
        match self {
            Self::Number(element) => element.name().to_owned(),
            Self::List { kind: ListKind::Vector, count, of, .. } => {
                format!("vec{}<{}>", count.unwrap_or(0), of.name())
            }
            Self::List { kind: ListKind::Matrix, count, of, .. } => match of.as_ref() {
                Self::List { count: rows, of, .. } => {
                    format!("mat{}x{}<{}>", count.unwrap_or(0), rows.unwrap_or(0), of.name())
                }
                other => other.name(),
            },
            Self::List { kind: ListKind::Array, count: Some(count), of, .. } => {
                format!("array<{}, {count}>", of.name())
            }
            Self::List { kind: ListKind::Array, count: None, of, .. } => format!("array<{}>", of.name()),
            Self::Fields { fields, .. } => {
                let fields: Vec<String> =
                    fields.iter().map(|(name, _, form)| format!("{name}: {}", form.name())).collect();
                format!("struct {{ {} }}", fields.join(", "))
            }
        }
    }

    /// Returns the type of all its numbers, if they have the same type.
    pub fn only(&self) -> Option<Element> {
        match self {
            Self::Number(element) => Some(*element),
            Self::List { of, .. } => of.only(),
            Self::Fields { fields, .. } => {
                let (_, _, first) = fields.first()?;
                let first = first.only()?;
                fields.iter().all(|(_, _, form)| form.only() == Some(first)).then_some(first)
            }
        }
    }

    /// Returns the bytes before the runtime-sized array and its stride, if there is one.
    pub fn open_end(&self) -> Option<(usize, usize)> {
        match self {
            Self::List { count: None, stride, .. } => Some((0, *stride as usize)),
            Self::Fields { fields, .. } => {
                let (_, offset, last) = fields.last()?;
                let (before, stride) = last.open_end()?;
                Some((*offset as usize + before, stride))
            }
            _ => None,
        }
    }

    /// Returns the size in bytes; a runtime-sized array counts with one element.
    pub fn size(&self) -> usize {
        match self {
            Self::Number(element) => element.size(),
            Self::List { kind: ListKind::Vector, count, of, .. } => count.unwrap_or(0) as usize * of.size(),
            Self::List { count, stride, .. } => count.unwrap_or(1) as usize * *stride as usize,
            Self::Fields { span, .. } => *span as usize,
        }
    }

    /// Calls `visit` with the offset and type of each number in the first `end` bytes, in order, skipping gaps.
    pub fn visit(&self, end: usize, visit: &mut dyn FnMut(usize, Element)) {
        self.visit_from(0, end, visit);
    }

    fn visit_from(&self, at: usize, end: usize, visit: &mut dyn FnMut(usize, Element)) {
        match self {
            Self::Number(element) if at + element.size() <= end => visit(at, *element),
            Self::Number(_) => {}
            Self::List { count, stride, of, .. } => {
                let stride = (*stride as usize).max(1);
                let fit = end.saturating_sub(at).div_ceil(stride);
                for index in 0..count.map_or(fit, |count| fit.min(count as usize)) {
                    of.visit_from(at + index * stride, end, visit);
                }
            }
            Self::Fields { fields, .. } => {
                for (_, offset, form) in fields {
                    form.visit_from(at + *offset as usize, end, visit);
                }
            }
        }
    }

    /// Returns how many numbers an array element takes in memory and how many it contains, if they differ: 4 and 3 for
    /// `array<vec3<f32>>`. `None` for types without gaps and for structs.
    pub fn gaps(&self) -> Option<(usize, usize)> {
        let Self::List { kind, stride, of, .. } = self else { return None };
        let element = of.only()?;
        if *kind == ListKind::Vector || matches!(of.as_ref(), Self::Fields { .. }) {
            return None;
        }
        let mut real = 0;
        of.visit(*stride as usize, &mut |_, _| real += 1);
        let whole = *stride as usize / element.size();
        (real < whole).then_some((whole, real))
    }

    /// Returns all its numbers with their names, prefixed by `name`.
    pub fn leaves(&self, name: &str) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        self.collect(name.to_owned(), 0, &mut leaves);
        leaves
    }

    fn collect(&self, name: String, at: usize, leaves: &mut Vec<Leaf>) {
        match self {
            Self::Number(element) => leaves.push(Leaf { name, offset: at, element: *element }),
            Self::List { kind, count, stride, of } => {
                for index in 0..count.unwrap_or(1) {
                    let name = match (kind, ["x", "y", "z", "w"].get(index as usize)) {
                        (ListKind::Vector, Some(axis)) => format!("{name}.{axis}"),
                        _ => format!("{name}[{index}]"),
                    };
                    of.collect(name, at + (index * stride) as usize, leaves);
                }
            }
            Self::Fields { fields, .. } => {
                for (field, offset, form) in fields {
                    let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                    form.collect(name, at + *offset as usize, leaves);
                }
            }
        }
    }

    /// Computes the layout of a type.
    ///
    /// # Errors
    /// The name of a type that host and device can't share.
    pub(super) fn of(module: &naga::Module, ty: naga::Handle<naga::Type>) -> Result<Self, String> {
        use naga::{ArraySize, TypeInner};
        let vector = |size: naga::VectorSize, scalar: naga::Scalar| {
            Ok::<_, String>(Self::List {
                kind: ListKind::Vector,
                count: Some(size as u32),
                stride: scalar.width.into(),
                of: Box::new(Self::Number(number(scalar)?)),
            })
        };
        match &module.types[ty].inner {
            TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) => Ok(Self::Number(number(*scalar)?)),
            TypeInner::Vector { size, scalar } => vector(*size, *scalar),
            TypeInner::Matrix { columns, rows, scalar } => Ok(Self::List {
                kind: ListKind::Matrix,
                count: Some(*columns as u32),
                // A column of three takes the space of four.
                stride: u32::from(scalar.width) * (*rows as u32).next_power_of_two(),
                of: Box::new(vector(*rows, *scalar)?),
            }),
            TypeInner::Array { base, size, stride } => Ok(Self::List {
                kind: ListKind::Array,
                count: match size {
                    ArraySize::Constant(count) => Some(count.get()),
                    ArraySize::Dynamic => None,
                    ArraySize::Pending(_) => return Err("an array whose size is not known".to_owned()),
                },
                stride: *stride,
                of: Box::new(Self::of(module, *base)?),
            }),
            TypeInner::Struct { members, span } => {
                let field = |member: &naga::StructMember| {
                    let form = Self::of(module, member.ty)?;
                    Ok::<_, String>((member.name.clone().unwrap_or_default(), member.offset, form))
                };
                Ok(Self::Fields { fields: members.iter().map(field).collect::<Result<_, _>>()?, span: *span })
            }
            other => Err(format!("{other:?}")),
        }
    }
}

pub(super) fn number(scalar: naga::Scalar) -> Result<Element, String> {
    use naga::ScalarKind::{Float, Sint, Uint};
    Ok(match (scalar.kind, scalar.width) {
        (Float, 2) => Element::F16,
        (Float, 4) => Element::F32,
        (Float, 8) => Element::F64,
        (Sint, 2) => Element::I16,
        (Sint, 4) => Element::I32,
        (Sint, 8) => Element::I64,
        (Uint, 2) => Element::U16,
        (Uint, 4) => Element::U32,
        (Uint, 8) => Element::U64,
        _ => return Err(format!("{scalar:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Form {
        let module = naga::front::wgsl::parse_str(text).unwrap();
        let (_, variable) = module.global_variables.iter().next().unwrap();
        Form::of(&module, variable.ty).unwrap()
    }

    fn offsets(form: &Form, end: usize) -> Vec<usize> {
        let mut offsets = Vec::new();
        form.visit(end, &mut |offset, _| offsets.push(offset));
        offsets
    }

    #[test]
    fn plain_arrays_have_no_gaps() {
        for ty in ["array<f32>", "array<vec4<f32>>", "array<vec2<f32>, 3>", "array<mat4x4<f32>>"] {
            let form = form(&format!("@group(0) @binding(0) var<storage> x: {ty};"));
            assert_eq!((form.name().as_str(), form.only(), form.gaps()), (ty, Some(Element::F32), None));
        }
        let form = form("@group(0) @binding(0) var<storage> x: array<u32>;");
        assert_eq!(form.open_end(), Some((0, 4)));
        assert_eq!(offsets(&form, 12), [0, 4, 8]);
    }

    #[test]
    fn vec3_is_followed_by_a_gap() {
        let form = form("@group(0) @binding(0) var<storage> x: array<vec3<f32>>;");
        assert_eq!((form.gaps(), form.open_end()), (Some((4, 3)), Some((0, 16))));
        assert_eq!(offsets(&form, 32), [0, 4, 8, 16, 20, 24]);
    }

    #[test]
    fn structs_use_naga_offsets() {
        let text = "struct S { a: u32, b: vec3<f32>, c: array<vec2<i32>, 2> }
            @group(0) @binding(0) var<uniform> x: S;";
        // WGSL requires strides of 16 for arrays in uniforms; naga parses without that rule.
        let form = form(text);
        let leaves = form.leaves("");
        let names: Vec<(&str, usize)> = leaves.iter().map(|leaf| (leaf.name.as_str(), leaf.offset)).collect();
        assert_eq!(
            names,
            [
                ("a", 0),
                ("b.x", 16),
                ("b.y", 20),
                ("b.z", 24),
                ("c[0].x", 32),
                ("c[0].y", 36),
                ("c[1].x", 40),
                ("c[1].y", 44)
            ]
        );
        assert_eq!((form.only(), form.open_end(), form.size()), (None, None, 48));
    }

    #[test]
    fn runtime_sized_array_may_end_a_struct() {
        let form = form(
            "struct S { count: atomic<u32>, data: array<u32> }
            @group(0) @binding(0) var<storage, read_write> x: S;",
        );
        assert_eq!((form.open_end(), form.only()), (Some((4, 4)), Some(Element::U32)));
        assert_eq!(offsets(&form, 16), [0, 4, 8, 12]);
        assert_eq!(form.name(), "struct { count: u32, data: array<u32> }");
    }

    #[test]
    fn matrix_elements_are_listed_by_column() {
        let form = form("@group(0) @binding(0) var<storage> x: array<mat2x3<f32>>;");
        assert_eq!(form.gaps(), Some((8, 6)));
        assert_eq!(offsets(&form, 32), [0, 4, 8, 16, 20, 24]);
        assert_eq!(form.name(), "array<mat2x3<f32>>");
    }
}
