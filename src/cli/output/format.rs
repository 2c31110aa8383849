//! Formats numbers, times and sizes for people.

/// Formats a number of any magnitude in few digits.
pub(in crate::cli) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        value.to_string()
    } else if size == 0.0 {
        "0".to_owned()
    } else if (0.001..99_999.5).contains(&size) {
        // Four significant digits.
        let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{value:.digits$}")
    } else {
        format!("{value:.3e}")
    }
}

/// Formats a duration in seconds, such as `2 min 5 s`.
pub(in crate::cli) fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// Formats a fraction of 1 in percent, without the sign; with a decimal if it is small.
pub(in crate::cli) fn percent(fraction: f32) -> String {
    let percent = fraction * 100.0;
    if percent < 9.95 { format!("{percent:.1}") } else { format!("{percent:.0}") }
}

/// Formats a name and a fraction of 1 in percent, such as `tabby 43%`.
pub(in crate::cli) fn named_percent(name: &str, fraction: f32) -> String {
    format!("{name} {}%", percent(fraction))
}

/// Formats a number of bytes in the largest unit in which it is at least 1.
pub(in crate::cli) fn bytes(count: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let number = format!("{value:.1}");
    format!("{} {}", number.strip_suffix(".0").unwrap_or(&number), units[unit])
}

/// Formats a number with three significant digits, and a decimal prefix if it is large: `1.23 G`.
pub(in crate::cli) fn metric(value: f64) -> String {
    let units = ["", "k", "M", "G", "T"];
    let mut value = value;
    let mut unit = 0;
    while value.abs() >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value == 0.0 || value.abs() >= 100.0 || value.fract() == 0.0 && unit == 0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", units[unit]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_are_formatted() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1.000"),
            (0.012_345, "0.01235"),
            (1234.56, "1235"),
            (-12.345, "-12.35"),
            (1.0e9, "1.000e9"),
            (2.5e-7, "2.500e-7"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(number(value), text);
        }
        for (seconds, text) in
            [(0.2, "0.2 s"), (12.4, "12 s"), (59.6, "1 min 0 s"), (3725.0, "1 h 2 min"), (-1.0, "0.0 s")]
        {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn byte_counts_are_formatted() {
        for (count, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (32 << 10, "32 KiB"),
            (128 << 20, "128 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::from(u32::MAX), "4 GiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn metric_numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.125, "0.12"),
            (999.0, "999"),
            (1234.0, "1.23 k"),
            (45_600_000.0, "45.6 M"),
            (4.84e9, "4.84 G"),
            (1e15, "1000 T"),
        ] {
            assert_eq!(metric(value), text);
        }
    }
}
