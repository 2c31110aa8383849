//! The networks with short names: the default one, and the published full-size ones.

/// The command that downloads a network, for messages.
pub const FETCH_COMMAND: &str = "mirage weights --fetch";
/// Short name of the network that comes with the program.
pub const NARROW: &str = "narrow";
/// File name of [`NARROW`].
pub const DEFAULT_NETWORK: &str = "vgg16-narrow.safetensors";
/// SHA-256 of [`NARROW`]'s file.
pub const DEFAULT_NETWORK_SHA256: &str = "d20de52652922300356763857578061f0ff2a1646e655c450db2f7b13d9cdf1f";
/// Short name of each full-size network, and its repository on the hub.
pub(super) const NETWORKS: [(&str, &str); 2] =
    [("vgg16", "timm/vgg16.tv_in1k"), ("vgg19", "timm/vgg19.tv_in1k")];

/// Returns true if `name` is a full-size network, which is found only after it has been downloaded.
pub(super) fn is_full_size(name: &str) -> bool {
    NETWORKS.iter().any(|(known, _)| *known == name)
}

/// Returns the file name of the downloaded network `name`.
pub(super) fn file_name(name: &str) -> String {
    if name == NARROW { DEFAULT_NETWORK.to_owned() } else { format!("{name}.safetensors") }
}

/// Returns the address of [`NARROW`]'s file, if the package names its repository.
pub(super) fn narrow_address() -> Option<String> {
    address_in(env!("CARGO_PKG_REPOSITORY"))
}

/// Returns the address of [`NARROW`]'s file in this version of a repository, in GitHub's form.
fn address_in(repository: &str) -> Option<String> {
    let version = env!("CARGO_PKG_VERSION");
    let repository = repository.trim_end_matches('/').trim_end_matches(".git");
    (!repository.is_empty()).then(|| format!("{repository}/raw/v{version}/weights/{DEFAULT_NETWORK}"))
}

/// Returns instructions for getting [`NARROW`], for messages.
pub(super) fn where_narrow_is() -> String {
    let place = match narrow_address() {
        Some(address) => format!("can be downloaded from {address} with `{FETCH_COMMAND} {NARROW}`"),
        None => "is in the folder weights/ of the program's repository".to_owned(),
    };
    format!(
        "The file has SHA-256 {DEFAULT_NETWORK_SHA256} and {place}. Programs built with the feature embedded-network \
         contain it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_names_the_file_of_this_version() {
        let version = env!("CARGO_PKG_VERSION");
        let expected =
            format!("https://example.org/owner/name/raw/v{version}/weights/vgg16-narrow.safetensors");
        for repository in ["https://example.org/owner/name", "https://example.org/owner/name.git/"] {
            assert_eq!(address_in(repository), Some(expected.clone()));
        }
        assert_eq!(address_in(""), None);
    }
}
