//! Decodes the scans of a baseline or progressive JPEG, keeping all or only the low frequencies.
//!
//! The scans of a progressive JPEG refine all blocks in turn, so no block is final before the last scan. For
//! coefficients that aren't kept, later scans only need to know whether they are still 0: one bit instead of sixteen.

use super::bits::{Bits, Huffman, Stop};
use super::planes::{Component, Problem, SIDE};

/// Positions of the coefficients in a block of 8x8, in storage order.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// For 0 to 8 kept frequencies in each direction, the index of each coefficient among the kept ones; beyond their
/// number if it isn't kept.
const KEPT: [[usize; 64]; SIDE + 1] = {
    let mut kept = [[SIDE * SIDE; 64]; SIDE + 1];
    let mut low = 1;
    while low <= SIDE {
        let mut index = 0;
        while index < 64 {
            let (row, column) = (ZIGZAG[index] as usize / SIDE, ZIGZAG[index] as usize % SIDE);
            if row < low && column < low {
                kept[low][index] = row * low + column;
            }
            index += 1;
        }
        low += 1;
    }
    kept
};

/// State set by the segments before a scan.
#[derive(Default)]
pub(super) struct Tables {
    quantization: [Option<[u16; SIDE * SIDE]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart_interval: usize,
}

/// A scan header.
struct Scan {
    /// Components: index in the frame, DC table and AC table.
    parts: Vec<(usize, usize, usize)>,
    /// First and last coefficient.
    band: (usize, usize),
    /// Successive approximation: position of the lowest bit decoded so far.
    low_bit: u32,
    refines: bool,
}

impl Scan {
    /// Parses a scan header.
    fn new(data: &[u8], components: &[Component]) -> Result<Self, Problem> {
        const WRONG: Problem = Problem("the header of a scan is damaged");
        let (count, rest) = data.split_first().ok_or(WRONG)?;
        let (parts, rest) = rest.split_at_checked(2 * usize::from(*count)).ok_or(WRONG)?;
        let &[first, last, approximation] = rest.first_chunk().ok_or(WRONG)?;
        let part = |&[id, tables]: &[u8; 2]| {
            let index = components.iter().position(|component| component.id == id)?;
            Some((index, usize::from(tables >> 4), usize::from(tables & 15)))
        };
        let parts: Option<Vec<_>> = parts.as_chunks().0.iter().map(part).collect();
        let parts = parts.filter(|parts| !parts.is_empty()).ok_or(WRONG)?;
        let twice = |(at, part): (usize, &(usize, usize, usize))| parts[..at].iter().any(|p| p.0 == part.0);
        let low_bit = u32::from(approximation & 15);
        if first > 63 || last > 63 || low_bit > 13 || parts.iter().enumerate().any(twice) {
            return Err(WRONG);
        }
        Ok(Self { parts, band: (first.into(), last.into()), low_bit, refines: approximation >> 4 != 0 })
    }
}

impl Tables {
    /// Parses a segment other than a scan.
    pub(super) fn take(&mut self, marker: u8, data: &[u8]) -> Result<(), Problem> {
        match marker {
            0xdb => self.quantize(data),
            0xc4 => self.huffman(data),
            0xdd => {
                let interval = data.first_chunk().ok_or(Problem("a segment is too short"))?;
                self.restart_interval = u16::from_be_bytes(*interval).into();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn quantize(&mut self, mut data: &[u8]) -> Result<(), Problem> {
        const WRONG: Problem = Problem("a quantization table is damaged");
        while let Some((head, rest)) = data.split_first() {
            let (wide, table) = (head >> 4 != 0, usize::from(head & 15));
            let (values, rest) = rest.split_at_checked(if wide { 128 } else { 64 }).ok_or(WRONG)?;
            let to = self.quantization.get_mut(table).ok_or(WRONG)?.insert([0; SIDE * SIDE]);
            for (index, place) in ZIGZAG.iter().enumerate() {
                to[usize::from(*place)] = match wide {
                    true => u16::from_be_bytes([values[2 * index], values[2 * index + 1]]),
                    false => values[index].into(),
                };
            }
            data = rest;
        }
        Ok(())
    }

    fn huffman(&mut self, mut data: &[u8]) -> Result<(), Problem> {
        const WRONG: Problem = Problem("a Huffman table is damaged");
        while let Some((head, rest)) = data.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or(WRONG)?;
            let total = counts.iter().map(|count| usize::from(*count)).sum();
            let (symbols, rest) = rest.split_at_checked(total).ok_or(WRONG)?;
            let tables = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let to = tables.get_mut(usize::from(head & 15)).ok_or(WRONG)?;
            *to = Some(Huffman::new(counts, symbols).ok_or(WRONG)?);
            data = rest;
        }
        Ok(())
    }

    /// Decodes a scan: its header, and its data from `at` in `bytes`; sets `at` to the end of the data. Returns false
    /// if the data of a progressive JPEG are damaged: earlier scans stay valid, later ones are useless.
    pub(super) fn read_scan(
        &mut self,
        header: &[u8],
        bytes: &[u8],
        at: &mut usize,
        components: &mut [Component],
        progressive: bool,
    ) -> Result<bool, Problem> {
        let mut scan = Scan::new(header, components)?;
        for (index, ..) in &scan.parts {
            let component = &mut components[*index];
            // The table at the component's first scan counts; it may be replaced later.
            component.steps = component.steps.or(self.quantization.get(component.table).copied().flatten());
            if component.steps.is_none() {
                return Err(Problem("a quantization table is missing"));
            }
        }
        if !progressive {
            let missing = |&(_, dc, ac): &(usize, usize, usize)| {
                !matches!((self.dc.get(dc), self.ac.get(ac)), (Some(Some(_)), Some(Some(_))))
            };
            if scan.parts.iter().any(missing) {
                return Err(Problem("a Huffman table is missing"));
            }
            // Ignore the header's values.
            (scan.band, scan.low_bit, scan.refines) = ((0, 63), 0, false);
        } else if scan.band.0 == 0 && scan.band.1 > 0 || scan.band.0 > 0 && scan.parts.len() > 1 {
            return Ok(false);
        }
        if scan.band.0 > 0 && components[scan.parts[0].0].is_mean() {
            return Ok(true);
        }
        let mut bits = Bits::new(bytes, *at);
        let stopped = self.blocks(&scan, &mut bits, components);
        *at = bits.place();
        Ok(!progressive || stopped != Err(Stop::Damaged))
    }

    /// Decodes all blocks of a scan.
    fn blocks(&self, scan: &Scan, bits: &mut Bits<'_>, components: &mut [Component]) -> Result<(), Stop> {
        let mut coders = Vec::new();
        for (index, dc, ac) in &scan.parts {
            let dc = self.dc.get(*dc).and_then(Option::as_ref);
            let ac = self.ac.get(*ac).and_then(Option::as_ref);
            let Scan { band, low_bit, refines, .. } = *scan;
            let kept = &KEPT[components[*index].low];
            coders.push((*index, Coder { dc, ac, kept, prediction: 0, run: 0, band, low_bit, refines }));
        }
        // A single component has only its own blocks; several are interleaved in MCUs.
        let single = coders.len() == 1;
        let first = &components[coders[0].0];
        let (across, down) = if single { first.own } else { first.parts };
        let interval = if self.restart_interval == 0 { usize::MAX } else { self.restart_interval };
        let mut left = interval;
        for y in 0..down {
            let mut x = 0;
            while x < across {
                if left == 0 {
                    bits.restart()?;
                    coders.iter_mut().for_each(|(_, coder)| (coder.prediction, coder.run) = (0, 0));
                    left = interval;
                }
                let mut passed = 1;
                for (index, coder) in &mut coders {
                    let component = &mut components[*index];
                    if single {
                        let block = y * component.stride + x;
                        match coder.without_data(component, block, left.min(across - x)) {
                            0 => coder.block(bits, component, block)?,
                            more => passed = more,
                        }
                        continue;
                    }
                    let (width, height) = component.sampling;
                    for row in y * height..(y + 1) * height {
                        let first = row * component.stride + x * width;
                        for block in first..first + width {
                            coder.block(bits, component, block)?;
                        }
                    }
                }
                (x, left) = (x + passed, left - passed);
            }
        }
        Ok(())
    }
}

/// Decodes the blocks of one component in a scan.
struct Coder<'a> {
    dc: Option<&'a Huffman>,
    ac: Option<&'a Huffman>,
    /// Where coefficients are kept, see [`KEPT`].
    kept: &'static [usize; 64],
    /// DC coefficient of the previous block.
    prediction: i32,
    /// Number of following blocks without new coefficients in the band (end-of-band run).
    run: u32,
    band: (usize, usize),
    low_bit: u32,
    refines: bool,
}

impl Coder<'_> {
    /// Skips up to `most` blocks, starting at `block`, that have no data; returns their number.
    fn without_data(&mut self, component: &Component, block: usize, most: usize) -> usize {
        let most = most.min(self.run as usize);
        let passed = match (most, self.refines) {
            (0, _) | (_, false) => most,
            // Each known coefficient of a block has a correction bit.
            (_, true) => {
                let known = &component.known(block)[..most];
                known.iter().position(|known| known & bits_of(self.band) != 0).unwrap_or(most)
            }
        };
        self.run -= passed as u32;
        passed
    }

    #[inline]
    fn block(&mut self, bits: &mut Bits<'_>, component: &mut Component, block: usize) -> Result<(), Stop> {
        let values = component.values(block);
        match (self.band, self.refines) {
            ((0, last), false) => {
                let category = bits.symbol(self.dc.ok_or(Stop::Damaged)?)?;
                if category > 16 {
                    return Err(Stop::Damaged);
                }
                self.prediction = self.prediction.wrapping_add(bits.value(category.into())?);
                values[0] = (self.prediction as i16).wrapping_shl(self.low_bit);
                if last > 0 { self.sequential(bits, values) } else { Ok(()) }
            }
            ((0, _), true) => {
                values[0] |= i16::from(bits.bit()?) << self.low_bit;
                Ok(())
            }
            (_, false) => {
                let (values, known) = component.values_and_mask(block);
                self.first(bits, values, known)
            }
            (_, true) => {
                let (values, known) = component.values_and_mask(block);
                self.refined(bits, values, known)
            }
        }
    }

    /// Decodes the AC coefficients of a block of a baseline JPEG.
    fn sequential(&self, bits: &mut Bits<'_>, values: &mut [i16]) -> Result<(), Stop> {
        let ac = self.ac.ok_or(Stop::Damaged)?;
        let mut index = 1;
        while index < 64 {
            let symbol = bits.symbol(ac)?;
            let (zeros, category) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            if category == 0 && zeros != 15 {
                break;
            }
            index += zeros;
            let value = bits.value(category)?;
            if let Some(to) = self.kept.get(index).and_then(|kept| values.get_mut(*kept)) {
                *to = value as i16;
            }
            index += 1;
        }
        Ok(())
    }

    /// Decodes the first pass over the coefficients of a band.
    fn first(&mut self, bits: &mut Bits<'_>, values: &mut [i16], known: &mut u64) -> Result<(), Stop> {
        let ac = self.ac.ok_or(Stop::Damaged)?;
        let mut index = self.band.0;
        while index <= self.band.1 {
            let symbol = bits.symbol(ac)?;
            let (zeros, category) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            if category == 0 && zeros < 15 {
                self.run = (1 << zeros) - 1 + bits.number(zeros)? as u32;
                break;
            }
            index += zeros as usize;
            if category > 0 {
                let value = bits.value(category)?;
                let kept = self.kept.get(index).ok_or(Stop::Damaged)?;
                *known |= 1 << index;
                if let Some(to) = values.get_mut(*kept) {
                    *to = (value as i16).wrapping_shl(self.low_bit);
                }
            }
            index += 1;
        }
        Ok(())
    }

    /// Decodes a refinement pass: one more bit of each known coefficient of a band, and new coefficients.
    fn refined(&mut self, bits: &mut Bits<'_>, values: &mut [i16], known: &mut u64) -> Result<(), Stop> {
        let step = 1i16 << self.low_bit;
        let mut index = self.band.0;
        while self.run == 0 && index <= self.band.1 {
            let symbol = bits.symbol(self.ac.ok_or(Stop::Damaged)?)?;
            let mut zeros = u32::from(symbol >> 4);
            let mut new = None;
            if symbol & 15 > 0 {
                new = Some(if bits.bit()? { step } else { -step });
            } else if zeros < 15 {
                self.run = (1 << zeros) + bits.number(zeros)? as u32;
                break;
            }
            // Skip the number of zeros in the symbol, to the next zero.
            while index <= self.band.1 {
                if *known >> index & 1 == 1 {
                    refine(bits, values, self.kept[index], step)?;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                index += 1;
            }
            if let Some(new) = new {
                if index > self.band.1 {
                    return Err(Stop::Damaged);
                }
                *known |= 1 << index;
                if let Some(to) = values.get_mut(self.kept[index]) {
                    *to = new;
                }
            }
            index += 1;
        }
        if self.run > 0 {
            self.run -= 1;
            let mut left = *known & bits_of((index, self.band.1));
            while left != 0 {
                refine(bits, values, self.kept[left.trailing_zeros() as usize], step)?;
                left &= left - 1;
            }
        }
        Ok(())
    }
}

/// Returns a mask of the coefficients of a band.
fn bits_of((first, last): (usize, usize)) -> u64 {
    if first > last { 0 } else { u64::MAX << first & u64::MAX >> (63 - last) }
}

/// Reads one more bit of the coefficient at `place`; ignores it if the coefficient isn't kept.
#[inline]
fn refine(bits: &mut Bits<'_>, values: &mut [i16], place: usize, step: i16) -> Result<(), Stop> {
    if bits.bit()?
        && let Some(value) = values.get_mut(place)
        && *value & step == 0
    {
        *value = value.wrapping_add(if *value < 0 { -step } else { step });
    }
    Ok(())
}
