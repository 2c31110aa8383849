//! Bit reader and Huffman decoder for entropy-coded data.

/// Why decoding a scan stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The data end before the last block.
    Over,
    /// The data contain an invalid code, or the Huffman table is missing.
    Damaged,
}

/// Codes of up to this many bits are decoded with a single table lookup.
const SHORT: u32 = 9;

/// A Huffman table.
#[derive(Clone)]
pub(super) struct Huffman {
    /// Length and symbol of the code at the start of the next bits; length 0 for codes longer than [`SHORT`].
    short: Box<[(u8, u8); 1 << SHORT]>,
    /// For each length, the first code beyond its last one, left-aligned in 16 bits. Longer codes have larger values.
    ends: [u32; 17],
    /// For each length, the offset from a code to the index of its symbol.
    places: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// Builds a table from the number of codes of 1 to 16 bits and their symbols. Returns None if the numbers don't
    /// match the symbols or don't form a prefix code.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
        if total != symbols.len() {
            return None;
        }
        let mut short = Box::new([(0, 0); 1 << SHORT]);
        let (mut ends, mut places) = ([0; 17], [0; 17]);
        let (mut code, mut place) = (0u32, 0);
        for (length, count) in (1..=16u32).zip(counts) {
            places[length as usize] = place as i32 - code as i32;
            for _ in 0..*count {
                if code >> length != 0 {
                    return None;
                }
                if length <= SHORT {
                    let first = (code << (SHORT - length)) as usize;
                    short[first..first + (1 << (SHORT - length))].fill((length as u8, symbols[place]));
                }
                (code, place) = (code + 1, place + 1);
            }
            ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(Self { short, ends, places, symbols: symbols.to_vec() })
    }
}

/// Entropy-coded data, up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Position of the next byte to read; stays at a marker.
    at: usize,
    /// Bits read ahead, starting at the highest.
    held: u64,
    count: u32,
    /// Number of held bits that are zero padding after the end of the data.
    beyond: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0, beyond: 0 }
    }

    /// Position of the next unread byte; the marker, if all data were read.
    pub(super) fn place(&self) -> usize {
        self.at
    }

    /// Reads ahead until at least 32 bits are held.
    #[inline]
    fn fill(&mut self) {
        if self.count >= 32 {
            return;
        }
        let next: Option<&[u8; 4]> = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk());
        if let Some(next) = next.filter(|next| !next.contains(&0xff)) {
            self.held |= u64::from(u32::from_be_bytes(*next)) << (32 - self.count);
            self.count += 32;
            self.at += 4;
            return;
        }
        while self.count <= 56 {
            let byte = match (self.bytes.get(self.at), self.bytes.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (Some(0xff) | None, _) => {
                    self.beyond += 8;
                    0
                }
                (Some(byte), _) => {
                    self.at += 1;
                    *byte
                }
            };
            self.held |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Consumes held bits.
    #[inline]
    fn drop(&mut self, bits: u32) -> Result<(), Stop> {
        self.held <<= bits;
        self.count -= bits;
        if self.count < self.beyond { Err(Stop::Over) } else { Ok(()) }
    }

    /// Decodes the next symbol.
    #[inline]
    pub(super) fn symbol(&mut self, table: &Huffman) -> Result<u8, Stop> {
        self.fill();
        let (length, symbol) = table.short[(self.held >> (64 - SHORT)) as usize];
        if length > 0 {
            self.drop(length.into())?;
            return Ok(symbol);
        }
        let next = (self.held >> 48) as u32;
        for length in SHORT + 1..=16 {
            if next < table.ends[length as usize] {
                self.drop(length)?;
                let place = (next >> (16 - length)) as i32 + table.places[length as usize];
                return usize::try_from(place)
                    .ok()
                    .and_then(|place| table.symbols.get(place).copied())
                    .ok_or(Stop::Damaged);
            }
        }
        // The zeros after the end of the data may not form a code.
        Err(if self.beyond > 0 { Stop::Over } else { Stop::Damaged })
    }

    /// Reads up to 16 bits as a number.
    #[inline]
    pub(super) fn number(&mut self, bits: u32) -> Result<i32, Stop> {
        if bits == 0 {
            return Ok(0);
        }
        self.fill();
        let number = (self.held >> (64 - bits)) as i32;
        self.drop(bits)?;
        Ok(number)
    }

    /// Reads a signed value of `category` bits; a leading 0 bit means negative.
    #[inline]
    pub(super) fn value(&mut self, category: u32) -> Result<i32, Stop> {
        let number = self.number(category)?;
        Ok(if category > 0 && number >> (category - 1) == 0 { number - (1 << category) + 1 } else { number })
    }

    #[inline]
    pub(super) fn bit(&mut self) -> Result<bool, Stop> {
        Ok(self.number(1)? == 1)
    }

    /// Skips to after the next restart marker.
    pub(super) fn restart(&mut self) -> Result<(), Stop> {
        (self.held, self.count, self.beyond) = (0, 0, 0);
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            self.at += rest.iter().position(|byte| *byte == 0xff).ok_or(Stop::Over)?;
            match self.bytes.get(self.at + 1) {
                Some(0xd0..=0xd7) => {
                    self.at += 2;
                    return Ok(());
                }
                Some(0) => self.at += 2,
                Some(0xff) => self.at += 1,
                _ => return Err(Stop::Over),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes 0, 10, 110 and one of 12 bits.
    fn table() -> Huffman {
        let mut counts = [0; 16];
        (counts[0], counts[1], counts[2], counts[11]) = (1, 1, 1, 1);
        Huffman::new(&counts, &[7, 1, 250, 3]).unwrap()
    }

    #[test]
    fn codes_and_values_are_decoded_up_to_the_marker() {
        // 0 10 110 111000000000 01 1111111 (a stuffed byte in between), then padding.
        let bytes = [0b0101_1011, 0b1000_0000, 0b0001_1111, 0xff, 0, 0b1111_1000, 0xff, 0xd9, 1, 2];
        let mut bits = Bits::new(&bytes, 0);
        let symbols: Vec<u8> = (0..4).map(|_| bits.symbol(&table()).unwrap()).collect();
        assert_eq!(symbols, [7, 1, 250, 3]);
        assert_eq!(bits.value(2), Ok(-2));
        assert_eq!(bits.value(3), Ok(7));
        assert_eq!(bits.number(16), Ok(0b1111_1111_1111_1100));
        assert_eq!((bits.bit(), bits.bit()), (Ok(false), Err(Stop::Over)));
        assert_eq!((bits.symbol(&table()), bits.place()), (Err(Stop::Over), 6));
        assert_eq!(bits.restart(), Err(Stop::Over));
    }

    #[test]
    fn restart_marker_is_found_after_stray_data() {
        let bytes = [1, 0xff, 0, 2, 0xff, 0xff, 0xd3, 0b1010_0000, 0xff, 0xd9];
        let mut bits = Bits::new(&bytes, 0);
        bits.restart().unwrap();
        assert_eq!((bits.number(3), bits.number(6)), (Ok(5), Err(Stop::Over)));
    }

    #[test]
    fn invalid_codes_and_tables_are_refused() {
        assert_eq!(Bits::new(&[0xfe; 8], 0).symbol(&table()), Err(Stop::Damaged));
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Huffman::new(&counts, &[1, 2, 3]).is_none(), "three codes of a bit");
        assert!(Huffman::new(&counts, &[1, 2]).is_none());
        counts[0] = 2;
        assert_eq!(Bits::new(&[0x80], 0).symbol(&Huffman::new(&counts, &[1, 2]).unwrap()), Ok(2));
    }
}
