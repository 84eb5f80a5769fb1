//! Input of fuzz tests that gets past a parser's first line, made from random bytes: text of words
//! that the parser knows, and valid documents with some edits.

/// Returns several inputs for some bytes: the bytes as text, a text of the parser's words, and each
/// document with edits.
pub(crate) fn inputs(bytes: &[u8], words: &[&str], documents: &[&str]) -> Vec<String> {
    let mut inputs = vec![String::from_utf8_lossy(bytes).into_owned(), text_of(bytes, words)];
    inputs.extend(documents.iter().map(|document| {
        String::from_utf8_lossy(&edited(document.as_bytes(), bytes, words)).into_owned()
    }));
    inputs
}

/// Returns a text: half of all byte values stand for a word, the others for themselves.
pub(crate) fn text_of(bytes: &[u8], words: &[&str]) -> String {
    let piece = |byte: &u8| word_of(*byte, words).unwrap_or_else(|| char::from(*byte).to_string());
    bytes.iter().map(piece).collect()
}

/// Returns a document with up to eight edits of five bytes each: where, how much, and what is put
/// there: a word, a byte, another piece of the document, or nothing.
pub(crate) fn edited(document: &[u8], edits: &[u8], words: &[&str]) -> Vec<u8> {
    let mut edited = document.to_vec();
    for edit in edits.chunks_exact(5).take(8) {
        let range = |place: &[u8], length: u8| {
            let from = usize::from(u16::from_le_bytes([place[0], place[1]])) % (edited.len() + 1);
            from..(from + usize::from(length % 32)).min(edited.len())
        };
        let replaced = range(&edit[..2], edit[2] / 8);
        let new = match edit[2] % 3 {
            0 => edited[range(&edit[3..], edit[4])].to_vec(),
            1 => word_of(edit[3] & 0x7f, words).unwrap_or_default().into_bytes(),
            _ => vec![edit[3]],
        };
        edited.splice(replaced, new);
    }
    edited
}

/// Returns the word that a byte stands for, if any.
fn word_of(byte: u8, words: &[&str]) -> Option<String> {
    let number = usize::from(byte) % (2 * words.len()).max(1);
    words.get(number).map(|word| (*word).to_owned())
}

/// Calls `check` with the document once for each of its bytes and some others in its place.
pub(crate) fn with_each_byte_replaced(document: &[u8], mut check: impl FnMut(&[u8])) {
    for at in 0..document.len() {
        for other in b"0-9\"}]{n \xff" {
            let mut document = document.to_vec();
            document[at] = *other;
            check(&document);
        }
    }
}
