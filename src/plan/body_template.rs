//! A model whose name is in the body of its request, as a whole or in part.

/// Template of a model's name that only fields of a request's body are missing from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BodyTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl BodyTemplate {
    pub(super) fn push_text(&mut self, text: &str) {
        self.0.push(Part::Text(text.to_owned()));
    }

    pub(super) fn push_field(&mut self, name: &str) {
        self.0.push(Part::Field(name.to_owned()));
    }

    /// Returns the names of the fields, in the order of the template.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Field(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Fills the template with the values of its [fields](Self::fields).
    pub(super) fn fill(&self, values: &[String]) -> String {
        let mut values = values.iter();
        let texts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Field(_) => values.next().map(String::as_str).unwrap_or_default(),
        });
        texts.collect()
    }
}
