//! The readers of untrusted files as functions of bytes, for the fuzz targets and the corpus tests. Refusing a file is
//! fine; a panic, a crash, or excessive time or memory is not.

use neural_mirage::cli::records;
use neural_mirage::gpu::Precision;
use neural_mirage::image_io::{ReadOptions, read_with};
use neural_mirage::mirage::Checkpoint;
use neural_mirage::tune::{Adapter, Cache};
use neural_mirage::vgg::labels::{Labels, parse_classes};
use neural_mirage::vgg::{LayerKind, Network};
use neural_mirage::workbench::{Array, Record, RunPlan, RunRequest, ShaderRequest};
use neural_mirage::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use tempfile::NamedTempFile;

/// Reads a network: header, layers and all values.
pub fn weights(bytes: &[u8]) {
    check(with_file(bytes, |path| {
        let network = Network::open(path, None)?;
        network.summary()?;
        network.check_finite()?;
        for layer in &network.layers {
            match &layer.kind {
                LayerKind::Conv(conv) => drop((conv.filter()?, conv.bias()?)),
                LayerKind::Linear(linear) => drop((linear.matrix()?, linear.bias()?)),
                _ => {}
            }
        }
        Ok(())
    }));
    // The workbench reads tensors with any name and type.
    check(with_file(bytes, |path| Array::read_tensor(path, "conv1_1.weight").map(drop)));
}

/// Reads a checkpoint, unchanged and with a corrected checksum.
pub fn checkpoint(bytes: &[u8]) {
    check(with_file(bytes, |path| Checkpoint::load(path).map(drop)));
    if let Some(sealed) = sealed(bytes) {
        check(with_file(&sealed, records::read_checkpoint));
    }
}

/// Reads the record in a picture, as `mirage show` and `mirage sweep --continue` do.
pub fn record(bytes: &[u8]) {
    check(with_file(bytes, |path| records::read_picture(path).map(drop)));
}

/// Reads the pixels of a picture.
pub fn image(bytes: &[u8]) {
    let options = ReadOptions { most_pixels: 1 << 20, ..ReadOptions::default() };
    check(with_file(bytes, |path| pixels(path, &options)));
    if bytes.starts_with(b"\xff\xd8") {
        // Reduced as if it were very large: to an eighth, and to a half or a quarter, of its size.
        for longest in [1, 20] {
            let options = ReadOptions { longest: Some(longest), plain_pixels: 0, ..options.clone() };
            check(with_file(bytes, |path| pixels(path, &options)));
        }
    }
}

/// Reads the pixels of a picture of any size, for a small run.
pub fn large_image(bytes: &[u8]) {
    let options = ReadOptions { longest: Some(320), ..ReadOptions::default() };
    check(with_file(bytes, |path| pixels(path, &options)));
}

fn pixels(path: &Path, options: &ReadOptions) -> Result<()> {
    let decoded = read_with(path, options)?;
    let (width, height) = (decoded.picture.width, decoded.picture.height);
    assert_eq!(decoded.picture.rgb.len(), width * height * 3);
    assert!(decoded.picture.rgb.iter().all(|value| value.is_finite()));
    assert!(decoded.alpha.is_none_or(|alpha| alpha.values.len() == width * height));
    Ok(())
}

/// Reads configuration files: tuning cache, class names, earlier benchmark results.
pub fn configuration(bytes: &[u8]) {
    with_file(bytes, |path| {
        let adapter = Adapter {
            backend: "vulkan".to_owned(),
            vendor: 1,
            device: 2,
            name: "a device".to_owned(),
            driver: "driver 1.0".to_owned(),
        };
        let _ = Cache::load(path).0.choices(&adapter, false, Precision::Single);
        check(Record::load(path).map(|record| {
            for row in &record.rows {
                let _ = Record::change(row, &record);
            }
        }));
        check(Labels::load(path).and_then(|labels| {
            let first = labels.get(0).unwrap_or_default();
            parse_classes(first, &labels).map(drop)
        }));
    });
}

/// Reads a shader, with marked loops plain and unrolled.
pub fn shader(bytes: &[u8]) {
    with_file(bytes, |path| {
        for unroll in [false, true] {
            let shader = ShaderRequest { path: path.to_owned(), unroll, ..ShaderRequest::default() };
            let request = RunRequest { shader, workgroups: [1; 3], ..RunRequest::default() };
            check(RunPlan::new(&request).map(drop));
        }
    });
}

/// Reads a NumPy array.
pub fn npy(bytes: &[u8]) {
    check(with_file(bytes, |path| {
        let array = Array::read_npy(path)?;
        assert_eq!(array.elements(), array.shape.iter().product::<usize>());
        Ok(())
    }));
}

/// Checks that an error blames the file, not the program.
fn check(read: Result<()>) {
    if let Err(error) = read {
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(!matches!(error, Error::Io { .. }), "{error}");
    }
}

/// Calls `read` with a file that holds the bytes; each thread reuses one file.
fn with_file<T>(bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static FILE: RefCell<NamedTempFile> =
            RefCell::new(NamedTempFile::new().expect("room for a temporary file"));
    }
    FILE.with_borrow_mut(|file| {
        put(file.as_file_mut(), bytes).expect("room for a temporary file");
        read(file.path())
    })
}

/// Replaces the content of a file without truncating it first: some file systems then flush it to disk.
pub fn put(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    file.rewind()?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

/// Returns the bytes with a correct checkpoint checksum; `None` if they have no checksum field.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    const KEY: &[u8] = b"\"state:sha256\":\"";
    let start = bytes.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let mut sealed = bytes.to_vec();
    sealed.get_mut(start..start + 64)?.fill(b'0');
    let hash: String = Sha256::digest(&sealed).iter().map(|byte| format!("{byte:02x}")).collect();
    sealed[start..start + 64].copy_from_slice(hash.as_bytes());
    Some(sealed)
}
