//! Any bytes as a response that is cut off: where its events and its messages end.

use super::cut_off::{EventBoundary, MessageBoundary};

/// The lines of a stream, and `true` if the last one is complete.
fn lines(stream: &[u8]) -> (Vec<&[u8]>, bool) {
    let (mut lines, mut rest) = (Vec::new(), stream);
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        let pair = if rest[at..].starts_with(b"\r\n") { 2 } else { 1 };
        lines.push(&rest[..at]);
        rest = &rest[at + pair..];
    }
    (lines, rest.is_empty())
}

#[test]
fn an_event_ends_where_a_parser_of_lines_says() {
    bolero::check!(name = "events").with_type::<(Vec<u8>, usize)>().for_each(|(stream, cut)| {
        // Few bytes matter.
        let stream: Vec<u8> = stream.iter().map(|byte| b"\r\nd:"[usize::from(*byte) % 4]).collect();
        let (first, second) = stream.split_at(cut % (stream.len() + 1));
        let mut boundary = EventBoundary::default();
        boundary.pass(first);
        boundary.pass(second);
        let (lines, is_whole) = lines(&stream);
        let is_blank = lines.last().is_none_or(|line| line.is_empty());
        // Of a lone carriage return at the end it is not known yet if it is a pair.
        assert_eq!(boundary.is_at(), is_whole && is_blank && stream.last() != Some(&b'\r'));
    });
}

#[test]
fn a_message_ends_where_its_length_says() {
    bolero::check!(name = "messages").with_type::<(Vec<Vec<u8>>, usize, usize)>().for_each(
        |(messages, end, cut)| {
            let (mut stream, mut ends) = (Vec::new(), vec![0]);
            for message in messages {
                stream.push(0);
                stream.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
                stream.extend(message);
                ends.push(stream.len());
            }
            let stream = &stream[..end % (stream.len() + 1)];
            let (first, second) = stream.split_at(cut % (stream.len() + 1));
            let mut boundary = MessageBoundary::default();
            boundary.pass(first);
            boundary.pass(second);
            assert_eq!(boundary.is_at(), ends.contains(&stream.len()));
        },
    );
}
