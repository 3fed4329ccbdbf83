//! What the kernel is told of a TCP socket, and what it says of one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// A peer is asked after so many seconds of silence whether it is still there, and taken for gone after three more without an answer.
const KEEPALIVE_SILENCE_SECONDS: libc::c_int = 120;
const KEEPALIVE_INTERVAL_SECONDS: libc::c_int = 30;
const KEEPALIVE_PROBES: libc::c_int = 3;

/// What a listener hands on to the sockets that it accepts: small messages are sent at once, and a peer that has vanished is found out.
pub(crate) fn of_listener(listener: &impl AsRawFd) -> io::Result<()> {
    set(listener, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set(listener, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    let keepalive = [
        (libc::TCP_KEEPIDLE, KEEPALIVE_SILENCE_SECONDS),
        (libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS),
        (libc::TCP_KEEPCNT, KEEPALIVE_PROBES),
    ];
    keepalive
        .into_iter()
        .try_for_each(|(name, value)| set(listener, libc::IPPROTO_TCP, name, value))
}

fn set(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads one integer, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The start of Linux's `struct tcp_info` as 64-bit words, as far as it is looked at.
const TCP_INFO_WORDS: usize = 17;
const BYTES_ACKED_WORD: usize = 15;
const BYTES_RECEIVED_WORD: usize = 16;

/// Bytes that the peer has taken and bytes that have come from it, together; `None` if the kernel does not say.
pub(crate) fn moved_bytes(socket: &OwnedFd) -> Option<u64> {
    let mut words = [0u64; TCP_INFO_WORDS];
    let mut bytes = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes of plain numbers into the words, and says in `bytes` how many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            words.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    let whole = result == 0 && bytes as usize == size_of_val(&words);
    whole.then(|| words[BYTES_ACKED_WORD].wrapping_add(words[BYTES_RECEIVED_WORD]))
}
