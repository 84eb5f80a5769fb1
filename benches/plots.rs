//! Bars as SVG, light and dark. With `PLOTS=1` the benches draw what they print into
//! `benches/plots`.

use std::{env, fmt::Write, fs, path::Path};

/// A bar: its name, how long it is, and the ends of the line through it.
pub struct Bar {
    pub name: String,
    pub value: f64,
    pub least: f64,
    pub most: f64,
    /// Ours are told apart.
    pub ours: bool,
}

const LABELS: f64 = 240.0;
const WIDTH: f64 = 420.0;
const ROW: f64 = 26.0;

/// Draws bars, if that was asked for.
pub fn draw(file: &str, title: &str, unit: &str, bars: &[Bar]) {
    if env::var_os("PLOTS").is_none() {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plots");
    fs::create_dir_all(&folder).expect("a folder for the plots");
    fs::write(folder.join(file), svg(title, unit, bars)).expect("the plot is written");
}

fn svg(title: &str, unit: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.most.max(bar.value)).fold(f64::MIN_POSITIVE, f64::max);
    let scale = |value: f64| LABELS + WIDTH * value.max(0.0) / longest;
    let height = 56.0 + ROW * bars.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" role=\"img\" aria-label=\"{}\">\n<style>\n\
         text {{ font: 13px system-ui, sans-serif; fill: #1f2328 }}\n.title {{ font-weight: 600; font-size: 14px }}\n\
         rect {{ fill: #8c959f }}\nrect.ours {{ fill: #0969da }}\nline {{ stroke: #1f2328; stroke-width: 1.5 }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} rect {{ fill: #6e7681 }} rect.ours {{ fill: #4493f8 }} line {{ stroke: #e6edf3 }} }}\n\
         </style>\n<text class=\"title\" x=\"8\" y=\"24\">{}</text>\n",
        LABELS + WIDTH + 90.0,
        escaped(title),
        escaped(title),
    );
    for (row, bar) in bars.iter().enumerate() {
        let (top, class) = (44.0 + ROW * row as f64, if bar.ours { " class=\"ours\"" } else { "" });
        let (end, middle) = (scale(bar.value), top + 8.0);
        let digits = if longest < 10.0 { 3 } else { 0 };
        let _ = writeln!(
            text,
            "<text x=\"{x}\" y=\"{baseline}\" text-anchor=\"end\">{name}</text><rect{class} x=\"{LABELS}\" y=\"{top}\" width=\"{width:.1}\" height=\"16\"/>\
             <line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle}\" y2=\"{middle}\"/><text x=\"{after:.1}\" y=\"{baseline}\">{value:.digits$} {unit}</text>",
            x = LABELS - 8.0,
            baseline = top + 13.0,
            name = escaped(&bar.name),
            width = end - LABELS,
            from = scale(bar.least),
            to = scale(bar.most),
            after = scale(bar.most.max(bar.value)) + 6.0,
            value = bar.value,
        );
    }
    text + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
