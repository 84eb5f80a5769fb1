//! Races between the task that reads a response ahead and the reader of its queue, in random orders
//! of their steps, which shuttle draws. This compiles the queue's file once more, on its
//! primitives.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use http_body::Frame;
use shuttle::{future::block_on, thread};

use crate::{
    clock::Time,
    metering::{ReadAheadBudget, ReadAheadLimits},
};

/// The primitives of the model checker, under the names that `sync.rs` has.
mod sync {
    pub(super) use shuttle::sync::{Arc, Mutex, MutexGuard, PoisonError};
}

#[path = "queue.rs"]
#[allow(dead_code, reason = "the races are of some of its ways")]
mod queue;

use self::{
    queue::{EndOfFrames, Reader, ReaderGone, Writer, queue},
    sync::Arc,
};

/// Runs of each race.
const RUNS: usize = 2_000;

const FRAMES: u8 = 9;

/// A queue that is full after four frames.
fn small() -> (Arc<ReadAheadBudget>, Writer, Reader) {
    let stall_timeout = Duration::from_secs(60);
    let limits = ReadAheadLimits { per_response: 1, total: 1 << 20, stall_timeout };
    let budget = Arc::new(ReadAheadBudget::new(limits));
    let (writer, reader) = queue(Arc::clone(&budget), Time::system());
    (budget, writer, reader)
}

fn frame(number: u8) -> Frame<Bytes> {
    Frame::data(Bytes::copy_from_slice(&[number]))
}

/// Writes the frames as the task does: after one that fills the queue it waits for room.
fn write(writer: &Writer, end: impl FnOnce(&Writer)) -> Result<(), ReaderGone> {
    for number in 0..FRAMES {
        if !writer.push(frame(number), true)? {
            block_on(poll_fn(|cx| writer.poll_room(true, cx)))?;
        }
    }
    end(writer);
    Ok(())
}

/// Reads at most so many frames, and returns their numbers, and the error at the end.
fn read(reader: &Reader, most: usize) -> (Vec<u8>, Option<String>) {
    let mut numbers = Vec::new();
    while numbers.len() < most {
        match block_on(poll_fn(|cx| reader.poll_frame(cx))) {
            Some(Ok(frame)) => numbers.extend(frame.into_data().unwrap()),
            Some(Err(error)) => return (numbers, Some(error.to_string())),
            None => break,
        }
    }
    (numbers, None)
}

#[test]
fn every_frame_arrives_in_order_and_then_the_end() {
    shuttle::check_random(
        || {
            let (budget, writer, reader) = small();
            let task = thread::spawn(move || {
                write(&writer, |writer| writer.end(None, EndOfFrames::AfterLast)).unwrap();
            });
            let (numbers, error) = read(&reader, usize::MAX);
            assert_eq!((numbers, error), ((0..FRAMES).collect(), None));
            task.join().unwrap();
            drop(reader);
            assert_eq!(budget.held(), 0);
        },
        RUNS,
    );
}

#[test]
fn an_error_comes_after_the_frames_and_a_task_that_ends_early_is_one() {
    shuttle::check_random(
        || {
            let (_, writer, reader) = small();
            let task = thread::spawn(move || write(&writer, |_| ()).unwrap());
            let (numbers, error) = read(&reader, usize::MAX);
            assert_eq!(numbers, (0..FRAMES).collect::<Vec<_>>());
            assert!(error.is_some_and(|error| error.contains("ended early")));
            task.join().unwrap();
        },
        RUNS,
    );
}

#[test]
fn a_reader_that_leaves_ends_the_task_and_takes_no_memory() {
    shuttle::check_random(
        || {
            let (budget, writer, reader) = small();
            let task = thread::spawn(move || {
                // One that has written all waits to learn it.
                if write(&writer, |_| ()).is_ok() {
                    block_on(poll_fn(|cx| writer.poll_gone(cx)));
                }
            });
            read(&reader, 3);
            drop(reader);
            task.join().unwrap();
            assert_eq!(budget.held(), 0);
        },
        RUNS,
    );
}
