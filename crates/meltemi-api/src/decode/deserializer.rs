use meltemi_core::FieldPath;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde_json::Number;

use super::error::DecodeError;
use super::{Problem, ProblemKind, Session};
use crate::suggest;
use crate::tree::{Entry, Node, Value, camel_case};

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads one node as whatever its target type asks for, by the rules of proto JSON and of Kubernetes' strict decoding:
/// `null` is absent, field names may be snake_case, 64-bit numbers may be strings, and nothing else is converted.
pub(super) struct NodeDeserializer<'a> {
    node: &'a Node,
    path: FieldPath,
    session: &'a Session<'a>,
    /// The fields known where this node stands as an unknown one.
    siblings: &'static [&'static str],
}

impl<'a> NodeDeserializer<'a> {
    pub(super) fn new(node: &'a Node, path: FieldPath, session: &'a Session<'a>) -> Self {
        Self {
            node,
            path,
            session,
            siblings: &[],
        }
    }

    fn mismatch(&self, expected: &dyn de::Expected) -> DecodeError {
        let unexpected = match &self.node.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(number) => number
                .as_i64()
                .map_or(Unexpected::Float(0.0), Unexpected::Signed),
            Value::String(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        };
        DecodeError::invalid_type(unexpected, expected).at(&self.path)
    }

    fn visit_list<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value> {
        let Value::List(items) = &self.node.value else {
            return Err(self.mismatch(&visitor));
        };
        let path = self.path.clone();
        visitor
            .visit_seq(Items {
                items: items.iter().enumerate(),
                path: self.path,
                session: self.session,
            })
            .map_err(|error| error.at(&path))
    }

    fn visit_fields<V: Visitor<'a>>(
        self,
        fields: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.mismatch(&visitor));
        };
        let path = self.path.clone();
        visitor
            .visit_map(Fields {
                entries: entries.iter(),
                current: None,
                fields,
                path: self.path,
                session: self.session,
            })
            .map_err(|error| error.at(&path))
    }

    fn visit_number<V: Visitor<'a>>(self, number: &Number, visitor: V) -> Result<V::Value> {
        let result = if let Some(value) = number.as_u64() {
            visitor.visit_u64(value)
        } else if let Some(value) = number.as_i64() {
            visitor.visit_i64(value)
        } else {
            visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
        };
        result.map_err(|error: DecodeError| error.at(&self.path))
    }

    /// A number, or a string that holds one where proto JSON writes so.
    fn deserialize_number<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value> {
        match &self.node.value {
            Value::Number(number) => self.visit_number(number, visitor),
            Value::String(text) => match text.parse::<Number>() {
                Ok(number) => self.visit_number(&number, visitor),
                Err(_) => Err(self.mismatch(&visitor)),
            },
            _ => Err(self.mismatch(&visitor)),
        }
    }

    /// Records this node, which its parent does not know.
    fn report_unknown(&self) {
        let name = self
            .path
            .as_str()
            .rsplit(['.', ']'])
            .next()
            .unwrap_or_default();
        self.session.unknown.borrow_mut().push(Problem {
            kind: ProblemKind::UnknownField,
            path: self.path.clone(),
            message: format!("unknown field \"{name}\""),
            hint: match suggest::hint(name, self.siblings) {
                hint if hint.is_empty() => "remove it".to_owned(),
                hint => hint,
            },
        });
    }
}

macro_rules! numbers {
    ($($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.deserialize_number(visitor)
        })+
    };
}

impl<'de> Deserializer<'de> for NodeDeserializer<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let at = |error: DecodeError| error.at(&self.path);
        match &self.node.value {
            Value::Null => visitor.visit_unit().map_err(at),
            Value::Bool(value) => visitor.visit_bool(*value).map_err(at),
            Value::Number(number) => self.visit_number(number, visitor),
            Value::String(text) => visitor.visit_borrowed_str(text).map_err(at),
            Value::List(_) => self.visit_list(visitor),
            Value::Map(_) => self.visit_fields(None, visitor),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.node.value {
            Value::Bool(value) => visitor
                .visit_bool(value)
                .map_err(|error: DecodeError| error.at(&self.path)),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.node.value {
            Value::String(text) => visitor
                .visit_borrowed_str(text)
                .map_err(|error: DecodeError| error.at(&self.path)),
            Value::Number(_) | Value::Bool(_) => Err(self
                .mismatch(&"a string")
                .hint("put the value in quotation marks")),
            _ => Err(self.mismatch(&"a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.node.is_null() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        let path = self.path.clone();
        visitor
            .visit_newtype_struct(self)
            .map_err(|error: DecodeError| error.at(&path))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.visit_list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.visit_fields(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.visit_fields(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let path = self.path.clone();
        match &self.node.value {
            Value::String(name) => visitor.visit_enum(
                IntoDeserializer::<DecodeError>::into_deserializer(name.as_str()),
            ),
            Value::Map(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant {
                    entry,
                    path: self.path.field(&entry.key),
                    session: self.session,
                }),
                _ => Err(DecodeError::custom("set exactly one of its fields")),
            },
            _ => Err(self.mismatch(&"one of the known values")),
        }
        .map_err(|error| error.at(&path))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.report_unknown();
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    path: FieldPath,
    session: &'a Session<'a>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        for (index, node) in self.items.by_ref() {
            let path = self.path.index(index);
            if !self.session.is_hidden(&path) {
                return seed
                    .deserialize(NodeDeserializer::new(node, path.clone(), self.session))
                    .map(Some)
                    .map_err(|error| error.at(&path));
            }
        }
        Ok(None)
    }
}

/// The entries of a mapping: of a struct with known `fields`, or free ones.
struct Fields<'a> {
    entries: std::slice::Iter<'a, Entry>,
    current: Option<(&'a Entry, FieldPath)>,
    fields: Option<&'static [&'static str]>,
    path: FieldPath,
    session: &'a Session<'a>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        for entry in self.entries.by_ref() {
            let path = match self.fields {
                Some(_) => self.path.field(&entry.key),
                None => self.path.key(&entry.key),
            };
            let absent = entry.node.is_null() && self.fields.is_some();
            if absent || self.session.is_hidden(&path) {
                continue;
            }
            let value = match self.fields {
                Some(fields) if !fields.contains(&entry.key.as_str()) => {
                    let camel = camel_case(&entry.key);
                    seed.deserialize(IntoDeserializer::<DecodeError>::into_deserializer(camel))
                }
                Some(_) => seed.deserialize(StrDeserializer::new(&entry.key)),
                None => seed.deserialize(KeyDeserializer(&entry.key)),
            };
            let value = value.map_err(|error| error.at(&path))?;
            self.current = Some((entry, path));
            return Ok(Some(value));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let Some((entry, path)) = self.current.take() else {
            return Err(DecodeError::custom("a value was read before its key"));
        };
        let mut node = NodeDeserializer::new(&entry.node, path.clone(), self.session);
        node.siblings = self.fields.unwrap_or_default();
        seed.deserialize(node).map_err(|error| error.at(&path))
    }
}

/// A key of a free mapping: a string, or a number written as one.
struct KeyDeserializer<'a>(&'a str);

macro_rules! key_numbers {
    ($($method:ident $visit:ident;)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            match self.0.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(DecodeError::custom(format!(
                    "\"{}\" is not a number in range",
                    self.0
                ))),
            }
        })+
    };
}

impl<'de> Deserializer<'de> for KeyDeserializer<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_borrowed_str(self.0)
    }

    key_numbers! {
        deserialize_u16 visit_u16;
        deserialize_u32 visit_u32;
        deserialize_u64 visit_u64;
        deserialize_i32 visit_i32;
        deserialize_i64 visit_i64;
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i128 u8 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A oneof, written as a mapping with one field.
struct Variant<'a> {
    entry: &'a Entry,
    path: FieldPath,
    session: &'a Session<'a>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = VariantValue<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self::Variant)> {
        let name = seed.deserialize(StrDeserializer::<DecodeError>::new(&self.entry.key))?;
        let value = NodeDeserializer::new(&self.entry.node, self.path, self.session);
        Ok((name, VariantValue(value)))
    }
}

struct VariantValue<'a>(NodeDeserializer<'a>);

impl<'de> VariantAccess<'de> for VariantValue<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<()> {
        Err(DecodeError::custom("expected a name, found a mapping"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value> {
        Err(DecodeError::custom("expected a name, found a mapping"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value> {
        Err(DecodeError::custom("expected a name, found a mapping"))
    }
}
