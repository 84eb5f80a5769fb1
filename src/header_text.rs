//! Values of header fields that are written anew for each response, without an allocation for each:
//! many of one thread share a buffer.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
};

use bytes::BytesMut;
use http::HeaderValue;

/// The size of a buffer. It is freed once the last value in it is.
const BUFFER_BYTES: usize = 4096;

/// The most that one value is expected to take.
const VALUE_BYTES: usize = 64;

/// Writes a field's value; `None` if the text cannot be one.
pub(crate) fn header_text(text: fmt::Arguments<'_>) -> Option<HeaderValue> {
    thread_local! {
        static BUFFER: RefCell<BytesMut> = RefCell::default();
    }
    BUFFER.with(|buffer| {
        let buffer = &mut *buffer.try_borrow_mut().ok()?;
        if buffer.capacity() < VALUE_BYTES {
            *buffer = BytesMut::with_capacity(BUFFER_BYTES);
        }
        buffer.write_fmt(text).ok()?;
        HeaderValue::from_maybe_shared(buffer.split().freeze()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_they_were_written_however_many_share_a_buffer() {
        let values: Vec<_> = (0..1_000).map(|n| header_text(format_args!("r={n};t=60"))).collect();
        for (n, value) in values.into_iter().enumerate() {
            assert_eq!(value.unwrap(), format!("r={n};t=60"));
        }
        let long = "x".repeat(3 * BUFFER_BYTES);
        assert_eq!(header_text(format_args!("{long}")).unwrap(), long);
        assert_eq!(header_text(format_args!("no\nvalue")), None);
        assert_eq!(header_text(format_args!("{}", 7)).unwrap(), "7");
    }
}
