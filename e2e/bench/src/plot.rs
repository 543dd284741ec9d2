//! The picture of a run, drawn from its JSON object and from nothing else: how long it takes until somebody else leads, for
//! each elector, on one logarithmic scale.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;

/// Elector, its settings, and where its figures are: planned, kill -9, SIGSTOP.
type Row = (&'static str, &'static str, [Option<&'static str>; 3]);

/// The three figures of another elector.
macro_rules! other {
    ($name:literal) => {
        [
            Some(concat!("/others/", $name, "/release_ms")),
            Some(concat!("/others/", $name, "/kill_ms")),
            Some(concat!("/others/", $name, "/stop_ms")),
        ]
    };
}

const ROWS: [Row; 12] = [
    ("Pollux", "TTL 10 s (default)", [Some("/handover_ms"), Some("/kill_ttl_ms"), Some("/stop_ttl_ms")]),
    ("Pollux", "TTL 10 s, behind PgBouncer", [None, Some("/kill_pooler_ms"), None]),
    ("Pollux", "TTL 3 s", [None, Some("/kill_ttl3_ms"), None]),
    ("Pollux", "Fast", [None, Some("/kill_fast_ms"), Some("/hole_fast_ms")]),
    ("Pollux", "Fast 300/600", [None, Some("/kill_fast300_ms"), None]),
    ("etcd Election", "session TTL 2 s", other!("etcd_2s")),
    ("etcd Election", "session TTL 10 s", other!("etcd_10s")),
    ("client-go", "3 / 2 / 0.5 s", other!("client_go_fast")),
    ("client-go", "15 / 10 / 2 s (default)", other!("client_go_default")),
    ("River", "elects every 5 s, TTL 15 s", other!("river")),
    ("Lease row", "30 s, looked at every 10 s", other!("ttl_row_30s")),
    ("Advisory lock", "tried every second", other!("advisory_lock")),
];

/// What happened to the leader, and its colour: told apart by people who see colours differently, too.
const EVENTS: [(&str, &str); 3] =
    [("planned handover", "#0072b2"), ("kill -9", "#d55e00"), ("stands still (SIGSTOP, black hole)", "#7b3f98")];

const WIDTH: f64 = 960.0;
const LEFT: f64 = 236.0;
const RIGHT: f64 = 846.0;
const TOP: f64 = 112.0;
const LANE: f64 = 17.0;
const GAP: f64 = 13.0;
/// From 1 ms to 100 s.
const DECADES: f64 = 5.0;

/// Draws the figures that are there.
///
/// # Errors
/// If there are none.
pub(crate) fn svg(figures: &Value) -> Result<String> {
    let rows: Vec<_> =
        ROWS.iter().map(|row| (row, lanes(figures, row))).filter(|(_, lanes)| !lanes.is_empty()).collect();
    anyhow::ensure!(!rows.is_empty(), "there is nothing to draw");
    let ours: f64 = rows.iter().filter(|(row, _)| row.0 == ROWS[0].0).map(|(_, lanes)| height(lanes)).sum();
    let bottom = TOP + rows.iter().map(|(_, lanes)| height(lanes)).sum::<f64>();
    let mut out = head(figures, bottom, ours)?;
    let mut y = TOP;
    for ((name, settings, _), lanes) in rows {
        let (height, middle) = (height(&lanes), y + height(&lanes) / 2.0);
        line(&mut out, (24.0, y), (WIDTH - 24.0, y), "stroke='#eceff1'")?;
        text(&mut out, (32.0, middle - 1.0), "font-weight='600'", name)?;
        text(&mut out, (32.0, middle + 13.0), "font-size='11' fill='#5f6b73'", settings)?;
        let first = middle - lanes.len() as f64 * LANE / 2.0 + LANE / 2.0;
        for (number, (event, figure)) in lanes.into_iter().enumerate() {
            mark(&mut out, first + number as f64 * LANE, EVENTS[event].1, figure)?;
        }
        y += height;
    }
    out.push_str("</svg>\n");
    Ok(out)
}

fn lanes<'a>(figures: &'a Value, (_, _, places): &Row) -> Vec<(usize, &'a Value)> {
    let found = places.iter().enumerate().map(|(event, place)| (event, place.and_then(|place| figures.pointer(place))));
    found.filter_map(|(event, figure)| Some((event, figure?))).collect()
}

/// Two lines of text fit beside a single lane, too.
fn height(lanes: &[(usize, &Value)]) -> f64 {
    lanes.len().max(2) as f64 * LANE + GAP
}

/// Title, legend, scale, the floor, and what is behind our own rows.
fn head(figures: &Value, bottom: f64, ours: f64) -> Result<String> {
    let height = bottom + 46.0;
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}' \
         font-family='-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif' font-size='13' fill='#1f2a30'>\n\
         <rect width='100%' height='100%' rx='8' fill='#ffffff'/>\n"
    );
    text(&mut out, (24.0, 34.0), "font-size='19' font-weight='600'", "Time until somebody else leads")?;
    let run = &figures["run"];
    let shown = |name: &str| run[name].as_str().map_or_else(|| run[name].to_string(), str::to_owned);
    let about = format!(
        "{}, {} cores, PostgreSQL {}, Kubernetes {}, etcd {}, all in one run. Dot: median; bar: to the slowest; tick: p99.",
        shown("date"),
        shown("cores"),
        shown("postgresql").split(' ').next().unwrap_or_default(),
        shown("kubernetes"),
        shown("etcd")
    );
    text(&mut out, (24.0, 54.0), "font-size='11.5' fill='#5f6b73'", &about)?;
    writeln!(out, "<rect x='24' y='{TOP}' width='{}' height='{ours}' fill='#f2f7fb'/>", WIDTH - 48.0)?;
    let mut x = 24.0;
    for (name, colour) in EVENTS {
        writeln!(out, "<circle cx='{}' cy='74' r='5' fill='{colour}'/>", x + 5.0)?;
        text(&mut out, (x + 16.0, 78.5), "", name)?;
        x += 46.0 + 6.7 * name.len() as f64;
    }
    for decade in 0..=5_i32 {
        let x = place(10_f64.powi(decade));
        line(&mut out, (x, TOP - 8.0), (x, bottom), "stroke='#d5dbdf'")?;
        for y in [TOP - 14.0, bottom + 18.0] {
            text(
                &mut out,
                (x, y),
                "text-anchor='middle' font-size='11' fill='#5f6b73'",
                &duration(10_f64.powi(decade)),
            )?;
        }
    }
    if let Some(floor) = figures.pointer("/floor_ms/p50").and_then(Value::as_f64) {
        let x = place(floor);
        line(&mut out, (x, TOP), (x, bottom), "stroke='#1f2a30' stroke-dasharray='3 4'")?;
        line(&mut out, (LEFT, bottom + 27.0), (LEFT, bottom + 39.0), "stroke='#1f2a30' stroke-dasharray='3 4'")?;
        let said = format!("{}: one commit, notified and read, without any rules (median)", duration(floor));
        text(&mut out, (LEFT + 8.0, bottom + 36.0), "font-size='11' fill='#5f6b73'", &said)?;
    }
    Ok(out)
}

/// One figure.
fn mark(out: &mut String, y: f64, colour: &str, figure: &Value) -> Result<()> {
    let millis = |name: &str| figure[name].as_f64();
    let Some(median) = millis("p50") else {
        let waited = figure["waited"].as_f64().context("what never ended was waited for")?;
        let said = format!("not within {}", duration(waited));
        arrow(out, place(waited), y, colour)?;
        return text(out, (RIGHT + 10.0, y + 4.0), &format!("font-size='11' fill='{colour}'"), &said);
    };
    let from = place(median);
    let to = millis("max").map_or(RIGHT, place);
    line(
        out,
        (from, y),
        (to, y),
        &format!("stroke='{colour}' stroke-width='6' stroke-opacity='.3' stroke-linecap='round'"),
    )?;
    if let Some(p99) = millis("p99") {
        let x = place(p99);
        line(out, (x, y - 5.0), (x, y + 5.0), &format!("stroke='{colour}' stroke-width='1.5'"))?;
    }
    writeln!(out, "<circle cx='{from:.1}' cy='{y:.1}' r='5' fill='{colour}'/>")?;
    let said = match millis("max") {
        Some(max) if duration(max) == duration(median) => duration(median),
        Some(max) => format!("{} … {}", duration(median), duration(max)),
        None => {
            arrow(out, from, y, colour)?;
            format!("{} … never", duration(median))
        }
    };
    text(out, (to + 10.0, y + 4.0), &format!("font-size='11' fill='{colour}'"), &said)
}

fn arrow(out: &mut String, from: f64, y: f64, colour: &str) -> Result<()> {
    line(out, (from, y), (RIGHT - 6.0, y), &format!("stroke='{colour}' stroke-width='2' stroke-dasharray='2 3'"))?;
    let (tip, back) = (RIGHT + 2.0, RIGHT - 7.0);
    writeln!(out, "<path d='M{tip} {y}L{back} {}L{back} {}z' fill='{colour}'/>", y - 5.0, y + 5.0)?;
    Ok(())
}

fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), style: &str) -> Result<()> {
    writeln!(out, "<line x1='{x1:.1}' y1='{y1:.1}' x2='{x2:.1}' y2='{y2:.1}' {style}/>")?;
    Ok(())
}

fn text(out: &mut String, (x, y): (f64, f64), style: &str, words: &str) -> Result<()> {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(out, "<text x='{x:.1}' y='{y:.1}' {style}>{words}</text>")?;
    Ok(())
}

/// Where so many milliseconds are on the scale.
fn place(millis: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * (millis.max(1.0).log10() / DECADES).min(1.0)
}

/// `2.4 ms`, `38 ms`, `1.2 s`, `31 s`.
fn duration(millis: f64) -> String {
    let (value, unit) = if millis < 1000.0 { (millis, "ms") } else { (millis / 1000.0, "s") };
    let whole = value >= 9.95 || (value - value.round()).abs() < 0.005;
    if whole { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let figures = json!({
            "kill_ttl_ms": {"p50": 9000.0, "p99": 10000.0, "max": 10100.0, "n": 4},
            "others": {"river": {"kill_ms": {"p50": 12000.0, "p99": 15000.0, "max": 15000.0, "n": 3}}},
            "run": {"date": "2026-01-01", "cores": 2},
        });
        let drawn = svg(&figures).unwrap();
        assert!(drawn.contains("9 s … 10 s") || drawn.contains("9.0 s … 10 s"), "{drawn}");
        assert!(drawn.contains("River") && !drawn.contains("etcd Election") && !drawn.contains("Fast"), "{drawn}");
        assert!(svg(&json!({"run": {}})).is_err(), "an empty picture is no picture");
    }

    #[test]
    fn what_never_ended_is_not_drawn_as_an_end() {
        let never = json!({"p50": null, "p99": null, "max": null, "n": 2, "never": 2, "waited": 60000.0});
        let drawn = svg(&json!({"others": {"advisory_lock": {"stop_ms": never}}, "run": {}})).unwrap();
        assert!(drawn.contains("not within 60 s"), "{drawn}");
        let circles = drawn.matches("<circle").count();
        assert_eq!(circles, EVENTS.len(), "those of the legend only");
    }

    #[test]
    fn durations_are_short_and_right() {
        let shown = [0.94, 2.44, 38.4, 999.0, 1000.0, 1240.0, 10_700.0].map(duration);
        assert_eq!(shown, ["0.9 ms", "2.4 ms", "38 ms", "999 ms", "1 s", "1.2 s", "11 s"]);
    }
}
