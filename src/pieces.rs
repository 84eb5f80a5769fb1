//! Text from bytes for fuzz tests: low bytes become words that a parser knows, so that random input
//! gets past its first lines.

/// Returns a text for some bytes. Of two bytes, one stands for a word, the other for itself.
pub(crate) fn text_of(bytes: &[u8], words: &[&str]) -> String {
    let piece = |byte: &u8| {
        let number = usize::from(*byte) % (2 * words.len());
        words.get(number).map_or_else(|| char::from(*byte).to_string(), |word| (*word).to_owned())
    };
    bytes.iter().map(piece).collect()
}

/// Returns the text that the bytes are, and that of pieces that they stand for.
pub(crate) fn both(bytes: &[u8], words: &[&str]) -> [String; 2] {
    [String::from_utf8_lossy(bytes).into_owned(), text_of(bytes, words)]
}
