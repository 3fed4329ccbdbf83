//! Encodes one answer into the bytes and shared slices that a connection sends.

use crate::io::{Gather, GatherPart, Slice};
use wire::{ApiKey, EncodeError, FrameStart, Splice, Writer};

/// What an answer is an answer to.
#[derive(Clone, Copy, Debug)]
pub struct AnswerTo {
    pub api: ApiKey,
    /// The version that the response is written in.
    pub version: i16,
    pub correlation_id: i32,
}

/// Appends one framed response to `gather`. `encode` writes the message; the record bytes that it declared as external are
/// taken from `records`, in order, without a copy.
pub fn append(
    gather: &mut Gather,
    to: AnswerTo,
    records: impl IntoIterator<Item = Slice>,
    encode: impl FnOnce(&mut Writer<'_>, i16) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = gather.inline.len();
    let mut writer = Writer::new(&mut gather.inline);
    let frame = begin(&mut writer, to);
    let result = encode(&mut writer, to.version).and_then(|()| writer.end_frame(frame));
    let splices = writer.into_splices();
    finish(gather, start, &splices, records, result)
}

/// As [`append`], for a response that may be long, while whose encoding other tasks have their turns.
pub async fn append_in_turns(
    gather: &mut Gather,
    to: AnswerTo,
    records: impl IntoIterator<Item = Slice>,
    encode: impl AsyncFnOnce(&mut Writer<'_>, i16) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = gather.inline.len();
    let mut writer = Writer::new(&mut gather.inline);
    let frame = begin(&mut writer, to);
    let result = encode(&mut writer, to.version).await;
    let result = result.and_then(|()| writer.end_frame(frame));
    let splices = writer.into_splices();
    finish(gather, start, &splices, records, result)
}

fn begin(writer: &mut Writer<'_>, to: AnswerTo) -> FrameStart {
    let frame = writer.start_frame();
    writer.write_i32(to.correlation_id);
    if to.api.response_header_version(to.version) == 1 {
        // No tagged fields.
        writer.write_unsigned_varint(0);
    }
    frame
}

fn finish(
    gather: &mut Gather,
    start: usize,
    splices: &[Splice],
    records: impl IntoIterator<Item = Slice>,
    encoded: Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    if encoded.is_err() {
        gather.inline.truncate(start);
        return encoded;
    }
    place(gather, start, splices, records);
    Ok(())
}

/// Notes the order of encoded bytes and record slices.
fn place(
    gather: &mut Gather,
    start: usize,
    splices: &[Splice],
    records: impl IntoIterator<Item = Slice>,
) {
    let mut records = records.into_iter();
    let mut from = start;
    for splice in splices {
        push_inline(gather, from..splice.position);
        from = splice.position;
        let mut missing = splice.len;
        while missing > 0 {
            let slice = records
                .next()
                .expect("the records of every external field are given");
            assert!(
                slice.len() <= missing,
                "slices do not cross from one partition's records to the next"
            );
            missing -= slice.len();
            gather.parts.push(GatherPart::Shared(slice));
        }
    }
    let end = gather.inline.len();
    push_inline(gather, from..end);
}

fn push_inline(gather: &mut Gather, range: std::ops::Range<usize>) {
    if range.is_empty() {
        return;
    }
    if let Some(GatherPart::Inline(last)) = gather.parts.last_mut()
        && last.end == range.start
    {
        last.end = range.end;
        return;
    }
    gather.parts.push(GatherPart::Inline(range));
}

/// Appends everything of `from` to `to`.
pub fn append_gather(to: &mut Gather, mut from: Gather) {
    if to.parts.is_empty() {
        to.inline.clear();
        std::mem::swap(to, &mut from);
        return;
    }
    let base = to.inline.len();
    to.inline.extend_from_slice(&from.inline);
    for part in from.parts.drain(..) {
        match part {
            GatherPart::Inline(range) => push_inline(to, base + range.start..base + range.end),
            GatherPart::Shared(slice) => to.parts.push(GatherPart::Shared(slice)),
        }
    }
    to.charges.append(&mut from.charges);
}
