//! The options of `mirage render`, grouped as `--help` shows them.

use super::device_args::{ComputingArgs, DeviceArgs};
use super::values::{
    self, AlphaArg, Border, ByteCount, Depth, Pooling, ScaleCountArg, SizeArg, StartPicture, Variation,
};
use crate::error::Result;
use crate::mirage::{Scales, Shares};
use crate::vgg::{Network, Preprocessing};
use clap::Args;
use serde::Serialize;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Environment variable that is used if `--weights` is not given.
pub(super) const WEIGHTS_VARIABLE: &str = "MIRAGE_WEIGHTS";
/// Allowed sides of a picture, in pixels.
pub(super) const SIDES: RangeInclusive<i64> = 1..=crate::image_io::MAX_SIDE as i64;

/// Options of `mirage render`. They serialise to the form in which they are recorded.
#[derive(Debug, Clone, Args, Serialize)]
pub(super) struct RenderArgs {
    /// The photo to repaint: PNG, JPEG, WebP, TIFF, GIF or BMP
    #[arg(value_name = "PHOTO")]
    #[serde(serialize_with = "values::paths")]
    pub photo: PathBuf,
    #[command(flatten)]
    #[serde(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub factors: FactorArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub balance: BalanceArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub class_names: LabelArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub optimisation: OptimisationArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub watching: WatchingArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub computing: ComputingArgs,
}

#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Input and output")]
pub(super) struct FileArgs {
    /// Output file; its extension sets the format: .png, .jpg, .webp or .tiff [default: the photo's name with
    /// -mirage.png, in the current folder]
    #[arg(short, long, value_name = "FILE")]
    #[serde(serialize_with = "values::paths")]
    pub output: Option<PathBuf>,
    /// Longest side of the picture in pixels; larger pictures have finer detail and take longer. auto: the largest size
    /// that fits in memory (see --memory), up to the photo's own
    #[arg(long, value_name = "PIXELS|auto", default_value = "512")]
    pub size: SizeArg,
    /// Memory limit of the run, e.g. 4GiB or 800MB: of the device's own memory, or of the machine's for the CPU device
    /// and software drivers. A run that needs more is refused before it starts [default: the free memory]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip)]
    pub memory: Option<ByteCount>,
    /// How to treat transparency: keep (saved pictures have the photo's; .png, .webp or .tiff), or a colour to put
    /// behind the photo: white, black, gray or #rrggbb
    #[arg(long, value_name = "keep|COLOR", default_value = "white")]
    #[serde(serialize_with = "values::displayed")]
    pub alpha: AlphaArg,
    /// Bits per colour channel; 16 (PNG and TIFF) leaves more headroom for later editing
    #[arg(long, value_name = "BITS", default_value = "8")]
    pub bit_depth: Depth,
    /// Replace existing files [default: refuse to]
    #[arg(long)]
    #[serde(skip)]
    pub overwrite: bool,
}

#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Factors")]
pub(super) struct FactorArgs {
    /// Layers that keep the photo's layout, e.g. relu3_1:0.5,relu4_2: early layers keep every edge, deep ones only
    /// the rough arrangement; none drops this factor [default: relu4_2]
    #[arg(long, alias = "spatial-layers", value_name = "LAYERS")]
    pub spatial: Option<String>,
    /// Layers that keep what the network recognises, wherever it is: fc6, fc7, fc8 or prob; none drops this factor
    /// [default: fc8]
    #[arg(long, alias = "abstract-layers", value_name = "LAYERS")]
    pub r#abstract: Option<String>,
    /// Layers that keep colours and textures: fine ones in early layers, large ones in deep layers; none drops this
    /// factor [default: relu1_1,relu2_1:0.5,relu3_1:0.25,relu4_1:0.125]
    #[arg(long, alias = "style-layers", value_name = "LAYERS")]
    pub style: Option<String>,
    /// One or more pictures to take the style from [default: the photo itself]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    #[serde(serialize_with = "values::paths")]
    pub style_image: Vec<PathBuf>,
    /// One or more pictures to take the layout from, resized to the photo's shape [default: the photo]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    #[serde(serialize_with = "values::paths")]
    pub spatial_image: Vec<PathBuf>,
    /// One or more pictures to take the abstract factor from [default: the photo]
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "classes")]
    #[serde(serialize_with = "values::paths")]
    pub abstract_image: Vec<PathBuf>,
    /// Classes to show instead of the photo's, by name or number, e.g. castle:0.7,lakeside:0.3 [default: the photo's]
    #[arg(long, value_name = "LIST", conflicts_with = "abstract")]
    pub classes: Option<String>,
    /// Statistic that describes the style
    #[arg(long, value_name = "NAME", default_value = "wasserstein", value_parser = values::style_statistics())]
    pub style_statistic: String,
    /// Weight of each style picture, e.g. 1,2 [default: equal weights]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', allow_negative_numbers = true)]
    pub style_blend: Vec<f32>,
}

#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Balance")]
pub(super) struct BalanceArgs {
    /// Share of each factor in the gradient; the weights are measured to match. Factors that are not listed keep their
    /// shares [default: spatial=15,abstract=15,style=70; with a --style-image spatial=25,abstract=0,style=75; none if a
    /// weight below is given]
    #[arg(long, value_name = "SHARES", conflicts_with_all = ["spatial_weight", "abstract_weight", "style_weight"])]
    #[serde(serialize_with = "values::text")]
    pub balance: Option<Shares>,
    /// Measure the weights again every N iterations, so that the shares stay the same to the end; 0: only at the start
    /// and after 10 iterations
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rebalance_every: u32,
    /// Raw weight of the spatial factor, instead of a share [default: 1 if another raw weight is given]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub spatial_weight: Option<f32>,
    /// Raw weight of the abstract factor, instead of a share [default: 1 if another raw weight is given]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub abstract_weight: Option<f32>,
    /// Raw weight of the style factor, instead of a share [default: 1 if another raw weight is given]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub style_weight: Option<f32>,
    /// Weight of the smoothness term (total variation), which removes noise and speckles
    #[arg(long, value_name = "NUMBER", default_value_t = 2.0, allow_negative_numbers = true)]
    pub tv_weight: f32,
    /// Smoothness term: squared differences of neighbours (as in neural-style), absolute differences (neural-style-pt),
    /// or diagonal: squared differences with diagonal neighbours too, up to the border (style-transfer-pytorch)
    #[arg(long, value_name = "KIND", default_value = "diagonal")]
    pub tv_kind: Variation,
}

#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Network")]
pub(super) struct NetworkArgs {
    /// The network: a safetensors file, narrow (the one that comes with the program), or vgg16 or vgg19 once fetched
    /// with `mirage weights --fetch` [default: the one that comes with the program]
    #[arg(long, alias = "network", value_name = "FILE", env = WEIGHTS_VARIABLE, hide_env_values = true)]
    #[serde(serialize_with = "values::paths")]
    pub weights: Option<PathBuf>,
    /// Preprocessing that the network was trained with: caffe or torchvision [default: as its file says]
    #[arg(long, value_name = "NAME")]
    #[serde(serialize_with = "values::text")]
    pub preprocessing: Option<Preprocessing>,
}

#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Network")]
pub(super) struct LabelArgs {
    /// File with the names of the network's classes, one per line [default: ImageNet's, for a network with 1000
    /// classes]
    #[arg(long, value_name = "FILE")]
    #[serde(serialize_with = "values::paths")]
    pub labels: Option<PathBuf>,
}

#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Optimisation")]
pub(super) struct OptimisationArgs {
    /// Iterations per scale: one number, or a list from the smallest scale to the largest, whose last number applies to
    /// all further scales
    #[arg(long, value_name = "N|LIST", value_delimiter = ',', default_value = "60,40,26,13,9", value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: Vec<u32>,
    /// Number of sizes to paint at, each 1.4 times the previous one; auto: as many as --min-size allows
    #[arg(long, value_name = "auto|N", default_value = "auto")]
    #[serde(serialize_with = "values::displayed")]
    pub scales: ScaleCountArg,
    /// Longest side of the smallest scale in pixels, with --scales auto
    #[arg(long, value_name = "PIXELS", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub min_size: u32,
    /// Decay of the moving average of a scale's pictures, which is shown and saved: 0.9 averages about the last 10,
    /// 0.99 about 100; 0 uses the last picture itself
    #[arg(long, value_name = "NUMBER", default_value_t = 0.9, allow_negative_numbers = true)]
    pub average_decay: f32,
    /// Grain added at the start of each scale after the first, as a multiple of the photo's fine detail at that size,
    /// so that textures grow in all directions rather than as a grid; 0 for none [default: 1; 0 with a --style-image]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub grain: Option<f32>,
    /// Pooling of the network: max is crisp; avg is softer; avg2 is avg times 2, which keeps activations in later
    /// layers about as large as with max
    #[arg(long, value_name = "KIND", default_value = "avg2", help_heading = "Network")]
    pub pooling: Pooling,
    /// Padding at the picture's border: zeros, as the network was trained; or replicate, which leaves no visible frame
    #[arg(long, value_name = "KIND", default_value = "replicate", help_heading = "Network")]
    pub border: Border,
    /// Picture to start from: blur (the photo as a few patches of colour), noise, photo, gray, or a picture file
    #[arg(long, value_name = "START", default_value = "blur")]
    pub init: StartPicture,
    /// Seed of all random numbers: a different seed gives a different picture
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
    /// Optimiser: adam; lbfgs, with a line search that accepts no step that raises the loss; or lbfgs-plain, without
    /// line search
    #[arg(long, value_name = "NAME", default_value = "adam")]
    pub optimizer: String,
    /// Step size: for adam, about the most that a colour changes in an iteration, on a scale where black is 0 and white
    /// is 1 [default: 0.02 for adam, 1 for lbfgs]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub learning_rate: Option<f32>,
    /// Number of steps in the history of lbfgs; each takes the memory of two pictures
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub history: u32,
    /// Decay of the learning rate within a scale: it is divided by sqrt(1 + NUMBER * steps)
    #[arg(long, value_name = "NUMBER", default_value_t = 0.1, allow_negative_numbers = true)]
    pub learning_rate_decay: f32,
    /// Adam's decay rate of the first moment
    #[arg(long, value_name = "NUMBER", default_value_t = 0.9, allow_negative_numbers = true)]
    pub beta1: f64,
    /// Adam's decay rate of the second moment
    #[arg(long, value_name = "NUMBER", default_value_t = 0.99, allow_negative_numbers = true)]
    pub beta2: f64,
    /// Adam's epsilon, which prevents division by zero
    #[arg(long, value_name = "NUMBER", default_value = "1e-8", allow_negative_numbers = true)]
    pub epsilon: f64,
    /// Stop when an iteration changes colours by less than this on average, on a scale where black is 0 and white is 1,
    /// e.g. 0.001; measured over ten iterations; 0 never stops early
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, allow_negative_numbers = true)]
    pub stop_when_change_below: f32,
    /// Clamp colours between black and white after each iteration [default: on]
    #[arg(long, overrides_with = "no_clamp")]
    pub clamp: bool,
    /// Clamp colours only when a picture is saved
    #[arg(long, overrides_with = "clamp")]
    #[serde(skip)]
    pub no_clamp: bool,
}

#[derive(Debug, Clone, Args, Serialize)]
#[command(next_help_heading = "Watching")]
pub(super) struct WatchingArgs {
    /// Print losses, shares and classes every N iterations; 0: only at the start and the end
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub print_every: u32,
    /// Save a numbered snapshot beside the picture every N iterations; 0 for none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub save_every: u32,
    /// Save snapshots after these iterations too, e.g. 1,2,5,10,20,50 [default: none]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub save_at: Vec<u32>,
    /// Save snapshots of the early pictures: after iterations 1, 2, 3, 5, 8, 13, 21, 34, 55 and so on [default: off]
    #[arg(long)]
    pub save_early: bool,
    /// Save a film of the run: .webp, .gif or .apng; it has a frame for every early iteration, later ones are further
    /// apart [default: none]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub film: Option<PathBuf>,
    /// Save a checkpoint for `mirage resume` beside the picture every N iterations; 0: only when the run is stopped
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub checkpoint_every: u32,
    /// If the graphics device is lost or hangs, reopen it and continue from the last checkpoint, up to N times; saves a
    /// checkpoint every 25 iterations unless --checkpoint-every is given
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Device")]
    #[serde(skip)]
    pub retry: u32,
    /// Watch and control the run in a browser, on this port [default: off; 7816 without a number]
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "7816", require_equals = false)]
    #[serde(skip)]
    pub web: Option<u16>,
    /// Address to listen on; any other than 127.0.0.1, such as 0.0.0.0, lets other machines open the page
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", requires = "web")]
    #[serde(skip)]
    pub web_host: std::net::IpAddr,
    /// Write a log, one JSON object per line; - is standard output [default: none]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub log: Option<PathBuf>,
    /// Write a trace for Perfetto or chrome://tracing: each dispatch on the device, each submission, read-back and
    /// wait; slows the run down [default: none]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub trace: Option<PathBuf>,
    /// Number of classes to print; 0 for none
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub top: usize,
    /// Print more: memory, and the kernel and time of each layer, which takes three iterations to measure [default:
    /// off]
    #[arg(short, long, conflicts_with = "quiet")]
    #[serde(skip)]
    pub verbose: bool,
    /// Print only errors [default: off]
    #[arg(short, long)]
    #[serde(skip)]
    pub quiet: bool,
}

impl NetworkArgs {
    /// Opens the network without reading its weights.
    pub(super) fn open(&self) -> Result<Network> {
        Network::find(self.weights.as_deref(), self.preprocessing)
    }
}

impl OptimisationArgs {
    /// Returns the number of scales, the smallest size, and the iterations at each.
    pub(super) fn scales(&self) -> Scales {
        Scales { count: self.scales.0, min_size: self.min_size, iterations: self.iterations.clone() }
    }

    /// True if colours are clamped after each step. The last of the two flags counts.
    pub(super) fn clamps(&self) -> bool {
        !self.no_clamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_io::Picture;
    use crate::mirage::Request;
    use crate::mirage::optimizer::{Adam, Lbfgs};
    use crate::mirage::preset::{self, Preset};
    use clap::{CommandFactory as _, Parser};

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        render: RenderArgs,
    }

    fn parse(words: &[&str]) -> Result<RenderArgs, clap::Error> {
        Only::try_parse_from(["mirage"].iter().chain(words)).map(|only| only.render)
    }

    #[test]
    fn clap_definitions_are_valid() {
        Only::command().debug_assert();
    }

    #[test]
    fn defaults_match_the_library() {
        let args = parse(&["photo.png"]).unwrap();
        let request = Request::new(Picture { width: 1, height: 1, rgb: vec![0.0; 3] });
        let adam = Adam::default();
        assert_eq!(args.optimisation.scales(), request.scales);
        assert_eq!(args.optimisation.average_decay, request.average_decay);
        assert!(args.optimisation.grain.is_none());
        assert_eq!(args.optimisation.learning_rate_decay, adam.decay);
        assert_eq!(args.optimisation.border.kind(), request.border);
        assert_eq!(args.optimisation.pooling.pooling(), request.pooling);
        assert_eq!(args.optimisation.history as usize, Lbfgs::default().history);
        assert!(args.optimisation.learning_rate.is_none());
        assert_eq!(args.optimisation.beta1, adam.beta1);
        assert_eq!(args.optimisation.beta2, adam.beta2);
        assert_eq!(args.optimisation.epsilon, adam.epsilon);
        assert_eq!(args.optimisation.seed, request.seed);
        assert_eq!(args.optimisation.clamps(), adam.clamp);
        assert_eq!(args.watching.print_every, request.schedule.report_every);
        assert_eq!(args.watching.top, request.top_classes);
        assert!(matches!(args.optimisation.init, StartPicture::Blur));
        // Defaults that are resolved later are stated in --help.
        let help = Only::command().render_long_help().to_string().replace('\n', " ");
        let words: Vec<&str> = help.split_whitespace().collect();
        let help = words.join(" ");
        for (name, rate) in [("adam", adam.learning_rate), ("lbfgs", Lbfgs::default().learning_rate)] {
            assert!(help.contains(&format!("{rate} for {name}")), "{name}");
        }
        let preset = Preset::default();
        assert_eq!(args.balance.tv_weight, preset.smooth_weight);
        assert_eq!(args.balance.tv_kind.statistic().key(), preset.smooth.key());
        assert_eq!(args.factors.style_statistic, preset.style.statistic.key());
        for default in [
            preset::layers_text(&preset.spatial.layers),
            preset::layers_text(&preset.abstracted.layers),
            preset::layers_text(&preset.style.layers),
            Shares::of(&preset.groups()).to_string(),
        ] {
            assert!(help.contains(&format!("[default: {default}")), "{default}: {help}");
        }
    }

    #[test]
    fn last_clamp_flag_wins() {
        for (words, clamps) in [
            (&["p"][..], true),
            (&["p", "--no-clamp"], false),
            (&["p", "--no-clamp", "--clamp"], true),
            (&["p", "--clamp", "--no-clamp"], false),
        ] {
            assert_eq!(parse(words).unwrap().optimisation.clamps(), clamps, "{words:?}");
        }
    }

    #[test]
    fn shares_and_weights_exclude_each_other() {
        for weight in ["--spatial-weight", "--abstract-weight", "--style-weight"] {
            let error = parse(&["p", "--balance", "style=1", weight, "2"]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
        }
        assert!(parse(&["p", "--balance", "style=1", "--tv-weight", "2"]).is_ok());
    }

    #[test]
    fn every_option_has_a_heading_and_a_default() {
        for argument in Only::command().get_arguments().filter(|a| !a.is_positional()) {
            let name = argument.get_id();
            if name == "help" || name == "version" {
                continue;
            }
            assert!(argument.get_help_heading().is_some(), "{name}");
            let help = argument.get_help().unwrap().to_string();
            let known = help.contains("[default: ") || !argument.get_default_values().is_empty();
            assert!(known || name == "no_clamp", "{name} states no default");
        }
    }
}
