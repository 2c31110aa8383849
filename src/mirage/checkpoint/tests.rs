//! Tests of saving and loading checkpoints, and of refusing damaged or forged ones.

use super::write::texts_of;
use super::*;
use crate::image_io::Picture;
use crate::mirage::loss::Shares;
use crate::mirage::objective::kept_picture::KeptPicture;
use crate::mirage::objective::step::STATE_AVERAGE_COUNTERS;
use crate::mirage::optimizer::{Adam, Lbfgs, LineSearch, Optimizer};
use crate::mirage::request::Request;
use crate::mirage::run::state::{EarlierScale, LossHistory};
use crate::mirage::setback::LossTrend;
use crate::mirage::weighting::{GroupWeight, Weights};
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use safetensors::{Dtype, SafeTensors};
use std::fs::File;
use std::sync::Arc;

fn checkpoint() -> Checkpoint {
    let values = |start: f32| (0..3 * 5 * 7).map(|at| (start + at as f32).sin() / 3.0).collect::<Vec<f32>>();
    let weight = |group: &str, weight, norm, reference| GroupWeight {
        group: group.to_owned(),
        weight,
        norm,
        reference,
    };
    let best = KeptPicture::Whole(Arc::new(Picture { width: 7, height: 5, rgb: values(6.0) }));
    let state = State {
        iteration: 37,
        seconds: 12.345_678_9,
        scale: 2,
        size: [5, 7],
        earlier_scales: Some(vec![
            EarlierScale { size: [2, 3], end: 11 },
            EarlierScale { size: [4, 5], end: 20 },
        ]),
        tensors: vec![
            ("adam:counters".to_owned(), vec![37.0, 0.979, 0.036_4, 0.0]),
            ("adam:first_moment".to_owned(), values(2.0)),
            ("adam:second_moment".to_owned(), values(3.0)),
            ("average".to_owned(), values(5.0)),
            (STATE_AVERAGE_COUNTERS.to_owned(), vec![37.0, 0.5, 0.0, 0.0]),
            ("picture".to_owned(), values(1.0)),
        ],
        shares: Shares(vec![("spatial".to_owned(), 20.1), ("a b".to_owned(), 1e-9)]),
        weights: Weights(vec![
            weight("spatial", 0.1, Some(0.3), Some(0.2)),
            weight("smooth", f32::MIN_POSITIVE, None, None),
        ]),
        weights_measured: true,
        shares_changed: true,
        halvings: 2,
        last_look: Some((30, values(4.0))),
        has_moved: false,
        losses: Some(LossHistory {
            loss: 0.1 + 0.2,
            trend: LossTrend::from_text("20 3.5 0.25 1 35").unwrap(),
            best: Some((33, 1e-9, best)),
        }),
    };
    let texts = [("options".to_owned(), "{\"photo\":\"my photo ü.png\"}".to_owned())].into();
    Checkpoint { state, texts }
}

/// A request whose runs have states like [`checkpoint`]'s.
fn request() -> Request {
    Request::new(Picture { width: 7, height: 5, rgb: vec![0.5; 3 * 5 * 7] })
}

#[test]
fn checkpoint_round_trips_bit_identically() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a run.safetensors");
    let full = checkpoint();
    let mut bare = checkpoint();
    bare.state.shares = Shares::default();
    bare.state.weights = Weights::default();
    bare.state.last_look = None;
    bare.state.losses = None;
    bare.state.has_moved = true;
    bare.state.earlier_scales = None;
    bare.state.shares_changed = false;
    let mut at_best = checkpoint();
    at_best.state.losses.as_mut().unwrap().best = None;
    for checkpoint in [full, bare, at_best] {
        checkpoint.save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint);
    }
}

#[test]
fn large_state_matches_safetensors_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.safetensors");
    let mut checkpoint = checkpoint();
    let long = (0..2 * PIECE + 77).map(|at| at as f32 / 7.0).collect();
    checkpoint.state.tensors.push(("z".to_owned(), long));
    checkpoint.save(&path).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint);
    let file = std::fs::read(&path).unwrap();
    let (length, header) = SafeTensors::read_metadata(&file).unwrap();
    let read = SafeTensors::deserialize(&file).unwrap();
    let other = safetensors::serialize(read.tensors(), header.metadata().clone()).unwrap();
    // The order of texts is not specified.
    assert!(other.len() == file.len() && other[8 + length..] == file[8 + length..]);
}

#[test]
fn flipped_bits_and_truncation_are_detected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    checkpoint().save(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap_err().exit_code(), 2, "{length} bytes");
    }
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    // Every byte of the header, and a sample of the values.
    for at in (0..header).chain((header..whole.len()).step_by(41)) {
        for bit in [0x01, 0x10, 0x80] {
            let mut flipped = whole.clone();
            flipped[at] ^= bit;
            std::fs::write(&path, &flipped).unwrap();
            assert_eq!(Checkpoint::load(&path).unwrap_err().exit_code(), 2, "byte {at}, bit {bit}");
        }
    }
    std::fs::write(&path, [whole.as_slice(), &[0]].concat()).unwrap();
    assert!(Checkpoint::load(&path).is_err());
}

/// A valid header that claims values which would take much time and memory to read.
#[test]
fn invalid_tensors_are_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let refusal = |tensors: &[(&str, usize)]| {
        let mut end = 0;
        let infos = tensors.iter().map(|(name, count)| {
            let start = end;
            end += count * size_of::<f32>();
            let info = TensorInfo { dtype: Dtype::F32, shape: vec![*count], data_offsets: (start, end) };
            ((*name).to_owned(), info)
        });
        let Checkpoint { state, texts } = checkpoint();
        let header = Metadata::new(Some(texts_of(&state, &texts)), infos.collect()).unwrap();
        let text = serde_json::to_vec(&header).unwrap();
        let bytes = [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat();
        std::fs::write(&path, &bytes).unwrap();
        // The rest of the file is sparse.
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len((bytes.len() + end) as u64).unwrap();
        let begun = std::time::Instant::now();
        let message = Checkpoint::load(&path).unwrap_err().to_string();
        assert!(begun.elapsed().as_secs() < 2, "{tensors:?}: {:?}", begun.elapsed());
        message
    };
    let message = refusal(&[("tensor:picture", 3 * 5 * 7), ("tensor:z", 1 << 30)]);
    assert!(message.contains("values for 7x5 pixels"), "{message}");
    let message = refusal(&[("tensor:picture", 1 << 30)]);
    assert!(message.contains("not one of 7x5 pixels"), "{message}");
}

#[test]
fn text_resembling_the_checksum_is_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut checkpoint = checkpoint();
    checkpoint.texts.insert("options".to_owned(), format!("{HASH_KEY}{}\"", "1".repeat(64)));
    checkpoint.save(&path).unwrap();
    assert_eq!(Checkpoint::load(&path).unwrap(), checkpoint);
}

#[test]
fn other_files_are_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let bytes = [0_u8; 8];
    let view = TensorView::new(Dtype::F32, vec![2], &bytes).unwrap();
    for (metadata, words) in [
        (None, "not a checkpoint"),
        (Some([("format".to_owned(), "pt".to_owned())].into()), "not a checkpoint"),
        (Some([("format".to_owned(), "neural-mirage checkpoint 2".to_owned())].into()), "version"),
        (Some([("format".to_owned(), FORMAT.to_owned())].into()), "damaged"),
    ] {
        std::fs::write(&path, safetensors::serialize([("a", view.clone())], metadata).unwrap()).unwrap();
        let message = Checkpoint::load(&path).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn different_optimiser_gets_only_the_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut full = checkpoint();
    let picture = full.state.tensor("picture").unwrap().to_vec();
    let accepted: Vec<f32> = picture.iter().map(|value| value / 2.0).collect();
    full.state.tensors.push(("lbfgs:accepted".to_owned(), accepted.clone()));
    full.state.tensors.push(("lbfgs:steps".to_owned(), vec![0.25; 80]));
    full.save(&path).unwrap();
    let file = CheckpointFile::open(&path).unwrap();
    let lbfgs = |line_search| Lbfgs { line_search, ..Lbfgs::default() };
    let rows: [(&dyn Optimizer, &[f32]); 3] = [
        (&Adam::default(), &picture),
        (&lbfgs(LineSearch::None), &picture),
        (&lbfgs(LineSearch::Backtracking), &accepted),
    ];
    for (replaced, expected) in rows {
        let state = file.read(&request(), Some(replaced)).unwrap();
        assert_eq!(state.tensor("picture").unwrap(), expected);
        let names: Vec<&str> = state.tensors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["average", STATE_AVERAGE_COUNTERS, "picture"], "{replaced:?}");
    }
    // The same optimiser does not get tensors that it does not keep.
    assert_eq!(file.read(&request(), None).unwrap(), checkpoint().state);
}

/// Tensors of the wrong length, or values that are not possible.
#[test]
fn impossible_states_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let refusal = |change: fn(&mut State)| {
        let mut changed = checkpoint();
        change(&mut changed.state);
        changed.save(&path).unwrap();
        let read = CheckpointFile::open(&path).and_then(|file| file.read(&request(), None));
        let error = read.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    fn losses(state: &mut State) -> &mut LossHistory {
        state.losses.as_mut().unwrap()
    }
    for (change, words) in [
        (
            (|state| state.tensors[1].1.truncate(104)) as fn(&mut State),
            "adam:first_moment has 104 values instead of 105",
        ),
        (|state| state.tensors[3].1.push(0.0), "average has 106 values instead of 105"),
        (|state| state.weights.0[0].weight = f32::NAN, "weights"),
        (|state| state.weights.0[0].weight = -1.0, "weights"),
        (|state| state.weights.0[1].norm = Some(f32::INFINITY), "weights"),
        (|state| state.weights.0[1].reference = Some(-1.0), "weights"),
        (|state| state.last_look = Some((3, vec![0.5; (3 << 20) + 1])), "the change is measured from"),
        (|state| losses(state).loss = f64::NAN, "damaged: loss"),
        (|state| losses(state).best.as_mut().unwrap().0 = 38, "damaged: best"),
        (|state| losses(state).best.as_mut().unwrap().1 = f64::INFINITY, "damaged: best"),
        (
            |state| {
                let small = Picture { width: 3, height: 5, rgb: vec![0.5; 45] };
                losses(state).best.as_mut().unwrap().2 = KeptPicture::Whole(Arc::new(small));
            },
            "its best picture is not one of 7x5 pixels",
        ),
        (|state| state.shares.0 = (0..1001).map(|index| (index.to_string(), 1.0)).collect(), "1000 groups"),
    ] {
        let message = refusal(change);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn non_finite_values_and_overwritten_file_are_detected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let good = checkpoint();
    good.save(&path).unwrap();
    let file = CheckpointFile::open(&path).unwrap();
    for (value, at) in [(f32::NAN, 0), (f32::INFINITY, 104)] {
        for name in ["picture", "adam:second_moment", "last look"] {
            let mut bad = good.clone();
            let tensors = bad.state.tensors.iter_mut().map(|(name, values)| (name.as_str(), values));
            let look = bad.state.last_look.iter_mut().map(|(_, look)| ("last look", look));
            let (_, values) = tensors.chain(look).find(|(other, _)| *other == name).unwrap();
            values[at] = value;
            bad.save(&path).unwrap();
            let message = CheckpointFile::open(&path).unwrap_err().to_string();
            assert!(message.contains("holds NaN or infinite"), "{name}: {message}");
        }
    }
    // A newer checkpoint may take the name while this one is read; overwriting the open file is detected.
    let read = |file: &CheckpointFile| file.read(&request(), None);
    assert_eq!(read(&file).unwrap(), good.state);
    let mut content = std::fs::read(&path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    good.save(&path).unwrap();
    let file = CheckpointFile::open(&path).unwrap();
    std::fs::write(&path, content).unwrap();
    let message = read(&file).unwrap_err().to_string();
    assert!(message.contains("not what was written"), "{message}");
}
