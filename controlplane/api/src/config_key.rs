//! One configuration key: its type, its default, and which values it takes, worded as Kafka words it. The tables of keys are in
//! `topic_config.rs`.

use std::fmt::Display;

/// The numbers that DescribeConfigs uses (`ConfigType` in its schema).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    List = 7,
}

#[derive(Debug)]
pub struct ConfigKey {
    pub name: &'static str,
    pub kind: ConfigType,
    pub default: &'static str,
    pub documentation: &'static str,
    /// For a topic's key: the broker's key that gives its default.
    pub broker_key: Option<&'static str>,
    /// False: accepted, kept and shown, but nothing reads it.
    pub acts: bool,
    check: Check,
}

/// Which values a key takes.
#[derive(Debug)]
enum Check {
    Boolean,
    /// Inclusive bounds.
    Number(i64, i64),
    OneOf(&'static [&'static str]),
}

impl ConfigKey {
    /// The value as it counts: blanks around it, a plus sign before a number and the case of a boolean are no part of it, as in
    /// Kafka. `Err` is the text for the client.
    pub fn read<'a>(&self, value: &'a str) -> Result<&'a str, String> {
        let refuse = |value: &dyn Display, why: &str| {
            let name = self.name;
            Err(format!(
                "Invalid value {value} for configuration {name}: {why}"
            ))
        };
        let trimmed = trimmed(value);
        match self.check {
            Check::Boolean if trimmed.eq_ignore_ascii_case("true") => Ok("true"),
            Check::Boolean if trimmed.eq_ignore_ascii_case("false") => Ok("false"),
            Check::Boolean => refuse(&value, "Expected value to be either true or false"),
            Check::Number(min, max) => {
                let number = trimmed.parse::<i64>().ok();
                match number.filter(|number| self.kind != ConfigType::Int || is_int(*number)) {
                    Some(number) if number < min => {
                        refuse(&number, &format!("Value must be at least {min}"))
                    }
                    Some(number) if number > max => {
                        refuse(&number, &format!("Value must be no more than {max}"))
                    }
                    Some(_) => Ok(trimmed.trim_start_matches('+')),
                    None if self.kind == ConfigType::Int => {
                        refuse(&value, "Not a number of type INT")
                    }
                    None => refuse(&value, "Not a number of type LONG"),
                }
            }
            Check::OneOf(values) => {
                let known = |item: &str| values.contains(&self::trimmed(item));
                let all_known = match self.kind {
                    ConfigType::List => trimmed.split(',').all(known),
                    _ => known(trimmed),
                };
                match all_known {
                    true => Ok(trimmed),
                    false => refuse(
                        &value,
                        &format!("String must be one of: {}", values.join(", ")),
                    ),
                }
            }
        }
    }

    pub(crate) const fn documented(mut self, documentation: &'static str) -> Self {
        self.documentation = documentation;
        self
    }

    /// For a number: a bound below that of its type.
    pub(crate) const fn at_most(mut self, max: i64) -> Self {
        if let Check::Number(min, _) = self.check {
            self.check = Check::Number(min, max);
        }
        self
    }

    /// For one of several words: any number of them, with commas between.
    pub(crate) const fn of_several(mut self) -> Self {
        self.kind = ConfigType::List;
        self
    }

    pub(crate) const fn without_effect(mut self) -> Self {
        self.acts = false;
        self
    }
}

/// Without the blanks around it, which are what Java's `trim` takes for blanks.
fn trimmed(value: &str) -> &str {
    value.trim_matches(|character| character <= ' ')
}

fn is_int(number: i64) -> bool {
    i32::try_from(number).is_ok()
}

const fn key(
    name: &'static str,
    kind: ConfigType,
    default: &'static str,
    check: Check,
    broker_key: Option<&'static str>,
) -> ConfigKey {
    ConfigKey {
        name,
        kind,
        default,
        documentation: "",
        broker_key,
        acts: true,
        check,
    }
}

pub(crate) const fn boolean(
    name: &'static str,
    default: &'static str,
    broker: Option<&'static str>,
) -> ConfigKey {
    key(name, ConfigType::Boolean, default, Check::Boolean, broker)
}

pub(crate) const fn int(
    name: &'static str,
    default: &'static str,
    min: i64,
    broker: Option<&'static str>,
) -> ConfigKey {
    let bounds = Check::Number(min, i32::MAX as i64);
    key(name, ConfigType::Int, default, bounds, broker)
}

pub(crate) const fn long(
    name: &'static str,
    default: &'static str,
    min: i64,
    broker: Option<&'static str>,
) -> ConfigKey {
    let bounds = Check::Number(min, i64::MAX);
    key(name, ConfigType::Long, default, bounds, broker)
}

/// One of `values`.
pub(crate) const fn string(
    name: &'static str,
    default: &'static str,
    values: &'static [&'static str],
    broker: Option<&'static str>,
) -> ConfigKey {
    let words = Check::OneOf(values);
    key(name, ConfigType::String, default, words, broker)
}
