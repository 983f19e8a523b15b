//! Writes the tar archives that image layers are (POSIX ustar, pax(1)).

use std::io::{self, Write};

use anyhow::{Context as _, Result, ensure};

const BLOCK: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    File(&'a [u8]),
    Folder,
    /// Its target.
    Symlink(&'a str),
}

/// Appends one entry. Owner, group and time are zero, so that the same content gives the same archive.
pub(crate) fn append(out: &mut impl Write, path: &str, mode: u32, kind: Kind<'_>) -> Result<()> {
    let content = match kind {
        Kind::File(content) => content,
        Kind::Folder | Kind::Symlink(_) => &[],
    };
    out.write_all(&header(path, mode, kind, content.len())?)?;
    out.write_all(content)?;
    out.write_all(&[0; BLOCK][..content.len().next_multiple_of(BLOCK) - content.len()])?;
    Ok(())
}

/// Ends the archive.
pub(crate) fn finish(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn header(path: &str, mode: u32, kind: Kind<'_>, size: usize) -> Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    let (prefix, name) = split(path)?;
    put(&mut header, 0, 100, name)?;
    put(&mut header, 100, 8, &format!("{mode:07o}"))?;
    put(&mut header, 108, 8, "0000000")?;
    put(&mut header, 116, 8, "0000000")?;
    put(&mut header, 124, 12, &format!("{size:011o}"))?;
    put(&mut header, 136, 12, "00000000000")?;
    header[148..156].fill(b' ');
    let (flag, target) = match kind {
        Kind::File(_) => ("0", ""),
        Kind::Symlink(target) => ("2", target),
        Kind::Folder => ("5", ""),
    };
    put(&mut header, 156, 1, flag)?;
    put(&mut header, 157, 100, target)?;
    put(&mut header, 257, 8, "ustar\x0000")?;
    put(&mut header, 345, 155, prefix)?;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut header, 148, 7, &format!("{sum:06o}\0"))?;
    Ok(header)
}

fn put(header: &mut [u8; BLOCK], at: usize, length: usize, text: &str) -> Result<()> {
    ensure!(
        text.len() <= length,
        "\"{text}\" is longer than the {length} bytes that an archive has for it"
    );
    header[at..at + text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

/// A path of more than 100 bytes is split at a slash into prefix and name.
fn split(path: &str) -> Result<(&str, &str)> {
    if path.len() <= 100 {
        return Ok(("", path));
    }
    path.match_indices('/')
        .filter_map(|(at, _)| path.split_at_checked(at))
        .map(|(prefix, name)| (prefix, name.trim_start_matches('/')))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100)
        .with_context(|| format!("{path} is too long for an archive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_and_whole_blocks() {
        let mut out = Vec::new();
        append(&mut out, "bin/x", 0o755, Kind::File(b"hello")).unwrap();
        finish(&mut out).unwrap();
        assert_eq!(out.len(), 4 * BLOCK);
        assert_eq!(&out[..6], b"bin/x\0");
        assert_eq!(&out[257..265], b"ustar\x0000");
        assert_eq!(&out[BLOCK..BLOCK + 6], b"hello\0");
    }

    #[test]
    fn the_checksum_counts_its_own_field_as_spaces() {
        let header = header("a", 0o644, Kind::Folder, 0).unwrap();
        let stated = std::str::from_utf8(&header[148..154]).unwrap();
        let mut blank = header;
        blank[148..156].fill(b' ');
        let sum: u32 = blank.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(u32::from_str_radix(stated, 8).unwrap(), sum);
    }

    #[test]
    fn a_long_path_is_split() {
        let path = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        let (prefix, name) = split(&path).unwrap();
        assert_eq!((prefix.len(), name.len()), (90, 90));
        assert!(split(&"x".repeat(101)).is_err());
    }
}
