//! Dumps activations, losses and the image gradient of one objective; `tools/check_fullsize.py` compares them
//! with PyTorch.
//!
//! `cargo run --release --example fullsize -- --weights W --photo P --start S --out OURS.safetensors`
//!
//! `--decisions FILE` also writes the start picture's activations at every ReLU and at the adaptive pool's input.
//! They show which branch each ReLU and max pool took.

use clap::Parser;
use neural_mirage::gpu::{AdapterChoice, DeviceOptions};
use neural_mirage::graph::Engine;
use neural_mirage::image_io;
use neural_mirage::mirage::preset::{FACTORS, Preset, layers};
use neural_mirage::mirage::statistic::by_name;
use neural_mirage::mirage::{Request, Scales, Session, Strength, activations};
use neural_mirage::ops::{Padding, PoolKind, Shape};
use neural_mirage::vgg::Network;
use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    weights: PathBuf,
    #[arg(long)]
    photo: PathBuf,
    #[arg(long)]
    start: PathBuf,
    #[arg(long)]
    out: PathBuf,
    #[arg(long)]
    decisions: Option<PathBuf>,
    /// Adapter as listed by `mirage devices`, or cpu [default: the best GPU, or the CPU without one].
    #[arg(long)]
    adapter: Option<AdapterChoice>,
    /// Use direct sums instead of Winograd convolution.
    #[arg(long)]
    exact: bool,
    // Weighted layers; the defaults are REQUEST of tools/check_fullsize.py.
    #[arg(long, default_value = "relu4_2:2000")]
    spatial: String,
    #[arg(long, default_value = "fc8:2300")]
    r#abstract: String,
    #[arg(long, default_value = "relu1_1:2.6e7,relu2_1:5.8e7,relu3_1:2.3e8,relu4_1:1.8e9,relu5_1:1.5e9")]
    style: String,
}

type Dump = Vec<(String, Vec<usize>, Vec<f32>)>;

fn sizes(shape: Shape) -> Vec<usize> {
    match shape {
        Shape::Map { channels, height, width } => vec![channels, height, width],
        other => vec![other.elements()],
    }
}

fn write(dump: &Dump, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let views: Vec<(&str, TensorView<'_>)> = dump
        .iter()
        .map(|(name, sizes, values)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, sizes.clone(), bytemuck::cast_slice(values))?))
        })
        .collect::<Result<_, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize_to_file(views, None, path)?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let engine = Engine::open(&DeviceOptions {
        adapter: arguments.adapter.clone().unwrap_or_default(),
        exact: arguments.exact,
        ..DeviceOptions::default()
    })?;
    let network = Arc::new(Network::open(&arguments.weights, None)?);
    let photo = image_io::read(&arguments.photo)?.picture;
    let start = image_io::read(&arguments.start)?.picture;

    let mut dump = Dump::new();
    for (prefix, picture) in [("", &photo), ("start/", &start)] {
        let layers = ["relu5_1", "fc6", "fc8"];
        let found = activations(&engine, &network, picture, PoolKind::Max.into(), &layers)?;
        for (layer, (shape, values)) in layers.iter().zip(found) {
            dump.push((format!("{prefix}{layer}"), sizes(shape), values));
        }
    }
    if let Some(path) = &arguments.decisions {
        // Only layers that the objective also keeps: a convolution that is read back is not fused with its ReLU.
        let names = network.layer_names();
        let layers: Vec<&str> =
            names.into_iter().filter(|name| name.starts_with("relu") || *name == "pool5").collect();
        let found = activations(&engine, &network, &start, PoolKind::Max.into(), &layers)?;
        let named = layers.iter().zip(found);
        write(
            &named.map(|(layer, (shape, values))| (layer.to_string(), sizes(shape), values)).collect(),
            path,
        )?;
    }
    let mut request = Request::new(photo);
    // The objective of tools/check_fullsize.py.
    request.pooling = PoolKind::Max.into();
    request.border = Padding::Zeros;
    request.scales = Scales::single(1);
    let mut preset = Preset { smooth_weight: 0.0, ..Preset::default() };
    preset.style.statistic = by_name("gram")?;
    for (name, list) in FACTORS.into_iter().zip([&arguments.spatial, &arguments.r#abstract, &arguments.style])
    {
        if let Some(factor) = preset.factor_mut(name) {
            factor.layers = layers(list)?;
            factor.strength = Strength::Weight(1.0);
        }
    }
    request.groups = preset.groups();
    let size = [3, request.photo.height, request.photo.width];
    let mut session = Session::new(&engine, &network, request)?;
    let (losses, gradient) = session.evaluate(&start)?;
    for loss in &losses {
        println!("{:>8} {:<8} {:.6e}", loss.group, loss.source, loss.loss);
    }
    let losses: Vec<f32> = losses.iter().map(|loss| loss.loss as f32).collect();
    dump.push(("losses".to_owned(), vec![losses.len()], losses));
    dump.push(("gradient".to_owned(), size.to_vec(), gradient));
    write(&dump, &arguments.out)?;
    println!("{} on {}", arguments.out.display(), engine.describe());
    Ok(())
}
