//! A batch of bytes with a sequence number and a checksum, so that a reader knows which batches were written whole.
//!
//! `length u32 | sequence u64 | CRC-32 of sequence and payload u32 | payload`, little-endian. One frame is one write; the next
//! is written after it is safe. So a broken frame with nothing whole behind it is a write that a crash tore; with something
//! whole behind it, the file was damaged.

use super::crc::crc32;

const HEADER: usize = 16;

/// What is found at an offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A whole frame, and the offset after it.
    Frame { payload: &'a [u8], next: usize },
    /// The end of the bytes.
    End,
    /// Bytes that are no whole frame of that sequence number, and no whole later frame behind them.
    Torn,
    /// Bytes that are no whole frame, though a whole later one is at `later`.
    Damaged { later: usize },
}

/// Appends a frame.
pub(crate) fn push(out: &mut Vec<u8>, sequence: u64, payload: &[u8]) {
    let sequence = sequence.to_le_bytes();
    out.reserve(HEADER + payload.len());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&sequence);
    out.extend_from_slice(&crc32(&[&sequence, payload]).to_le_bytes());
    out.extend_from_slice(payload);
}

fn whole(bytes: &[u8], at: usize) -> Option<(u64, &[u8], usize)> {
    let header = bytes.get(at..at.checked_add(HEADER)?)?;
    let (length, rest) = header.split_first_chunk::<4>()?;
    let (sequence, crc) = rest.split_first_chunk::<8>()?;
    let crc = u32::from_le_bytes(*crc.first_chunk::<4>()?);
    let next = at
        .checked_add(HEADER)?
        .checked_add(u32::from_le_bytes(*length) as usize)?;
    let payload = bytes.get(at + HEADER..next)?;
    let number = u64::from_le_bytes(*sequence);
    (crc32(&[sequence, payload]) == crc).then_some((number, payload, next))
}

/// Reads the frame at an offset, which must bear `sequence`.
pub(crate) fn read(bytes: &[u8], at: usize, sequence: u64) -> Found<'_> {
    if at >= bytes.len() {
        return Found::End;
    }
    if let Some((number, payload, next)) = whole(bytes, at)
        && number == sequence
    {
        return Found::Frame { payload, next };
    }
    match (at..bytes.len()).find(|&later| is_later(bytes, later, sequence)) {
        Some(later) => Found::Damaged { later },
        None => Found::Torn,
    }
}

/// Sequence numbers are dense, so a frame that begins here can't be further on than there is room for frames.
fn is_later(bytes: &[u8], at: usize, sequence: u64) -> bool {
    let plausible = bytes
        .get(at + 4..)
        .and_then(|rest| rest.first_chunk::<8>())
        .map(|number| u64::from_le_bytes(*number))
        .is_some_and(|number| number > sequence && number - sequence <= (bytes.len() / HEADER) as u64);
    plausible && whole(bytes, at).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> (Vec<u8>, [usize; 3]) {
        let mut bytes = Vec::new();
        let mut ends = [0; 3];
        for (i, end) in ends.iter_mut().enumerate() {
            push(&mut bytes, i as u64 + 1, format!("payload {i}").as_bytes());
            *end = bytes.len();
        }
        (bytes, ends)
    }

    #[test]
    fn every_cut_is_torn_or_a_clean_end() {
        let (bytes, ends) = three();
        for cut in 0..=bytes.len() {
            let bytes = &bytes[..cut];
            let (mut at, mut sequence) = (0, 1);
            let last = loop {
                match read(bytes, at, sequence) {
                    Found::Frame { next, .. } => (at, sequence) = (next, sequence + 1),
                    other => break other,
                }
            };
            let clean = cut == 0 || ends.contains(&cut);
            assert_eq!(last, if clean { Found::End } else { Found::Torn }, "cut at {cut}");
            assert_eq!(at, ends.iter().copied().filter(|e| *e <= cut).max().unwrap_or(0));
        }
    }

    #[test]
    fn a_flipped_bit_in_the_middle_is_damage() {
        let (bytes, ends) = three();
        for i in 0..ends[1] {
            let mut bytes = bytes.clone();
            bytes[i] ^= 1;
            let at = if i < ends[0] { 0 } else { ends[0] };
            let sequence = if i < ends[0] { 1 } else { 2 };
            assert!(
                matches!(read(&bytes, at, sequence), Found::Damaged { .. }),
                "flipped {i}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_in_the_last_frame_is_torn() {
        let (mut bytes, ends) = three();
        bytes[ends[1] + 20] ^= 1;
        assert_eq!(read(&bytes, ends[1], 3), Found::Torn);
    }
}
