//! The checksum that a file with metadata carries of itself. It shows whether the file was changed since it was written.
//!
//! It is the SHA-256 of the file without the checksum, and is stored apart from the other metadata: in a text chunk at
//! the end of a PNG, in an application segment at the start of a JPEG, in a chunk that readers skip at the end of a
//! WebP, and after the end of a TIFF. A program that saves the picture, or only edits its metadata, drops or invalidates
//! it.

use super::structure;
use crate::hex::hex;
use image::ImageFormat;
use png::text_metadata::{EncodableTextChunk as _, ITXtChunk};
use sha2::{Digest as _, Sha256};

/// Key of the checksum.
pub(super) const KEY: &str = "neural-mirage:sha256";
/// Length of the last chunk of a PNG, which has no content.
const PNG_END: usize = 12;
/// Marker of an application segment of a JPEG that no standard uses (APP9).
const JPEG_SEGMENT: [u8; 2] = [0xff, 0xe9];
/// Name of the chunk of a WebP.
const WEBP_CHUNK: &[u8; 4] = b"nmSH";
/// Bytes before those that the length in a WebP's header counts.
const RIFF_HEADER: usize = 8;

/// Adds the checksum to an encoded file, unless the format has no place for it.
pub(super) fn add(file: &mut Vec<u8>) {
    let Ok(format) = image::guess_format(file) else { return };
    let Some(part) = part(format, &hex(&Sha256::digest(&*file))) else { return };
    let Some(at) = place(format, file, 0) else { return };
    file.splice(at..at, part);
    set_length(format, file);
}

/// True if the file carries the checksum of the rest of it.
pub(super) fn matches(file: &[u8]) -> bool {
    let Ok(format) = image::guess_format(file) else { return false };
    // Its length depends only on the format.
    let Some(length) = part(format, &hex(&[0; 32])).map(|part| part.len()) else { return false };
    let Some(at) = place(format, file, length) else { return false };
    let mut again = file.to_vec();
    again.drain(at..at + length);
    set_length(format, &mut again);
    add(&mut again);
    again == file
}

/// Returns the part of a file that holds its checksum.
fn part(format: ImageFormat, digest: &str) -> Option<Vec<u8>> {
    match format {
        ImageFormat::Png => {
            let mut chunk = Vec::new();
            ITXtChunk::new(KEY, digest).encode(&mut chunk).ok()?;
            Some(chunk)
        }
        ImageFormat::Jpeg => {
            let text = format!("{KEY}\0{digest}");
            // The length counts itself.
            let length = (text.len() + 2) as u16;
            Some([&JPEG_SEGMENT[..], &length.to_be_bytes(), text.as_bytes()].concat())
        }
        ImageFormat::WebP => {
            let length = (digest.len() as u32).to_le_bytes();
            Some([&WEBP_CHUNK[..], &length, digest.as_bytes()].concat())
        }
        ImageFormat::Tiff => Some(format!("\n{KEY}={digest}\n").into_bytes()),
        _ => None,
    }
}

/// Returns the position of the checksum in a file, where it has `length` bytes.
fn place(format: ImageFormat, file: &[u8], length: usize) -> Option<usize> {
    match format {
        ImageFormat::Png => file.len().checked_sub(PNG_END + length),
        ImageFormat::Jpeg => structure::after_jfif(file).filter(|at| at + length <= file.len()),
        _ => file.len().checked_sub(length),
    }
}

/// Corrects the length in the header of a WebP.
fn set_length(format: ImageFormat, file: &mut [u8]) {
    let length = file.len().saturating_sub(RIFF_HEADER) as u32;
    if let (ImageFormat::WebP, Some(field)) = (format, file.get_mut(4..RIFF_HEADER)) {
        field.copy_from_slice(&length.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Picture, WriteOptions, is_unchanged, read, read_metadata, write};
    use super::*;

    /// Returns a picture with metadata in each format, with the file's path.
    fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
        let rgb = (0..13 * 7 * 3).map(|at| (at * 37 % 101) as f32 / 101.0).collect();
        let picture = Picture::new(13, 7, rgb).unwrap();
        let metadata = vec![("neural-mirage:run".to_owned(), "x".to_owned())];
        let options = WriteOptions { metadata, ..WriteOptions::default() };
        let names = ["a.png", "a.jpg", "a.webp", "a.tiff"];
        let written = names.map(|name| folder.join(name));
        for path in &written {
            write(path, &picture, &options).unwrap();
        }
        written.to_vec()
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        for path in files(folder.path()) {
            assert!(is_unchanged(&path).unwrap(), "{path:?}");
            read(&path).unwrap();
            let pairs = read_metadata(&path).unwrap();
            assert_eq!(pairs, [("neural-mirage:run".to_owned(), "x".to_owned())], "{path:?}");
            let file = std::fs::read(&path).unwrap();
            for at in 0..file.len() {
                let mut changed = file.clone();
                changed[at] ^= 1;
                assert!(!matches(&changed), "{path:?}: byte {at}");
                assert!(!matches(&file[..at]), "{path:?}: the first {at} bytes");
            }
            assert!(!matches(&[&file[..], b"x"].concat()), "{path:?}: a byte more");
        }
    }

    #[test]
    fn files_without_checksum_do_not_match() {
        let folder = tempfile::tempdir().unwrap();
        let picture = Picture::new(2, 1, vec![0.5; 6]).unwrap();
        for name in ["a.png", "a.jpg", "a.webp", "a.tiff"] {
            let path = folder.path().join(name);
            write(&path, &picture, &WriteOptions::default()).unwrap();
            assert!(!is_unchanged(&path).unwrap(), "{name}");
        }
        for bytes in
            [&b""[..], b"GIF89a", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0", b"\xff\xd8\xff\xe0"]
        {
            assert!(!matches(bytes), "{bytes:?}");
        }
    }
}
