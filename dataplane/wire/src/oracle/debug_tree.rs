//! Compares messages of two crates by their `Debug` output: same field names, same values, whatever the order and the wrapping.

/// Rewrites `Debug` output so that equal messages become equal text: struct names and wrappers gone, fields sorted by name, bytes as numbers.
/// Fields in `dropped` are left out.
pub(super) fn normal(debug: &str, dropped: &[&str]) -> String {
    let mut parser = Parser {
        rest: debug,
        dropped,
    };
    let text = parser.value("");
    assert!(parser.rest.is_empty(), "left over: {}", parser.rest);
    text
}

struct Parser<'t> {
    rest: &'t str,
    dropped: &'t [&'t str],
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.strip_prefix(token);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn word(&mut self) -> String {
        self.rest = self.rest.trim_start();
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || "_-".contains(c)))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    /// A value of the field `name`.
    fn value(&mut self, name: &str) -> String {
        if self.eat("b\"") {
            let bytes = self.byte_string();
            return if name == "records" {
                format!("Records({} bytes)", bytes.len())
            } else {
                format!("{bytes:?}")
            };
        }
        if self.eat("\"") {
            return self.string();
        }
        if self.eat("[") {
            let mut elements = Vec::new();
            while !self.eat("]") {
                elements.push(self.value(""));
                self.eat(",");
            }
            return format!("[{}]", elements.join(", "));
        }
        if self.eat("{}") {
            return String::new();
        }
        let word = self.word();
        if word == "Records" {
            let end = self.rest.find(')').expect("records end") + 1;
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            return format!("Records{text}");
        }
        if self.eat("(") {
            let inner = self.value(name);
            assert!(self.eat(")"), "one value in `{word}`");
            return if word == "Some" {
                format!("Some({inner})")
            } else {
                inner
            };
        }
        if self.eat("{") {
            let mut fields = Vec::new();
            while !self.eat("}") {
                let field = self.word();
                assert!(self.eat(":"), "a field name before {}", self.rest);
                let value = self.value(&field);
                if field != "unknown_tagged_fields" && !self.dropped.contains(&field.as_str()) {
                    fields.push(format!("{field}: {value}"));
                }
                self.eat(",");
            }
            fields.sort();
            return format!("{{{}}}", fields.join(", "));
        }
        word
    }

    /// The escaped text as it stands; both crates print it with the standard library.
    fn string(&mut self) -> String {
        let mut escaped = false;
        let end = self.rest.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (text, rest) = self.rest.split_at(end.expect("a string ends"));
        self.rest = &rest[1..];
        format!("{text:?}")
    }

    fn byte_string(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let mut characters = self.rest.chars();
            let byte = match characters.next().expect("a byte string ends") {
                '"' => break,
                '\\' => match characters.next().expect("an escape has a character") {
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    '0' => 0,
                    'x' => {
                        let digits: String = characters.by_ref().take(2).collect();
                        u8::from_str_radix(&digits, 16).expect("two digits")
                    }
                    escaped => escaped as u8,
                },
                plain => plain as u8,
            };
            bytes.push(byte);
            self.rest = characters.as_str();
        }
        self.rest = &self.rest[1..];
        bytes
    }
}

#[test]
fn names_and_values_decide_and_nothing_else() {
    let ours = r#"A { b: [1, 255], a: Some("x\"y"), records: Some(Records(3 bytes)) }"#;
    let theirs = r#"Z { a: Some(Name("x\"y")), unknown_tagged_fields: {}, b: b"\x01\xff", records: Some(b"a\"\n") }"#;
    assert_eq!(normal(ours, &[]), normal(theirs, &[]));
    assert_ne!(normal(ours, &[]), normal(&ours.replace("255", "254"), &[]));
    assert_ne!(normal(ours, &[]), normal(&ours.replace("a:", "c:"), &[]));
    assert_ne!(
        normal(ours, &[]),
        normal(&ours.replace("3 bytes", "4 bytes"), &[])
    );
    assert_eq!(
        normal(ours, &["b"]),
        normal(&theirs.replace("x01", "x02"), &["b"])
    );
}
