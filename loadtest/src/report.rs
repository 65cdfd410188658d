//! What was measured, against what was to be reached.

use serde_json::json;

/// One figure.
pub struct Figure {
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    /// What the figure must reach; none for what is only told.
    pub bar: Option<Bar>,
    /// Lowest and highest of what the figure is the median of.
    pub spread: Option<(f64, f64)>,
}

/// A bound.
#[derive(Clone, Copy)]
pub enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

/// All figures of a run.
#[derive(Default)]
pub struct Report {
    figures: Vec<Figure>,
}

impl Bar {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMost(most) => format!("<= {most}"),
        }
    }
}

impl Report {
    /// Adds the median of `values`, and returns it.
    pub fn median(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        values: &[f64],
        bar: Option<Bar>,
    ) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let value = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
        let spread = sorted.first().copied().zip(sorted.last().copied());
        self.figures.push(Figure {
            what: what.into(),
            value,
            unit,
            bar,
            spread,
        });
        value
    }

    /// Adds one value.
    pub fn value(&mut self, what: impl Into<String>, unit: &'static str, value: f64, bar: Option<Bar>) {
        self.figures.push(Figure {
            what: what.into(),
            value,
            unit,
            bar,
            spread: None,
        });
    }

    /// Prints all figures as a table.
    pub fn print(&self) {
        println!(
            "{:<62} {:>11} {:<6} {:>19}  bar",
            "what", "median", "unit", "spread"
        );
        for figure in &self.figures {
            let spread = figure
                .spread
                .map_or(String::new(), |(low, high)| format!("{low:.2} .. {high:.2}"));
            let bar = figure.bar.map_or(String::new(), |bar| {
                let word = if bar.is_met(figure.value) { "met" } else { "MISSED" };
                format!("{} {word}", bar.text())
            });
            println!(
                "{:<62} {:>11.2} {:<6} {spread:>19}  {bar}",
                figure.what, figure.value, figure.unit
            );
        }
    }

    /// Renders all figures as JSON.
    pub fn to_json(&self) -> String {
        let figures = self.figures.iter().map(|figure| {
            json!({
                "what": figure.what, "value": figure.value, "unit": figure.unit,
                "spread": figure.spread.map(|(low, high)| [low, high]),
                "bar": figure.bar.map(Bar::text), "met": figure.bar.map(|bar| bar.is_met(figure.value)),
            })
        });
        json!(figures.collect::<Vec<_>>()).to_string()
    }
}
