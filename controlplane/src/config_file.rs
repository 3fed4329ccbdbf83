//! Settings from a TOML file: each key is a flag of `serve` with underscores, and is taken as if it were given before all
//! others, unless the flag itself or its environment variable is there.

use anyhow::{Context, bail};
use clap::{Arg, Command};
use std::ffi::{OsStr, OsString};

/// The process's arguments with those of the file, if `serve` is given one.
pub(crate) fn arguments(
    given: impl Iterator<Item = OsString>,
    program: &Command,
) -> anyhow::Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = given.collect();
    if arguments.get(1).is_none_or(|command| command != "serve") {
        return Ok(arguments);
    }
    let Some(serve) = program.find_subcommand("serve") else {
        return Ok(arguments);
    };
    let Some(path) = value(&arguments, "--config").or_else(|| from_environment(serve, "config"))
    else {
        return Ok(arguments);
    };
    let shown = path.display();
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {shown}"))?;
    let not = || format!("{shown} is not a configuration");
    let table: toml::Table = text.parse().with_context(not)?;
    let mut from_file = Vec::new();
    for (key, value) in table {
        let name = key.replace('_', "-");
        let known = serve
            .get_arguments()
            .find(|argument| argument.get_long() == Some(&name));
        let Some(known) = known.filter(|_| name != "config" && !key.contains('-')) else {
            bail!("{shown} is not a configuration: {key} is no setting");
        };
        let flag = format!("--{name}");
        if !is_given(&arguments, &flag) && environment(known).is_none() {
            from_file.push(format!("{flag}={}", plain(&value).with_context(not)?).into());
        }
    }
    arguments.splice(2..2, from_file);
    Ok(arguments)
}

fn plain(value: &toml::Value) -> anyhow::Result<String> {
    Ok(match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        other => bail!("{other} is neither a string nor a whole number"),
    })
}

fn is_given(arguments: &[OsString], flag: &str) -> bool {
    let with_value = format!("{flag}=");
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    arguments.any(|argument| argument == flag || argument.starts_with(&with_value))
}

fn value(arguments: &[OsString], flag: &str) -> Option<OsString> {
    let with_value = format!("{flag}=");
    let position = arguments.iter().position(|argument| {
        let argument = argument.to_string_lossy();
        argument == flag || argument.starts_with(&with_value)
    })?;
    match arguments[position].to_str()?.strip_prefix(&with_value) {
        Some(value) => Some(value.into()),
        None => arguments.get(position + 1).cloned(),
    }
}

fn from_environment(serve: &Command, id: &str) -> Option<OsString> {
    environment(
        serve
            .get_arguments()
            .find(|argument| argument.get_id() == id)?,
    )
}

fn environment(argument: &Arg) -> Option<OsString> {
    let name: &OsStr = argument.get_env()?;
    std::env::var_os(name)
}
