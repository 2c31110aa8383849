//! Allocations whose size depends on a file or an option: failure is an error, not an abort.

/// Allocates a vector of zeros; the error says why that failed. Most systems provide the memory only when it is first
/// written.
pub(crate) fn zeros<T: bytemuck::Zeroable>(count: usize) -> Result<Vec<T>, String> {
    bytemuck::allocation::try_zeroed_vec(count).map_err(|()| refusal::<T>(count))
}

/// Allocates an empty vector with room for `count` values. The error says why that failed, so a large file or picture
/// does not abort the process.
pub(crate) fn with_capacity<T>(count: usize) -> Result<Vec<T>, String> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| refusal::<T>(count))?;
    Ok(values)
}

fn refusal<T>(count: usize) -> String {
    let mebibytes = count.saturating_mul(size_of::<T>()) >> 20;
    format!("there is not enough memory for another {mebibytes} MiB")
}
