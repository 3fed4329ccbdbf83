//! The plots, as inline SVG. They are drawn narrow, so that their text stays readable on a phone. Their colours are those of a light page;
//! style.css gives each of them another value on a dark one.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;

const WIDTH: u32 = 420;
const CURVES_HEIGHT: u32 = 300;
const ROW_HEIGHT: u32 = 42;
const LABEL_AREA: u32 = 40;
const MARGIN: u32 = 12;
const FONT: &str = "sans-serif";
const FONT_PIXELS: u32 = 17;
const DOT_PIXELS: i32 = 6;
const ROUND_PIXELS: i32 = 2;
/// What fits the width of a row beside its value.
const NAME_LETTERS_MAX: usize = 38;

/// style.css knows these by value.
const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const MUTED: RGBColor = RGBColor(0x59, 0x63, 0x6e);
const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
const COLORS: [RGBColor; LINES_MAX] = [
    RGBColor(0x00, 0x6b, 0xb3),
    RGBColor(0xc2, 0x51, 0x00),
    RGBColor(0x00, 0x85, 0x5f),
    RGBColor(0xa6, 0x3d, 0x88),
    RGBColor(0x8a, 0x6d, 0x00),
    RGBColor(0x5b, 0x57, 0xc9),
];

/// More lines than this cannot be told apart.
pub(super) const LINES_MAX: usize = 6;

/// One row: the values of the rounds, and their median.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) median: f64,
    pub(super) rounds: Vec<f64>,
}

/// Bars of medians from 0, with a mark for each round.
pub(super) fn bars(rows: &[Row], unit: &str) -> Result<String> {
    draw_rows(rows, unit, Axis::linear(all_rounds(rows)), Mark::Bar)
}

/// Medians on a logarithmic axis, which has no 0 for a bar to start from, with a mark for each round.
pub(super) fn dots(rows: &[Row], unit: &str) -> Result<String> {
    draw_rows(rows, unit, Axis::logarithmic(all_rounds(rows)), Mark::Dot)
}

fn all_rounds(rows: &[Row]) -> impl Iterator<Item = f64> + Clone {
    rows.iter().flat_map(|row| row.rounds.iter().copied())
}

/// How a median is drawn.
#[derive(Clone, Copy)]
enum Mark {
    Bar,
    Dot,
}

fn draw_rows(rows: &[Row], unit: &str, axis: Axis, mark: Mark) -> Result<String> {
    let height = rows.len() as u32 * ROW_HEIGHT + LABEL_AREA + MARGIN;
    let (low, high, ticks) = (axis.low, axis.high, axis.ticks());
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin_left(MARGIN)
        .margin_right(2 * MARGIN)
        .margin_top(MARGIN)
        .x_label_area_size(LABEL_AREA)
        .build_cartesian_2d(axis, rows.len() as f64..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(ticks)
        .x_desc(unit)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(MUTED)
        .label_style(font(MUTED))
        .draw()?;
    for (row, number) in rows.iter().zip(0..) {
        // A row is one unit high: its name above, its values below.
        let at = |part: f64| f64::from(number) + part;
        let text = |text: &str, x: f64, side: HPos| {
            let style = font(INK).pos(Pos::new(side, VPos::Top));
            Text::new(text.to_owned(), (x, at(0.04)), style)
        };
        chart.draw_series([
            text(&shorten(&row.name), low, HPos::Left),
            text(&row.value, high, HPos::Right),
        ])?;
        let bar = [(low, at(0.52)), (row.median, at(0.84))];
        let middle = at(0.68);
        match mark {
            Mark::Bar => chart.draw_series([Rectangle::new(bar, COLORS[0].filled())])?,
            Mark::Dot => {
                let dot = Circle::new((row.median, middle), DOT_PIXELS, COLORS[0].filled());
                chart.draw_series([dot])?
            }
        };
        if row.rounds.len() > 1 {
            let mut rounds: Vec<_> = row.rounds.iter().map(|value| (*value, middle)).collect();
            rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
            let small = |at: &(f64, f64)| Circle::new(*at, ROUND_PIXELS, INK.filled());
            chart.draw_series(rounds.iter().map(small))?;
            chart.draw_series([PathElement::new(rounds, INK)])?;
        }
    }
    root.present()?;
    drop(chart);
    drop(root);
    Ok(svg)
}

/// A line for each list of quantiles and milliseconds, in the order of [`color`].
pub(super) fn curves(lines: &[Vec<(f64, f64)>]) -> Result<String> {
    assert!(lines.len() <= LINES_MAX, "more lines than colours");
    // The maximum has no place on an axis of nines.
    let shown = || {
        lines
            .iter()
            .flatten()
            .filter(|(quantile, _)| *quantile < 1.0)
    };
    let quantiles = Axis::nines(shown().map(|(quantile, _)| *quantile));
    let milliseconds = Axis::logarithmic(shown().map(|(_, ms)| *ms));
    let (x_ticks, y_ticks) = (quantiles.ticks(), milliseconds.ticks());
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, CURVES_HEIGHT)).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(MARGIN)
        .margin_right(2 * MARGIN)
        .x_label_area_size(LABEL_AREA)
        .y_label_area_size(LABEL_AREA + MARGIN)
        .build_cartesian_2d(quantiles, milliseconds)?;
    chart
        .configure_mesh()
        .x_labels(x_ticks)
        .y_labels(y_ticks)
        .x_desc("percentile")
        .y_desc("ms")
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(MUTED)
        .label_style(font(MUTED))
        .draw()?;
    for (line, color) in lines.iter().zip(COLORS) {
        let points = line.iter().copied().filter(|(quantile, _)| *quantile < 1.0);
        chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
    }
    root.present()?;
    drop(chart);
    drop(root);
    Ok(svg)
}

/// The colour of a curve, as CSS writes it.
pub(super) fn color(line: usize) -> String {
    let RGBColor(red, green, blue) = COLORS[line];
    format!("#{red:02X}{green:02X}{blue:02X}")
}

fn font(color: RGBColor) -> TextStyle<'static> {
    (FONT, FONT_PIXELS).into_font().color(&color)
}

fn shorten(name: &str) -> String {
    if name.chars().count() <= NAME_LETTERS_MAX {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(NAME_LETTERS_MAX - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: &str = include_str!("style.css");

    #[test]
    fn every_colour_of_a_plot_has_another_one_on_a_dark_page() {
        for RGBColor(red, green, blue) in COLORS.into_iter().chain([INK, MUTED, GRID]) {
            let color = format!("#{red:02X}{green:02X}{blue:02X}");
            for attribute in ["fill", "stroke"] {
                let selector = format!("[{attribute}=\"{color}\"]");
                assert!(STYLE.contains(&selector), "{selector}");
            }
        }
    }

    #[test]
    fn plots_of_anything_are_drawn() {
        let row = |median| Row {
            name: "<a & b>".repeat(20),
            value: "1".to_owned(),
            median,
            rounds: vec![median, 2.0 * median],
        };
        for median in [0.0, 1e-9, 1.0, 1e12] {
            let svg = bars(&[row(median)], "MB/s").unwrap();
            assert!(svg.contains("<rect") && !svg.contains("<a"));
            assert!(dots(&[row(median)], "s").unwrap().contains("<circle"));
        }
        let line = vec![(0.0, 0.1), (0.5, 0.2), (0.9999, 40.0), (1.0, 90.0)];
        assert!(curves(&[line]).unwrap().contains("<polyline"));
        assert!(curves(&[vec![]]).is_ok());
    }
}
