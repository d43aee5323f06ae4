//! Random JSON schemas whose answers are short: what is generated is a function of the seed.

use serde_json::{Map, Value, json};

/// A generator of schemas.
pub struct Schemas(u64);

const NAMES: [&str; 12] =
    ["name", "age", "city", "tags", "price", "kind", "colour", "items", "owner", "note", "code", "active"];
const WORDS: [&str; 8] = ["red", "green", "blue", "small", "large", "north", "south", "none"];
const PATTERNS: [&str; 5] = [
    "^[A-Z]{2}-[0-9]{3}$",
    "^[a-z]{3,8}$",
    "^(yes|no|maybe)$",
    "^#[0-9a-f]{6}$",
    "^[A-Z][a-z]{1,6} [A-Z][a-z]{1,6}$",
];

impl Schemas {
    pub fn new(seed: u64) -> Self {
        Schemas(seed)
    }

    /// Steele, Lea and Flood's splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// An object, now and then with definitions that it refers to.
    pub fn object(&mut self) -> Value {
        let shared = self.below(3) == 0;
        let mut schema = self.fields(2, shared);
        if shared {
            let definitions = json!({"leaf": self.leaf(), "pair": {
                "type": "object",
                "properties": {"first": {"$ref": "#/$defs/leaf"}, "second": self.leaf()},
                "required": ["first", "second"],
                "additionalProperties": false,
            }});
            schema["$defs"] = definitions;
        }
        schema
    }

    fn fields(&mut self, depth: usize, shared: bool) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for _ in 0..1 + self.below(3) {
            let name = self.pick(&NAMES);
            properties.insert(name.to_owned(), self.value(depth, shared));
        }
        for name in properties.keys() {
            if self.below(3) > 0 {
                required.push(name.clone());
            }
        }
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }

    fn value(&mut self, depth: usize, shared: bool) -> Value {
        match self.below(if depth == 0 { 6 } else { 10 }) {
            0..=4 => self.leaf(),
            5 if shared => json!({"$ref": self.pick(&["#/$defs/leaf", "#/$defs/pair"])}),
            5 | 6 => json!({"anyOf": [self.leaf(), {"type": "null"}, self.leaf()]}),
            7 | 8 => self.fields(depth - 1, shared),
            _ => {
                let least = self.below(2);
                let items = self.value(depth - 1, shared);
                json!({"type": "array", "items": items, "minItems": least, "maxItems": least + self.below(3)})
            }
        }
    }

    fn leaf(&mut self) -> Value {
        match self.below(8) {
            0 => {
                let least = self.below(2000) as i64 - 1000;
                json!({"type": "integer", "minimum": least, "maximum": least + self.below(5000) as i64})
            }
            1 => {
                let least = self.below(100) as f64 / 4.0;
                json!({"type": "number", "minimum": least, "maximum": least + 10.5, "multipleOf": 0.25})
            }
            2 => {
                let least = self.below(4);
                json!({"type": "string", "minLength": least, "maxLength": least + 1 + self.below(12)})
            }
            3 => json!({"type": "string", "pattern": self.pick(&PATTERNS)}),
            4 => json!({"enum": [self.pick(&WORDS), self.below(10), null, true]}),
            5 => json!({"type": "string", "enum": [self.pick(&WORDS), self.pick(&WORDS)]}),
            6 => json!({"const": self.pick(&WORDS)}),
            _ => json!({"type": "boolean"}),
        }
    }
}
