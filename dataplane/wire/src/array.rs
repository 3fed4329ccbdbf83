//! Arrays in messages. A decoded array stays in the receive buffer and is decoded again, element by element, whenever it is walked; so
//! an array costs no memory, whatever it claims to hold. An array to encode is a slice that the handler owns.

use std::fmt;

use crate::field::{Field, Form, read_count, write_count};
use crate::turns::give_way;
use crate::{DecodeError, EncodeError, Reader, Writer};

/// Elements that are read before other tasks have their turn.
const ELEMENTS_PER_TURN: usize = 256;

/// An array of a message.
#[derive(Clone)]
pub struct Array<'a, T> {
    source: Source<'a, T>,
}

#[derive(Clone)]
enum Source<'a, T> {
    Slice(&'a [T]),
    /// `count` elements from the reader's place on, every one of which has been decoded once without an error.
    Encoded {
        reader: Reader<'a>,
        count: usize,
        form: Form,
    },
}

impl<'a, T> Array<'a, T> {
    fn encoded(reader: Reader<'a>, count: usize, form: Form) -> Self {
        Array {
            source: Source::Encoded {
                reader,
                count,
                form,
            },
        }
    }

    pub fn len(&self) -> usize {
        match &self.source {
            Source::Slice(elements) => elements.len(),
            Source::Encoded { count, .. } => *count,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a, T: Field<'a> + Clone> Array<'a, T> {
    pub fn iter(&self) -> Iter<'a, T> {
        Iter {
            array: self.source.clone(),
            next: 0,
        }
    }
}

/// The elements of an [`Array`], decoded as they are asked for.
#[derive(Clone)]
pub struct Iter<'a, T> {
    array: Source<'a, T>,
    next: usize,
}

impl<'a, T: Field<'a> + Clone> Iterator for Iter<'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        match &mut self.array {
            Source::Slice(elements) => {
                let element = elements.get(self.next)?;
                self.next += 1;
                Some(element.clone())
            }
            Source::Encoded {
                reader,
                count,
                form,
            } => {
                if self.next == *count {
                    return None;
                }
                self.next += 1;
                Some(T::read(reader, *form).expect("the same bytes were decoded before"))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = match &self.array {
            Source::Slice(elements) => elements.len(),
            Source::Encoded { count, .. } => *count,
        };
        (count - self.next, Some(count - self.next))
    }
}

impl<'a, T: Field<'a> + Clone> ExactSizeIterator for Iter<'a, T> {}

impl<'a, T: Field<'a> + Clone> IntoIterator for &Array<'a, T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<'a, T: Field<'a> + Clone> IntoIterator for Array<'a, T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        Iter {
            array: self.source,
            next: 0,
        }
    }
}

impl<'a, T> From<&'a [T]> for Array<'a, T> {
    fn from(elements: &'a [T]) -> Self {
        Self {
            source: Source::Slice(elements),
        }
    }
}

impl<'a, T> From<&'a Vec<T>> for Array<'a, T> {
    fn from(elements: &'a Vec<T>) -> Self {
        Self::from(elements.as_slice())
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for Array<'a, T> {
    fn from(elements: &'a [T; N]) -> Self {
        Self::from(elements.as_slice())
    }
}

impl<T> Default for Array<'_, T> {
    fn default() -> Self {
        Self {
            source: Source::Slice(&[]),
        }
    }
}

impl<'a, T: Field<'a> + Clone + PartialEq> PartialEq for Array<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<'a, T: Field<'a> + Clone + fmt::Debug> fmt::Debug for Array<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// How many elements follow. No element is smaller than a byte, so what is left of the frame bounds them.
fn read_array_count<'a, T: Field<'a>>(
    reader: &mut Reader<'a>,
    form: Form,
) -> Result<Option<usize>, DecodeError> {
    let Some(count) = read_count(reader, form)? else {
        return Ok(None);
    };
    let bytes_min = count.saturating_mul(T::FIXED_BYTES.unwrap_or(1));
    if bytes_min > reader.remaining() {
        return Err(DecodeError::TooManyElements {
            count,
            left: reader.remaining(),
        });
    }
    reader.take_elements(count)?;
    Ok(Some(count))
}

impl<'a, T: Field<'a>> Field<'a> for Option<Array<'a, T>> {
    fn read(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError> {
        let Some(count) = read_array_count::<T>(reader, form)? else {
            return Ok(None);
        };
        let first = reader.clone();
        match T::FIXED_BYTES {
            Some(bytes) => reader.skip(count * bytes)?,
            None => {
                for _ in 0..count {
                    T::read(reader, form)?;
                }
            }
        }
        Ok(Some(Array::encoded(first, count, form)))
    }

    async fn read_in_turns(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError> {
        let Some(count) = read_array_count::<T>(reader, form)? else {
            return Ok(None);
        };
        let first = reader.clone();
        match T::FIXED_BYTES {
            Some(bytes) => reader.skip(count * bytes)?,
            None => {
                for number in 1..=count {
                    T::read_in_turns(reader, form).await?;
                    if number.is_multiple_of(ELEMENTS_PER_TURN) {
                        give_way().await;
                    }
                }
            }
        }
        Ok(Some(Array::encoded(first, count, form)))
    }

    fn write(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
        write_count(writer, form, self.as_ref().map(Array::len))?;
        let Some(array) = self else { return Ok(()) };
        array.write_elements(writer, form)
    }

    async fn write_in_turns(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
        write_count(writer, form, self.as_ref().map(Array::len))?;
        let Some(array) = self else { return Ok(()) };
        array.write_elements_in_turns(writer, form).await
    }
}

impl<'a, T: Field<'a>> Field<'a> for Array<'a, T> {
    #[inline]
    fn read(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError> {
        Option::<Self>::read(reader, form)?.ok_or(DecodeError::UnexpectedNull("array"))
    }

    async fn read_in_turns(reader: &mut Reader<'a>, form: Form) -> Result<Self, DecodeError> {
        let read = Option::<Self>::read_in_turns(reader, form).await?;
        read.ok_or(DecodeError::UnexpectedNull("array"))
    }

    #[inline]
    fn write(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
        write_count(writer, form, Some(self.len()))?;
        self.write_elements(writer, form)
    }

    async fn write_in_turns(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
        write_count(writer, form, Some(self.len()))?;
        self.write_elements_in_turns(writer, form).await
    }
}

impl<'a, T: Field<'a>> Array<'a, T> {
    fn write_elements(&self, writer: &mut Writer<'_>, form: Form) -> Result<(), EncodeError> {
        match &self.source {
            Source::Slice(elements) => elements
                .iter()
                .try_for_each(|element| element.write(writer, form)),
            Source::Encoded {
                reader,
                count,
                form: read_form,
            } => {
                let mut reader = reader.clone();
                for _ in 0..*count {
                    let element = T::read(&mut reader, *read_form)
                        .expect("the same bytes were decoded before");
                    element.write(writer, form)?;
                }
                Ok(())
            }
        }
    }

    async fn write_elements_in_turns(
        &self,
        writer: &mut Writer<'_>,
        form: Form,
    ) -> Result<(), EncodeError> {
        let Source::Slice(elements) = &self.source else {
            return self.write_elements(writer, form);
        };
        for element in *elements {
            element.write_in_turns(writer, form).await?;
            writer.give_way().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Form = Form {
        version: 0,
        flexible: false,
    };

    #[test]
    fn an_array_that_claims_two_billion_elements_is_refused_at_once() {
        let bytes = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let read = Array::<i32>::read(&mut Reader::new(&bytes), OLD);
        assert_eq!(
            read,
            Err(DecodeError::TooManyElements {
                count: 0x7fff_ffff,
                left: 4
            })
        );
    }

    /// Each element of the outer array counts, and each of the inner ones.
    #[test]
    fn elements_are_limited_over_all_arrays() {
        type Nested<'a> = Array<'a, Array<'a, i32>>;
        let inner = [[1, 2, 3], [4, 5, 6]];
        let outer = [Array::from(&inner[0]), Array::from(&inner[1])];
        let mut bytes = Vec::new();
        let nested: Nested<'_> = Array::from(&outer);
        nested.write(&mut Writer::new(&mut bytes), OLD).unwrap();
        let mut reader = Reader::new(&bytes).with_elements_max(9);
        let read: Nested<'_> = Nested::read(&mut reader, OLD).unwrap();
        assert_eq!(reader.elements_left(), 1);
        assert_eq!(read, nested, "walking it again takes no more of them");
        let refused = Nested::read(&mut Reader::new(&bytes).with_elements_max(7), OLD);
        assert_eq!(
            refused,
            Err(DecodeError::ElementsLimited { count: 3, left: 2 })
        );
    }

    #[test]
    fn a_decoded_array_is_walked_any_number_of_times() {
        let mut bytes = Vec::new();
        Array::from(&["a", "", "ccc"])
            .write(&mut Writer::new(&mut bytes), OLD)
            .unwrap();
        let array = Array::<&str>::read(&mut Reader::new(&bytes), OLD).unwrap();
        assert_eq!(array.iter().len(), 3);
        assert_eq!(array.iter().collect::<Vec<_>>(), ["a", "", "ccc"]);
        assert_eq!(array.iter().last(), Some("ccc"));
        assert_eq!(array, Array::from(&["a", "", "ccc"]));
        assert_ne!(array, Array::from(&["a", "", "ccd"]));
    }
}
