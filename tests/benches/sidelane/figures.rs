//! The figures, as a table and as JSON.

use std::fmt;

use serde_json::{Value, json};

/// One line.
struct Figure {
    what: String,
    /// Or why there is none.
    value: Result<f64, String>,
    unit: &'static str,
    goal: Option<Goal>,
}

/// What a figure should be.
#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// All lines, in order.
#[derive(Default)]
pub struct Figures(Vec<Figure>);

impl Figures {
    /// A figure.
    pub fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.put(what, Ok(value), unit, None);
    }

    /// A figure that should not be above `goal`.
    pub fn add_with_goal(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: f64,
    ) {
        self.put(what, Ok(value), unit, Some(Goal::AtMost(goal)));
    }

    /// A figure that should not be below `goal`.
    pub fn add_with_floor(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: f64,
    ) {
        self.put(what, Ok(value), unit, Some(Goal::AtLeast(goal)));
    }

    /// A figure that cannot be had here.
    pub fn missing(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.put(what, Err(why.into()), "", None);
    }

    fn put(
        &mut self,
        what: impl Into<String>,
        value: Result<f64, String>,
        unit: &'static str,
        goal: Option<Goal>,
    ) {
        let what = what.into();
        self.0.push(Figure {
            what,
            value,
            unit,
            goal,
        });
    }

    /// An array of objects.
    pub fn json(&self) -> String {
        let figures = self.0.iter().map(|figure| {
            json!({
                "what": figure.what,
                "value": figure.value.as_ref().ok(),
                "unit": figure.unit,
                "goal": figure.goal.map(|goal| match goal {
                    Goal::AtMost(value) | Goal::AtLeast(value) => value,
                }),
                "goal_is": figure.goal.map(|goal| match goal {
                    Goal::AtMost(_) => "at most",
                    Goal::AtLeast(_) => "at least",
                }),
                "met": figure.is_met(),
                "not_measured": figure.value.as_ref().err(),
            })
        });
        format!("{:#}\n", Value::Array(figures.collect()))
    }
}

impl Figure {
    fn is_met(&self) -> Option<bool> {
        let value = *self.value.as_ref().ok()?;
        Some(match self.goal? {
            Goal::AtMost(goal) => value <= goal,
            Goal::AtLeast(goal) => value >= goal,
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(goal) => write!(f, "at most {goal}"),
            Self::AtLeast(goal) => write!(f, "at least {goal}"),
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for figure in &self.0 {
            let Figure { what, unit, .. } = figure;
            match &figure.value {
                Ok(value) => {
                    let digits = if value.abs() < 100.0 { 3 } else { 0 };
                    write!(f, "{what:<64} {value:>12.digits$} {unit}")?;
                }
                Err(why) => write!(f, "{what:<64} not measured: {why}")?,
            }
            match (figure.is_met(), figure.goal) {
                (Some(true), Some(goal)) => writeln!(f, " (goal {goal}: met)")?,
                (Some(false), Some(goal)) => writeln!(f, " (goal {goal}: MISSED)")?,
                _ => writeln!(f)?,
            }
        }
        Ok(())
    }
}
