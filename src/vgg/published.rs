//! The published full-size networks, by their short names.

/// The command that downloads a network, as messages call it.
pub const FETCH_COMMAND: &str = "mirage weights --fetch";
/// Short name and repository of each network that can be downloaded.
pub(super) const NETWORKS: [(&str, &str); 2] =
    [("vgg16", "timm/vgg16.tv_in1k"), ("vgg19", "timm/vgg19.tv_in1k")];

/// Whether `name` is one of them.
pub(super) fn is_known(name: &str) -> bool {
    NETWORKS.iter().any(|(known, _)| *known == name)
}

/// What the downloaded network `name` is called on disk.
pub(super) fn file_name(name: &str) -> String {
    format!("{name}.safetensors")
}
