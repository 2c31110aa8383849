//! Times Burn's 3x3 convolutions (wgpu backend, forward) at VGG's shapes; `tools/compare_peers.py --burn` runs it.
//! Prints one line of JSON for each shape: the minimum of the runs, each synchronised, after two warm-up runs (the
//! first one compiles and tunes).

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, DeviceKind, Distribution, Tensor};
use std::time::Instant;

fn main() {
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    for (ins, outs, side) in [(64, 64, 256), (128, 128, 128), (256, 256, 64), (512, 512, 32), (512, 512, 16)]
    {
        let x = Tensor::<4>::random([1, ins, side, side], Distribution::Default, &device);
        let weights = Tensor::<4>::random([outs, ins, 3, 3], Distribution::Default, &device);
        let mut least = f64::INFINITY;
        for run in 0..5 {
            device.sync().expect("synchronising");
            let begin = Instant::now();
            let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
            let y = conv2d(x.clone(), weights.clone(), None, options);
            device.sync().expect("synchronising");
            if run >= 2 {
                least = least.min(begin.elapsed().as_secs_f64());
            }
            drop(y);
        }
        println!("{{\"op\": \"conv {ins}->{outs}@{side}\", \"min\": {least:.5}}}");
    }
}
