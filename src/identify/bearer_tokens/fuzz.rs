//! Any text as a file of tokens.

use crate::pieces::inputs;

const WORDS: &[&str] = &[
    "[[token]]\n",
    "[[tokens]]\n",
    "sha256 = ",
    "\"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\"\n",
    "subject = ",
    "\"alice\"\n",
    "account = ",
    "\"user:alice\"\n",
    "\"org:acme\"\n",
    "tier = ",
    "\"free\"\n",
    "organisations = ",
    "[\"acme\"]\n",
    "part = ",
    "\"a/b\"\n",
    "expires = ",
    "\"\"\n",
    "\u{0}",
];

const DOCUMENTS: &[&str] = &[include_str!("__fuzz__/tokens/corpus/example.toml")];

#[test]
fn tokens_are_read_or_refused_with_a_reason() {
    bolero::check!(name = "tokens").for_each(|bytes| {
        for text in inputs(bytes, WORDS, DOCUMENTS) {
            if let Err(error) = super::document::read(&text) {
                assert!(!error.to_string().is_empty());
            }
        }
    });
}
