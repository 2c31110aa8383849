//! Embedded colour profiles: from the colour space of a photo to sRGB.

use std::sync::Arc;

use moxcms::{ColorProfile, DataColorSpace, Layout, ProfileText, TransformF64Executor, TransformOptions};

/// A conversion of rows of pixels to sRGB.
///
/// In f64, because moxcms takes f32 for 14 bit values, which is less than a 16 bit photo has.
pub(super) struct ToSrgb {
    transform: Arc<TransformF64Executor>,
    channels: usize,
    source: Vec<f64>,
    target: Vec<f64>,
}

/// What became of an embedded profile.
pub(super) enum Profile {
    /// The values are sRGB already, near enough.
    Srgb,
    /// They must be converted; the text names the profile.
    Convert(ToSrgb, String),
    /// It can't be used, for this reason; the values are taken as sRGB.
    Ignored(&'static str),
}

/// Largest difference of a channel, as a share of full scale, up to which a profile counts as sRGB:
/// the many variants of the sRGB profile differ by one or two levels of 255.
const SAME: f32 = 2.0 / 255.0;

/// Judges the profile of a picture with 1 (gray) or 3 (RGB) colour channels.
pub(super) fn judge(icc: &[u8], channels: usize) -> Profile {
    let Ok(profile) = ColorProfile::new_from_slice(icc) else {
        return Profile::Ignored("it is malformed");
    };
    let layout = match (profile.color_space, channels) {
        (DataColorSpace::Rgb, 3) => Layout::Rgb,
        (DataColorSpace::Gray, 1) => Layout::Gray,
        (DataColorSpace::Cmyk, 3) => return Profile::Ignored("it is for CMYK, and the decoder gives RGB"),
        _ => return Profile::Ignored("it is for another kind of picture"),
    };
    let options = TransformOptions { prefer_fixed_point: false, ..TransformOptions::default() };
    let Ok(transform) = profile.create_transform_f64(layout, &ColorProfile::new_srgb(), Layout::Rgb, options)
    else {
        return Profile::Ignored("it is malformed or of a kind that isn't supported");
    };
    let mut to_srgb = ToSrgb { transform, channels, source: Vec::new(), target: Vec::new() };
    match to_srgb.deviation() {
        None => Profile::Ignored("it gives no usable values"),
        Some(deviation) if deviation <= SAME => Profile::Srgb,
        Some(_) => Profile::Convert(to_srgb, name(&profile)),
    }
}

impl ToSrgb {
    /// Converts pixels: `source` holds 1 or 3 values each, `target` takes 3 each, clipped to the
    /// gamut. False if the transform refused.
    pub(super) fn row(&mut self, source: &[f32], target: &mut [f32]) -> bool {
        self.source.clear();
        self.source.extend(source.iter().map(|v| f64::from(*v)));
        self.target.clear();
        self.target.resize(target.len(), 0.0);
        if self.transform.transform(&self.source, &mut self.target).is_err() {
            return false;
        }
        for (to, from) in target.iter_mut().zip(&self.target) {
            *to = from.clamp(0.0, 1.0) as f32;
        }
        target.iter().all(|v| v.is_finite())
    }

    /// How far the conversion moves a sample of colours at most, None if it fails on them.
    fn deviation(&mut self) -> Option<f32> {
        let level = |i: usize| i as f32 / 16.0;
        let source: Vec<f32> = if self.channels == 1 {
            (0..=16).map(level).collect()
        } else {
            let steps = [0, 1, 4, 8, 12, 16].map(level);
            let count = steps.len();
            (0..count.pow(3))
                .flat_map(|i| [steps[i % count], steps[i / count % count], steps[i / count / count]])
                .collect()
        };
        let mut target = vec![0.0; source.len() / self.channels * 3];
        if !self.row(&source, &mut target) {
            return None;
        }
        let per_value = 3 / self.channels;
        Some(
            target.iter().enumerate().fold(0.0, |worst, (i, v)| (v - source[i / per_value]).abs().max(worst)),
        )
    }
}

/// The profile's own name, short and on one line, in quotes; empty if it has none.
fn name(profile: &ColorProfile) -> String {
    let text = match &profile.description {
        Some(ProfileText::PlainString(text)) => text.as_str(),
        Some(ProfileText::Localizable(texts)) => texts.first().map_or("", |t| t.value.as_str()),
        Some(ProfileText::Description(text)) => text.ascii_string.as_str(),
        None => "",
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
    if text.trim().is_empty() { String::new() } else { format!(" \"{}\"", text.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn srgb_is_left_alone() {
        let icc = ColorProfile::new_srgb().encode().unwrap();
        assert!(matches!(judge(&icc, 3), Profile::Srgb));
    }

    #[test]
    fn display_p3_is_converted_and_named() {
        let icc = ColorProfile::new_display_p3().encode().unwrap();
        let Profile::Convert(mut to_srgb, name) = judge(&icc, 3) else { panic!("not converted") };
        assert!(name.contains("P3"), "{name}");
        let mut out = [0.0; 9];
        // White stays white, gray stays gray, and a P3 colour inside sRGB goes where the published
        // P3 to sRGB matrix sends it.
        assert!(to_srgb.row(&[1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.6, 0.4, 0.3], &mut out));
        let expected = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.6345, 0.3887, 0.2800];
        for (value, expected) in out.iter().zip(expected) {
            assert!((value - expected).abs() < 2e-3, "{out:?}");
        }
    }

    #[test]
    fn profiles_that_dont_fit_are_ignored() {
        let p3 = ColorProfile::new_display_p3().encode().unwrap();
        assert!(matches!(judge(&p3, 1), Profile::Ignored(_)));
        assert!(matches!(judge(b"", 3), Profile::Ignored(_)));
        assert!(matches!(judge(b"not a profile at all", 3), Profile::Ignored(_)));
        assert!(matches!(judge(&p3[..200], 3), Profile::Ignored(_)));
        let gray = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
        assert!(matches!(judge(&gray, 3), Profile::Ignored(_)));
    }

    #[test]
    fn a_linear_gray_profile_is_converted() {
        let icc = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
        let Profile::Convert(mut to_srgb, _) = judge(&icc, 1) else { panic!("not converted") };
        let mut out = [0.0; 3];
        assert!(to_srgb.row(&[0.214_041], &mut out));
        assert!(out.iter().all(|v| (v - 0.5).abs() < 2e-3), "{out:?}");
    }

    /// Profiles are untrusted: a flipped byte leads to an error or a transform, never to a panic.
    #[test]
    fn damaged_profiles_never_panic() {
        for profile in [ColorProfile::new_display_p3(), ColorProfile::new_gray_with_gamma(2.2)] {
            let icc = profile.encode().unwrap();
            let channels = if profile.color_space == DataColorSpace::Gray { 1 } else { 3 };
            // A stride, because preparing a transform takes milliseconds.
            for i in (0..icc.len()).step_by(7) {
                let mut damaged = icc.clone();
                damaged[i] = [0x00, 0x7f, 0xff][i % 3];
                let _ = judge(&damaged, channels);
            }
        }
    }
}
