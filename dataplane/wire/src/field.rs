//! How each primitive type of Kafka's schemas is read and written. The message declarations build on this; nothing else calls it.
//!
//! Lengths have two forms (KIP-482). Before a message's first flexible version strings have 16-bit and bytes and arrays 32-bit lengths with -1 for null; from it on
//! all have an unsigned varint of the length plus one, with 0 for null.

use crate::{DecodeError, EncodeError, Reader, Records, Uuid, Writer};

/// The version that a message is read or written in, and which form its lengths have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub(crate) version: i16,
    pub(crate) flexible: bool,
}

/// A value that messages are made of.
#[allow(
    async_fn_in_trait,
    reason = "only this crate implements it, for tasks of one thread"
)]
pub trait Field<'a>: Sized {
    /// The size of every value, where that is the same in all versions.
    const FIXED_BYTES: Option<usize> = None;

    fn read(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError>;
    fn write(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError>;

    /// As `read`, but gives way to other tasks again and again where much is read.
    #[inline]
    async fn read_in_turns(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError> {
        Self::read(reader, form)
    }

    /// As `write`, but gives way to other tasks again and again where much is written.
    #[inline]
    async fn write_in_turns(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
        self.write(writer, form)
    }
}

/// Which length a value has in the older form.
#[derive(Clone, Copy)]
enum Width {
    Short,
    Long,
}

#[inline]
fn read_length(
    reader: &mut Reader<'_>,
    form: Form,
    width: Width,
) -> Result<Option<usize>, DecodeError> {
    let length = match (form.flexible, width) {
        (true, _) => {
            return Ok(reader
                .read_unsigned_varint()?
                .checked_sub(1)
                .map(|length| length as usize));
        }
        (false, Width::Short) => i32::from(reader.read_i16()?),
        (false, Width::Long) => reader.read_i32()?,
    };
    match length {
        -1 => Ok(None),
        0.. => Ok(Some(length as usize)),
        _ => Err(DecodeError::NegativeLength(length)),
    }
}

#[inline]
fn write_length(
    writer: &mut Writer<'_>,
    form: Form,
    width: Width,
    length: Option<usize>,
) -> Result<(), EncodeError> {
    // Receivers hold lengths in signed integers, so those bound the flexible form too.
    let max = match width {
        Width::Short => i16::MAX as usize,
        Width::Long => i32::MAX as usize,
    };
    if let Some(length) = length.filter(|length| *length > max) {
        return Err(EncodeError::TooLong(length));
    }
    match (form.flexible, width) {
        (true, _) => writer.write_unsigned_varint(length.map_or(0, |length| length as u32 + 1)),
        (false, Width::Short) => writer.write_i16(length.map_or(-1, |length| length as i16)),
        (false, Width::Long) => writer.write_i32(length.map_or(-1, |length| length as i32)),
    }
    Ok(())
}

#[inline]
pub(crate) fn read_count(
    reader: &mut Reader<'_>,
    form: Form,
) -> Result<Option<usize>, DecodeError> {
    read_length(reader, form, Width::Long)
}

#[inline]
pub(crate) fn write_count(
    writer: &mut Writer<'_>,
    form: Form,
    count: Option<usize>,
) -> Result<(), EncodeError> {
    write_length(writer, form, Width::Long, count)
}

macro_rules! number {
    ($($type:ty)*) => {$(
        impl Field<'_> for $type {
            const FIXED_BYTES: Option<usize> = Some(size_of::<$type>());

            #[inline]
            fn read(reader: &mut Reader<'_>, _: Form) -> Result<Self, DecodeError> {
                reader.read_array().map(<$type>::from_be_bytes)
            }

            #[inline]
            fn write(&self, writer: &mut Writer<'_>, _: Form) -> Result<(), EncodeError> {
                writer.write(&self.to_be_bytes());
                Ok(())
            }
        }
    )*};
}

number!(i8 i16 i32 i64 u16 u32 f64);

impl Field<'_> for bool {
    const FIXED_BYTES: Option<usize> = Some(1);

    #[inline]
    fn read(reader: &mut Reader<'_>, _: Form) -> Result<Self, DecodeError> {
        Ok(reader.read_u8()? != 0)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>, _: Form) -> Result<(), EncodeError> {
        writer.write(&[u8::from(*self)]);
        Ok(())
    }
}

impl Field<'_> for Uuid {
    const FIXED_BYTES: Option<usize> = Some(16);

    #[inline]
    fn read(reader: &mut Reader<'_>, _: Form) -> Result<Self, DecodeError> {
        reader.read_array().map(Uuid)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>, _: Form) -> Result<(), EncodeError> {
        writer.write(&self.0);
        Ok(())
    }
}

impl<'a> Field<'a> for Option<&'a str> {
    #[inline]
    fn read(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError> {
        let Some(len) = read_length(reader, form, Width::Short)? else {
            return Ok(None);
        };
        let bytes = reader.read_bytes(len)?;
        str::from_utf8(bytes)
            .map(Some)
            .map_err(|_| DecodeError::InvalidUtf8)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
        write_length(writer, form, Width::Short, self.map(str::len))?;
        writer.write(self.unwrap_or_default().as_bytes());
        Ok(())
    }
}

impl<'a> Field<'a> for Option<&'a [u8]> {
    #[inline]
    fn read(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError> {
        let Some(len) = read_length(reader, form, Width::Long)? else {
            return Ok(None);
        };
        reader.read_bytes(len).map(Some)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
        write_length(writer, form, Width::Long, self.map(<[u8]>::len))?;
        writer.write(self.unwrap_or_default());
        Ok(())
    }
}

impl<'a> Field<'a> for Option<Records<'a>> {
    #[inline]
    fn read(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError> {
        let Some(len) = read_length(reader, form, Width::Long)? else {
            return Ok(None);
        };
        reader.read_records(len).map(Some)
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
        write_length(writer, form, Width::Long, self.as_ref().map(Records::len))?;
        match self {
            Some(records) if records.is_external() => writer.write_external(records.len()),
            Some(records) => records.pieces().for_each(|piece| writer.write(piece)),
            None => {}
        }
        Ok(())
    }
}

/// A type that is never null: its nullable form, with null refused.
macro_rules! never_null {
    ($($type:ty)*) => {$(
        impl<'a> Field<'a> for $type {
            #[inline]
            fn read(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError> {
                Option::<$type>::read(reader, form)?.ok_or(DecodeError::UnexpectedNull(stringify!($type)))
            }

            #[inline]
            fn write(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
                Some(*self).write(writer, form)
            }
        }
    )*};
}

never_null!(&'a str &'a [u8]);

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Form = Form {
        version: 0,
        flexible: false,
    };
    const FLEXIBLE: Form = Form {
        version: 0,
        flexible: true,
    };

    #[test]
    fn both_forms_of_a_string_length_hold_null_and_empty_apart() {
        for (form, bytes, expected) in [
            (OLD, &[0xff, 0xff][..], None),
            (OLD, &[0, 0], Some("")),
            (OLD, &[0, 2, b'a', b'b'], Some("ab")),
            (FLEXIBLE, &[0], None),
            (FLEXIBLE, &[1], Some("")),
            (FLEXIBLE, &[3, b'a', b'b'], Some("ab")),
        ] {
            assert_eq!(
                Option::<&str>::read(&mut Reader::new(bytes), form),
                Ok(expected)
            );
            let mut written = Vec::new();
            expected
                .write(&mut Writer::new(&mut written), form)
                .unwrap();
            assert_eq!(written, bytes);
        }
    }

    #[test]
    fn lengths_below_null_and_past_the_end_are_refused() {
        let string =
            |bytes: &[u8], form| Option::<&str>::read(&mut Reader::new(bytes), form).map(|_| ());
        assert_eq!(
            string(&[0xff, 0xfe], OLD),
            Err(DecodeError::NegativeLength(-2))
        );
        assert_eq!(
            string(&[0x7f, 0xff, 1], OLD),
            Err(DecodeError::Truncated {
                wanted: 0x7fff,
                left: 1
            })
        );
        let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(
            string(&huge, FLEXIBLE),
            Err(DecodeError::Truncated {
                wanted: u32::MAX as usize - 1,
                left: 0
            })
        );
        assert_eq!(string(&[0, 1, 0xff], OLD), Err(DecodeError::InvalidUtf8));
    }

    #[test]
    fn a_string_too_long_for_its_length_is_not_written() {
        let long = "x".repeat(i16::MAX as usize + 1);
        for form in [OLD, FLEXIBLE] {
            let result = long.as_str().write(&mut Writer::new(&mut Vec::new()), form);
            assert_eq!(result, Err(EncodeError::TooLong(long.len())));
        }
    }
}
