//! Names of the sections and read-backs of an objective. An iteration is [`GRADIENT`] (or [`SUM`]) and [`STEP`].

/// Section that computes losses and classes.
pub(in crate::mirage) const LOSSES: &str = "losses";
/// Section that computes the gradient.
pub(in crate::mirage) const GRADIENT: &str = "gradient";
/// Section that computes the gradient of each measured group by itself, at weight 1, and its norm.
pub(in crate::mirage) const GROUPS: &str = "groups";
/// Section that makes the gradient the weighted sum of those that [`GROUPS`] left, which must be of the present
/// picture: to rounding the same as [`GRADIENT`], without another forward and backward pass. Empty without shares.
pub(in crate::mirage) const SUM: &str = "sum";
/// Section that makes one step of the optimiser along the gradient that [`GRADIENT`] or [`SUM`] left, and notes on the
/// device whether anything became NaN or infinite.
pub(in crate::mirage) const STEP: &str = "step";
/// Section that copies the picture that is shown.
pub(in crate::mirage) const SNAPSHOT: &str = "snapshot";

/// Read-back of the numbers of [`LOSSES`] and [`GROUPS`].
pub(in crate::mirage) const REPORT: &str = "report";
/// Read-back of what [`SNAPSHOT`] copied.
pub(in crate::mirage) const PICTURE: &str = "picture";
/// Read-back of picture, average and optimiser before the step.
pub(in crate::mirage) const STATE: &str = "state";
/// Read-back of what steps noted about values that are not finite, that of the step in the same submission included.
pub(in crate::mirage) const NON_FINITE: &str = "non_finite";
