//! The summary of a weights file for the user.

use crate::escape::{one_line, shown};
use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::layer::Conv;
use super::network::Network;
use super::tensor::Tensor;
use crate::Result;

/// Channels of each block in the published networks.
const VGG_CHANNELS: [usize; 5] = [64, 128, 256, 512, 512];
/// Width of the hidden fully connected layers in the published networks.
const VGG_FC_WIDTH: usize = 4096;

/// Convolutions per block of the published networks.
const VGGS: [(&str, [usize; 5]); 4] = [
    ("VGG-11", [1, 1, 2, 2, 2]),
    ("VGG-13", [2, 2, 2, 2, 2]),
    ("VGG-16", [2, 2, 3, 3, 3]),
    ("VGG-19", [2, 2, 4, 4, 4]),
];

impl Network {
    /// Describes the topology, with its name if known: `VGG-16 (13 convs in 5 blocks: 2+2+3+3+3)`.
    pub fn topology(&self) -> String {
        let per_block = self.convs_per_block();
        let name = VGGS.iter().find(|(_, convs)| per_block == convs).map(|(name, _)| *name);
        let widths =
            self.block_channels().iter().map(Vec::as_slice).eq(VGG_CHANNELS.iter().map(std::slice::from_ref));
        let mut text = match name {
            Some(name) if widths => name.to_owned(),
            Some(name) => format!("{name} with other channel widths"),
            None => "VGG-shaped".to_owned(),
        };
        let normed = self.convs().filter(|conv| conv.has_batch_norm()).count();
        if normed > 0 {
            text += " with batch norm (folded into the convolutions)";
        }
        let narrow = self.linears().count() > 1
            && self.linears().next().is_some_and(|linear| linear.out_features < VGG_FC_WIDTH);
        if narrow && name.is_some() && widths {
            text += ", narrow head";
        }
        let convs: usize = per_block.iter().sum();
        let plus: Vec<String> = per_block.iter().map(usize::to_string).collect();
        let _ = write!(text, " ({convs} convs in {} blocks: {})", per_block.len(), plus.join("+"));
        text
    }

    /// Summarises the file, one `property: value` per line, without a final line break. Reads the whole file
    /// for its hash.
    ///
    /// # Errors
    /// The errors of [`Network::sha256`].
    pub fn summary(&self) -> Result<String> {
        let joined = |values: Vec<String>| values.join(", ");
        let channels = self.block_channels().into_iter().map(|widths| {
            let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
            widths.join("-")
        });
        let head: Vec<String> =
            self.linears().map(|linear| format!("{}x{}", linear.out_features, linear.in_features)).collect();
        let kernels: BTreeSet<[usize; 2]> = self.convs().map(|conv| conv.kernel).collect();
        let dtypes: BTreeSet<String> = self.tensors().map(|tensor| tensor.dtype().to_string()).collect();
        let stored: usize = self.tensors().map(Tensor::byte_len).sum();

        let mut lines = vec![
            ("file", shown(&self.path)),
            ("network", self.topology()),
            ("channels", joined(channels.collect())),
            ("filters", joined(kernels.iter().map(|[h, w]| format!("{h}x{w}")).collect())),
        ];
        match self.classes() {
            Some(classes) => {
                lines.push(("fully connected", joined(head)));
                lines.push(("classes", classes.to_string()));
            }
            None => lines.push(("fully connected", "none: no abstract factor, no class readout".to_owned())),
        }
        lines.push(("key layout", self.layout.to_string()));
        lines.push(("stored as", joined(dtypes.into_iter().collect())));
        lines.push(("preprocessing", format!("{} ({})", self.preprocessing, self.preprocessing_source)));
        lines.push(("parameters", grouped(self.parameters())));
        lines.push((
            "size",
            format!("{} bytes, {} of them weights", grouped(self.file_len()), grouped(stored)),
        ));
        lines.push(("SHA-256", self.sha256()?));
        if !self.unused.is_empty() {
            lines.push((
                "not used",
                joined(self.unused.iter().map(|name| one_line(name).into_owned()).collect()),
            ));
        }
        lines.push(("layers", self.layer_names().join(" ")));

        let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0) + 1;
        let lines: Vec<String> =
            lines.into_iter().map(|(what, value)| format!("{:width$} {value}", format!("{what}:"))).collect();
        Ok(lines.join("\n"))
    }

    /// Returns the distinct channel counts of each block, in order.
    fn block_channels(&self) -> Vec<Vec<usize>> {
        let convs: Vec<&Conv> = self.convs().collect();
        let mut rest = convs.as_slice();
        let mut blocks = Vec::new();
        for count in self.convs_per_block() {
            let (block, after) = rest.split_at(count.min(rest.len()));
            let mut widths: Vec<usize> = block.iter().map(|conv| conv.out_channels).collect();
            widths.dedup();
            blocks.push(widths);
            rest = after;
        }
        blocks
    }
}

/// Formats a number with thousands separators: `138,357,544`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_separated_by_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (138_357_544, "138,357,544")] {
            assert_eq!(grouped(number), text);
        }
    }
}
