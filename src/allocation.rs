//! Memory whose size a file or an option decides: a refusal is an error, not an abort.

/// A vector of zeros, or why there is none. It takes no memory before something is written over them, where the system
/// gives memory out that way.
pub(crate) fn zeros<T: bytemuck::Zeroable>(count: usize) -> Result<Vec<T>, String> {
    bytemuck::allocation::try_zeroed_vec(count).map_err(|()| refusal::<T>(count))
}

/// An empty vector with room for `count` values, or why there is none: the process isn't taken down by a file or a
/// picture too many.
pub(crate) fn with_capacity<T>(count: usize) -> Result<Vec<T>, String> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| refusal::<T>(count))?;
    Ok(values)
}

fn refusal<T>(count: usize) -> String {
    let mebibytes = count.saturating_mul(size_of::<T>()) >> 20;
    format!("there is not enough memory for {mebibytes} MiB more")
}
