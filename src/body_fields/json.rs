//! Fields of a JSON object.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{BodyProblem, Found};

pub(super) fn read(body: &[u8], names: &[&str]) -> Result<Vec<String>, BodyProblem> {
    // What is passed over is not checked.
    let text = std::str::from_utf8(body)
        .map_err(|error| BodyProblem::Json(format!("it is not UTF-8: {error}")))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let mut object = Object { found: Found::new(names), problem: None };
    let read = json.deserialize_map(&mut object).and_then(|()| json.end());
    match (object.problem, read) {
        (Some(problem), _) => Err(problem),
        (None, Err(error)) if error.is_data() => Err(BodyProblem::NotAnObject),
        (None, Err(error)) => Err(BodyProblem::Json(error.to_string())),
        (None, Ok(())) => object.found.finish(),
    }
}

struct Object<'a> {
    found: Found<'a>,
    /// The first reason why the fields cannot be read. The rest of the body is read all the same:
    /// if it is not JSON, nothing in it counts.
    problem: Option<BodyProblem>,
}

impl<'de> Visitor<'de> for &mut Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key { name, is_plain }) = map.next_key_seed(KeySeed)? {
            let Some(at) = self.found.position(&name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let added = match map.next_value_seed(TextSeed)? {
                Some(value) => self.found.add(at, &name, is_plain, value),
                None => Err(self.found.not_text(at)),
            };
            if let Err(problem) = added {
                self.problem.get_or_insert(problem);
            }
        }
        Ok(())
    }
}

/// A key of the object.
struct Key {
    name: String,
    /// It is written without escapes.
    is_plain: bool,
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Key, D::Error> {
        key.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Key, E> {
        Ok(Key { name: name.to_owned(), is_plain: true })
    }

    /// A key with escapes cannot be borrowed.
    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        Ok(Key { name: name.to_owned(), is_plain: false })
    }
}

/// Reads a string; `None` for anything else, which is passed over and not kept.
struct TextSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextSeed {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Self::Value, A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}
