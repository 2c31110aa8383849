//! The networks with short names: the default one, and the published full-size ones.

/// The command that downloads a network, for messages.
pub const FETCH_COMMAND: &str = "mirage weights --fetch";
/// Short name of the network that comes with the program.
pub const NARROW: &str = "narrow";
/// File name of [`NARROW`].
pub const DEFAULT_NETWORK: &str = "vgg16-narrow.safetensors";
/// SHA-256 of [`NARROW`]'s file.
pub const DEFAULT_NETWORK_SHA256: &str = "d20de52652922300356763857578061f0ff2a1646e655c450db2f7b13d9cdf1f";
/// Short name and repository of each network that can be downloaded.
pub(super) const NETWORKS: [(&str, &str); 2] =
    [("vgg16", "timm/vgg16.tv_in1k"), ("vgg19", "timm/vgg19.tv_in1k")];

/// Returns true if `name` can be downloaded.
pub(super) fn is_known(name: &str) -> bool {
    NETWORKS.iter().any(|(known, _)| *known == name)
}

/// Returns the file name of the downloaded network `name`.
pub(super) fn file_name(name: &str) -> String {
    format!("{name}.safetensors")
}

/// Returns instructions for getting [`NARROW`], for messages.
pub(super) fn where_narrow_is() -> String {
    format!(
        "The file has SHA-256 {DEFAULT_NETWORK_SHA256} and is in the folder weights/ of the program's repository; it is \
         not published anywhere else. Programs built with the feature embedded-network contain it"
    )
}
