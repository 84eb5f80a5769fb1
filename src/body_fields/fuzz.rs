//! Any bytes as a body that names a model.

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};

use crate::pieces::inputs;

const JSON_WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"model\"",
    "\"Model\"",
    "\"echo\"",
    "\"\\u006dodel\"",
    "null",
    "true",
    "1",
    "-0.5e3",
    "\"a\\nb\"",
    "\"\\ud800\"",
    " ",
    "\n",
    "\u{feff}",
    "//",
    "/* */",
    "\"messages\"",
    "'",
    "\"model\":\"echo\"",
    "{\"model\":\"echo\"}",
    "NaN",
    "\"\\u0000\"",
    "\\",
];

const BODIES: &[&str] = &[
    r#"{"messages": [{"role": "user", "content": "a \"quoted\" word"}], "model": "echo"}"#,
    r#"{"model": "\u0065cho", "stream": true, "n": 1.5e3, "stop": null}"#,
];

const FORM_WORDS: &[&str] = &[
    "--x",
    "\r\n",
    "--x--",
    "Content-Disposition: form-data; name=\"model\"",
    "\r\n\r\n",
    "echo",
    "Content-Disposition: form-data; name=\"file\"; filename=\"a\"",
    "Content-Type: text/plain",
    "content-disposition: form-data; name=model",
    "--x\r\n",
    "\n",
    "\r",
    "name*=utf-8''model",
    ";",
    "\"",
    "Content-Transfer-Encoding: base64",
    "\r\n--x--\r\n",
    "Model",
    " ",
    "--y",
    "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n",
];

const FORMS: &[&str] = &[include_str!("__fuzz__/form/corpus/after_file")];

fn read(content_type: &'static str, body: &[u8]) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    super::read(&headers, body, &["model"]).ok().map(|mut values| values.remove(0))
}

#[test]
fn the_model_of_json_is_what_other_parsers_read() {
    bolero::check!(name = "json").for_each(|bytes| {
        for text in inputs(bytes, JSON_WORDS, BODIES) {
            let Some(model) = read("application/json", text.as_bytes()) else { continue };
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(strict) => assert_eq!(strict["model"], model.as_str(), "{text:?}"),
                // The reader skips values of other fields, even those that serde_json refuses.
                Err(error) => assert!(is_in_a_skipped_value(&error), "{error}: {text:?}"),
            }
            // An independent parser.
            if let Ok(other) = json::parse(&text) {
                assert_eq!(other["model"], model.as_str(), "{text:?}");
            }
        }
    });
}

/// Returns `true` for errors of values that the reader skips: lone surrogates, numbers out of
/// range, deep nesting.
fn is_in_a_skipped_value(error: &serde_json::Error) -> bool {
    let error = error.to_string();
    ["hex escape", "surrogate", "number out of range", "recursion limit"]
        .iter()
        .any(|reason| error.contains(reason))
}

#[test]
fn the_model_of_a_form_is_what_another_parser_reads() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bolero::check!(name = "form").for_each(|bytes| {
        for text in inputs(bytes, FORM_WORDS, FORMS) {
            let Some(model) = read("multipart/form-data; boundary=x", text.as_bytes()) else {
                continue;
            };
            let bytes = bytes::Bytes::from(text.clone());
            let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes)]);
            let read = runtime.block_on(async {
                let mut form = multer::Multipart::new(stream, "x");
                let mut models = Vec::new();
                while let Some(field) = form.next_field().await.ok()? {
                    let is_model = field.name() == Some("model");
                    let text = field.bytes().await.ok()?;
                    if is_model {
                        models.push(text);
                    }
                }
                Some(models)
            });
            assert_eq!(read, Some(vec![bytes::Bytes::from(model)]), "{text:?}");
        }
    });
}
