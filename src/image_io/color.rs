//! Conversion from a photo's embedded colour space (ICC profile, or cICP, gAMA and cHRM of a PNG) to sRGB.

use std::sync::Arc;

use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, ColorPrimaries, ColorProfile, DataColorSpace, Layout,
    MatrixCoefficients, ProfileText, ToneReprCurve, TransferCharacteristics, TransformF64Executor,
    TransformOptions,
};

/// A conversion of rows of pixels to sRGB.
///
/// Uses f64, because moxcms treats f32 as 14 bit values, which is less than the precision of a 16 bit photo.
pub(super) struct ToSrgb {
    transform: Arc<TransformF64Executor>,
    channels: usize,
    source: Vec<f64>,
    target: Vec<f64>,
}

/// How an embedded profile is handled.
pub(super) enum Profile {
    /// The values are sRGB already, near enough.
    Srgb,
    /// The values must be converted; the text names the profile.
    Convert(ToSrgb, String),
    /// The profile can't be used, for this reason; the values are treated as sRGB.
    Ignored(&'static str),
}

/// Largest difference of a channel, as a share of full scale, up to which a profile counts as sRGB:
/// the many variants of the sRGB profile differ by one or two levels of 255.
const SAME: f32 = 2.0 / 255.0;

/// Largest accepted profile, in bytes. Profiles for printing presses have up to 4 MiB.
pub(super) const MAX_PROFILE: usize = 1 << 24;

/// Classifies the profile of a picture with 1 (gray), 3 (RGB) or 4 (CMYK, amounts of ink) colour channels.
pub(super) fn judge(icc: &[u8], channels: usize) -> Profile {
    if icc.len() > MAX_PROFILE {
        return Profile::Ignored("it is larger than 16 MiB");
    }
    let Ok(profile) = ColorProfile::new_from_slice(icc) else {
        return Profile::Ignored("it is malformed");
    };
    let layout = match (profile.color_space, channels) {
        (DataColorSpace::Rgb, 3) => Layout::Rgb,
        (DataColorSpace::Gray, 1) => Layout::Gray,
        // The crate's name for four samples of any kind.
        (DataColorSpace::Cmyk, 4) => Layout::Rgba,
        _ => return Profile::Ignored("it is for another kind of picture"),
    };
    conversion(&profile, layout, channels)
}

/// Builds the conversion for a profile; [`Profile::Srgb`] if it would change almost nothing.
fn conversion(profile: &ColorProfile, layout: Layout, channels: usize) -> Profile {
    let options = TransformOptions { prefer_fixed_point: false, ..TransformOptions::default() };
    let Ok(transform) = profile.create_transform_f64(layout, &ColorProfile::new_srgb(), Layout::Rgb, options)
    else {
        return Profile::Ignored("it is malformed or of a kind that isn't supported");
    };
    let mut to_srgb = ToSrgb { transform, channels, source: Vec::new(), target: Vec::new() };
    match to_srgb.deviation() {
        None => Profile::Ignored("it gives no usable values"),
        Some(deviation) if deviation <= SAME => Profile::Srgb,
        Some(_) => Profile::Convert(to_srgb, name(profile)),
    }
}

/// Classifies the code points of a PNG's `cICP` (ITU-T H.273): primaries, transfer function, matrix, and 1 for the
/// full range. A gray value is repeated in all three channels.
///
/// # Errors
/// A description of the colours, if they can't be converted.
pub(super) fn judge_code_points(points: [u8; 4]) -> Result<Profile, String> {
    let [primaries, transfer, matrix, full_range] = points;
    match transfer {
        16 => return Err("its colours have a high dynamic range (PQ, according to its cICP)".to_owned()),
        18 => return Err("its colours have a high dynamic range (HLG, according to its cICP)".to_owned()),
        _ => {}
    }
    // The code points for which moxcms has a curve and chromaticities.
    let known = matches!(primaries, 1 | 4..=9 | 11 | 12 | 22) && matches!(transfer, 1 | 4..=6 | 8 | 13..=15);
    if !known || matrix != 0 || full_range != 1 {
        return Err(format!(
            "its cICP describes colours that can't be converted: primaries {primaries}, transfer {transfer}, matrix {matrix}, range {full_range}"
        ));
    }
    let unknown = |_| "its cICP can't be understood".to_owned();
    let profile = ColorProfile::new_from_cicp(CicpProfile {
        color_primaries: CicpColorPrimaries::try_from(primaries).map_err(unknown)?,
        transfer_characteristics: TransferCharacteristics::try_from(transfer).map_err(unknown)?,
        matrix_coefficients: MatrixCoefficients::Identity,
        full_range: true,
    });
    Ok(conversion(&profile, Layout::Rgb, 3))
}

/// The exponent of a PNG's `gAMA` by which values are encoded, and the chromaticities (x, y) of its `cHRM`: white, red,
/// green, blue. A part that the file doesn't state is that of sRGB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gamma {
    pub exponent: Option<f32>,
    pub chromaticities: Option<[(f32, f32); 4]>,
}

/// Returns what is wrong with chromaticities. White, the first of them, has to lie inside the triangle of red, green and
/// blue.
pub(super) fn fault([white, red, green, blue]: [(f32, f32); 4]) -> Option<&'static str> {
    let area = |(ax, ay): (f32, f32), (bx, by): (f32, f32), (cx, cy): (f32, f32)| {
        (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    };
    let parts = [area(white, green, blue), area(red, white, blue), area(red, green, white)];
    let all = area(red, green, blue);
    let is_possible = all != 0.0 && white.1 > 0.0 && parts.iter().all(|part| part / all > 0.0);
    (!is_possible).then_some("its white isn't a mixture of its red, green and blue")
}

/// Relative difference from 1/2.2 up to which `gAMA` stands for the curve of sRGB, as in libpng: writers of sRGB state
/// 1/2.2, which is only near the curve.
const SAME_EXPONENT: f32 = 0.05;

/// Classifies the colours that a PNG's `gAMA` and `cHRM` describe. The chromaticities must be without [`fault`]. A gray
/// value is repeated in all three channels.
pub(super) fn judge_gamma(gamma: Gamma) -> Profile {
    let mut profile = ColorProfile::new_srgb();
    // The code points would take precedence over the curve.
    (profile.cicp, profile.description) = (None, None);
    if let Some([white, red, green, blue]) = gamma.chromaticities {
        let at = |(x, y): (f32, f32)| Chromaticity { x, y };
        let primaries = ColorPrimaries { red: at(red), green: at(green), blue: at(blue) };
        profile.update_rgb_colorimetry(at(white).to_xyyb(), primaries);
    }
    let is_srgb = |exponent: &f32| (exponent * 2.2 - 1.0).abs() <= SAME_EXPONENT;
    if let Some(exponent) = gamma.exponent.filter(|exponent| !is_srgb(exponent)) {
        // Never below: the file holds an unsigned number.
        if exponent == 0.0 {
            return Profile::Ignored("the exponent of its gAMA is 0");
        }
        let curve = ToneReprCurve::Parametric(vec![1.0 / exponent]);
        profile.red_trc = Some(curve.clone());
        profile.green_trc = Some(curve.clone());
        profile.blue_trc = Some(curve);
    }
    conversion(&profile, Layout::Rgb, 3)
}

impl ToSrgb {
    /// Converts pixels from `source` (one value per colour channel) to `target` (3 values per pixel, clipped to the
    /// gamut). Returns false if the transform failed.
    pub(super) fn row(&mut self, source: &[f32], target: &mut [f32]) -> bool {
        self.source.clear();
        // Gray in a colour space of three channels: the value is repeated.
        let copies = target.len() / 3 * self.channels / source.len().max(1);
        self.source.extend(source.iter().flat_map(|v| std::iter::repeat_n(f64::from(*v), copies)));
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

    /// Returns the largest change that the conversion makes to sample colours, infinite for inks; None if it fails.
    fn deviation(&mut self) -> Option<f32> {
        let level = |i: usize| i as f32 / 16.0;
        let source: Vec<f32> = if self.channels == 1 {
            (0..=16).map(level).collect()
        } else {
            let steps = [0, 1, 4, 8, 12, 16].map(level);
            let (count, channels) = (steps.len(), self.channels as u32);
            (0..count.pow(channels))
                .flat_map(|i| (0..channels).map(move |channel| steps[i / count.pow(channel) % count]))
                .collect()
        };
        let mut target = vec![0.0; source.len() / self.channels * 3];
        if !self.row(&source, &mut target) {
            return None;
        }
        if self.channels > 3 {
            return Some(f32::INFINITY);
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
    fn srgb_is_not_converted() {
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
    fn unsuitable_profiles_are_ignored() {
        let p3 = ColorProfile::new_display_p3().encode().unwrap();
        assert!(matches!(judge(&p3, 1), Profile::Ignored(_)));
        assert!(matches!(judge(b"", 3), Profile::Ignored(_)));
        assert!(matches!(judge(b"not a profile at all", 3), Profile::Ignored(_)));
        assert!(matches!(judge(&p3[..200], 3), Profile::Ignored(_)));
        let gray = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
        assert!(matches!(judge(&gray, 3), Profile::Ignored(_)));
        assert!(matches!(judge(&p3, 4), Profile::Ignored(_)));
        assert!(
            matches!(judge(&vec![0; MAX_PROFILE + 1], 3), Profile::Ignored(reason) if reason.contains("16 MiB"))
        );
    }

    #[test]
    fn cicp_code_points_are_converted_or_refused() {
        assert!(matches!(judge_code_points([1, 13, 0, 1]).unwrap(), Profile::Srgb));
        let Profile::Convert(mut p3, _) = judge_code_points([12, 13, 0, 1]).unwrap() else {
            panic!("not converted")
        };
        let mut out = [0.0; 6];
        // The published matrix, see above; then gray in one channel.
        assert!(p3.row(&[0.6, 0.4, 0.3, 0.5, 0.5, 0.5], &mut out));
        let expected = [0.6345, 0.3887, 0.2800, 0.5, 0.5, 0.5];
        assert!(out.iter().zip(expected).all(|(v, e)| (v - e).abs() < 2e-3), "{out:?}");
        let mut out = [0.0; 3];
        let Profile::Convert(mut linear, _) = judge_code_points([1, 8, 0, 1]).unwrap() else {
            panic!("linear")
        };
        assert!(linear.row(&[0.214_041], &mut out));
        assert!(out.iter().all(|v| (v - 0.5).abs() < 2e-3), "{out:?}");
        for (points, words) in [
            ([9, 16, 0, 1], "PQ"),
            ([9, 18, 0, 1], "HLG"),
            ([12, 13, 0, 0], "range 0"),
            ([1, 13, 1, 1], "matrix 1"),
            ([2, 2, 0, 1], "primaries 2"),
            ([1, 9, 0, 1], "transfer 9"),
            ([255; 4], "primaries 255"),
        ] {
            assert!(judge_code_points(points).err().unwrap().contains(words), "{words}");
        }
    }

    #[test]
    fn png_gamma_and_chromaticities_are_converted() {
        const SRGB: [(f32, f32); 4] = [(0.3127, 0.329), (0.64, 0.33), (0.3, 0.6), (0.15, 0.06)];
        const P3: [(f32, f32); 4] = [(0.3127, 0.329), (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)];
        let judge = |exponent, chromaticities| judge_gamma(Gamma { exponent, chromaticities });
        for (exponent, chromaticities) in
            [(None, None), (Some(0.45455), None), (Some(0.45), Some(SRGB)), (None, Some(SRGB))]
        {
            assert!(
                matches!(judge(exponent, chromaticities), Profile::Srgb),
                "{exponent:?} {chromaticities:?}"
            );
        }
        let convert = |exponent, chromaticities, source: &[f32]| {
            let Profile::Convert(mut to_srgb, _) = judge(exponent, chromaticities) else {
                panic!("not converted")
            };
            let mut out = [0.0; 3];
            assert!(to_srgb.row(source, &mut out));
            out
        };
        // 0.5 in linear light, in one channel for gray; 0.5 to the power of 1.8, as Macs encoded; the published matrix
        // of P3, see above.
        for (out, expected) in [
            (convert(Some(1.0), None, &[0.214_041]), [0.5; 3]),
            (convert(Some(1.0), Some(SRGB), &[0.214_041, 0.0, 1.0]), [0.5, 0.0, 1.0]),
            (convert(Some(1.0 / 1.8), None, &[0.5; 3]), [0.5727; 3]),
            (convert(Some(0.45455), Some(P3), &[0.6, 0.4, 0.3]), [0.6345, 0.3887, 0.2800]),
        ] {
            assert!(out.iter().zip(expected).all(|(v, e)| (v - e).abs() < 2e-3), "{out:?} {expected:?}");
        }
        // Damaged values are ignored: no exponent, no white, three times the same primary.
        let same = [SRGB[0], SRGB[1], SRGB[1], SRGB[1]];
        let no_white = [(0.0, 0.0), SRGB[1], SRGB[2], SRGB[3]];
        assert!(matches!(judge(Some(0.0), None), Profile::Ignored(_)));
        for chromaticities in [same, no_white, [(0.0, 0.0); 4]] {
            assert!(fault(chromaticities).is_some(), "{chromaticities:?}");
        }
        assert!(fault(SRGB).or(fault(P3)).is_none());
    }

    #[test]
    fn linear_gray_profile_is_converted() {
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
            // Not every byte, because preparing a transform takes milliseconds.
            for i in (0..icc.len()).step_by(7) {
                let mut damaged = icc.clone();
                damaged[i] = [0x00, 0x7f, 0xff][i % 3];
                let _ = judge(&damaged, channels);
            }
        }
    }
}
