//! The chart: the latency by percentile, and the measured time second by second.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::axis::Axis;
use crate::report::{facts, units};
use crate::results::{Distribution, Run};

/// The background.
pub(super) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
/// Titles and names.
pub(super) const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
/// Axis labels.
pub(super) const FAINT_INK: RGBColor = RGBColor(0x59, 0x63, 0x6e);
/// The axes.
pub(super) const AXIS: RGBColor = RGBColor(0x9a, 0xa4, 0xaf);
/// Grid lines.
pub(super) const GRID: RGBColor = RGBColor(0xe4, 0xe8, 0xec);
/// One per run, cyclically: the colours of Okabe and Ito that are visible on white, ordered so that neighbours differ
/// in brightness too (<https://jfly.uni-koeln.de/color/>).
pub(super) const COLORS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

/// Pixels of the drawing per pixel of the image: plotters draws at whole pixels, which would give lines steps.
const FINE: u32 = 4;
/// The image, in pixels.
const WIDTH: u32 = 960;
const LEGEND_ROW: u32 = 24;
const TITLE_HEIGHT: u32 = 42;
const X_LABELS_HEIGHT: u32 = 44;
const Y_LABELS_WIDTH: u32 = 100;
const MARGIN: u32 = 24;
/// Margin for half of the label at the last tick of an x axis.
const RIGHT_MARGIN: u32 = 48;
/// Characters of a name in the legend at most.
const NAME_CHARACTERS_MAX: usize = 80;
/// Lines with at most this many points show each as a dot.
const DOTS_MAX: usize = 60;

/// A part of the chart with its own axes.
struct Panel {
    title: &'static str,
    height: u32,
    x: Axis,
    x_title: &'static str,
    y: Axis,
    lines: Vec<Line>,
    dots: Vec<Dot>,
}

struct Line {
    color: RGBColor,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

struct Dot {
    color: RGBColor,
    filled: bool,
    point: (f64, f64),
    /// Its label, and the label's anchor.
    label: Option<(String, Pos)>,
}

/// The chart of one or more runs: a self-contained SVG image.
pub fn svg(runs: &[&Run]) -> String {
    let panels: Vec<Panel> = [limit(runs), curve(runs), throughput(runs), p99(runs)].into_iter().flatten().collect();
    let legend = LEGEND_ROW * (runs.len() as u32 + 1) + MARGIN;
    let height = legend + panels.iter().map(|panel| panel.height).sum::<u32>();
    let mut image = String::new();
    draw(&mut image, height, legend, runs, &panels).expect("writing to a string can't fail");
    // The backend uses the drawing's size for the image, and gives it no title for screen readers.
    let names: Vec<String> = runs.iter().map(|run| units::escape(&run.name)).collect();
    let head = image.find('>').map_or(0, |end| end + 1);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {} {}\" \
         role=\"img\" stroke-linejoin=\"round\" stroke-linecap=\"round\">\n<title>Delivery latency and throughput: \
         {}</title>{}",
        WIDTH * FINE,
        height * FINE,
        names.join("; "),
        &image[head..]
    )
}

/// Latency by percentile: of deliveries or, if nothing was published, of handshakes.
fn curve(runs: &[&Run]) -> Option<Panel> {
    let idle = runs.iter().all(|run| run.latency.count == 0);
    let corrected = |run: &&'_ Run| if idle { run.connects.handshake.clone() } else { run.latency.clone() };
    let mut lines = Vec::new();
    let mut dots = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let honest = corrected(run);
        if !idle {
            lines.push(Line { color: color(index), dashed: true, points: percentile_points(&run.latency_uncorrected) });
        }
        lines.push(Line { color: color(index), dashed: false, points: percentile_points(&honest) });
        if honest.count > 0 {
            // The curve rises to the right, so there is room at the upper left.
            let words = format!("p99 {}", units::time(honest.p99_us as f64));
            let label = (runs.len() == 1).then_some((words, Pos::new(HPos::Right, VPos::Bottom)));
            dots.push(Dot { color: color(index), filled: true, point: (100.0, honest.p99_us as f64), label });
        }
    }
    panel(Panel {
        title: if idle { "Handshake latency by percentile" } else { "Delivery latency by percentile" },
        height: 460,
        x: Axis::percentiles(lines.iter().flat_map(|line| &line.points).fold(1.0, |most, point| most.max(point.0))),
        x_title: if idle { "percentile of handshakes" } else { "percentile of deliveries" },
        y: Axis::latencies(lines.iter().flat_map(|line| &line.points).map(|point| point.1)),
        lines,
        dots,
    })
}

fn percentile_points(distribution: &Distribution) -> Vec<(f64, f64)> {
    // 100 % is infinitely far away, so the largest value is drawn at 1 - 1/N.
    let last = distribution.count as f64;
    let inverse = |quantile: f64| if quantile < 1.0 { 1.0 / (1.0 - quantile) } else { last };
    let mut right = 1.0_f64;
    let points = distribution.curve.iter().map(|point| {
        right = right.max(inverse(point.quantile).min(last.max(1.0)));
        (right, point.value_us as f64)
    });
    points.collect()
}

fn throughput(runs: &[&Run]) -> Option<Panel> {
    let lines = timelines(runs, |second| second.deliveries as f64);
    let largest = lines.iter().flat_map(|line| &line.points).fold(0.0_f64, |most, point| most.max(point.1));
    panel(Panel {
        title: "Deliveries per second",
        height: 270,
        x: seconds_axis(runs),
        x_title: "measured time",
        y: Axis::numbers(largest),
        dots: dots_of(&lines),
        lines,
    })
}

fn p99(runs: &[&Run]) -> Option<Panel> {
    let lines = timelines(runs, |second| second.p99_us as f64);
    panel(Panel {
        title: "p99 delivery latency by second",
        height: 270,
        x: seconds_axis(runs),
        x_title: "measured time",
        y: Axis::latencies(lines.iter().flat_map(|line| &line.points).map(|point| point.1)),
        dots: dots_of(&lines),
        lines,
    })
}

fn seconds_axis(runs: &[&Run]) -> Axis {
    let length = |run: &&Run| run.timeline.iter().map(|second| second.second + 1).max().unwrap_or(0);
    Axis::seconds(f64::from(runs.iter().map(length).max().unwrap_or(0)))
}

/// A line for each run, through the middles of its seconds.
fn timelines(runs: &[&Run], value: fn(&crate::results::Second) -> f64) -> Vec<Line> {
    let points =
        |run: &Run| run.timeline.iter().map(|second| (f64::from(second.second) + 0.5, value(second))).collect();
    let lines = runs.iter().enumerate();
    lines.map(|(index, run)| Line { color: color(index), dashed: false, points: points(run) }).collect()
}

fn dots_of(lines: &[Line]) -> Vec<Dot> {
    let short = lines.iter().filter(|line| line.points.len() <= DOTS_MAX);
    short
        .flat_map(|line| line.points.iter().map(|point| (line.color, *point)))
        .map(|(color, point)| Dot { color, filled: true, point, label: None })
        .collect()
}

/// The steps of `--find-limit`: hollow where the rate was not held.
fn limit(runs: &[&Run]) -> Option<Panel> {
    let mut lines = Vec::new();
    let mut dots = Vec::new();
    let largest = |rate: f64, run: &&Run| {
        run.limit.iter().flat_map(|limit| &limit.steps).fold(rate, |most, step| most.max(step.rate))
    };
    let largest = runs.iter().fold(0.0, largest);
    for (index, run) in runs.iter().enumerate() {
        let Some(limit) = &run.limit else { continue };
        let color = color(index);
        let slo = limit.slo_us as f64;
        let mut points: Vec<(f64, f64)> = limit.steps.iter().map(|step| (step.rate, step.p99_us as f64)).collect();
        points.sort_by(|left, right| left.0.total_cmp(&right.0));
        lines.push(Line { color, dashed: true, points: vec![(0.0, slo), (largest, slo)] });
        lines.push(Line { color, dashed: false, points });
        for step in &limit.steps {
            let knee = facts::knee(run).is_some_and(|knee| std::ptr::eq(knee, step));
            // Above the knee is the line of the SLO.
            let side = if step.rate > 0.8 * largest { HPos::Right } else { HPos::Left };
            let words = format!("{} messages/s", units::short(step.rate));
            let label = (knee && runs.len() == 1).then_some((words, Pos::new(side, VPos::Top)));
            dots.push(Dot { color, filled: step.held, point: (step.rate, step.p99_us as f64), label });
        }
    }
    panel(Panel {
        title: "p99 delivery latency by rate (hollow: not held; dashed: the SLO)",
        height: 360,
        x: Axis::numbers(largest),
        x_title: "messages per second in each room",
        y: Axis::latencies(lines.iter().flat_map(|line| &line.points).map(|point| point.1)),
        lines,
        dots,
    })
}

/// A panel, unless it would be empty.
fn panel(panel: Panel) -> Option<Panel> {
    panel.lines.iter().any(|line| !line.points.is_empty()).then_some(panel)
}

/// The colour of the run at this index.
pub(super) fn color(index: usize) -> RGBColor {
    COLORS[index % COLORS.len()]
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(image: &'a mut String, height: u32, legend: u32, runs: &[&Run], panels: &[Panel]) -> Drawn<'a> {
    let area = SVGBackend::with_string(image, (WIDTH * FINE, height * FINE)).into_drawing_area();
    area.fill(&PAPER)?;
    let (top, mut rest) = area.split_vertically(legend * FINE);
    draw_legend(&top, runs, panels)?;
    for panel in panels {
        let (this, below) = rest.split_vertically(panel.height * FINE);
        draw_panel(&this, panel)?;
        rest = below;
    }
    area.present()
}

fn draw_legend<'a>(area: &Area<'a>, runs: &[&Run], panels: &[Panel]) -> Drawn<'a> {
    let left = fine(MARGIN);
    let sample = |row: i32| [(left, row), (left + fine(34), row)];
    let name = (left + fine(44), -fine(0));
    for (index, run) in runs.iter().enumerate() {
        let row = fine(MARGIN) + fine(LEGEND_ROW) * index as i32;
        area.draw(&PathElement::new(sample(row), stroke(color(index), 10)))?;
        let mut text = units::shorten(&units::printable(&run.name), NAME_CHARACTERS_MAX);
        if facts::verdict_word(run) != "sound" {
            text += &format!(" ({})", facts::verdict_word(run));
        }
        area.draw(&Text::new(text, (name.0, row + name.1), text_style(15, INK, HPos::Left, true)))?;
    }
    let row = fine(MARGIN) + fine(LEGEND_ROW) * runs.len() as i32;
    let explanation = match panels.first() {
        None => "nothing was measured",
        Some(panel) if panel.lines.iter().any(|line| line.dashed) => {
            "solid: corrected, from the time a message was due; dashed: uncorrected (coordinated omission)"
        }
        Some(_) => "no messages were sent",
    };
    area.draw(&Text::new(explanation, (left, row), text_style(13, FAINT_INK, HPos::Left, false)))
}

fn draw_panel<'a>(area: &Area<'a>, panel: &Panel) -> Drawn<'a> {
    let title_at = (fine(MARGIN), fine(TITLE_HEIGHT / 2));
    area.draw(&Text::new(panel.title, title_at, text_style(15, INK, HPos::Left, true)))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(TITLE_HEIGHT * FINE)
        .margin_right(RIGHT_MARGIN * FINE)
        .margin_bottom(MARGIN * FINE)
        .x_label_area_size(X_LABELS_HEIGHT * FINE)
        .y_label_area_size(Y_LABELS_WIDTH * FINE)
        .build_cartesian_2d(panel.x.clone(), panel.y.clone())?;
    chart
        .configure_mesh()
        .bold_line_style(stroke(GRID, 4))
        .light_line_style(TRANSPARENT)
        .axis_style(stroke(AXIS, 4))
        .label_style(text_style(13, FAINT_INK, HPos::Center, false))
        .x_desc(panel.x_title)
        .axis_desc_style(text_style(13, FAINT_INK, HPos::Center, false))
        .set_all_tick_mark_size(5 * FINE)
        .draw()?;
    for line in &panel.lines {
        let points = line.points.iter().copied();
        if line.dashed {
            let style = stroke(line.color, 6);
            chart.draw_series(DashedLineSeries::new(points, 6 * FINE, 5 * FINE, style))?;
        } else {
            chart.draw_series(LineSeries::new(points, stroke(line.color, 9)))?;
        }
    }
    for dot in &panel.dots {
        let at = dot.point;
        chart.draw_series([Circle::new(at, 4 * FINE, if dot.filled { dot.color } else { PAPER }.filled())])?;
        chart.draw_series([Circle::new(at, 4 * FINE, stroke(dot.color, 7))])?;
        if let Some((words, side)) = &dot.label {
            let right = if matches!(side.h_pos, HPos::Left) { fine(9) } else { -fine(9) };
            let down = if matches!(side.v_pos, VPos::Top) { fine(14) } else { -fine(14) };
            let text = Text::new(words.clone(), (right, down), text_style(14, INK, side.h_pos, true));
            chart.draw_series([EmptyElement::at(at) + text])?;
        }
    }
    Ok(())
}

fn fine(pixels: u32) -> i32 {
    (pixels * FINE) as i32
}

/// A line, `width` pixels of the drawing wide.
fn stroke(color: RGBColor, width: u32) -> ShapeStyle {
    ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: width }
}

fn text_style(pixels: u32, color: RGBColor, anchor: HPos, bold: bool) -> TextStyle<'static> {
    // The backend writes a font's size divided by 1.24.
    let font = ("sans-serif", f64::from(pixels * FINE) * 1.24).into_font();
    let font = if bold { font.style(FontStyle::Bold) } else { font };
    font.color(&color).pos(Pos::new(anchor, VPos::Center))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn nothing_measured_is_still_an_image() {
        let mut run = samples::idle();
        run.connects.handshake = Distribution::default();
        let image = svg(&[&run]);
        let document = roxmltree::Document::parse(&image).unwrap();
        assert!(
            document.descendants().any(|node| node.text().is_some_and(|text| text.contains("nothing was measured")))
        );
        roxmltree::Document::parse(&svg(&[])).unwrap();
    }
}
