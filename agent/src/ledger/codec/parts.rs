//! The parts of a record: numbers in little endian, ids, bytes with their length before them.

use super::RecordError;
use prost::Message;
use rhyzome_proto::event::StepResult;
use uuid::Uuid;

pub(super) fn put_result(out: &mut Vec<u8>, result: &StepResult) {
    put_len(out, result.encoded_len());
    result.encode_raw(out);
}

pub(super) fn take_result(input: &mut &[u8]) -> Result<StepResult, RecordError> {
    StepResult::decode(take_bytes(input)?).map_err(|e| RecordError::Broken(format!("a step's result: {e}")))
}

pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

pub(super) fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_uuid(out: &mut Vec<u8>, id: Uuid) {
    out.extend_from_slice(id.as_bytes());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub(super) fn take<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], RecordError> {
    let (head, tail) = input.split_at_checked(count).ok_or(RecordError::Short)?;
    *input = tail;
    Ok(head)
}

pub(super) fn take_u8(input: &mut &[u8]) -> Result<u8, RecordError> {
    take(input, 1)?.first().copied().ok_or(RecordError::Short)
}

pub(super) fn take_i64(input: &mut &[u8]) -> Result<i64, RecordError> {
    take(input, 8)?
        .first_chunk::<8>()
        .map(|b| i64::from_le_bytes(*b))
        .ok_or(RecordError::Short)
}

pub(super) fn take_uuid(input: &mut &[u8]) -> Result<Uuid, RecordError> {
    take(input, 16)?
        .first_chunk::<16>()
        .map(|b| Uuid::from_bytes(*b))
        .ok_or(RecordError::Short)
}

pub(super) fn take_len(input: &mut &[u8]) -> Result<usize, RecordError> {
    take(input, 4)?
        .first_chunk::<4>()
        .map(|b| u32::from_le_bytes(*b) as usize)
        .ok_or(RecordError::Short)
}

pub(super) fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], RecordError> {
    let count = take_len(input)?;
    take(input, count)
}

pub(super) fn take_text(input: &mut &[u8]) -> Result<String, RecordError> {
    let bytes = take_bytes(input)?;
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|e| RecordError::Broken(format!("a host's name: {e}")))
}
