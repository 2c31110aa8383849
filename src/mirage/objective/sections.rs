//! Names of an objective's sections and read-backs. An iteration is [`GRADIENT`] (or [`SUM`]) followed by [`STEP`].

/// Section that computes losses and classes.
pub(in crate::mirage) const LOSSES: &str = "losses";
/// Section that computes the gradient.
pub(in crate::mirage) const GRADIENT: &str = "gradient";
/// Section that computes the gradient of each measured group separately, at weight 1, and its norm.
pub(in crate::mirage) const GROUPS: &str = "groups";
/// Section that sets the gradient to the weighted sum of the gradients from [`GROUPS`], which must be of the current
/// picture. Equal to [`GRADIENT`] up to rounding, without another forward and backward pass. Empty without shares.
pub(in crate::mirage) const SUM: &str = "sum";
/// Section that makes one optimiser step along the gradient from [`GRADIENT`] or [`SUM`], and records non-finite values
/// on the device.
pub(in crate::mirage) const STEP: &str = "step";
/// Section that copies the shown picture.
pub(in crate::mirage) const SNAPSHOT: &str = "snapshot";

/// Read-back of the numbers of [`LOSSES`] and [`GROUPS`].
pub(in crate::mirage) const REPORT: &str = "report";
/// Read-back of the copy from [`SNAPSHOT`].
pub(in crate::mirage) const PICTURE: &str = "picture";
/// Read-back of picture, average and optimiser state before the step.
pub(in crate::mirage) const STATE: &str = "state";
/// Read-back of the record of non-finite values, including those of the step in the same submission.
pub(in crate::mirage) const NON_FINITE: &str = "non_finite";
