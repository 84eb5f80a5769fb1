//! Tests of the bounds of a response's queue, to the byte and to the frame.

use std::{
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;

use super::queue::{EndOfFrames, Reader, Writer, queue};
use crate::{
    clock::Time,
    metering::{ReadAheadBudget, ReadAheadLimits},
};

/// The bytes that a frame counts beside its data.
const OVERHEAD: usize = 128;

fn bounded(per_response: usize, total: usize) -> (Arc<ReadAheadBudget>, Writer, Reader) {
    let limits = ReadAheadLimits { per_response, total, stall_timeout: Duration::from_secs(60) };
    let budget = Arc::new(ReadAheadBudget::new(limits));
    let (writer, reader) = queue(Arc::clone(&budget), Time::system());
    (budget, writer, reader)
}

/// Pushes a frame that counts so many bytes. Returns `true` if there is room for another one.
fn push(writer: &Writer, counts: usize, is_paced: bool) -> bool {
    writer.push(Frame::data(Bytes::from(vec![0; counts - OVERHEAD])), is_paced).unwrap()
}

fn has_room_again(writer: &Writer, is_paced: bool) -> bool {
    writer.poll_room(is_paced, &Context::from_waker(Waker::noop())).is_ready()
}

fn take(reader: &Reader) {
    assert!(reader.poll_frame(&Context::from_waker(Waker::noop())).is_ready());
}

#[test]
fn four_frames_fit_however_large_they_are_and_two_of_them_must_be_taken() {
    let (budget, writer, reader) = bounded(1, usize::MAX);
    for pushed in 1..=4 {
        assert_eq!(push(&writer, 5_000, true), pushed < 4, "{pushed}");
    }
    assert_eq!(budget.held(), 20_000);
    for taken in 1..=2 {
        assert!(!has_room_again(&writer, true));
        take(&reader);
        assert_eq!(has_room_again(&writer, true), taken == 2, "{taken}");
    }
    assert_eq!(budget.held(), 10_000);
}

#[test]
fn it_is_full_at_exactly_its_bytes_and_has_room_again_at_exactly_half_of_them() {
    let (_, writer, reader) = bounded(2_000, usize::MAX);
    for pushed in 1..=10 {
        assert_eq!(push(&writer, 200, true), pushed < 10, "{pushed}");
    }
    for left in (5..10).rev() {
        take(&reader);
        assert_eq!(has_room_again(&writer, true), left == 5, "{left} are left");
    }
}

#[test]
fn until_the_pace_is_known_it_takes_four_times_as_much() {
    let (_, writer, _reader) = bounded(2_000, usize::MAX);
    for pushed in 1..=40 {
        assert_eq!(push(&writer, 200, false), pushed < 40, "{pushed}");
    }
}

#[test]
fn if_all_queues_together_are_full_it_takes_less_than_64_kib_and_only_until_the_pace_is_known() {
    for (counts, is_paced, has_room) in
        [(65_535, false, true), (65_536, false, false), (65_535, true, false)]
    {
        let (_, writer, _reader) = bounded(usize::MAX, 1);
        assert_eq!(push(&writer, counts, is_paced), has_room, "{counts}, {is_paced}");
    }
    let (_, writer, _reader) = bounded(usize::MAX, 1);
    for pushed in 1..=4 {
        assert_eq!(push(&writer, 200, false), pushed < 4, "{pushed}");
    }
}

/// The reader's connection closes once it is told that nothing follows.
#[test]
fn it_is_at_its_end_once_nothing_follows_and_not_before() {
    let ended = || {
        let (_, writer, reader) = bounded(usize::MAX, usize::MAX);
        assert!(!reader.is_end_stream(), "something may follow");
        push(&writer, 200, true);
        (writer, reader)
    };
    let (writer, reader) = ended();
    writer.end(None, EndOfFrames::WithLast);
    assert!(!reader.is_end_stream(), "a frame is left");
    take(&reader);
    assert!(reader.is_end_stream());
    let (writer, reader) = ended();
    writer.end(None, EndOfFrames::AfterLast);
    take(&reader);
    assert!(!reader.is_end_stream(), "as its service had it");
    let (writer, reader) = ended();
    writer.fail("it broke".into(), EndOfFrames::WithLast);
    while !reader.is_end_stream() {
        take(&reader);
    }
}

#[test]
fn what_was_taken_last_is_known_and_when_if_that_was_waited_for() {
    let (_, writer, reader) = bounded(2_000, usize::MAX);
    assert_eq!(writer.taken(), (None, 0));
    push(&writer, 300, true);
    take(&reader);
    assert_eq!(writer.taken(), (None, 300));
    while push(&writer, 500, true) {}
    assert!(!has_room_again(&writer, true));
    take(&reader);
    let (at, bytes) = writer.taken();
    assert!(at.is_some() && bytes == 500);
}
