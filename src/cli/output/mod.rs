//! Text for people: escaping, numbers, tables, standard streams and the terminal.

pub(in crate::cli) mod escape;
pub(in crate::cli) mod format;
pub(in crate::cli) mod streams;
pub(in crate::cli) mod table;
pub(in crate::cli) mod terminal;
pub(in crate::cli) mod time_left;
