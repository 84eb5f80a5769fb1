use http::{HeaderValue, header::CONTENT_TYPE};

use super::*;

fn read_as(content_type: &str, body: &[u8]) -> Result<String, BodyProblem> {
    let mut headers = HeaderMap::new();
    if !content_type.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
    }
    read(&headers, body, &["model"]).map(|mut values| values.remove(0))
}

fn json(body: &str) -> Result<String, BodyProblem> {
    read_as("application/json", body.as_bytes())
}

fn form(body: &str) -> Result<String, BodyProblem> {
    read_as("multipart/form-data; boundary=xyz", body.replace('\n', "\r\n").as_bytes())
}

#[test]
fn a_model_is_read_from_json() {
    for body in [
        r#"{"model":"m"}"#,
        r#" { "messages" : [{"model":"x","Model":"y"}], "model" : "m" } "#,
        "{\"model\"\t:\r\n\"m\"}",
        r#"{"model":"\u006d","models":"x","mode":"y","modél":1}"#,
    ] {
        assert_eq!(json(body), Ok("m".to_owned()), "{body}");
    }
    assert_eq!(json(r#"{"model":"org\/m"}"#), Ok("org/m".to_owned()), "as PHP writes it");
    for content_type in ["", "application/json; charset=UTF-8", "Application/vnd.api+JSON"] {
        assert_eq!(read_as(content_type, br#"{"model":"m"}"#), Ok("m".to_owned()));
    }
}

#[test]
fn json_that_parsers_read_differently_is_refused() {
    let (repeated, similar) =
        (BodyProblem::Repeated("model".to_owned()), BodyProblem::Similar("model".to_owned()));
    for (body, problem) in [
        (r#"{"model":"a","model":"b"}"#, &repeated),
        (r#"{"model":"a","model":"a"}"#, &repeated),
        (r#"{"model":"a","Model":"b"}"#, &repeated),
        (r#"{"model":"a","mod\u0065l":"b"}"#, &repeated),
        (r#"{"model":"a","model\u0000x":"b"}"#, &repeated),
        (r#"{"model":"a","model[]":"b"}"#, &repeated),
        (r#"{"MODEL":"a"}"#, &similar),
        (r#"{"\u006dodel":"a"}"#, &similar),
        (r#"{"Model":"a","model":"b"}"#, &similar),
        (r#"{"x":1}"#, &BodyProblem::Missing("model".to_owned())),
        ("{}", &BodyProblem::Missing("model".to_owned())),
        (r#"{"model":null}"#, &BodyProblem::NotAString("model".to_owned())),
        (r#"{"model":["a",{"b":[1.5,true]}]}"#, &BodyProblem::NotAString("model".to_owned())),
        (r#"{"MODEL":-1}"#, &BodyProblem::NotAString("model".to_owned())),
        (r#"{"model[xxxxx":{"a":1}}"#, &BodyProblem::NotAString("model".to_owned())),
        (
            r#"{"model":{"$serde_json::private::RawValue":"\"a\""}}"#,
            &BodyProblem::NotAString("model".to_owned()),
        ),
        (r#"[{"model":"a"}]"#, &BodyProblem::NotAnObject),
        (r#""model""#, &BodyProblem::NotAnObject),
    ] {
        assert_eq!(json(body).as_ref(), Err(problem), "{body}");
    }
    for body in [
        "",
        "{",
        r#"{"model":"a"} {"model":"b"}"#,
        r#"{"model":"a",}"#,
        r#"{"model":"a"/*,"model":"b"*/}"#,
        "\u{feff}{\"model\":\"a\"}",
        r"{'model':'a'}",
        r#"{model:"a"}"#,
        "{\"model\":\"a\n\"}",
        r#"{"model":"\ud800"}"#,
        r#"{"x":NaN,"model":"a"}"#,
    ] {
        assert!(matches!(json(body), Err(BodyProblem::Json(_))), "{body}: {:?}", json(body));
    }
    let latin_1 = b"{\"model\":\"a\",\"x\":\"\xe9\"}";
    assert!(matches!(read_as("application/json", latin_1), Err(BodyProblem::Json(_))));
    let mut headers = HeaderMap::new();
    headers.insert("content-encoding", HeaderValue::from_static("gzip"));
    assert_eq!(read(&headers, b"{}", &["model"]), Err(BodyProblem::Encoded));
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json; charset=utf-8; charset=utf-7",
        "application/json, multipart/form-data; boundary=x",
        "multipart/form-data",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=\"a\\\"\"",
        "multipart/mixed; boundary=a",
        "multipart/form-data; BOUNDARY=xyz",
        "multipart/form-data; BOUNDARY=\"xboundary=y\"",
        "multipart/form-data; boundary=xyz; charset=utf-7",
        "multipart/form-data; boundary=xyz; boundary*0=other",
        "multipart/form-data; xboundary=other; boundary=xyz",
        "multipart/form-data; x=\"boundary=other\"; boundary=xyz",
        "application/grpc",
    ] {
        let read = read_as(content_type, br#"{"model":"m"}"#);
        assert_eq!(read, Err(BodyProblem::ContentType), "{content_type}");
    }
    let mut two = HeaderMap::new();
    two.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    two.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    assert_eq!(read(&two, br#"{"model":"m"}"#, &["model"]), Err(BodyProblem::ContentType));
}

/// A part of a form.
fn part(head: &str, content: &str) -> String {
    format!("--xyz\n{head}\n\n{content}\n")
}

fn field(name: &str, value: &str) -> String {
    part(&format!("Content-Disposition: form-data; name=\"{name}\""), value)
}

#[test]
fn a_model_is_read_from_a_form() {
    let file = part(
        "Content-Disposition: form-data; name=\"file\"; filename=\"C:\\a b.wav\"\nContent-Type: \
         audio/wav",
        "RIFF\0\n--xy",
    );
    let plain = "content-disposition:form-data;name=model\nContent-Type: text/plain; charset=UTF-8";
    for body in [
        format!("{}--xyz--\n", field("model", "m")),
        format!("{}--xyz--", field("model", "m")),
        format!("{file}{}{}--xyz--\n", field("models", "x"), field("model", "m")),
        format!("{}{file}--xyz--\n", part(plain, "m")),
    ] {
        assert_eq!(form(&body), Ok("m".to_owned()), "{body}");
    }
}

#[test]
fn a_form_that_parsers_read_differently_is_refused() {
    let model = field("model", "a");
    let (repeated, similar, not_text) = (
        BodyProblem::Repeated("model".to_owned()),
        BodyProblem::Similar("model".to_owned()),
        BodyProblem::NotAString("model".to_owned()),
    );
    for (more, problem) in [
        (field("model", "b"), &repeated),
        (field("Model", "b"), &repeated),
        (field("model[]", "b"), &repeated),
        (field("[model]", "b"), &repeated),
    ] {
        assert_eq!(form(&format!("{model}{more}--xyz--\n")).as_ref(), Err(problem), "{more}");
    }
    for (only, problem) in [
        (field("MODEL", "a"), &similar),
        (part("Content-Disposition: form-data; name=model; filename=x", "a"), &not_text),
        (
            part("Content-Disposition: form-data; name=model\nContent-Type: text/html", "a"),
            &not_text,
        ),
        (
            part(
                "Content-Disposition: form-data; name=model\nContent-Transfer-Encoding: base64",
                "YQ==",
            ),
            &not_text,
        ),
    ] {
        assert_eq!(form(&format!("{only}--xyz--\n")).as_ref(), Err(problem), "{only}");
    }
    for body in [
        String::new(),
        "--xyz--\n--".to_owned(),
        format!("{{\"model\":\"b\"}}\n{model}--xyz--\n"),
        model.clone(),
        format!("{model}--xyz--\nepilogue"),
        format!("{model}--xyz--\n{}--xyz--\n", field("model", "b")),
        format!("{model}--xyz \n{}--xyz--\n", field("model", "b")),
        format!("{model}--xyzz\n{}--xyz--\n", field("model", "b")),
        format!("{}--xyz--\n", field("x", "a\r--xyz")),
        format!("{}--xyz--\n", part("Content-Disposition: form-data; name=x; name=model", "a")),
        format!("{}--xyz--\n", part("Content-Disposition: form-data; name*=utf-8''model", "a")),
        format!(
            "{}--xyz--\n",
            part("Content-Disposition: form-data; name=\"x\\\"; name=\"model\"", "a")
        ),
        format!("{}--xyz--\n", part("Content-Disposition: form-data;\n name=model", "a")),
        format!(
            "{}--xyz--\n",
            part(
                "Content-Disposition: form-data; name=x\n\
                 Content-Disposition: form-data; name=model",
                "a"
            )
        ),
        format!("{}--xyz--\n", part("Content-Disposition: attachment; name=model", "a")),
        format!("{}--xyz--\n", part("Content-Type: text/plain", "a")),
        format!("{}--xyz--\n", part("Content-Disposition: form-data; NAME=model", "a")),
        format!("{}--xyz--\n", part("Content-Disposition: form-data; name=x; Filename=y", "a")),
        format!("{}--xyz--\n", part("X(y): z\nContent-Disposition: form-data; name=x", "a")),
        format!("{}--xyz--\n", part("\u{e9}: z\nContent-Disposition: form-data; name=x", "a")),
        format!("{model}{}--xyz--\n", field("%6dodel", "b")),
        format!("{model}{}--xyz--\n", field("mo\\del", "b")),
        format!("{model}{}--xyz--\n", field(" model", "b")),
        format!("{model}{}--xyz--\n", field("=?UTF-8?Q?model?=", "b")),
        format!("{model}{}--xyz--\n", field("+AG0AbwBkAGUAbA-", "b")),
        format!(
            "{model}{}--xyz--\n",
            part("Content-Disposition: form-data; name=x; name*0=model", "b")
        ),
        format!(
            "{model}{}--xyz--\n",
            part("Content-Disposition: form-data; foo=\"; name=model;\"; name=x", "b")
        ),
        format!(
            "{model}{}--xyz--\n",
            part("Content-Disposition: form-data; name=x; filename=\"a; name=model; b\"", "b")
        ),
        field("x", "y").repeat(1_002) + &model + "--xyz--\n",
        "--xyz\nno header\n".to_owned() + "--xyz--\n",
    ] {
        assert!(matches!(form(&body), Err(BodyProblem::Multipart(_))), "{body}: {:?}", form(&body));
    }
    // Line feeds alone.
    let bare = format!("{model}--xyz--\n");
    let read = read_as("multipart/form-data; boundary=xyz", bare.as_bytes());
    assert!(matches!(read, Err(BodyProblem::Multipart(_))));
}
