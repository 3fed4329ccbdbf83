//! The length prefix of a frame. The connection asks it how much to wait for before it gives memory to anything.

use thiserror::Error;

/// A frame starts with the length of what follows, as a signed 32-bit integer.
pub const FRAME_LENGTH_BYTES: usize = 4;

/// Why a connection cannot go on: without a length that holds there is no next frame to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes")]
    NegativeLength(i32),
    #[error("an empty frame")]
    Empty,
    #[error("a frame of {length} bytes where {max} are allowed")]
    TooLong { length: usize, max: usize },
}

/// The number of bytes that follow the prefix.
pub fn frame_length(
    prefix: [u8; FRAME_LENGTH_BYTES],
    frame_bytes_max: usize,
) -> Result<usize, FrameError> {
    let claimed = i32::from_be_bytes(prefix);
    let length = usize::try_from(claimed).map_err(|_| FrameError::NegativeLength(claimed))?;
    if length == 0 {
        return Err(FrameError::Empty);
    }
    if length > frame_bytes_max {
        return Err(FrameError::TooLong {
            length,
            max: frame_bytes_max,
        });
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lengths_from_one_to_the_limit_are_frames() {
        let length = |claimed: i32| frame_length(claimed.to_be_bytes(), 100);
        assert_eq!(length(1), Ok(1));
        assert_eq!(length(100), Ok(100));
        assert_eq!(length(0), Err(FrameError::Empty));
        assert_eq!(length(-1), Err(FrameError::NegativeLength(-1)));
        assert_eq!(length(i32::MIN), Err(FrameError::NegativeLength(i32::MIN)));
        assert_eq!(
            length(101),
            Err(FrameError::TooLong {
                length: 101,
                max: 100
            })
        );
        assert_eq!(
            length(i32::MAX),
            Err(FrameError::TooLong {
                length: i32::MAX as usize,
                max: 100
            })
        );
    }
}
