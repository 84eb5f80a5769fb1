//! The model of a route: a name, or a template that a request fills.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName};
use matchit::Params;
use percent_encoding::percent_decode_str;

use super::{body_template::BodyTemplate, query};

/// A model's name, or one with parts from the path, `{org}/{name}`, from a header field,
/// `{header:x-model}`, from the query, `{query:model}`, or from the body, `{body:model}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(String),
    Header(HeaderName),
    Query(String),
    Body(String),
}

/// The parts of a request that a template can be filled from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) parameters: Option<&'a Params<'a, 'a>>,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
}

/// A template that a request's head has filled.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// The model's name.
    Model(String),
    /// The rest is in the body.
    InBody(BodyTemplate),
    /// The request lacks a part, or has one that cannot be read in one way only.
    Missing,
}

/// Reason why a text is not a template.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("empty: write a model's name, or a part of the path in braces, `{{name}}`")]
    Empty,
    #[error("has a brace without its partner: write `{{name}}` for a part of the path")]
    Unbalanced,
    #[error("`{{}}` names nothing: write `{{name}}` for a part of the path")]
    Unnamed,
    #[error(
        "`{{{0}}}` is unknown: write `{{name}}` for a part of the path, `{{header:x-model}}` for a \
         header field, `{{query:model}}` for a part of the query, or `{{body:model}}` for a field \
         of the body"
    )]
    Source(String),
    #[error("`{0}` is no header field's name: write one like `{{header:x-model}}`")]
    Header(String),
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(TemplateError::Unbalanced)?;
            parts.extend(text_part(before)?);
            parts.push(placeholder(name)?);
            rest = after;
        }
        parts.extend(text_part(rest)?);
        if parts.is_empty() { Err(TemplateError::Empty) } else { Ok(Self(parts)) }
    }

    /// Returns the model's name if it is the same for every request.
    pub(super) fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Returns the names of the path's parts that the model is made of.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Parameter(name) => Some(name.as_str()),
            Part::Text(_) | Part::Header(_) | Part::Query(_) | Part::Body(_) => None,
        })
    }

    /// Fills the template from a request's head.
    pub(super) fn fill(&self, source: Source<'_>) -> Filled {
        if self.0.iter().any(|part| matches!(part, Part::Body(_))) {
            return self.begin(source).map_or(Filled::Missing, Filled::InBody);
        }
        let name = self.0.iter().map(|part| part.value(source)).collect::<Option<String>>();
        name.map_or(Filled::Missing, Filled::Model)
    }

    /// Fills all parts but those of the body.
    fn begin(&self, source: Source<'_>) -> Option<BodyTemplate> {
        let mut template = BodyTemplate::default();
        for part in &self.0 {
            match part {
                Part::Body(field) => template.push_field(field),
                part => template.push_text(&part.value(source)?),
            }
        }
        Some(template)
    }
}

/// Writes the template as a plan has it.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Parameter(name) => write!(f, "{{{name}}}"),
            Part::Header(name) => write!(f, "{{header:{name}}}"),
            Part::Query(name) => write!(f, "{{query:{name}}}"),
            Part::Body(field) => write!(f, "{{body:{field}}}"),
        })
    }
}

impl Part {
    /// Returns the value of a part that the head has. `None` if the request lacks it, or has it in
    /// a way that can be read differently.
    fn value<'a>(&'a self, source: Source<'a>) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Parameter(name) => {
                percent_decode_str(source.parameters?.get(name)?).decode_utf8().ok()
            }
            Self::Header(name) => single_value(source.headers, name).map(Cow::Borrowed),
            Self::Query(name) => query::value(source.query?, name).map(Cow::Owned),
            Self::Body(_) => None,
        }
    }
}

/// Returns the value of a field that is there once. Nobody knows which of two values the service
/// would take.
fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

fn text_part(text: &str) -> Result<Option<Part>, TemplateError> {
    match text {
        "" => Ok(None),
        _ if text.contains('}') => Err(TemplateError::Unbalanced),
        _ => Ok(Some(Part::Text(text.to_owned()))),
    }
}

fn placeholder(name: &str) -> Result<Part, TemplateError> {
    if name.contains('{') {
        return Err(TemplateError::Unbalanced);
    }
    match name.split_once(':') {
        Some(("header", field)) => {
            field.parse().map(Part::Header).map_err(|_| TemplateError::Header(field.to_owned()))
        }
        Some(("query", part)) if is_field_name(part) => Ok(Part::Query(part.to_owned())),
        Some(("body", field)) if is_field_name(field) => Ok(Part::Body(field.to_owned())),
        Some(_) => Err(TemplateError::Source(name.to_owned())),
        None if name.is_empty() => Err(TemplateError::Unnamed),
        None => Ok(Part::Parameter(name.to_owned())),
    }
}

/// `true` for names that all parsers write in one way.
fn is_field_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_template_is_refused_with_its_own_reason() {
        for (text, reason) in [
            ("", TemplateError::Empty),
            ("{model", TemplateError::Unbalanced),
            ("{a{model}", TemplateError::Unbalanced),
            ("a}b{model}", TemplateError::Unbalanced),
            ("{model}}", TemplateError::Unbalanced),
            ("{}", TemplateError::Unnamed),
            ("{cookie:model}", TemplateError::Source("cookie:model".to_owned())),
            ("{body:}", TemplateError::Source("body:".to_owned())),
            ("{body:a.b}", TemplateError::Source("body:a.b".to_owned())),
            ("{:model}", TemplateError::Source(":model".to_owned())),
            ("{header:}", TemplateError::Header(String::new())),
            ("{header:x y}", TemplateError::Header("x y".to_owned())),
        ] {
            assert_eq!(Template::parse(text), Err(reason), "{text}");
        }
        assert_eq!(Template::parse("rnnoise").unwrap().fixed(), Some("rnnoise"));
        let parsed = Template::parse("{org}/{name}-{header:x-size}").unwrap();
        assert_eq!(parsed.parameters().collect::<Vec<_>>(), ["org", "name"]);
    }
}
