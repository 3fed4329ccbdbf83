//! The tables of the page, each a section of its own that is absent where there is nothing to show.

use maud::{Markup, html};

use super::model::{Limits, Outcome, Ramp, Run, plain};
use super::numbers::number;
use super::series::Series;

pub(super) fn results(results: &[Outcome]) -> Markup {
    html! {
        @if !results.is_empty() {
            h2 { "Results and targets" }
            p.note { "The ratio is what was achieved to the ceiling that the same host reached in the same session." }
            div.scroll tabindex="0" { table {
                // What was made of the figure stands first, where a phone shows it.
                thead { tr {
                    th { "Figure" } th { "Met" } th.number { "Ratio" } th.number { "Target" }
                    th.number { "Achieved" } th.number { "Ceiling" } th { "Which ceiling" }
                } }
                tbody { @for result in results { tr {
                    th scope="row" { (result.name) }
                    td { (met(result.met)) }
                    td.number { (cell(result.ratio)) }
                    td.number { (target(result.target.as_deref().unwrap_or_default())) }
                    td.number { (cell(result.value)) " " span.unit { (result.unit.as_deref().unwrap_or_default()) } }
                    @match &result.against {
                        Some(against) => { td.number { (cell(against.value)) } td { (against.name) } }
                        None => { td {} td {} }
                    }
                } } }
            } }
        }
    }
}

fn target(text: &str) -> String {
    text.replace(">=", "≥").replace("<=", "≤")
}

/// Not by colour alone.
fn met(met: Option<bool>) -> Markup {
    html! {
        @match met {
            Some(true) => span.met { "✓ met" },
            Some(false) => span.missed { "✗ missed" },
            None => "–",
        }
    }
}

pub(super) fn ramps(ramps: &[(String, Ramp)]) -> Markup {
    html! {
        @if !ramps.is_empty() {
            h2 { "Ramps" }
            p.note { "The rate is raised step by step; the knee is the last one that was held." }
        }
        @for (name, ramp) in ramps {
            h3 { (name) }
            p {
                "Knee: " (cell(ramp.knee_records_per_second)) " records/s"
                @if let Some(why) = &ramp.broken_by { span.unit { ". The step after it: " (why) } }
            }
            @if let Some(error) = &ramp.error { p.error { (error) } }
            div.scroll tabindex="0" { table {
                thead { tr { th.number { "Records/s" } th.number { "MB/s" } @for (title, _) in LATENCIES { th.number { (title) " ms" } } } }
                tbody { @for step in &ramp.steps { tr {
                    td.number { (cell(step.records_per_second)) }
                    td.number { (number(step.megabytes_per_second)) }
                    @for (_, latency) in LATENCIES { td.number { (cell(step.latency(latency))) } }
                } } }
            } }
        }
    }
}

pub(super) fn runs(runs: &[(String, Run)]) -> Markup {
    html! {
        @if !runs.is_empty() {
            h2 { "All runs" }
            div.scroll tabindex="0" { table {
                thead {
                    tr {
                        th { "Run" } th.number { "Seconds" } th.number { "MB/s" } th.number { "Requests/s" } th.number { "Records/s" }
                        @for (title, _) in LATENCIES { th.number { (title) " ms" } }
                        th.number { "Server CPU s/GB" } th.number { "Client CPU s/GB" } th.number { "Peak memory MB" }
                    }
                }
                tbody { @for (name, run) in runs { (run_row(name, run)) } }
            } }
        }
    }
}

const LATENCIES: [(&str, &str); 5] = [
    ("p50", "p50"),
    ("p99", "p99"),
    ("p99.9", "p999"),
    ("p99.99", "p9999"),
    ("max", "max"),
];

fn run_row(name: &str, run: &Run) -> Markup {
    html! {
        tr {
            th scope="row" { (name) (error(run.error.as_deref())) }
            td.number { (cell(run.seconds)) }
            td.number { (number(run.megabytes_per_second)) }
            td.number { (number(run.requests_per_second)) }
            td.number { (cell(run.records_per_second)) }
            @for (_, latency) in LATENCIES { td.number { (cell(run.latency(latency))) } }
            td.number { (cell(run.server_cpu_seconds_per_gigabyte)) }
            td.number { (cell(run.client_cpu_seconds_per_gigabyte)) }
            td.number { (cell(run.server_memory_bytes_max.map(|bytes| bytes / 1e6))) }
        }
    }
}

fn error(error: Option<&str>) -> Markup {
    html! { @if let Some(error) = error { br; span.error { (error) } } }
}

pub(super) fn configuration(series: &[Series<'_>]) -> Markup {
    html! {
        @if !series.is_empty() {
            h2 { "Configuration" }
            @for series in series {
                details {
                    summary { (series.name) " " span.unit { (series.command()) } }
                    dl { @for (name, value) in &series.runs[0].settings {
                        dt { (name.replace('_', " ")) } dd { (plain(value)) }
                    } }
                }
            }
        }
    }
}

pub(super) fn hosts(limits: &[(String, Limits)]) -> Markup {
    html! {
        @for (_, limits) in limits {
            h2 { "Host" }
            dl { @for (name, value) in &limits.host {
                @match name.strip_suffix("_bytes").zip(value.as_f64()) {
                    Some((name, bytes)) => { dt { (name.replace('_', " ")) } dd { (number(bytes / 1e9)) " GB" } }
                    None => { dt { (name.replace('_', " ")) } dd { (plain(value)) } }
                }
            } }
            @if !limits.figures.is_empty() {
                h3 { "What it can do at most" }
                div.scroll tabindex="0" { table {
                    thead { tr { th { "Figure" } th.number { "Value" } th { "Unit" } th { "How" } } }
                    tbody { @for figure in &limits.figures { tr {
                        th scope="row" { (figure.name) }
                        td.number { (cell(figure.value)) }
                        td { (figure.unit) }
                        td.unit { (figure.note.as_deref().unwrap_or_default()) }
                    } } }
                } }
            }
        }
    }
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_is_escaped() {
        let result = Outcome {
            name: "<script>alert(1)</script>".to_owned(),
            value: None,
            unit: Some("\"&".to_owned()),
            against: None,
            ratio: None,
            target: Some("<= 1.15".to_owned()),
            met: Some(false),
        };
        let table = results(&[result]).into_string();
        assert!(!table.contains("<script") && table.contains("&lt;script"));
        assert!(table.contains("≤ 1.15"));
    }
}
