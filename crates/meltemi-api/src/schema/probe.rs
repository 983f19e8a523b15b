//! A deserialiser that reads nothing: it notes what a type asks for at one place, and stops there.

use std::cell::Cell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::Schema;
use crate::istio::duration;

/// One step of a path from a type to a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Field(&'static str),
    /// Of a list.
    Item,
    /// Of a map.
    Value,
    Variant(&'static str),
}

/// What a type asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    Message {
        name: &'static str,
        fields: &'static [&'static str],
    },
    List,
    Map,
    Enum {
        name: &'static str,
        variants: &'static [&'static str],
    },
    /// A variant without content.
    Word,
    Scalar(Schema),
}

pub(super) fn shape<T: DeserializeOwned>(path: &[Step]) -> Shape {
    let found = Cell::new(None);
    // It always fails, since nothing is ever read.
    drop(T::deserialize(Probe {
        path,
        found: &found,
    }));
    found.into_inner().unwrap_or(Shape::Scalar(Schema::Any))
}

#[derive(Clone, Copy)]
struct Probe<'a> {
    path: &'a [Step],
    found: &'a Cell<Option<Shape>>,
}

impl Probe<'_> {
    fn found<T>(self, shape: Shape) -> Result<T, Stop> {
        self.found.set(Some(shape));
        Err(Stop)
    }

    fn integer<T>(self, minimum: Option<i64>, maximum: Option<i64>) -> Result<T, Stop> {
        self.found(Shape::Scalar(Schema::Integer { minimum, maximum }))
    }

    /// The first step and what lies behind it.
    fn step(self) -> Option<(Step, Self)> {
        let (first, rest) = self.path.split_first()?;
        Some((*first, Self { path: rest, ..self }))
    }
}

macro_rules! scalars {
    ($($method:ident: $schema:ident;)+) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
            self.found(Shape::Scalar(Schema::$schema))
        })+
    };
}

macro_rules! integers {
    ($($method:ident: $minimum:expr, $maximum:expr;)+) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
            self.integer($minimum, $maximum)
        })+
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Stop;

    scalars! {
        deserialize_any: Any;
        deserialize_ignored_any: Any;
        deserialize_unit: Any;
        deserialize_bool: Bool;
        deserialize_f32: Number;
        deserialize_f64: Number;
        deserialize_char: String;
        deserialize_str: String;
        deserialize_string: String;
        deserialize_identifier: String;
        deserialize_bytes: String;
        deserialize_byte_buf: String;
    }

    integers! {
        deserialize_i8: Some(i8::MIN.into()), Some(i8::MAX.into());
        deserialize_i16: Some(i16::MIN.into()), Some(i16::MAX.into());
        deserialize_i32: Some(i32::MIN.into()), Some(i32::MAX.into());
        deserialize_i64: None, None;
        deserialize_u8: Some(0), Some(u8::MAX.into());
        deserialize_u16: Some(0), Some(u16::MAX.into());
        deserialize_u32: Some(0), Some(u32::MAX.into());
        deserialize_u64: Some(0), None;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        if name == duration::TYPE {
            return self.found(Shape::Scalar(Schema::Duration));
        }
        if name == super::SCALAR {
            return self.found(Shape::Scalar(Schema::Scalar));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: V,
    ) -> Result<V::Value, Stop> {
        self.found(Shape::Scalar(Schema::Any))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.step() {
            Some((Step::Item, rest)) => visitor.visit_seq(One { probe: rest }),
            _ => self.found(Shape::List),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.step() {
            Some((Step::Value, rest)) => visitor.visit_map(Pair {
                key: None,
                probe: rest,
            }),
            _ => self.found(Shape::Map),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match self.step() {
            Some((Step::Field(field), rest)) => visitor.visit_map(Pair {
                key: Some(field),
                probe: rest,
            }),
            _ => self.found(Shape::Message { name, fields }),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match self.step() {
            Some((Step::Variant(variant), rest)) => visitor.visit_enum(Variant {
                variant,
                probe: rest,
            }),
            _ => self.found(Shape::Enum { name, variants }),
        }
    }
}

/// A list of one item.
struct One<'a> {
    probe: Probe<'a>,
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Stop> {
        seed.deserialize(self.probe).map(Some)
    }
}

/// A mapping of one entry, under a field's name or under any key.
struct Pair<'a> {
    key: Option<&'static str>,
    probe: Probe<'a>,
}

impl<'de> MapAccess<'de> for Pair<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stop> {
        let key = match self.key {
            Some(name) => seed.deserialize(IntoDeserializer::<Stop>::into_deserializer(name)),
            None => seed.deserialize(AnyKey),
        };
        key.map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        seed.deserialize(self.probe)
    }
}

/// A key that is good as a text and as a number.
struct AnyKey;

impl<'de> Deserializer<'de> for AnyKey {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_str("1")
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_u16(1)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_u32(1)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Variant<'a> {
    variant: &'static str,
    probe: Probe<'a>,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Stop;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Stop> {
        let name: StrDeserializer<'_, Stop> = self.variant.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        self.probe.found(Shape::Word)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Stop> {
        seed.deserialize(self.probe)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Stop> {
        self.probe.found(Shape::Scalar(Schema::Any))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stop> {
        self.probe.found(Shape::Scalar(Schema::Any))
    }
}

/// Ends a probe that has found what it looked for.
#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a probe reads nothing")
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}
