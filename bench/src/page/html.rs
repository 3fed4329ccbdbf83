//! The page itself: which sections there are, and the plots in them. Everything that comes from a file is escaped by the template; only what
//! plots.rs has drawn goes in as it is.

use std::collections::BTreeMap;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::value::RawValue;

use super::input::{Input, Source};
use super::model::Run;
use super::numbers::number;
use super::plots::{self, LINES_MAX, Row};
use super::series::{self, Series};
use super::tables;
use crate::clock::wall_clock_ms;

const STYLE: &str = include_str!("style.css");
/// Holds a policy too, so that even a name that slipped through the escaping could load nothing and run nothing.
const HEAD: &str = include_str!("head.html");

/// What this command's bytes are is no data, so that figures by the byte say nothing.
const WITHOUT_DATA: &str = "offsets";

pub(super) fn page(input: &Input) -> Result<String> {
    let series = series::all(input);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (PreEscaped(HEAD))
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Benchmark report" }
                p.lede { (summary(input)) }
                (tables::results(&input.results))
                (throughput(&series)?)
                (latency(&series)?)
                (processor_time(&series)?)
                (tables::ramps(&input.ramps))
                (tables::runs(&input.runs))
                (tables::configuration(&series))
                (tables::hosts(&input.limits))
                (raw_figures(&input.sources)?)
            }
        }
    };
    Ok(page.into_string())
}

fn summary(input: &Input) -> String {
    let made = DateTime::from_timestamp_millis(wall_clock_ms()).unwrap_or_default();
    let met = |met| {
        input
            .results
            .iter()
            .filter(|result| result.met == Some(met))
            .count()
    };
    let mut words = vec![
        "millrace-bench".to_owned(),
        made.format("%Y-%m-%d %H:%M UTC").to_string(),
        format!("{} files", input.sources.len()),
    ];
    words.extend(input.measured.clone());
    if !input.results.is_empty() {
        words.push(format!("targets: {} met, {} missed", met(true), met(false)));
    }
    words.join(" · ")
}

fn throughput(series: &[Series<'_>]) -> Result<Markup> {
    let data = rows(series, has_data, |run| Some(run.megabytes_per_second));
    let all = rows(series, |_| true, |run| Some(run.requests_per_second));
    if all.is_empty() {
        return Ok(html! {});
    }
    Ok(html! {
        h2 { "Throughput" }
        p.note { "Each bar is the median of its rounds; the dots on it are the single rounds." }
        .plots {
            @if !data.is_empty() { (figure("Data", "MB/s, a million bytes each second", &plots::bars(&data, "MB/s")?)) }
            (figure("Requests", "answered each second", &plots::bars(&all, "requests/s")?))
        }
    })
}

fn processor_time(series: &[Series<'_>]) -> Result<Markup> {
    let plot = |title, note, figure_of: fn(&Run) -> Option<f64>| -> Result<Markup> {
        let rows = rows(series, has_data, figure_of);
        if rows.is_empty() {
            return Ok(html! {});
        }
        Ok(figure(
            title,
            note,
            &plots::dots(&rows, "CPU s/GB (logarithmic)")?,
        ))
    };
    let server = plot("Server", "the process under test, all its threads", |run| {
        run.server_cpu_seconds_per_gigabyte
    })?;
    let client = plot("Client", "this load generator", |run| {
        run.client_cpu_seconds_per_gigabyte
    })?;
    Ok(html! {
        @if !server.0.is_empty() || !client.0.is_empty() {
            h2 { "Processor time" }
            p.note { "Seconds of processor time for each gigabyte moved. Less is better." }
            .plots { (server) (client) }
        }
    })
}

fn has_data(series: &Series<'_>) -> bool {
    series.command() != WITHOUT_DATA
}

fn rows(
    series: &[Series<'_>],
    wanted: impl Fn(&Series<'_>) -> bool,
    figure: impl Fn(&Run) -> Option<f64> + Copy,
) -> Vec<Row> {
    let row = |series: &Series<'_>| {
        let median = series.spread(figure)?.median;
        Some(Row {
            name: series.name.clone(),
            value: number(median),
            median,
            rounds: series.values(figure),
        })
    };
    let wanted = series.iter().filter(|series| wanted(series));
    wanted.filter_map(row).collect()
}

fn latency(series: &[Series<'_>]) -> Result<Markup> {
    let mut commands: Vec<&str> = Vec::new();
    for series in series {
        if !commands.contains(&series.command()) {
            commands.push(series.command());
        }
    }
    let mut figures = Vec::new();
    for command in commands {
        let of_command = series.iter().filter(|series| series.command() == command);
        let curve = |series: &Series<'_>| {
            let curve = series.typical()?.curve();
            (curve.len() > 1).then(|| (series.name.clone(), curve))
        };
        let lines: Vec<_> = of_command.filter_map(curve).collect();
        for some in lines.chunks(LINES_MAX) {
            figures.push(curves(command, some)?);
        }
    }
    Ok(html! {
        @if !figures.is_empty() {
            h2 { "Latency" }
            p.note {
                "From the moment a request was sent, or in an open loop was meant to be sent, to its answer. Of several rounds the one \
                 with the median p99 is drawn. Both axes are logarithmic; the maximum is in the table of runs."
            }
            .plots { @for figure in &figures { (figure) } }
        }
    })
}

type NamedCurve = (String, Vec<(f64, f64)>);

fn curves(command: &str, lines: &[NamedCurve]) -> Result<Markup> {
    let points: Vec<_> = lines.iter().map(|(_, points)| points.clone()).collect();
    let svg = plots::curves(&points)?;
    let legend = html! {
        ul.legend {
            @for (number, (name, _)) in lines.iter().enumerate() {
                li {
                    svg viewBox="0 0 24 10" aria-hidden="true" {
                        path d="M0 5H24" stroke=(plots::color(number)) stroke-width="4" {}
                    }
                    span { (name) }
                }
            }
        }
    };
    Ok(html! { (figure(command, "milliseconds at each percentile", &svg)) (legend) })
        .map(|both| html! { div { (both) } })
}

/// `svg` is drawn by plots.rs, which escapes the names in it.
fn figure(title: &str, note: &str, svg: &str) -> Markup {
    html! {
        figure {
            figcaption { strong { (title) } " " (note) }
            .plot role="img" aria-label={ (title) ", " (note) } { (PreEscaped(svg)) }
        }
    }
}

fn raw_figures(sources: &[Source]) -> Result<Markup> {
    // As they are, to the last digit.
    let mut all: BTreeMap<&str, &RawValue> = BTreeMap::new();
    for source in sources {
        all.insert(&source.name, serde_json::from_slice(&source.text)?);
    }
    let all = serde_json::to_vec(&all)?;
    Ok(html! {
        h2 { "Raw figures" }
        p.note { "Everything above was made from these files, which are part of this page." }
        p { (link("all.json", &all, "All in one file")) }
        ul.files { @for source in sources { li { (link(&source.name, &source.text, &source.name)) } } }
    })
}

fn link(file: &str, json: &[u8], text: &str) -> Markup {
    let data = STANDARD.encode(json);
    html! { a download=(file) href={ "data:application/json;base64," (data) } { (text) } }
}
