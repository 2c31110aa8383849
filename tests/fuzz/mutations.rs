//! Deterministic mutations of files.

use crate::crc::crc;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Boundary values at which lengths, counts and offsets often go wrong.
const NUMBERS: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// Mutates the files of a corpus.
pub struct Mutator<'a> {
    random: ChaCha8Rng,
    corpus: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    pub fn new(seed: u64, corpus: &'a [Vec<u8>]) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), corpus }
    }

    /// Returns the file with one to four changes.
    pub fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..self.random.random_range(1..5) {
            self.change(&mut bytes);
        }
        // Otherwise every change inside a chunk would fail its checksum.
        if self.random.random_bool(0.8) {
            mend_png(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = self.random.random_range(0..bytes.len());
        match self.random.random_range(0..9) {
            0 => bytes[at] ^= 1 << self.random.random_range(0..8),
            1 => bytes[at] = self.random.random(),
            2 => bytes.truncate(at),
            3 => self.put_number(bytes, at),
            4 => self.put_digits(bytes, at),
            5 => self.splice(bytes, at),
            6 => {
                let part = bytes[at..bytes.len().min(at + 64)].to_vec();
                let times = self.random.random_range(1..9);
                bytes.splice(at..at, part.repeat(times));
            }
            7 => {
                let end = bytes.len().min(at + self.random.random_range(1..33));
                bytes.drain(at..end);
            }
            _ => self.change_header(bytes),
        }
    }

    /// Writes a number of 1 to 8 bytes in either byte order.
    fn put_number(&mut self, bytes: &mut [u8], at: usize) {
        let number = NUMBERS[self.random.random_range(0..NUMBERS.len())];
        let size = 1 << self.random.random_range(0..4);
        let room = bytes.len().min(at + size) - at;
        if self.random.random() {
            bytes[at..at + room].copy_from_slice(&number.to_le_bytes()[..room]);
        } else {
            bytes[at..at + room].copy_from_slice(&number.to_be_bytes()[8 - room..]);
        }
    }

    /// Replaces a number written in digits by a longer one.
    fn put_digits(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let Some(found) = bytes[at..].iter().position(u8::is_ascii_digit) else { return };
        let number = NUMBERS[self.random.random_range(0..NUMBERS.len())];
        bytes.splice(at + found..=at + found, number.to_string().into_bytes());
    }

    /// Appends the end of another file to the start of this one.
    fn splice(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let other = &self.corpus[self.random.random_range(0..self.corpus.len())];
        let from = self.random.random_range(0..=other.len());
        bytes.truncate(at);
        bytes.extend(&other[from..]);
    }

    /// Changes the first bytes, where most formats store sizes.
    fn change_header(&mut self, bytes: &mut [u8]) {
        let at = self.random.random_range(0..bytes.len().min(64));
        self.put_number(bytes, at);
    }
}

/// Corrects the checksum of each PNG chunk, as far as chunks can be found.
pub fn mend_png(bytes: &mut [u8]) {
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return;
    }
    let mut at = 8;
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let end = at + 8 + u32::from_be_bytes(*length) as usize;
        if end + 4 > bytes.len() {
            return;
        }
        let sum = crc(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&sum.to_be_bytes());
        at = end + 4;
    }
}
